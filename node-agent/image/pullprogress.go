// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
)

// PullProgress sums up the progress of all pulls under way, for people. Its zero value is ready.
type PullProgress struct {
	mu    sync.Mutex
	byRef map[string]*pullSum
}

// pullSum is the progress of one
type pullSum struct {
	last       Progress
	downloaded map[digest.Digest]int64 // bytes of each layer
	unpacked   map[digest.Digest]int64
	done       int // layers
}

// Note adds progress that the store reports.
func (p *PullProgress) Note(n Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.byRef[n.Ref]
	if one == nil {
		one = &pullSum{downloaded: map[digest.Digest]int64{}, unpacked: map[digest.Digest]int64{}}
		if p.byRef == nil {
			p.byRef = map[string]*pullSum{}
		}
		p.byRef[n.Ref] = one
	}
	one.last = n
	switch n.Stage {
	case StageDownload:
		one.downloaded[n.Layer] = n.Done
	case StageUnpack:
		one.unpacked[n.Layer] = n.Done
	case StageDone:
		one.unpacked[n.Layer] = n.Done
		one.done++
	}
}

// Forget drops the progress of a pull that nobody waits for any more.
func (p *PullProgress) Forget(ref string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.byRef, ref)
}

// Text returns the progress of a pull, such as "downloaded 120.0 of 500.0 MB, unpacked 96.0 MB (1
// of 4 layers)"; "" before it has begun.
func (p *PullProgress) Text(ref string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	one := p.byRef[ref]
	if one == nil {
		return ""
	}
	if one.last.Stage == StageRead {
		return fmt.Sprintf("read %s of the archive", share(one.last.Done, one.last.Total))
	}
	sum := func(m map[digest.Digest]int64) (n int64) {
		for _, v := range m {
			n += v
		}
		return n
	}
	text := fmt.Sprintf("unpacked %s (%d of %d layers)", share(sum(one.unpacked), one.last.Size),
		one.done, one.last.Layers)
	if len(one.downloaded) > 0 {
		text = fmt.Sprintf("downloaded %s, %s", share(sum(one.downloaded), one.last.Size), text)
	}
	return text
}

// share returns how many bytes of a total are done.
func share(done, total int64) string {
	if total <= 0 {
		return fmt.Sprintf("%.1f MB", float64(done)/1e6)
	}
	return fmt.Sprintf("%.1f of %.1f MB, %d%%", float64(done)/1e6, float64(total)/1e6,
		min(100, 100*done/total))
}
