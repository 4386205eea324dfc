// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-run/berth/api/oci/compile"
	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/node-agent/source"
)

// watched is a Folder that runs, with an agent that removes containers at once.
type watched struct {
	t     *testing.T
	f     *Folder
	dir   string
	state string
	stop  func()
}

// worker removes at once what is to be removed.
type worker struct{ f *Folder }

func (w worker) Synced() {}
func (w worker) Changed(k source.Key) {
	if b := w.f.Get(k); b != nil && b.DeletionTimestamp != nil {
		_ = w.f.Release(context.Background(), k, b.UID)
	}
}

func watch(t *testing.T, dir, state string, change ...func(*Options)) *watched {
	t.Helper()
	w := &watched{t: t, dir: dir, state: state}
	o := Options{
		Dir: dir, StateDir: state, NodeName: "node-1", Resync: 100 * time.Millisecond,
		Rewrite: time.Second,
	}
	for _, c := range change {
		c(&o)
	}
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	w.f = f
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx, worker{f}) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.stop = func() {}
	}
	t.Cleanup(func() { w.stop() })
	return w
}

func (w *watched) path(name string) string { return filepath.Join(w.dir, name) }

func (w *watched) until(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("never came: %s; wanted %q, refused %q", what, wanted(w.f), refused(w.t, w.f))
		}
	}
}

// stays waits until it is so and for several looks, and asserts that it holds at the end.
func (w *watched) stays(what string, ok func() bool) {
	w.t.Helper()
	w.until(what, ok)
	time.Sleep(w.f.o.Debounce + 500*time.Millisecond)
	if !ok() {
		w.t.Fatalf("not so any more: %s; wanted %q, refused %q", what, wanted(w.f), refused(w.t, w.f))
	}
}

func (w *watched) uid(name string) types.UID {
	if b := w.f.Get(key(name)); b != nil && b.DeletionTimestamp == nil {
		return b.UID
	}
	return ""
}

func (w *watched) generation(name string) int64 {
	if b := w.f.Get(key(name)); b != nil {
		return b.Generation
	}
	return 0
}

