// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/userns"
)

// layers returns two layers, as an image store unpacks them: the upper one replaces b, removes c and
// has a whiteout of something that the lower one does not have.
func (s subPaths) layers() []string {
	s.Helper()
	s.sh(`mkdir -p $N/1/d $N/2/d; chmod 0751 $N/1 $N/2
		echo 1 >$N/1/a; echo 1 >$N/1/b; echo 1 >$N/1/c; echo 1 >$N/1/d/e; chown 7:8 $N/1/a
		echo 2 >$N/2/b; mknod $N/2/c c 0 0; mknod $N/2/none c 0 0; ln -s /etc $N/2/out
		mknod $N/2/null c 1 3; cp /bin/true $N/2/true; chmod 4755 $N/2/true`)
	return []string{filepath.Join(s.node, "1"), filepath.Join(s.node, "2")}
}

func (s subPaths) mountImages(users *Users, volumes ...ImageVolume) {
	s.Helper()
	if err := s.d.MountImageVolumes(volumes, users, ""); err != nil {
		s.Fatal(err)
	}
}

// holds asserts which names a mounted image has.
func (s subPaths) holds(volume, names string) {
	s.Helper()
	entries, err := os.ReadDir(s.d.File("images/" + volume))
	if err != nil {
		s.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != names {
		s.Errorf("found %v in %s; want %s", got, volume, names)
	}
}

// TestImageVolumes: the files of an image are those of its layers, also of a single one with
// whiteouts. Nobody can write to them, and devices and set-user-ID bits have no effect.
func TestImageVolumes(t *testing.T) {
	s := newSubPaths(t)
	layers := s.layers()
	both := ImageVolume{Name: "both", Field: "volumes[0].image", Layers: layers}
	top := ImageVolume{Name: "top", Field: "volumes[1].image", Layers: layers[1:]}
	again := ImageVolume{Name: "again", Field: "volumes[2].image", Layers: layers}
	before := mounts(t, s.d.Path())
	for range 2 { // as after an agent that was killed
		s.mountImages(nil, both, top, again)
	}
	if n := mounts(t, s.d.Path()) - before; n != 3 {
		t.Errorf("found %d mounts; want 3", n)
	}
	s.holds("both", "a b d null out true")
	s.holds("again", "a b d null out true")
	s.holds("top", "b d null out true")
	at := s.d.File("images/both")
	if text, err := os.ReadFile(at + "/b"); err != nil || string(text) != "2\n" {
		t.Errorf("found %q, %v; want the file of the upper layer", text, err)
	}
	if info, err := os.Stat(at); err != nil || info.Mode().Perm() != 0o751 {
		t.Errorf("found %v, %v; want the mode of the image's /", info.Mode(), err)
	}
	if err := os.WriteFile(at+"/a", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing: found %v; want EROFS", err)
	}
	if _, err := os.ReadFile(at + "/null"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("opening a device: found %v; want EACCES", err)
	}
	for _, name := range []string{"both", "top"} {
		var st unix.Statfs_t
		if err := unix.Statfs(s.d.File("images/"+name), &st); err != nil {
			t.Fatal(err)
		}
		const want = unix.ST_RDONLY | unix.ST_NODEV | unix.ST_NOSUID
		if got := st.Flags & (want | unix.ST_NOEXEC); got != want {
			t.Errorf("%s: found the flags %#x; want %#x", name, got, want)
		}
	}
	for range 2 {
		if err := s.d.UnmountImageVolumes(); err != nil {
			t.Fatal(err)
		}
	}
	if s.d.ImagesLeft() || mounts(t, s.d.Path()) != before {
		t.Errorf("found %d mounts; want %d and nothing else", mounts(t, s.d.Path()), before)
	}
	if text, err := os.ReadFile(layers[0] + "/a"); err != nil || string(text) != "1\n" {
		t.Errorf("the layer was changed: %q, %v", text, err)
	}
}

// TestImageVolumeFails: if one of several cannot be mounted, the error has its field, and nothing of
// the others is left.
func TestImageVolumeFails(t *testing.T) {
	s := newSubPaths(t)
	layers := s.layers()
	for name, tc := range map[string]struct {
		layers []string
		want   string
	}{
		"no layers":              {nil, "found 0 layers; allowed: 1 to 499"},
		"a layer that is gone":   {[]string{layers[0], s.node + "/gone"}, "open layer " + s.node + "/gone"},
		"a layer that is a file": {[]string{layers[0] + "/a"}, "open layer " + layers[0] + "/a"},
	} {
		err := s.d.MountImageVolumes([]ImageVolume{
			{Name: "good", Field: "volumes[0].image", Layers: layers},
			{Name: "bad", Field: "volumes[1].image", Layers: tc.layers},
		}, nil, "")
		if err == nil || !strings.HasPrefix(err.Error(), "volumes[1].image: "+tc.want) {
			t.Errorf("%s: found %v; want %q", name, err, tc.want)
		}
		if s.d.ImagesLeft() {
			t.Errorf("%s: something is left", name)
		}
	}
}

// TestImageVolumeOfUsers: with a user namespace the files have the ids of the container, whether the
// image has one layer or several.
func TestImageVolumeOfUsers(t *testing.T) {
	s := newSubPaths(t)
	layers := s.layers()
	const first = 200000
	namespace, err := userns.New(first)
	if err != nil {
		t.Fatal(err)
	}
	users := &Users{Namespace: namespace, First: first}
	defer users.Close()
	before := mounts(t, s.d.Path())
	s.mountImages(users, ImageVolume{Name: "both", Layers: layers}, ImageVolume{Name: "one", Layers: layers[:1]})
	for _, name := range []string{"both", "one"} {
		var st unix.Stat_t
		if err := unix.Stat(s.d.File("images/"+name+"/a"), &st); err != nil {
			t.Fatal(err)
		}
		if st.Uid != first+7 || st.Gid != first+8 {
			t.Errorf("%s: found the owner %d:%d; want %d:%d", name, st.Uid, st.Gid, first+7, first+8)
		}
	}
	if n := mounts(t, s.d.Path()) - before; n != 2 {
		t.Errorf("found %d mounts; want 2", n)
	}
	// As an agent leaves it that is killed while it mounts.
	if _, err := s.d.mapLayers(layers, users); err != nil {
		t.Fatal(err)
	}
	if err := s.d.UnmountImageVolumes(); err != nil {
		t.Fatal(err)
	}
	if s.d.ImagesLeft() || mounts(t, s.d.Path()) != before {
		t.Errorf("found %d mounts; want %d and nothing else", mounts(t, s.d.Path()), before)
	}
}

// TestSubPathOfImageVolume: a path in an image is mounted as the image is, does not lead out of it,
// and is not created.
func TestSubPathOfImageVolume(t *testing.T) {
	s := newSubPaths(t)
	s.mountImages(nil, ImageVolume{Name: "v", Layers: s.layers()})
	mount := func(path string) error {
		return s.d.MountSubPaths([]v1alpha1.BundleSubPath{{Mount: 3, Source: "images/v", Path: path}}, nil)
	}
	if err := mount("d"); err != nil {
		t.Fatal(err)
	}
	at := s.d.File("subpaths/3")
	if text, err := os.ReadFile(at + "/e"); err != nil || string(text) != "1\n" {
		t.Errorf("found %q, %v", text, err)
	}
	if err := os.WriteFile(at+"/e", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing: found %v; want EROFS", err)
	}
	for path, want := range map[string]string{
		"new":   `found no "new" in the volume; allowed: the path of one of its files`,
		"c":     `found no "c" in the volume`,
		"out/x": "leads out of the volume",
		"out":   "leads out of the volume",
		"a/b":   "in place of a directory",
	} {
		err := mount(path)
		if err == nil || !strings.HasPrefix(err.Error(), "volumeMounts[3].subPath: ") ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: found %v; want %q", path, err, want)
		}
	}
	// The bundle is removed with all that is mounted in it.
	if err := mount("d"); err != nil {
		t.Fatal(err)
	}
	if err := s.d.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(s.d.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("found %v", err)
	}
}
