// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-run/berth/api/oci/validate"
)

// check fails the test for a plan that a launcher could not run: a label that stands nowhere, or text that the kernel would cut off.
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

var fuzzHost = Host{LastCapability: 40, Permitted: 1<<41 - 1, Cgroup: CgroupLayout{V1: []Hierarchy{{Dir: "cpu,cpuacct", Options: "cpu,cpuacct", Links: []string{"cpu"}}}, Hybrid: "unified"}}

// FuzzConfig: a document that validates becomes a plan that can be run, or an error.
func FuzzConfig(f *testing.F) {
	for _, file := range []string{"../../../api/oci/validate/testdata/runc-spec.json", "../../../api/oci/validate/testdata/containerd-spec.json"} {
		document, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(document)
	}
	f.Fuzz(func(t *testing.T, document []byte) {
		spec, faults := validate.JSON(document, validate.Options{Bundle: "/bundle"})
		if faults.Err() != nil || spec == nil || spec.Root == nil {
			return
		}
		p, err := Build(spec, fuzzHost, Options{ID: "a", Bundle: "/bundle", Rootfs: "/bundle/rootfs", Home: "/", Cgroups: []string{"cpu,cpuacct"}})
		if err == nil {
			check(t, p)
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
