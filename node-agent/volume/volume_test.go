// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// newStore returns a store with the bundles of containers.
func newStore(t *testing.T, containers ...string) *Store {
	t.Helper()
	dir := t.TempDir()
	for _, id := range containers {
		if err := os.MkdirAll(filepath.Join(dir, "bundles", id), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return Open(dir)
}

func user(id string) User { return User{ID: id, Namespace: "default", Container: id} }

func use(t *testing.T, s *Store, id string, claims ...Claim) map[string]string {
	t.Helper()
	paths, err := s.Use(t.Context(), user(id), claims)
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func listed(t *testing.T, s *Store) string {
	t.Helper()
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range all {
		names = append(names, v.String())
	}
	return strings.Join(names, " ")
}

func free([]User) error { return nil }

// TestUse: a volume is created once, for every user of a container, below directories that only
// root can enter. What a killed process has begun is no volume.
func TestUse(t *testing.T) {
	s := newStore(t, "a")
	defer unix.Umask(unix.Umask(0o077))
	if err := os.MkdirAll(s.Path(ID{Namespace: "default", Name: newName}), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, s); got != "" {
		t.Errorf("found %q", got)
	}
	path := use(t, s, "a", Claim{Name: "data"}, Claim{Name: "x.y"})["data"]
	for dir, want := range map[string]os.FileMode{path: 0o777, filepath.Dir(path): 0o700, s.dir(): 0o700} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: found %v, %v; want %o", dir, info.Mode(), err, want)
		}
	}
	if err := os.Chmod(path, 0o750); err != nil {
		t.Fatal(err)
	}
	use(t, s, "a", Claim{Name: "data"})
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("found %v, %v; want the mode that its user has set", info.Mode(), err)
	}
	users, err := s.Users()
	if err != nil || fmt.Sprint(users) != "[{a default a [data]}]" {
		t.Errorf("found %v, %v; want the last use alone", users, err)
	}
	use(t, s, "a")
	if users, err := s.Users(); err != nil || len(users) > 0 {
		t.Errorf("found %v, %v; want none", users, err)
	}
	if got := listed(t, s); got != "default/data default/x.y" {
		t.Errorf("found %q", got)
	}
	for _, name := range []string{"", ".", "..", ".new", "a/b", "A"} {
		if _, err := s.Use(t.Context(), user("a"), []Claim{{Name: name}}); err == nil {
			t.Errorf("found no error for the name %q", name)
		}
	}
}

