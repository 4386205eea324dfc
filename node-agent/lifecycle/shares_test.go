// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/selinux"
	"github.com/berth-run/berth/node-agent/source"
)

// sharedNode is a node whose containers have volumes of each other.
type sharedNode struct {
	t       *testing.T
	bundles *bundle.Root
	wanted  map[source.Key]*v1alpha1.OCIBundle
	shares  *shares
	woken   map[string]int
}

func newSharedNode(t *testing.T) *sharedNode {
	t.Helper()
	leaktest.Check(t)
	root, err := bundle.Open(filepath.Join(t.TempDir(), "bundles"))
	if err != nil {
		t.Fatal(err)
	}
	n := &sharedNode{
		t: t, bundles: root, wanted: map[source.Key]*v1alpha1.OCIBundle{}, woken: map[string]int{},
	}
	n.shares = &shares{
		Neighbours: Neighbours{
			Bundle: func(k source.Key) *v1alpha1.OCIBundle { return n.wanted[k] }, Dir: root.Dir,
		},
		followers: NewFollowers(func(k source.Key) { n.woken[k.Name]++ }),
	}
	return n
}

// want adds a Container with these volumes, or changes it.
func (n *sharedNode) want(name, uid string, volumes ...v1alpha1.Volume) *Container {
	n.t.Helper()
	key := source.Key{Namespace: "default", Name: name}
	b := &v1alpha1.OCIBundle{}
	b.Namespace, b.Name, b.UID = key.Namespace, name, types.UID(uid)
	b.Spec.Volumes = volumes
	n.wanted[key] = b
	c := &Container{Key: key, ID: ContainerID(key, b.UID), Bundle: b}
	c.Dir = n.bundles.Dir(c.ID)
	if err := c.Dir.Make(); err != nil {
		n.t.Fatal(err)
	}
	return c
}

func (n *sharedNode) ensure(c *Container) error {
	for _, s := range []Stage{
		emptyDirsStage{n.shares}, sharesStage{n.shares}, volumesStage{n.shares},
	} {
		if err := s.Ensure(n.t.Context(), c); err != nil {
			return err
		}
	}
	return nil
}

// waits asserts that a container waits with the text in its message.
func (n *sharedNode) waits(c *Container, text string) {
	n.t.Helper()
	err := n.ensure(c)
	p := (*Pending)(nil)
	if !errors.As(err, &p) || p.Reason != v1alpha1.ReasonVolumeNotReady ||
		!strings.Contains(p.Message, text) {
		n.t.Errorf("found %v; want to wait: %s", err, text)
	}
}

func (n *sharedNode) outdated(c *Container, text string) {
	n.t.Helper()
	why, err := sharesStage{n.shares}.Outdated(c)
	if err != nil || (text == "") != (why == "") || !strings.Contains(why, text) {
		n.t.Errorf("found %q, %v; want %q", why, err, text)
	}
}

// end releases what belongs to a run.
func (n *sharedNode) end(c *Container) {
	n.t.Helper()
	if err := (sharesStage{n.shares}).Release(n.t.Context(), c); err != nil {
		n.t.Fatal(err)
	}
}

func (n *sharedNode) untilWoken(name string) {
	n.t.Helper()
	if n.woken[name] == 0 {
		n.t.Errorf("found %v woken; want %s", n.woken, name)
	}
	clear(n.woken)
}

func emptyDir(name string) v1alpha1.Volume {
	return v1alpha1.Volume{Name: name, EmptyDir: &corev1.EmptyDirVolumeSource{}}
}

func volumeOf(container, volume string) v1alpha1.Volume {
	return v1alpha1.Volume{
		Name:      "shared",
		Container: &v1alpha1.ContainerVolume{Name: container, Volume: volume},
	}
}

// TestSharedVolume: a container waits for the volume of another one, with what is missing, and has
// the same directory as soon as the other one has made it.
func TestSharedVolume(t *testing.T) {
	n := newSharedNode(t)
	side := n.want("side", "1", volumeOf("web", "data"))
	n.waits(side, "spec.volumes[0].container.name: found web, and no Container of that name in the namespace default")
	n.want("web", "1")
	n.waits(side, ".volume: found data, which the Container web does not have; allowed: an emptyDir, once it has one")
	n.want("web", "1", emptyDir("cache"), v1alpha1.Volume{
		Name: "data", HostPath: &corev1.HostPathVolumeSource{Path: "/"},
	})
	n.waits(side, "found data, which is no emptyDir of the Container web; allowed: cache")
	n.want("web", "1", v1alpha1.Volume{Name: "data", Container: volumeOf("db", "files").Container})
	n.waits(side, "found data, which is the volume files of the Container db; allowed: that volume by its own name")
	web := n.want("web", "1", emptyDir("data"))
	n.waits(side, ": waits until the Container web has made its volume data")
	if err := n.ensure(web); err != nil {
		t.Fatal(err)
	}
	n.untilWoken("side")
	for range 2 {
		if err := n.ensure(side); err != nil {
			t.Fatal(err)
		}
	}
	if got := side.Directories["shared"].Path; got != web.Dir.Volume("data") {
		t.Errorf("found %s; want %s", got, web.Dir.Volume("data"))
	}
	n.outdated(side, "")
	if err := n.ensure(web); err != nil || len(n.woken) > 0 {
		t.Errorf("found %v, %v woken; want nothing new", err, n.woken)
	}
	web.Bundle.DeletionTimestamp = &metav1.Time{}
	n.outdated(side, "default/web, whose volume data it has, is removed")
	n.want("web", "2", emptyDir("data"))
	n.outdated(side, "default/web, whose volume data it has, was made again")
	n.waits(side, ": waits until the Container web has made its volume data")
}

