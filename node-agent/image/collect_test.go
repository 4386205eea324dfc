// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/internal/procfs"
)

// smallStore is a store on a filesystem of 40 MiB, and a registry beside it.
type smallStore struct {
	*Store
	t     *testing.T
	reg   *registryServer
	uses  []Use
	names map[string]string // of the test -> references
}

func newSmallStore(t *testing.T, opts ...Option) *smallStore {
	t.Helper()
	needs.Root(t)
	dir := t.TempDir()
	if err := unix.Mount("berth-test", dir, "tmpfs", 0, "size=40m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return &smallStore{
		Store: openStoreAt(t, dir+"/images", opts...), t: t, reg: newRegistry(t),
		names: map[string]string{},
	}
}

// mebibytes returns a layer of one file that does not compress.
func mebibytes(t *testing.T, name string, n int) []byte {
	data := make([]byte, n<<20)
	source := rand.NewChaCha8([32]byte([]byte(name + strings.Repeat(" ", 32))[:32]))
	_, _ = source.Read(data)
	return layerTar(t, file(name, string(data)))
}

// pull pulls an image that was used last so many hours ago.
func (s *smallStore) pull(name string, hours int, layers ...[]byte) *Image {
	s.t.Helper()
	s.names[name] = s.reg.push(s.t, name, "1", testImage{layers: layers})
	img := ensure(s.t, s.Store, s.names[name], Default)
	s.age(img, hours)
	return img
}

func (s *smallStore) age(img *Image, hours int) {
	s.t.Helper()
	then := time.Now().Add(-time.Duration(hours) * time.Hour)
	if err := os.Chtimes(s.imagePath(img.Digest), then, then); err != nil {
		s.t.Fatal(err)
	}
}

func (s *smallStore) users() ([]Use, error) { return s.uses, nil }

