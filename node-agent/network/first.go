// SPDX-License-Identifier: Apache-2.0

package network

import "sync"

// first lets one container at a time be connected until one is. The first one has the plugins
// create what all share, such as chains of iptables, and the plugin firewall fails where another
// creates the same chain at that moment. The zero value is ready.
type first struct {
	alone sync.Mutex // held while a container is connected that may be the first
	mu    sync.Mutex
	over  bool
}

// begin returns once a container may be connected. The function that it returns has to be called
// with the outcome.
func (f *first) begin() (done func(error)) {
	if f.isOver() {
		return func(error) {}
	}
	f.alone.Lock()
	if f.isOver() { // another was the first
		f.alone.Unlock()
		return func(error) {}
	}
	return func(err error) {
		f.mu.Lock()
		f.over = err == nil
		f.mu.Unlock()
		f.alone.Unlock()
	}
}

func (f *first) isOver() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over
}