// TestSharedVolumeStays: a volume that another container has is not removed with its own Container,
// nor made anew, before the other one has ended.
func TestSharedVolumeStays(t *testing.T) {
	huge := emptyDir("data")
	huge.EmptyDir.Medium = corev1.StorageMediumMemory
	for name, tc := range map[string]struct {
		lose func(n *sharedNode, web *Container) error
		// again reports whether the volume is there again at once.
		again bool
	}{
		"removed": {lose: func(n *sharedNode, web *Container) error {
			delete(n.wanted, web.Key)
			return emptyDirsStage{n.shares}.Release(n.t.Context(), web)
		}},
		"not asked for": {lose: func(n *sharedNode, web *Container) error {
			web.Bundle.Spec.Volumes = nil
			return n.ensure(web)
		}},
		"on another medium": {lose: func(n *sharedNode, web *Container) error {
			web.Bundle.Spec.Volumes = []v1alpha1.Volume{huge}
			_, err := web.Dir.Doomed(web.Bundle.Spec.Volumes, "")
			return errors.Join(err, n.shares.leave(web, []string{"data"}))
		}},
		"emptied": {again: true, lose: func(n *sharedNode, web *Container) error {
			web.Restarts, web.Emptied = 1, "data"
			return n.ensure(web)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newSharedNode(t)
			web := n.want("web", "1", emptyDir("data"))
			side := n.want("side", "1", volumeOf("web", "data"))
			if err := errors.Join(n.ensure(web), n.ensure(side)); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(web.Dir.Volume("data"), "file")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			n.outdated(side, "")
			clear(n.woken)
			for range 2 { // the second is that of another agent
				err := tc.lose(n, web)
				if err == nil || !strings.Contains(err.Error(), "default/side, which has to end first") {
					t.Fatalf("found %v; want the container that has the volume", err)
				}
				n.untilWoken("side")
				if _, err := os.Stat(file); err != nil {
					t.Fatal(err)
				}
				n.outdated(side, "loses that volume")
				if err := (volumesStage{n.shares}).Ensure(t.Context(), side); err == nil {
					t.Error("found that it may have the volume again")
				}
				n.shares.leaving = nil
			}
			n.end(side)
			n.end(side)
			n.untilWoken("web")
			if err := tc.lose(n, web); err != nil {
				t.Fatal(err)
			}
			if name != "on another medium" {
				if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("found the file, %v", err)
				}
			}
			if !tc.again {
				if err := n.ensure(side); err == nil {
					t.Error("found a volume")
				}
				return
			}
			if err := n.ensure(side); err != nil {
				t.Fatal(err)
			}
			// The owner looks again, since it waits for something else.
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := n.ensure(web); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("emptied again: %v", err)
			}
		})
	}
}

// lostDuringStart asserts that the start is tried again soon, without a back-off.
func lostDuringStart(t *testing.T, err error) {
	t.Helper()
	e := (*StageError)(nil)
	if !errors.As(err, &e) || e.Class != NodeFault || e.Reason != v1alpha1.ReasonVolumeNotReady {
		t.Errorf("found %v; want a fault of the node", err)
	}
}

// TestSharedVolumeMadeAnewDuringStart: a container does not start with a volume that its owner has
// made anew since the container found it: its variables may be of a file in the earlier one.
func TestSharedVolumeMadeAnewDuringStart(t *testing.T) {
	n := newSharedNode(t)
	web, side := n.want("web", "1", emptyDir("data")), n.want("side", "1", volumeOf("web", "data"))
	if err := errors.Join(n.ensure(web), sharesStage{n.shares}.Ensure(t.Context(), side)); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(web.Dir.Volume("data")) // or the next directory may get its inode
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	web.Restarts, web.Emptied = 1, "data"
	if err := n.ensure(web); err != nil {
		t.Fatal(err)
	}
	lostDuringStart(t, volumesStage{n.shares}.Ensure(t.Context(), side))
	if side.Dir.SharesLeft() {
		t.Error("found that it has the volume")
	}
	if err := n.ensure(side); err != nil {
		t.Error(err)
	}
}

