// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"os"
	"sync"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// downloads shares the blobs that are being fetched: pulls of several images that want one layer
// wait for one download.
type downloads struct {
	mu    sync.Mutex
	live  map[string]*download
	slots chan struct{} // bounds the connections of the node
}

// download is one blob on its way into a nameless file.
type download struct {
	key    string
	users  int
	cancel context.CancelFunc
	done   chan struct{}
	file   *os.File // verified, once done is closed and err is nil
	err    error
}

// join starts a download or joins the one under way. The caller calls leave once, and the download
// ends when all have left.
func (d *downloads) join(ctx context.Context, what string, desc v1.Descriptor, reg *registry,
	tmp string, progress func(int64),
) *download {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := reg.base.String() + "@" + desc.Digest.String()
	if dl, ok := d.live[key]; ok {
		dl.users++
		return dl
	}
	// It belongs to all who joined, so it does not end with the one who came first.
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	dl := &download{key: key, users: 1, cancel: cancel, done: make(chan struct{})}
	d.live[key] = dl
	go func() {
		defer close(dl.done)
		select {
		case d.slots <- struct{}{}:
			defer func() { <-d.slots }()
		case <-own.Done():
			dl.err = own.Err()
			return
		}
		if dl.file, dl.err = nameless(tmp); dl.err == nil {
			dl.err = reg.download(own, what, desc, dl.file, progress)
		}
	}()
	return dl
}

// leave ends one user's share of the download.
func (d *downloads) leave(dl *download) {
	d.mu.Lock()
	dl.users--
	last := dl.users == 0
	if last {
		delete(d.live, dl.key)
	}
	d.mu.Unlock()
	if !last {
		return
	}
	dl.cancel()
	<-dl.done
	if dl.file != nil {
		_ = dl.file.Close()
	}
}

// wait returns the verified blob.
func (dl *download) wait(ctx context.Context) (*os.File, error) {
	select {
	case <-dl.done:
		return dl.file, dl.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
