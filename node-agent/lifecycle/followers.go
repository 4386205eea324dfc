// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"sync"

	"github.com/berth-run/berth/node-agent/source"
)

// Followers are containers that wait for something to happen to others.
type Followers struct {
	wake func(source.Key)
	mu   sync.Mutex
	of   map[source.Key]map[source.Key]bool
}

// NewFollowers returns Followers that are woken by a function, which returns at once.
func NewFollowers(wake func(source.Key)) *Followers {
	return &Followers{wake: wake, of: map[source.Key]map[source.Key]bool{}}
}

// follow has a container woken at each change of another one, until unfollow.
func (f *Followers) follow(other, follower source.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.of[other] == nil {
		f.of[other] = map[source.Key]bool{}
	}
	f.of[other][follower] = true
}

// unfollow ends what follow has begun, for all others.
func (f *Followers) unfollow(follower source.Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for other, followers := range f.of {
		delete(followers, follower)
		if len(followers) == 0 {
			delete(f.of, other)
		}
	}
}

// Changed wakes those who follow a container.
func (f *Followers) Changed(other source.Key) {
	f.mu.Lock()
	var keys []source.Key
	for key := range f.of[other] {
		keys = append(keys, key)
	}
	f.mu.Unlock()
	for _, key := range keys {
		f.wake(key)
	}
}
