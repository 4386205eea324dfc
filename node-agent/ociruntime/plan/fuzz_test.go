// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/validate"
	"github.com/berth-run/berth/internal/cgrouplayout"
)

// check fails the test for a plan that a launcher could not run: a label that stands nowhere, or
// text that the kernel would cut off.
func check(t *testing.T, p *Plan) {
	t.Helper()
	for i := range p.Steps {
		s := &p.Steps[i]
		for _, l := range []Label{s.IfOK, s.IfErr} {
			if l != 0 && (p.Labels[l] <= i || p.Labels[l] > len(p.Steps)) {
				t.Fatalf("step %d (%s) leads to %d of %d", i, s, p.Labels[l], len(p.Steps))
			}
		}
		for _, a := range s.Args {
			if text, ok := a.Text(); ok && strings.ContainsRune(text, 0) {
				t.Fatalf("step %d (%s) has a NUL byte in its text", i, s)
			}
		}
	}
	_ = p.WriteText(discard{})
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

var fuzzHost = Host{LastCapability: 40, Permitted: 1<<41 - 1, Cgroup: cgrouplayout.Layout{V1: []cgrouplayout.Hierarchy{{Dir: "cpu,cpuacct", Options: "cpu,cpuacct", Links: []string{"cpu"}}}, Hybrid: "unified"}}

// FuzzConfig: a document that validates becomes plans that can be run, or an error: that of the
// container and those of what is done with one that is there. It begins with every document of a
// golden plan, and so at every stage.
func FuzzConfig(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		f.Fatalf("found %d documents: %v", len(files), err)
	}
	for _, file := range append(files, "../../../api/oci/document/testdata/runc-spec.json", "../../../api/oci/document/testdata/containerd-spec.json") {
		document, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(document)
	}
	f.Add([]byte(`{"ociVersion":"1.0.0","root":{"path":"a"}}`))
	f.Add([]byte(`{"ociVersion":"1.0.0","root":{"path":"a"},"linux":{}}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		spec, faults := validate.JSON(document, validate.Options{Bundle: "/bundle"})
		if faults.Err() != nil || spec == nil || spec.Root == nil {
			return
		}
		o := Options{ID: "a", Bundle: "/bundle", Rootfs: "/bundle/rootfs", Home: "/", Cgroups: []string{"cpu,cpuacct"}}
		kinds := []buildFunc{Build, BuildMountpoints}
		if spec.Process != nil && spec.Linux != nil { // as the record of a container has
			kinds = append(kinds, BuildExec, func(s *specs.Spec, h Host, o Options) (*Plan, error) { return BuildMounts(s, s.Mounts, h, o) })
		}
		if h := spec.Hooks; h != nil && spec.Linux != nil && len(h.CreateContainer) > 0 {
			kinds = append(kinds, hookOf("createContainer"))
		}
		for _, build := range kinds {
			if p, err := build(spec, fuzzHost, o); err == nil {
				check(t, p)
			}
		}
	})
}

// FuzzMountOptions: so does any mount that validates.
func FuzzMountOptions(f *testing.F) {
	f.Add("/data", "bind", "/srv", "rbind,rro,nosuid,rslave")
	f.Add("/tmp", "tmpfs", "tmpfs", "size=1m,mode=1777,noatime,tmpcopyup")
	f.Add("/a/../b", "none", "x", "bind,idmap,remount,ro,rw,r,=,a=b=c")
	f.Add("/sys/fs/cgroup", "cgroup", "cgroup", "ro,rprivate")
	f.Add("/m", "overlay", "overlay", "lowerdir=a:b,upperdir=c,workdir=d")
	f.Add("/m", "bind", "/proc/self/fd/7", "rbind,ridmap=uids=0-1000-65536;gids=@5-6-7,src-nofollow,dest-nofollow,copy-symlink")
	f.Add("/proc/self/attr", "cgroup2", "cgroup", "rw,runbindable,rnosymfollow,rstrictatime")
	f.Add("//..//../proc", "proc", "", "hidepid=2,remount,lazytime,x-systemd.automount")
	f.Fuzz(func(t *testing.T, destination, kind, source, options string) {
		spec := &specs.Spec{
			Version: "1.3.0", Root: &specs.Root{Path: "rootfs"}, Process: &specs.Process{Args: []string{"/bin/true"}, Cwd: "/"},
			Linux:  &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: "mount"}, {Type: "pid"}, {Type: "cgroup"}}},
			Mounts: []specs.Mount{{Destination: destination, Type: kind, Source: source, Options: strings.Split(options, ",")}},
		}
		if validate.Spec(spec, validate.Options{Bundle: "/bundle"}).Err() != nil {
			return
		}
		p, err := Build(spec, fuzzHost, Options{ID: "a", Bundle: "/bundle", Rootfs: "/bundle/rootfs"})
		if err == nil {
			check(t, p)
		}
	})
}