func (w *watched) sh(script string) {
	w.t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// TestLives: a manifest that was removed and written again is a new life with a UID of its own; a
// manifest that any editor or tool saves is the same life.
func TestLives(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"a.yaml": container("a", ""),
		"b.yaml": container("b", ""),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Between two programs of a script a busy machine takes its time: a file is not gone so soon.
	w := watch(t, dir, t.TempDir(), func(o *Options) { o.Debounce = 2 * time.Second })
	w.until("both", func() bool { return wanted(w.f) == "a b" })
	for _, tc := range []struct {
		name, script string
		renewed      bool // else it is an edit, if edited
		edited       bool
	}{
		{"removed and written again", "rm a.yaml; cp /keep a.yaml", true, false},
		{"removed and written again later", "rm a.yaml; sleep 3; cp /keep a.yaml", true, false},
		{"removed and written again, 100 ms later", "rm a.yaml; sleep 0.1; cp /keep a.yaml", true, false},
		{"copied over", "cp /keep a.yaml", false, false},
		{"touched", "touch a.yaml", false, false},
		{
			"renamed over, as kubectl, sed and rsync do", "cp /keep .a.yaml.tmp; mv .a.yaml.tmp a.yaml",
			false, false,
		},
		{"saved by vim", "mv a.yaml a.yaml~; cp /keep a.yaml; rm a.yaml~", false, false},
		{"moved away and back", "mv a.yaml ..a; mv ..a a.yaml", false, false},
		{"renamed over with an edit", "sed s,/x,/y, /keep >.tmp; mv .tmp a.yaml", false, true},
		{"as git checks out another version", "rm a.yaml; sed s,/y,/z, /keep >a.yaml", false, true},
		{"moved to another name", "mv a.yaml c.yaml", false, false},
		{"moved back", "mv c.yaml a.yaml", false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w.t = t
			keep := filepath.Join(t.TempDir(), "keep")
			data, err := os.ReadFile(w.path("a.yaml"))
			if err != nil {
				if data, err = os.ReadFile(w.path("c.yaml")); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(keep, data, 0o600); err != nil {
				t.Fatal(err)
			}
			before, generation, other := w.uid("a"), w.generation("a"), w.uid("b")
			w.sh(strings.ReplaceAll(tc.script, "/keep", keep))
			switch {
			case tc.renewed:
				w.until("a new UID", func() bool { now := w.uid("a"); return now != "" && now != before })
				if w.generation("a") != 1 {
					t.Errorf("found generation %d of a new life", w.generation("a"))
				}
			case tc.edited:
				w.until("the edit", func() bool { return w.generation("a") == generation+1 })
				fallthrough
			default:
				w.stays("the same life", func() bool { return w.uid("a") == before })
				if !tc.edited && w.generation("a") != generation {
					t.Errorf("found generation %d, before %d", w.generation("a"), generation)
				}
			}
			if w.uid("b") != other {
				t.Error("another manifest's Container was renewed")
			}
		})
	}
	w.t = t
	// Across a start of the agent the life is the same.
	before := w.uid("a")
	w.stop()
	again := watch(t, dir, w.state)
	again.until("the folder is read", again.f.Synced)
	if again.uid("a") != before {
		t.Error("another UID after a start")
	}
}

// TestVanished: manifests that are gone as a volume or a checkout goes stop nothing, until somebody
// says so; one that is removed does.
func TestVanished(t *testing.T) {
	for name, tc := range map[string]struct {
		files  []string
		script string // in the parent directory of m
		then   string // once that has stopped what it stops
		offer  string // part of the report; "" if the removal is taken for a wish
		back   string
		left   string // while it is gone
	}{
		"removed, one of two":   {[]string{"a", "b"}, "rm m/a.yaml", "", "", "", "b"},
		"removed, the only one": {[]string{"a"}, "rm m/a.yaml", "", "", "", ""},
		"removed, one after another": {
			[]string{"a", "b"},
			"rm m/a.yaml", "rm m/b.yaml",
			"", "", "",
		},
		"emptied": {
			[]string{"a", "b"},
			"mkdir k; mv m/* k", "", "all 2 manifests in",
			"mv k/* m", "a b",
		},
		"directory moved": {[]string{"a"}, "mv m k", "", "no such file", "mv k m", "a"},
		"directory removed": {
			[]string{"a", "b"},
			"cp -a m k; rm -r m", "", "no such file",
			"cp -a k m", "a b",
		},
		"another directory": {
			[]string{"a"},
			"mv m k; mkdir m", "", "another directory than before",
			"rmdir m; mv k m", "a",
		},
		"another checkout": {
			[]string{"a", "b"},
			"mv m k; mkdir m; cp k/a.yaml m", "",
			"another directory than before", "cp k/* m", "a b",
		},
		"a link to another release": {
			[]string{"a", "b"},
			"mv m r1; cp -a r1 r2; rm r2/a.yaml; ln -s r1 m; sleep 1; ln -s r2 n; mv -T n m", "", "", "", "b",
		},
		"a mount that is not there": {
			[]string{"a"},
			"mount -t tmpfs none m", "",
			"another directory than before", "umount -l m", "a", // a look may be in it
		},
		"git, a branch without them": {
			[]string{"a", "b"},
			"git init -q -b main .; git add m; git -c user.name=x -c user.email=x commit -qm x; git checkout -q --orphan other; git rm -rqf m; ls -d m && exit 1 || true", "", "no such file", "git checkout -q main", "a b",
		},
		"git, back and forth at once": {
			[]string{"a", "b"},
			"git init -q -b main .; git add m; git -c user.name=x -c user.email=x commit -qm x; git checkout -q --orphan other; git rm -rqf m; git checkout -q main", "", "", "", "a b",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			if strings.Contains(tc.script, "mount") {
				needs.Root(t)
			}
			top := t.TempDir()
			t.Cleanup(func() { _ = unix.Unmount(filepath.Join(top, "m"), unix.MNT_DETACH) })
			dir := filepath.Join(top, "m")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			for _, f := range tc.files {
				err := os.WriteFile(filepath.Join(dir, f+".yaml"), []byte(container(f, "")), 0o600)
				if err != nil {
					t.Fatal(err)
				}
			}
			w := watch(t, dir, t.TempDir())
			all := strings.Join(tc.files, " ")
			w.until("all", func() bool { return wanted(w.f) == all })
			uids := map[string]types.UID{}
			for _, f := range tc.files {
				uids[f] = w.uid(f)
			}
			w.dir = top
			w.sh(tc.script)
			if tc.then != "" {
				w.until("the first removal", func() bool { return wanted(w.f) == "b" })
				w.sh(tc.then)
			}
			if tc.offer == "" {
				w.stays("what is left", func() bool { return wanted(w.f) == tc.left && refused(t, w.f) == "" })
				return
			}
			w.until("the report", func() bool { return strings.Contains(refused(t, w.f), tc.offer) })
			w.stays("that nothing stops", func() bool { return wanted(w.f) == tc.left })
			w.stop()
			w = watch(t, dir, w.state) // an agent that starts now holds on, too
			w.dir = top
			w.stays("that nothing stops after a start", func() bool {
				return wanted(w.f) == tc.left && strings.Contains(refused(t, w.f), tc.offer)
			})
			w.sh(tc.back)
			w.until("that all is well again", func() bool {
				// A look may have found a manifest half written. Only one that decides about all of them
				// notes the directory.
				now, err := directoryOf(dir)
				return err == nil && readDirectory(w.state) == now && refused(t, w.f) == "" && w.f.Synced()
			})
			for _, f := range tc.files {
				if w.uid(f) != uids[f] {
					t.Errorf("%s: found another UID", f)
				}
			}
			if slices.Equal(tc.files, []string{"a", "b"}) {
				w.sh("rm m/a.yaml")
				w.until("the removal of one", func() bool { return wanted(w.f) == "b" })
			}
		})
	}
}

