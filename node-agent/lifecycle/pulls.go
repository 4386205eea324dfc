// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"sync"
	"time"

	imagev1 "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// Image is an image that is unpacked on the node.
type Image struct {
	// ID is the reference with the digest of the manifest.
	ID string
	// Config of the image, which is as hostile as the rest of it.
	Config imagev1.ImageConfig
	// Layers are directories, lowest first.
	Layers []string
	// Release lets the node remove the image, once the record of each container that has it says so;
	// nil if nothing removes images.
	Release func()
}

// Images is the image store of the node.
type Images interface {
	// Ensure returns once the image is on the node, unpacked and verified. It gives up when ctx
	// ends.
	Ensure(ctx context.Context, r PullRequest) (*Image, error)
}

// PullRequest has every input that decides the content and the permission of a pull: equal requests
// share one pull.
type PullRequest struct {
	Reference string
	Policy    corev1.PullPolicy
	// Secrets has the Secrets of imagePullSecrets as packSecrets writes them, so that requests can be
	// compared. It is not to be shown.
	Secrets string
}

// Pulls runs pulls of images outside of the workers of containers. A pull goes on for as long as
// one container wants it.
type Pulls struct {
	images   Images
	progress func(reference string) string
	briefly  time.Duration // how long get waits itself
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	// underWay are the pulls that another container may join.
	underWay map[PullRequest]*pull
	// wants are the pulls that containers wait for, by the container's id.
	wants map[string]*want
}

// pull is one pull. image and err are set before done is closed.
type pull struct {
	request PullRequest
	cancel  context.CancelFunc
	done    chan struct{}
	image   *Image
	err     error
	users   int // guarded by Pulls.mu
}

// want is one container's interest in a pull.
type want struct {
	pull *pull
	// wake is called when the pull ends; nil while the container's worker waits itself.
	wake func()
	// taken is set once the container has got the image, which stays on the node until leave.
	taken bool
}

// NewPulls returns Pulls that fetch from images. progress says how far the pull of a reference is;
// it may be nil.
func NewPulls(images Images, progress func(reference string) string) *Pulls {
	return &Pulls{
		images: images, progress: progress, briefly: briefly,
		underWay: map[PullRequest]*pull{}, wants: map[string]*want{},
	}
}

// briefly is the time for which a worker itself waits for a pull. An image that is on the node is
// found within that time, and the container then needs no second look.
const briefly = 50 * time.Millisecond

// get returns the image, or a *Pending if it takes longer: then wake is called when the pull has
// ended, and get is to be called again. A container that asks for another image than before leaves
// the pull of that. The image stays on the node until the caller has called leave.
func (p *Pulls) get(ctx context.Context, id string, r PullRequest, wake func()) (*Image, error) {
	w, joined := p.join(id, r)
	pl := w.pull
	if joined {
		timer := time.NewTimer(p.briefly)
		defer timer.Stop()
		select {
		case <-pl.done:
		case <-timer.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if p.waits(w, wake) {
		message := "pulling " + r.Reference
		if p.progress != nil {
			if text := p.progress(r.Reference); text != "" {
				message += ": " + text
			}
		}
		return nil, &Pending{
			Condition: v1alpha1.ConditionImageReady, Reason: v1alpha1.ReasonPulling, Message: message,
		}
	}
	if pl.err != nil {
		p.leave(id)
		// It names the image. A full disk is the image's fault, too: it is not to be fetched again
		// and again in vain, so the back-off holds.
		return nil, &StageError{Reason: v1alpha1.ReasonImagePullFailed, Err: pl.err}
	}
	p.mu.Lock()
	w.taken = true
	p.mu.Unlock()
	return pl.image, nil
}

// join adds the container to those that wait for the pull, which it begins if there is none. joined
// is false if the container wanted it already.
func (p *Pulls) join(id string, r PullRequest) (w *want, joined bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.wants[id]
	if before != nil && before.pull.request == r && !before.taken {
		return before, false
	}
	pl := p.underWay[r]
	if pl == nil {
		pl = p.begin(r)
	}
	pl.users++
	w = &want{pull: pl}
	p.wants[id] = w
	if before != nil {
		p.drop(before.pull)
	}
	return w, true
}

// begin begins a pull. p.mu is held.
func (p *Pulls) begin(r PullRequest) *pull {
	ctx, cancel := context.WithCancel(context.Background())
	pl := &pull{request: r, cancel: cancel, done: make(chan struct{})}
	if p.closed {
		cancel()
	}
	p.underWay[r] = pl
	p.running.Go(func() {
		defer cancel()
		pl.image, pl.err = p.images.Ensure(ctx, r)
		for _, wake := range p.end(pl) {
			wake()
		}
	})
	return pl
}

// end closes a pull to those who come later, and returns whom to wake.
func (p *Pulls) end(pl *pull) (wakes []func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(pl)
	close(pl.done)
	if pl.users == 0 {
		pl.release()
	}
	for _, w := range p.wants {
		if w.pull == pl && w.wake != nil {
			wakes = append(wakes, w.wake)
		}
	}
	return wakes
}

// waits reports whether the pull is still under way, and then sees to it that wake is called.
func (p *Pulls) waits(w *want, wake func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-w.pull.done:
		return false
	default:
	}
	w.wake = wake
	return true
}

// leave ends the interest of a container. A pull that nobody else wants is cancelled.
func (p *Pulls) leave(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.wants[id]; w != nil {
		delete(p.wants, id)
		p.drop(w.pull)
	}
}

// drop takes one user from a pull. p.mu is held.
func (p *Pulls) drop(pl *pull) {
	if pl.users--; pl.users > 0 {
		return
	}
	p.forget(pl)
	pl.cancel()
	select {
	case <-pl.done:
		pl.release()
	default: // end will
	}
}

// release gives up the image of a pull that has ended and has no users.
func (pl *pull) release() {
	if pl.image != nil && pl.image.Release != nil {
		pl.image.Release()
	}
}

// forget lets nobody join a pull any more. p.mu is held.
func (p *Pulls) forget(pl *pull) {
	if p.underWay[pl.request] == pl {
		delete(p.underWay, pl.request)
	}
}

// Close cancels all pulls and waits for their end.
func (p *Pulls) Close() {
	p.mu.Lock()
	p.closed = true
	for _, pl := range p.underWay {
		pl.cancel()
	}
	p.mu.Unlock()
	p.running.Wait()
}
