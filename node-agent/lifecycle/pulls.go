// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"fmt"
	"slices"
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
	// wants are the pulls that containers wait for, by the container's id and the field that names the
	// image.
	wants map[string]map[string]*want
}

// WantedImage is an image that a container wants.
type WantedImage struct {
	PullRequest
	// Field is the path of the volume below spec; "" for the image of the container itself.
	Field string
}

// named returns a text about the image with the field that names it.
func (i *WantedImage) named(text string) string {
	if i.Field == "" {
		return text
	}
	return i.Field + ": " + text
}

// failed returns the error of pulling the image, with the field that names it.
func (i *WantedImage) failed(err error) error {
	if i.Field == "" {
		return err
	}
	return fmt.Errorf("%s: %w", i.Field, err)
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
	// taken is set once the container has got its images, which stay on the node until leave.
	taken bool
}

// ended reports whether the pull has ended.
func (w *want) ended() bool {
	select {
	case <-w.pull.done:
		return true
	default:
		return false
	}
}

// NewPulls returns Pulls that fetch from images. progress says how far the pull of a reference is;
// it may be nil.
func NewPulls(images Images, progress func(reference string) string) *Pulls {
	return &Pulls{
		images: images, progress: progress, briefly: briefly,
		underWay: map[PullRequest]*pull{}, wants: map[string]map[string]*want{},
	}
}

// briefly is the time for which a worker itself waits for a pull. An image that is on the node is
// found within that time, and the container then needs no second look.
const briefly = 50 * time.Millisecond

// get returns the images in their order, or a *Pending if one takes longer: then wake is called
// when its pull has ended, and get is to be called again with all. A container that asks for other
// images than before leaves the pulls of those. If one fails, the container leaves all. The images
// stay on the node until the caller has called leave.
func (p *Pulls) get(ctx context.Context, id string, images []WantedImage, wake func()) ([]*Image,
	error,
) {
	wants, joined := p.join(id, images)
	if joined {
		if err := p.await(ctx, wants); err != nil {
			return nil, err
		}
	}
	failed, underWay := p.unready(wants, wake)
	if failed >= 0 {
		p.leave(id)
		// It names the image. A full disk is the image's fault, too: it is not to be fetched again
		// and again in vain, so the back-off holds.
		return nil, &StageError{
			Reason: v1alpha1.ReasonImagePullFailed, Err: images[failed].failed(wants[failed].pull.err),
		}
	}
	if underWay >= 0 {
		return nil, p.pending(&images[underWay])
	}
	var out []*Image
	for _, w := range wants {
		out = append(out, w.pull.image)
	}
	return out, nil
}

// await waits briefly for the end of pulls.
func (p *Pulls) await(ctx context.Context, wants []*want) error {
	timer := time.NewTimer(p.briefly)
	defer timer.Stop()
	for _, w := range wants {
		select {
		case <-w.pull.done:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// pending returns how far the pull of an image is.
func (p *Pulls) pending(i *WantedImage) *Pending {
	message := "pulling " + i.Reference
	if p.progress != nil {
		if text := p.progress(i.Reference); text != "" {
			message += ": " + text
		}
	}
	return &Pending{
		Condition: v1alpha1.ConditionImageReady, Reason: v1alpha1.ReasonPulling,
		Message: i.named(message),
	}
}

// join adds the container to those that wait for the pulls, which it begins if there are none.
// joined is false if the container wanted all of them already.
func (p *Pulls) join(id string, images []WantedImage) (wants []*want, joined bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, now := p.wants[id], map[string]*want{}
	for _, i := range images {
		w := before[i.Field]
		if w != nil && w.pull.request == i.PullRequest && !w.taken {
			delete(before, i.Field)
		} else {
			pl := p.underWay[i.PullRequest]
			if pl == nil {
				pl = p.begin(i.PullRequest)
			}
			pl.users++
			w, joined = &want{pull: pl}, true
		}
		now[i.Field], wants = w, append(wants, w)
	}
	p.wants[id] = now
	for _, w := range before {
		p.drop(w.pull)
	}
	return wants, joined
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
	for _, wants := range p.wants {
		// A container that wants the image twice is woken once.
		for _, w := range wants {
			if w.pull == pl && w.wake != nil {
				wakes = append(wakes, w.wake)
				break
			}
		}
	}
	return wakes
}

// unready returns the numbers of the first pull that has failed and of the first that is under way;
// -1 for none. If one is under way, wake is called when it ends. If none is, the images are taken.
func (p *Pulls) unready(wants []*want, wake func()) (failed, underWay int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	failed = slices.IndexFunc(wants, func(w *want) bool { return w.ended() && w.pull.err != nil })
	underWay = slices.IndexFunc(wants, func(w *want) bool { return !w.ended() })
	for _, w := range wants {
		w.wake, w.taken = wake, underWay < 0
	}
	return failed, underWay
}

// leave ends the interest of a container. A pull that nobody else wants is cancelled.
func (p *Pulls) leave(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wants := p.wants[id]
	delete(p.wants, id)
	for _, w := range wants {
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