// left returns the images of the store by their names in the test.
func (s *smallStore) left() string {
	s.t.Helper()
	all, err := s.List(s.users)
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, img := range all {
		for name, reference := range s.names {
			if slices.Contains(img.Names, reference) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// layersLeft returns the number of directories of layers, with those under other names.
func (s *smallStore) layersLeft() int {
	s.t.Helper()
	layers, err := s.list("layers")
	if err != nil {
		s.t.Fatal(err)
	}
	chains, err := s.list("chains")
	if err != nil {
		s.t.Fatal(err)
	}
	return len(layers) + len(chains)
}

func (s *smallStore) collect(p CollectPolicy) Collected {
	s.t.Helper()
	c, err := s.Collect(context.Background(), p, s.users)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// TestCollectByUsage fills a disk: what was used longest ago goes, until usage is low; what is in
// use, pinned or new stays, and so does a layer that another image has.
func TestCollectByUsage(t *testing.T) {
	leaktest.Check(t)
	s := newSmallStore(t)
	shared := mebibytes(t, "shared", 4)
	s.pull("oldest", 50, shared, mebibytes(t, "oldest", 4))
	s.pull("old", 40, mebibytes(t, "old", 4))
	s.pull("running", 60, mebibytes(t, "running", 4))
	s.pull("wanted", 61, mebibytes(t, "wanted", 4))
	s.pull("pinned", 62, mebibytes(t, "pinned", 4))
	s.pull("recent", 1, shared, mebibytes(t, "recent", 4))
	held, err := s.Ensure(context.Background(), s.names["old"], Default)
	if err != nil {
		t.Fatal(err)
	}
	s.age(held, 40)
	s.uses = []Use{{By: "a", Reference: s.names["wanted"]}}
	for _, img := range must(s.List(s.users)) {
		if slices.Contains(img.Names, s.names["running"]) {
			s.uses = append(s.uses, Use{By: "b", Manifest: img.Digest})
		}
	}
	if err := s.Pin(s.names["pinned"]); err != nil {
		t.Fatal(err)
	}

	none := CollectPolicy{High: 95, Low: 90}
	if c := s.collect(none); len(c.Removed) > 0 || c.Short {
		t.Errorf("below the threshold: found %+v", c)
	}
	young := CollectPolicy{High: 60, Low: 55, MinAge: time.Hour}
	if c := s.collect(young); len(c.Removed) > 0 || c.Young != 3 || !c.Short {
		t.Errorf("of young images: found %+v", c)
	}
	// 28 of 40 MiB are used. "old" is held, so "oldest" and "recent" go.
	policy := CollectPolicy{High: 60, Low: 50}
	c := s.collect(policy)
	if got, want := s.left(), "old pinned running wanted"; got != want {
		t.Errorf("found %q left; want %q", got, want)
	}
	if len(c.Removed) != 2 || c.Removed[0].Image.Name() != s.names["oldest"] || c.Short ||
		c.InUse != 3 || c.Pinned != 1 || c.Before < 70 || c.After > 50 {
		t.Errorf("found %+v", c)
	}
	if n := s.layersLeft(); n != 4 {
		t.Errorf("found %d layers left; want 4", n)
	}
	// What is in use was used just now; a removed image can be pulled again.
	held.Release()
	s.age(held, 40)
	s.pull("oldest", 50, shared, mebibytes(t, "oldest", 4))
	s.uses = nil
	s.collect(CollectPolicy{High: 50, Low: 49})
	if got, want := s.left(), "old pinned running wanted"; got != want {
		t.Errorf("found %q left; want %q", got, want)
	}
	if found, err := s.Unpin(s.names["pinned"]); !found || err != nil {
		t.Errorf("unpin: %t, %v", found, err)
	}
	s.collect(CollectPolicy{High: 1, Low: 0})
	if got := s.left(); got != "" || s.layersLeft() != 0 {
		t.Errorf("found %q and %d layers left; want none", got, s.layersLeft())
	}
	if _, err := s.Ensure(context.Background(), s.names["old"], Never); !errors.Is(err, ErrNotPresent) {
		t.Errorf("found %v; want ErrNotPresent", err)
	}
	noRubbish(t, s.Store)
}

func must(all []Stored, err error) []Stored {
	if err != nil {
		panic(err)
	}
	return all
}

// TestCollectByAge removes what was not used for long from a disk that has room, and nothing if it
// is not known what is in use.
func TestCollectByAge(t *testing.T) {
	leaktest.Check(t)
	s := newSmallStore(t)
	s.pull("old", 40, mebibytes(t, "old", 1))
	s.pull("new", 1, mebibytes(t, "new", 1))
	policy := CollectPolicy{High: 100, Low: 80, MaxAge: 24 * time.Hour}
	unknown := errors.New("who knows")
	if _, err := s.Collect(t.Context(), policy, func() ([]Use, error) { return nil, unknown }); !errors.Is(err, unknown) {
		t.Errorf("found %v; want %v", err, unknown)
	}
	if got := s.left(); got != "new old" {
		t.Errorf("found %q left", got)
	}
	if c := s.collect(policy); len(c.Removed) != 1 || !strings.Contains(c.Removed[0].Why, "not used for 40h") {
		t.Errorf("found %+v", c)
	}
	if got := s.left(); got != "new" {
		t.Errorf("found %q left", got)
	}
}

// TestCollectBesideStart: an image of which a container became a user after the users were listed
// stays.
func TestCollectBesideStart(t *testing.T) {
	leaktest.Check(t)
	s := newSmallStore(t)
	img := s.pull("a", 40, mebibytes(t, "a", 1))
	c, err := s.Collect(t.Context(), CollectPolicy{High: 1, Low: 0}, func() ([]Use, error) {
		started := ensure(t, s.Store, s.names["a"], Default) // and written down by now
		if started.Digest != img.Digest {
			t.Errorf("found %s; want %s", started.Digest, img.Digest)
		}
		return nil, nil
	})
	if err != nil || len(c.Removed) > 0 || c.InUse != 1 {
		t.Errorf("found %+v, %v", c, err)
	}
	if got := s.left(); got != "a" {
		t.Errorf("found %q left", got)
	}
}

// TestCollectBesidePull: the layers of a pull under way stay, and layers of a failed pull go when
// the disk is full.
func TestCollectBesidePull(t *testing.T) {
	leaktest.Check(t)
	s := newSmallStore(t)
	first, second := mebibytes(t, "first", 1), mebibytes(t, "second", 1)
	reference := s.reg.push(t, "a", "1", testImage{layers: [][]byte{first, second}})
	blocked := newBlob("", gz(second)).desc.Digest.String()
	arrived := make(chan struct{}, 10)
	release := make(chan struct{})
	s.reg.spoil = func(path string, body []byte) []byte {
		if strings.HasSuffix(path, blocked) {
			arrived <- struct{}{}
			<-release
		}
		return body
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	begin := func() {
		go func() {
			img, err := s.Ensure(ctx, reference, Default)
			img.Release()
			ended <- err
		}()
	}
	begin()
	<-arrived
	for s.layersLeft() < 1 {
		time.Sleep(time.Millisecond)
	}
	full := CollectPolicy{High: 1, Low: 0}
	s.collect(full)
	if n := s.layersLeft(); n != 1 {
		t.Errorf("found %d layers of the pull; want 1", n)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("found %v", err)
	}
	close(release)
	s.collect(CollectPolicy{High: 100, Low: 80})
	if n := s.layersLeft(); n != 1 {
		t.Errorf("found %d layers for the next pull; want 1", n)
	}
	c := s.collect(full)
	if n := s.layersLeft(); n != 0 || c.Leftovers < 1<<20 {
		t.Errorf("found %d layers left, %+v", n, c)
	}
	noRubbish(t, s.Store)
}

// TestCollectLeftovers removes what a process that was killed has left: its session, layers that it
// has renamed, and records whose layers are gone.
func TestCollectLeftovers(t *testing.T) {
	leaktest.Check(t)
	s := newSmallStore(t)
	img := s.pull("a", 0, mebibytes(t, "a", 1))
	dead := filepath.Join(s.dir, "tmp/session-dead/layer-1")
	if err := os.MkdirAll(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	layer := filepath.Dir(img.Layers[0])
	if err := os.Rename(layer, layer+trashMark+"12345678"); err != nil {
		t.Fatal(err)
	}
	if got := s.left(); got != "" {
		t.Errorf("found %q listed; want no image without its layers", got)
	}
	s.collect(CollectPolicy{High: 100, Low: 80, MinAge: time.Hour})
	if _, err := os.Stat(dead); err == nil || s.layersLeft() != 0 {
		t.Errorf("found %v, and %d layers left", err, s.layersLeft())
	}
	if records, _ := s.list("images"); len(records) != 0 {
		t.Errorf("found the records %v", records)
	}
	ensure(t, s.Store, s.names["a"], Default)
}

// TestRemoveRefuses: an image in use is not removed, and the error says by whom.
func TestRemoveRefuses(t *testing.T) {
	leaktest.Check(t)
	s := newSmallStore(t)
	img := s.pull("a", 1, mebibytes(t, "a", 1))
	s.uses = []Use{{By: "web", Manifest: img.Digest}, {By: "shop/db", Manifest: img.Digest}}
	remove := func() error {
		all := must(s.List(s.users))
		found, named, err := Find(all, s.names["a"])
		if err != nil || !named {
			t.Fatal(named, err)
		}
		if other, named, err := Find(all, img.Digest.Encoded()[:12]); err != nil || named || other != found {
			t.Errorf("by digest: found %+v, %t, %v", other, named, err)
		}
		_, err = s.Remove(t.Context(), found)
		return err
	}
	err := remove()
	want := "found the image " + s.names["a"] + " in use by shop/db, web; allowed: an image that no container has"
	if err == nil || err.Error() != want {
		t.Errorf("found %v; want %s", err, want)
	}
	s.uses = nil
	held, err := s.Ensure(t.Context(), s.names["a"], Default)
	if err != nil {
		t.Fatal(err)
	}
	if err := remove(); err == nil || !strings.Contains(err.Error(), "in use by a container that starts") {
		t.Errorf("of a held image: found %v", err)
	}
	held.Release()
	if err := remove(); err != nil || s.layersLeft() != 0 {
		t.Errorf("found %v, %d layers left", err, s.layersLeft())
	}
	if s.left() != "" {
		t.Error("it is there still")
	}
}

// TestRemoveAfterKilledPull: what a killed process has announced keeps no layer.
func TestRemoveAfterKilledPull(t *testing.T) {
	leaktest.Check(t)
	s := newSmallStore(t)
	img := s.pull("a", 1, mebibytes(t, "a", 1))
	layer, err := filepath.Rel(s.dir, filepath.Dir(img.Layers[0]))
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(s.dir, "tmp/session-dead")
	if err := os.Mkdir(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dead, announcementPrefix+"1"), mustJSON(t, []string{layer}))
	if _, err := s.Remove(t.Context(), &must(s.List(s.users))[0]); err != nil || s.layersLeft() != 0 {
		t.Errorf("found %v, %d layers left", err, s.layersLeft())
	}
}

// TestRemoveKeepsMovedName: a name that a pull has led to another image since the images were
// listed goes neither with the image that it led to before, nor by itself.
func TestRemoveKeepsMovedName(t *testing.T) {
	leaktest.Check(t)
	s := newSmallStore(t)
	s.pull("a", 1, mebibytes(t, "before", 1))
	listed := must(s.List(s.users))
	reference := s.reg.push(t, "a", "1", testImage{layers: [][]byte{mebibytes(t, "after", 1)}})
	after := ensure(t, s.Store, reference, Always)
	if err := s.RemoveName(t.Context(), &listed[0], reference); err != nil {
		t.Error(err)
	}
	if freed, err := s.Remove(t.Context(), &listed[0]); err != nil || freed < 1<<20 {
		t.Errorf("found %v, %d bytes freed", err, freed)
	}
	if found, err := s.Ensure(t.Context(), reference, Never); err != nil || found.Digest != after.Digest {
		t.Errorf("found %+v, %v; want the image %s", found, err, after.Digest)
	}
	if n := s.layersLeft(); n != 1 {
		t.Errorf("found %d layers left; want 1", n)
	}
}

// TestRemoveBesideSurvivesPowerLoss: the agent's journal does not restore the record of an image
// that a command has removed once layers of its next pull are there, which nothing has flushed.
func TestRemoveBesideSurvivesPowerLoss(t *testing.T) {
	leaktest.Check(t)
	state := t.TempDir()
	const records = "images/images/*/*.json"
	journal, err := durable.OpenJournal(state, records)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = journal.Close() })
	s := openStoreAt(t, filepath.Join(state, "images"), WithJournal(journal))
	reg := newRegistry(t)
	first, second := mebibytes(t, "first", 1), mebibytes(t, "second", 1)
	reference := reg.push(t, "a", "1", testImage{layers: [][]byte{first, second}})
	ensure(t, s, reference, Default)
	noUses := func() ([]Use, error) { return nil, nil }
	beside := openStoreAt(t, s.dir, Beside())
	if _, err := beside.Remove(t.Context(), &must(beside.List(noUses))[0]); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	arrived, release, ended := make(chan struct{}, 10), make(chan struct{}), make(chan error, 1)
	defer close(release)
	blocked := newBlob("", gz(second)).desc.Digest.String()
	reg.spoil = func(path string, body []byte) []byte {
		if strings.HasSuffix(path, blocked) {
			arrived <- struct{}{}
			<-release
		}
		return body
	}
	go func() {
		_, err := s.Ensure(ctx, reference, Default)
		ended <- err
	}()
	select {
	case <-arrived:
	case err := <-ended:
		t.Fatal("the pull ended", err)
	case <-time.After(2 * time.Minute):
		t.Fatal("the registry was not asked for the second layer")
	}
	lost := t.TempDir()
	data, err := os.ReadFile(filepath.Join(state, durable.JournalFile))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(lost, durable.JournalFile), data)
	thisBoot := procfs.BootID
	procfs.BootID = func() (string, error) { return "another boot", nil }
	after, err := durable.OpenJournal(lost, records)
	procfs.BootID = thisBoot
	if err != nil {
		t.Fatal(err)
	}
	if found, _ := filepath.Glob(filepath.Join(lost, records)); len(found) > 0 {
		t.Errorf("found the records %v after a loss of power", found)
	}
	if err := after.Close(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("found %v", err)
	}
}

// TestBeside: a command pulls into a store that no agent has opened yet, but not into one whose
// layers no agent has checked since the last boot.
func TestBeside(t *testing.T) {
	leaktest.Check(t)
	s := newSmallStore(t)
	first := s.reg.push(t, "a", "1", testImage{layers: [][]byte{mebibytes(t, "a", 1)}})
	second := s.reg.push(t, "b", "1", testImage{layers: [][]byte{mebibytes(t, "b", 1)}})
	dir := filepath.Join(t.TempDir(), "images")
	for _, reference := range []string{first, second} {
		beside := openStoreAt(t, dir, Beside())
		ensure(t, beside, reference, Always)
		if err := beside.Close(); err != nil {
			t.Error(err)
		}
	}
	write(t, filepath.Join(dir, "boot"), []byte("another boot"))
	beside := openStoreAt(t, dir, Beside())
	if all := must(beside.List(s.users)); len(all) != 2 {
		t.Errorf("found %d images listed; want 2", len(all))
	}
	if _, err := beside.Ensure(t.Context(), first, Always); !errors.Is(err, ErrUnchecked) {
		t.Errorf("found %v; want ErrUnchecked", err)
	}
	openStoreAt(t, dir) // as an agent
	ensure(t, beside, first, Always)
}
