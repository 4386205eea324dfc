// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
)

// heldImages are images whose pulls end when the test says so, or when they are given up.
type heldImages struct {
	begun, given chan string
	end          chan error
	underWay     atomic.Int32
	release      func(reference string) // optional
	ends         map[string]chan error  // of a reference; optional
}

func newHeldImages() *heldImages {
	return &heldImages{
		begun: make(chan string, 100), given: make(chan string, 100),
		end: make(chan error),
	}
}

func (h *heldImages) Ensure(ctx context.Context, r PullRequest) (*Image, error) {
	reference := r.Reference
	h.underWay.Add(1)
	defer h.underWay.Add(-1)
	h.begun <- reference
	end := h.end
	if h.ends != nil {
		end = h.ends[reference]
	}
	select {
	case err := <-end:
		img := &Image{ID: reference}
		if h.release != nil {
			img.Release = func() { h.release(reference) }
		}
		return img, err
	case <-ctx.Done():
		h.given <- reference
		return nil, ctx.Err()
	}
}

// receive waits for a value.
func receive[T comparable](t *testing.T, c <-chan T, want T) {
	t.Helper()
	select {
	case got := <-c:
		if got != want {
			t.Fatalf("found %v; want %v", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("%v never came", want)
	}
}

// holds asserts that nothing has come.
func holds(t *testing.T, c <-chan string, what string) {
	t.Helper()
	select {
	case got := <-c:
		t.Fatalf("%s: %s", what, got)
	default:
	}
}

// puller is Pulls with containers that want images.
type puller struct {
	*Pulls
	t      *testing.T
	images *heldImages
	woken  chan string
}

func newPuller(t *testing.T) *puller {
	p := &puller{t: t, images: newHeldImages(), woken: make(chan string, 100)}
	p.Pulls = NewPulls(p.images, func(string) string { return "1%" })
	p.briefly = 0
	t.Cleanup(func() {
		p.Close()
		if n := p.images.underWay.Load(); n != 0 {
			t.Errorf("%d pulls go on after Close", n)
		}
		if len(p.underWay) > 0 {
			t.Errorf("found %v under way", p.underWay)
		}
	})
	return p
}

// want makes a container ask for an image that is still being pulled.
func (p *puller) want(id, reference string) {
	p.t.Helper()
	_, err := p.get(p.t.Context(), id, one(PullRequest{Reference: reference}),
		func() { p.woken <- id })
	var pending *Pending
	if !errors.As(err, &pending) || pending.Reason != v1alpha1.ReasonPulling ||
		pending.Message != "pulling "+reference+": 1%" {
		p.t.Fatalf("found %v; want a *Pending", err)
	}
}

// gets asserts that the container has its image now.
func (p *puller) gets(id, reference string) {
	p.t.Helper()
	images, err := p.get(p.t.Context(), id, one(PullRequest{Reference: reference}), nil)
	if err != nil || len(images) != 1 || images[0].ID != reference {
		p.t.Fatalf("found %+v, %v", images, err)
	}
}

// one returns the list of a container that wants one image.
func one(r PullRequest) []WantedImage { return []WantedImage{{PullRequest: r}} }

// wakes waits until two containers are woken.
func (p *puller) wakes(one, other string) {
	p.t.Helper()
	for range 2 {
		select {
		case id := <-p.woken:
			if id != one && id != other {
				p.t.Fatalf("woke %s", id)
			}
			if id == one {
				one = ""
			} else {
				other = ""
			}
		case <-time.After(time.Minute):
			p.t.Fatalf("never woke %s %s", one, other)
		}
	}
}

// TestPullIsShared: two containers that want the same image are woken by the end of one pull. For a
// later container it is pulled again, as its pull policy may require.
func TestPullIsShared(t *testing.T) {
	leaktest.Check(t)
	p := newPuller(t)
	p.want("a", "x:1")
	p.want("b", "x:1")
	receive(t, p.images.begun, "x:1")
	holds(t, p.images.begun, "it is pulled twice")
	p.images.end <- nil
	p.wakes("a", "b")
	p.want("c", "x:1")
	receive(t, p.images.begun, "x:1")
	p.gets("a", "x:1")
	p.gets("b", "x:1")
	p.want("a", "x:1") // its next run joins
	holds(t, p.images.begun, "it is pulled twice")
}

// TestPullIsNotShared: another policy is another pull.
func TestPullIsNotShared(t *testing.T) {
	leaktest.Check(t)
	p := newPuller(t)
	p.want("a", "x:1")
	receive(t, p.images.begun, "x:1")
	_, err := p.get(t.Context(), "b", one(PullRequest{Reference: "x:1", Policy: corev1.PullAlways}),
		func() {})
	if err == nil {
		t.Fatal("found an image")
	}
	receive(t, p.images.begun, "x:1")
}

// TestPullFails: all who share it get its error, and asking again pulls again.
func TestPullFails(t *testing.T) {
	leaktest.Check(t)
	p := newPuller(t)
	p.want("a", "x:1")
	p.want("b", "x:1")
	receive(t, p.images.begun, "x:1")
	denied := errors.New("denied")
	p.images.end <- denied
	p.wakes("a", "b")
	for _, id := range []string{"a", "b"} {
		var fault *StageError
		_, err := p.get(t.Context(), id, one(PullRequest{Reference: "x:1"}), nil)
		if !errors.As(err, &fault) || fault.Reason != v1alpha1.ReasonImagePullFailed ||
			!errors.Is(err, denied) {
			t.Errorf("found %v", err)
		}
	}
	p.want("a", "x:1")
	receive(t, p.images.begun, "x:1")
}

// TestPullIsSuperseded: a container that wants another image leaves the pull of the first, which
// goes on for others.
func TestPullIsSuperseded(t *testing.T) {
	leaktest.Check(t)
	p := newPuller(t)
	p.want("a", "x:1")
	p.want("b", "x:1")
	receive(t, p.images.begun, "x:1")
	p.want("a", "x:2")
	receive(t, p.images.begun, "x:2")
	holds(t, p.images.given, "given up although it is wanted")
	p.want("b", "x:2")
	receive(t, p.images.given, "x:1")
	p.images.end <- nil
	p.wakes("a", "b")
	p.gets("a", "x:2")
	p.gets("b", "x:2")
}

// TestPullIsGivenUp: a pull ends with the last container that wants it, and one that comes then
// begins another.
func TestPullIsGivenUp(t *testing.T) {
	leaktest.Check(t)
	p := newPuller(t)
	p.want("a", "x:1")
	p.want("b", "x:1")
	receive(t, p.images.begun, "x:1")
	p.leave("a")
	p.leave("a") // as a repeated release does
	holds(t, p.images.given, "given up although it is wanted")
	p.leave("b")
	p.want("c", "x:1")
	receive(t, p.images.given, "x:1")
	receive(t, p.images.begun, "x:1")
	p.images.end <- nil
	receive(t, p.woken, "c")
	p.gets("c", "x:1")
}

// TestPullOfPresentImage: an image that is on the node is had at once, without being woken.
func TestPullOfPresentImage(t *testing.T) {
	leaktest.Check(t)
	p := newPuller(t)
	p.briefly = time.Minute
	go func() { p.images.end <- nil }()
	images, err := p.get(t.Context(), "a", one(PullRequest{Reference: "x:1"}),
		func() { p.woken <- "a" })
	if err != nil || len(images) != 1 || images[0].ID != "x:1" {
		t.Fatalf("found %+v, %v", images, err)
	}
	holds(t, p.woken, "woken")
}

// TestPullsReleaseImages: the node may remove an image once the last container that has got it, or
// waited for it, has left.
func TestPullsReleaseImages(t *testing.T) {
	leaktest.Check(t)
	p := newPuller(t)
	released := make(chan string, 10)
	p.images.release = func(reference string) { released <- reference }
	p.want("a", "x:1")
	p.want("b", "x:1")
	receive(t, p.images.begun, "x:1")
	p.images.end <- nil
	p.wakes("a", "b")
	p.gets("a", "x:1")
	p.leave("a") // its record is written
	holds(t, released, "released while b waits")
	p.gets("b", "x:1")
	holds(t, released, "released before b has left")
	p.leave("b")
	receive(t, released, "x:1")
}

// severalImages is an image of a container, and those of two volumes, which have the same.
func severalImages() []WantedImage {
	return []WantedImage{
		{PullRequest: PullRequest{Reference: "x:1"}},
		{PullRequest{Reference: "v:1"}, "volumes[0].image"},
		{PullRequest{Reference: "v:1"}, "volumes[2].image"},
	}
}

// TestPullsOfVolumes: the images of a container are pulled at the same time, two volumes share a
// pull, and none is pulled again while the container waits for another. The images stay on the node
// until the container has left.
func TestPullsOfVolumes(t *testing.T) {
	leaktest.Check(t)
	p := newPuller(t)
	released := make(chan string, 10)
	p.images.release = func(reference string) { released <- reference }
	ends := map[string]chan error{"x:1": make(chan error), "v:1": make(chan error)}
	p.images.ends = ends
	get := func() ([]*Image, error) {
		return p.get(t.Context(), "a", severalImages(), func() { p.woken <- "a" })
	}
	waits := func(want string) {
		t.Helper()
		var pending *Pending
		if _, err := get(); !errors.As(err, &pending) || pending.Message != want ||
			pending.Condition != v1alpha1.ConditionImageReady {
			t.Fatalf("found %v; want %q", err, want)
		}
	}
	waits("pulling x:1: 1%")
	begun := []string{<-p.images.begun, <-p.images.begun}
	if slices.Sort(begun); !slices.Equal(begun, []string{"v:1", "x:1"}) {
		t.Fatalf("found the pulls %v", begun)
	}
	ends["x:1"] <- nil
	receive(t, p.woken, "a")
	waits("volumes[0].image: pulling v:1: 1%")
	holds(t, p.images.begun, "it is pulled twice")
	ends["v:1"] <- nil
	receive(t, p.woken, "a")
	images, err := get()
	if err != nil || len(images) != 3 || images[0].ID != "x:1" || images[1].ID != "v:1" ||
		images[2].ID != "v:1" {
		t.Fatalf("found %+v, %v", images, err)
	}
	holds(t, p.woken, "woken twice by one pull")
	holds(t, p.images.begun, "it is pulled twice")
	holds(t, released, "released before the container has left")
	p.leave("a")
	gone := []string{<-released, <-released}
	if slices.Sort(gone); !slices.Equal(gone, []string{"v:1", "x:1"}) {
		t.Errorf("released %v", gone)
	}
	holds(t, released, "released twice")
}

// TestPullOfVolumeFails: the error names the volume, and the container leaves its other pulls. One
// that has no such volume any more does not wait for its image.
func TestPullOfVolumeFails(t *testing.T) {
	leaktest.Check(t)
	p := newPuller(t)
	ends := map[string]chan error{"x:1": make(chan error), "v:1": make(chan error)}
	p.images.ends = ends
	get := func(images []WantedImage) error {
		_, err := p.get(t.Context(), "a", images, func() { p.woken <- "a" })
		return err
	}
	var pending *Pending
	if err := get(severalImages()); !errors.As(err, &pending) {
		t.Fatalf("found %v", err)
	}
	denied := errors.New("denied")
	ends["v:1"] <- denied
	receive(t, p.woken, "a")
	var fault *StageError
	if err := get(severalImages()); !errors.As(err, &fault) || !errors.Is(err, denied) ||
		fault.Reason != v1alpha1.ReasonImagePullFailed || err.Error() != "volumes[0].image: denied" {
		t.Fatalf("found %v", err)
	}
	receive(t, p.images.given, "x:1")

	if err := get(severalImages()); !errors.As(err, &pending) {
		t.Fatalf("found %v", err)
	}
	if err := get(severalImages()[:1]); !errors.As(err, &pending) {
		t.Fatalf("found %v", err)
	}
	receive(t, p.images.given, "v:1")
	ends["x:1"] <- nil
	receive(t, p.woken, "a")
	if err := get(severalImages()[:1]); err != nil {
		t.Fatal(err)
	}
}