// TestObjectsOfAMissingVolume: where the volume of the manifests is not mounted, also after a start
// of the agent, Containers go on with their ConfigMaps. A ConfigMap that is removed goes.
func TestObjectsOfAMissingVolume(t *testing.T) {
	top, state := t.TempDir(), t.TempDir()
	dir := filepath.Join(top, "m")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{
		"c.yaml": configMap("c", "one"), "d.yaml": configMap("d", "one"),
		"a.yaml": container("a", ", envFrom: [{configMapRef: {name: c}}]"),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	has := func(w *watched, name string) bool {
		_, ok := w.f.Data("default", environment.Object{Kind: environment.KindConfigMap, Name: name})
		return ok
	}
	w := watch(t, dir, state)
	w.until("all", func() bool { return wanted(w.f) == "a" && has(w, "c") && has(w, "d") })
	w.stop()
	w.dir = top
	w.sh("mv m k; mkdir m")
	for range 2 { // the second agent knows this directory
		w = watch(t, dir, state)
		w.dir = top
		w.until("the report", func() bool { return strings.Contains(refused(t, w.f), "another directory") })
		w.stays("that nothing goes", func() bool {
			return wanted(w.f) == "a" && has(w, "c") && has(w, "d")
		})
		w.stop()
	}
	w = watch(t, dir, state)
	w.dir = top
	w.sh("rmdir m; mv k m")
	w.until("that all is well again", func() bool {
		now, err := directoryOf(dir)
		return err == nil && readDirectory(state) == now && refused(t, w.f) == ""
	})
	w.sh("rm m/d.yaml")
	w.until("the removal of one", func() bool { return !has(w, "d") })
	if !has(w, "c") || wanted(w.f) != "a" {
		t.Errorf("found c: %v, wanted %q", has(w, "c"), wanted(w.f))
	}
	w.stop()
	if err := os.Remove(filepath.Join(dir, "c.yaml")); err != nil {
		t.Fatal(err)
	}
	w = watch(t, dir, state) // a removal while no agent runs
	w.until("the removal of the other", func() bool { return w.f.Synced() && !has(w, "c") })
}

// TestUnreadableStatus: whose UID is not known is left alone.
func TestUnreadableStatus(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(container("a", "")), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	newFolder(t, dir, state).scan()
	if err := os.WriteFile(statusFile(state, key("a")), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := newFolder(t, dir, state)
	f.scan()
	if f.Synced() || f.Get(key("a")) != nil || !strings.Contains(refused(t, f), "left alone") {
		t.Errorf("found synced %v, %v, refused %q", f.Synced(), f.Get(key("a")), refused(t, f))
	}
	// as a loss of power may leave it
	if err := os.WriteFile(statusFile(state, key("a")), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f = newFolder(t, dir, state)
	if f.scan(); !f.Synced() || f.Get(key("a")) == nil || refused(t, f) != "" {
		t.Errorf("found synced %v, %v, refused %q", f.Synced(), f.Get(key("a")), refused(t, f))
	}
}

// TestRefusedByAnotherVersion: a Container that another version of the agent refuses keeps its UID
// until it is accepted again.
func TestRefusedByAnotherVersion(t *testing.T) {
	dir, state := t.TempDir(), t.TempDir()
	err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(container("a", "")), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f := newFolder(t, dir, state)
	f.scan()
	uid := f.Get(key("a")).UID
	for range 2 {
		f, err := New(Options{
			Dir: dir, StateDir: state, NodeName: "node-1", Compile: refuseAll,
		})
		if err != nil {
			t.Fatal(err)
		}
		if f.scan(); f.Synced() || f.Get(key("a")) != nil {
			t.Errorf("found synced %v, %v", f.Synced(), f.Get(key("a")))
		}
	}
	f = newFolder(t, dir, state)
	if f.scan(); !f.Synced() || f.Get(key("a")) == nil || f.Get(key("a")).UID != uid {
		t.Errorf("found synced %v, %+v; want UID %s", f.Synced(), f.Get(key("a")), uid)
	}
}

// refuseAll stands in for a version of Berth that refuses each Container.
func refuseAll(*v1alpha1.Container, ...compile.Option) (*v1alpha1.OCIBundleSpec, field.ErrorList) {
	return nil, field.ErrorList{field.Forbidden(field.NewPath("spec"), "by this version")}
}

// TestNewManifestIsReadAtOnce: a new manifest is read sooner than a missing one counts as removed.
func TestNewManifestIsReadAtOnce(t *testing.T) {
	t.Parallel()
	w := watch(t, t.TempDir(), t.TempDir(), func(o *Options) {
		o.Debounce, o.Resync = time.Hour, time.Hour
	})
	w.until("the empty directory was read", w.f.Synced)
	// Renamed: one that a process has open would be looked at again after the hour.
	if err := os.WriteFile(w.path(".new"), []byte(container("a", "")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.path(".new"), w.path("a.yaml")); err != nil {
		t.Fatal(err)
	}
	w.until("it is wanted", func() bool { return wanted(w.f) == "a" })
}