// TestLinkOfAdministrator: a link in place of a volume is followed, and removed without what it
// leads to.
func TestLinkOfAdministrator(t *testing.T) {
	s := newStore(t, "a")
	elsewhere := t.TempDir()
	id := ID{Namespace: "default", Name: "data"}
	if err := os.MkdirAll(filepath.Dir(s.Path(id)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, s.Path(id)); err != nil {
		t.Fatal(err)
	}
	use(t, s, "a", Claim{Name: "data"})
	if err := s.Remove(t.Context(), id, free); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(elsewhere); err != nil {
		t.Error(err)
	}
	if err := os.Symlink(filepath.Join(elsewhere, "missing"), s.Path(id)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Use(t.Context(), user("a"), []Claim{{Name: "data"}}); err == nil ||
		!strings.Contains(err.Error(), "found a link to nothing") {
		t.Errorf("found %v", err)
	}
}

// TestExclusive: an exclusive volume has one user, which may use it again.
func TestExclusive(t *testing.T) {
	s := newStore(t, "a", "b")
	claim := Claim{Name: "data", Exclusive: true}
	use(t, s, "a", claim)
	use(t, s, "a", claim)
	var inUse *InUseError
	if _, err := s.Use(t.Context(), user("b"), []Claim{claim}); !errors.As(err, &inUse) ||
		inUse.User.Container != "a" {
		t.Errorf("found %v; want the user", err)
	}
	if users, err := s.Users(); err != nil || len(users) != 1 {
		t.Errorf("found %v, %v; want one", users, err)
	}
	for range 2 {
		if err := s.Forget("a"); err != nil {
			t.Fatal(err)
		}
	}
	use(t, s, "b", claim)
}

// TestSwap: two users that swap their exclusive volumes do not wait for each other for ever, nor do
// two that share a volume which becomes exclusive.
func TestSwap(t *testing.T) {
	s := newStore(t, "a", "b")
	swaps := func(first, second Claim) {
		t.Helper()
		var inUse *InUseError
		if _, err := s.Use(t.Context(), user("a"), []Claim{first}); !errors.As(err, &inUse) {
			t.Fatalf("found %v; want that b has it", err)
		}
		use(t, s, "b", second)
	}
	x, y := Claim{Name: "x", Exclusive: true}, Claim{Name: "y", Exclusive: true}
	use(t, s, "a", x)
	use(t, s, "b", y)
	swaps(y, x)
	use(t, s, "a", y)
	use(t, s, "a", Claim{Name: "z"})
	use(t, s, "b", Claim{Name: "z"})
	swaps(Claim{Name: "z", Exclusive: true}, Claim{Name: "z", Exclusive: true})
}

// TestRemove: a volume goes with its data unless the check fails, or users are not known.
func TestRemove(t *testing.T) {
	s := newStore(t, "a")
	id := ID{Namespace: "default", Name: "data"}
	if err := s.Remove(t.Context(), id, free); !errors.Is(err, ErrNotExist) {
		t.Errorf("found %v; want ErrNotExist", err)
	}
	path := use(t, s, "a", Claim{Name: "data"})["data"]
	refusal := errors.New("in use")
	err := s.Remove(t.Context(), id, func(users []User) error {
		if len(users) == 1 && users[0].Uses(id) {
			return refusal
		}
		return nil
	})
	if !errors.Is(err, refusal) || listed(t, s) != "default/data" {
		t.Errorf("found %v, %q", err, listed(t, s))
	}
	for _, text := range []string{"", "{", `{"version":2,"namespace":1}`, `{"version":2}`} {
		if err := os.WriteFile(s.userFile("a"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(t.Context(), id, free); err == nil || listed(t, s) != "default/data" {
			t.Errorf("%q: found %v, %q", text, err, listed(t, s))
		}
	}
	if err := s.Forget("a"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), id, free); err != nil {
		t.Fatal(err)
	}
	trash, err := os.ReadDir(filepath.Join(filepath.Dir(path), trashName))
	if err != nil || len(trash) > 0 || listed(t, s) != "" {
		t.Errorf("found %v, %v and %q left", trash, err, listed(t, s))
	}
}

// TestRemoveKeepsMounts: nothing is removed through a mount, neither from a volume nor from the
// trash, also if the path of the state directory has a link.
func TestRemoveKeepsMounts(t *testing.T) {
	needs.Root(t)
	link := filepath.Join(t.TempDir(), "link")
	s := newStore(t, "a")
	if err := os.Symlink(s.stateDir, link); err != nil {
		t.Fatal(err)
	}
	s = Open(link)
	id := ID{Namespace: "default", Name: "data"}
	below := filepath.Join(use(t, s, "a", Claim{Name: "data"})["data"], "below")
	discarded := filepath.Join(s.dir(), "default", trashName, "one", "below")
	for _, dir := range []string{below, discarded} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("test", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
		if err := os.WriteFile(filepath.Join(dir, "kept"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for dir, err := range map[string]error{
		below: s.Remove(t.Context(), id, free), discarded: s.EmptyTrash(),
	} {
		if err == nil || !strings.Contains(err.Error(), "found a mount at ") {
			t.Errorf("found %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, "kept")); err != nil {
			t.Error(err)
		}
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(t.Context(), id, free); err != nil || listed(t, s) != "" {
		t.Errorf("found %v, %q", err, listed(t, s))
	}
}

// TestRemoveTakesNoPath: Remove refuses a string that cannot be the name of a volume. It might be a
// path to all volumes, or to a volume in use.
func TestRemoveTakesNoPath(t *testing.T) {
	s := newStore(t, "a")
	path := use(t, s, "a", Claim{Name: "data"})["data"]
	if err := os.Mkdir(filepath.Join(path, "below"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, id := range []ID{
		{Namespace: "default"},
		{Name: "default"},
		{Namespace: "default", Name: "."},
		{Namespace: "default", Name: ".."},
		{Namespace: "default", Name: "data/"},
		{Namespace: "default", Name: "data/below"},
		{Namespace: "../bundles", Name: "a"},
		{Namespace: "default", Name: trashName},
	} {
		err := s.Remove(t.Context(), id, free)
		if err == nil || errors.Is(err, ErrNotExist) {
			t.Errorf("%+v: found %v; want a refusal", id, err)
		}
	}
	for _, dir := range []string{filepath.Join(path, "below"), filepath.Join(s.stateDir, "bundles/a")} {
		if _, err := os.Stat(dir); err != nil {
			t.Error(err)
		}
	}
}

// TestDisksOfTheirOwn: where a disk is mounted for volumes, its lost+found is none.
func TestDisksOfTheirOwn(t *testing.T) {
	s := newStore(t, "a")
	use(t, s, "a", Claim{Name: "data"})
	for _, dir := range []string{"lost+found/trash", "default/lost+found"} {
		if err := os.MkdirAll(filepath.Join(s.dir(), dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if got := listed(t, s); got != "default/data" {
		t.Errorf("found %q", got)
	}
}

// TestRemoveFollowsNoLink: what a container has linked to stays.
func TestRemoveFollowsNoLink(t *testing.T) {
	s := newStore(t, "a")
	path := use(t, s, "a", Claim{Name: "data"})["data"]
	other := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"file": other, "dir": filepath.Dir(other), "up": ".."} {
		if err := os.Symlink(target, filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	use(t, s, "a", Claim{Name: "kept"})
	if err := s.Remove(t.Context(), ID{Namespace: "default", Name: "data"}, free); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(other); err != nil || listed(t, s) != "default/kept" {
		t.Errorf("found %v, %q", err, listed(t, s))
	}
}

// TestUseBesideRemove: a volume that Use has returned is not removed as long as it is used, however
// the two meet.
func TestUseBesideRemove(t *testing.T) {
	leaktest.Check(t)
	s := newStore(t, "a")
	id := ID{Namespace: "default", Name: "data"}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			err := s.Remove(t.Context(), id, func(users []User) error {
				if len(users) > 0 {
					return errors.New("in use")
				}
				return nil
			})
			if err != nil && !errors.Is(err, ErrNotExist) && err.Error() != "in use" {
				t.Error(err)
				return
			}
		}
	})
	for i := range 100 {
		paths, err := s.Use(t.Context(), user("a"), []Claim{{Name: "data"}})
		if err == nil {
			err = os.WriteFile(filepath.Join(paths["data"], fmt.Sprint(i)), nil, 0o600)
		}
		if err == nil {
			_, err = os.Stat(filepath.Join(paths["data"], fmt.Sprint(i)))
		}
		if err == nil {
			err = s.Forget("a")
		}
		if err != nil {
			t.Error(err)
			break
		}
	}
	close(stop)
	wg.Wait()
}