// TestVariableOfRemovedVolume: a volume that its owner removes while a variable is read from it is
// no fault of the container that waits for the next one.
func TestVariableOfRemovedVolume(t *testing.T) {
	n := newSharedNode(t)
	web, side := n.want("web", "1", emptyDir("data")), n.want("side", "1", volumeOf("web", "data"))
	if err := errors.Join(n.ensure(web), n.ensure(side)); err != nil {
		t.Fatal(err)
	}
	looks := 0
	n.shares.Dir = func(id string) bundle.Dir {
		if looks++; looks == 2 { // it was there at the first one
			if err := os.Remove(web.Dir.Volume("data")); err != nil {
				t.Error(err)
			}
		}
		return n.bundles.Dir(id)
	}
	side.Bundle.Spec.Process.Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{
		FileKeyRef: &corev1.FileKeySelector{
			VolumeName: "shared", Path: "env", Key: "A", Optional: new(true),
		},
	}}}
	lostDuringStart(t, environmentStage{shares: n.shares}.Ensure(t.Context(), side))
}

// TestSharedVolumeOfGroup: a container gives a volume of another one to its group.
func TestSharedVolumeOfGroup(t *testing.T) {
	n := newSharedNode(t)
	web, side := n.want("web", "1", emptyDir("data")), n.want("side", "1", volumeOf("web", "data"))
	side.Bundle.Spec.Security = &v1alpha1.BundleSecurity{FSGroup: new(int64(os.Getgid()))}
	if err := errors.Join(n.ensure(web), n.ensure(side)); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(web.Dir.Volume("data"))
	if err != nil || info.Mode()&os.ModeSetgid == 0 {
		t.Errorf("found %v, %v; want the set-group-ID bit", info.Mode(), err)
	}
}

// TestSharedVolumeLabel: the volume of a container that waits for another one has the label of both
// before that one writes to it, if they ask for the same. Otherwise it keeps what it has.
func TestSharedVolumeLabel(t *testing.T) {
	needs.Root(t) // who may set labels
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	same := corev1.SELinuxOptions{Level: "s0:c1,c2"}
	for name, tc := range map[string]struct {
		web, side corev1.SELinuxOptions
		want      bool
	}{
		"the same":      {same, same, true},
		"of no level":   {corev1.SELinuxOptions{}, corev1.SELinuxOptions{}, false},
		"another level": {corev1.SELinuxOptions{Level: "s0:c3,c4"}, same, false},
		"another user":  {corev1.SELinuxOptions{User: "a", Level: "s0:c1,c2"}, same, false},
	} {
		t.Run(name, func(t *testing.T) {
			n := newSharedNode(t)
			web, side := n.want("web", "1", emptyDir("data")), n.want("side", "1", volumeOf("web", "data"))
			web.Bundle.Spec.Security = &v1alpha1.BundleSecurity{SELinuxOptions: &tc.web}
			side.Bundle.Spec.Security = &v1alpha1.BundleSecurity{SELinuxOptions: &tc.side}
			side.Labels = selinux.Labels{File: label}
			err := emptyDirsStage{n.shares}.Ensure(t.Context(), web)
			if err = errors.Join(err, n.ensure(side)); err != nil {
				t.Fatal(err)
			}
			found := make([]byte, 256)
			size, err := unix.Lgetxattr(web.Dir.Volume("data"), "security.selinux", found)
			if err != nil && !errors.Is(err, unix.ENODATA) {
				t.Fatal(err)
			}
			if got := string(found[:max(0, size)]); (strings.TrimRight(got, "\x00") == label) != tc.want {
				t.Errorf("found the label %q", got)
			}
		})
	}
}

// TestNoSharedVolumesWithoutNeighbours: an agent that knows of no other Containers refuses a volume
// of one, whoever compiled it, and leaves the containers without one alone.
func TestNoSharedVolumesWithoutNeighbours(t *testing.T) {
	n := newSharedNode(t)
	n.shares.Neighbours = Neighbours{}
	side := n.want("side", "1", emptyDir("own"), volumeOf("web", "data"))
	if err := n.ensure(side); err == nil || !strings.Contains(err.Error(),
		"spec.volumes[1].container: found web; allowed: nothing") {
		t.Errorf("found %v", err)
	}
	n.end(side)
	side.Bundle.Spec.Volumes = side.Bundle.Spec.Volumes[:1]
	if err := n.ensure(side); err != nil {
		t.Error(err)
	}
	if err := (emptyDirsStage{n.shares}).Release(t.Context(), side); err != nil {
		t.Error(err)
	}
}
