// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-run/berth/internal/durable"
)

// downloads shares the blobs that are being fetched: pulls of several images that want one layer
// wait for one download.
type downloads struct {
	mu    sync.Mutex
	live  map[string]*download
	slots chan struct{} // bounds the connections of the node
}

// download is one blob on its way into a file.
type download struct {
	key    string
	users  int
	cancel context.CancelFunc
	done   chan struct{}
	file   *os.File // verified, once done is closed and err is nil
	err    error
	// unpacked says that nobody needs the blob any more.
	unpacked bool
}

// join starts a download or joins the one under way. The caller calls leave once, and the download
// ends when all have left.
func (d *downloads) join(ctx context.Context, what string, desc v1.Descriptor, reg *registry,
	dirs downloadDirs, progress func(int64),
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
		if dl.file, dl.err = dirs.open(desc.Digest); dl.err == nil {
			dl.err = reg.download(own, what, desc, dl.file, progress)
		}
	}()
	return dl
}

// downloadDirs are the directories of files of blobs.
type downloadDirs struct{ partial, session string }

// open opens the file of a blob, with what an earlier pull has left in it, and locks it. A blob
// that somebody else fetches at this time gets a file without a name.
func (d downloadDirs) open(blob digest.Digest) (*os.File, error) {
	if err := blob.Validate(); err != nil {
		return nil, err
	}
	f, err := durable.TryLock(filepath.Join(d.partial, blob.Algorithm().String()+"-"+blob.Encoded()))
	if errors.Is(err, durable.ErrLocked) {
		return nameless(d.session)
	}
	return f, err
}

// isResumable reports whether the next pull can use what was fetched.
func (dl *download) isResumable() bool {
	var size *SizeError
	var mismatch *DigestMismatchError
	if dl.unpacked || errors.As(dl.err, &size) || errors.As(dl.err, &mismatch) {
		return false
	}
	info, err := dl.file.Stat()
	return err == nil && info.Size() > 0
}

// leave ends one user's share of the download. unpacked says that the blob is of no use any more.
func (d *downloads) leave(dl *download, unpacked bool) {
	d.mu.Lock()
	dl.users--
	dl.unpacked = dl.unpacked || unpacked
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
	if dl.file == nil {
		return
	}
	if !dl.isResumable() && isSameFile(dl.file, dl.file.Name()) {
		os.Remove(dl.file.Name())
	}
	_ = dl.file.Close()
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
