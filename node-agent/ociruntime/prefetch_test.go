// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
)

// TestNetworkOfTheDocument: the network is begun before the document is validated. The container
// gets the document's namespaces, also if other text looks like linux.namespaces.
func TestNetworkOfTheDocument(t *testing.T) {
	w := newWorld(t)
	// other tests leave the first thread elsewhere
	host, err := os.Readlink("/proc/thread-self/ns/net")
	w.must(err)
	own := func(spec *specs.Spec) *specs.Spec { return spec }
	hosts := func(spec *specs.Spec) *specs.Spec {
		spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces,
			func(n specs.LinuxNamespace) bool {
				return n.Type == specs.NetworkNamespace
			})
		return spec
	}
	for name, c := range map[string]struct {
		spec  func(*specs.Spec) *specs.Spec
		decoy string
		new   bool
	}{
		"new":                          {own, "", true},
		"new, and no list comes first": {own, `"annotations":{"namespaces":"none"},`, true},
		"new, and a list without":      {own, `"a":{"namespaces":[{"type":"pid"}]},`, true},
		"new, and another order": {
			own, `"a":{"namespaces":[{"type":"network"},{"type":"pid"}]},`,
			true,
		},
		"new, and no list at all":      {own, `"a":{"namespaces":`, false},
		"that of the host":             {hosts, "", false},
		"that of the host, and a list": {hosts, `"a":{"namespaces":[{"type":"network"}]},`, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec := c.spec(w.sh("readlink /proc/self/ns/net; cat /sys/class/net/lo/flags"))
			if !c.new { // whose sysfs is the host's, too
				spec.Mounts[5] = specs.Mount{
					Destination: "/sys", Type: "bind", Source: "/sys",
					Options: []string{"rbind", "ro"},
				}
			}
			document, err := json.Marshal(spec)
			w.must(err)
			w.must(os.WriteFile(filepath.Join(w.bundle(), "config.json"),
				[]byte("{"+c.decoy+string(document[1:])), 0o600))
			out, status, err := w.tryWith(CreateOptions{})
			if strings.HasSuffix(c.decoy, ":") {
				if err == nil {
					t.Errorf("a document that is cut short is no error")
				}
				return
			}
			if err != nil || status.ExitStatus() != 0 {
				t.Fatalf("%v, %v: %s", err, status, out)
			}
			network, flags, _ := strings.Cut(out, "\n")
			if network == host == c.new || !strings.HasPrefix(network, "net:[") {
				t.Errorf("it is in %s, the host is in %s; want a new one: %t", network, host, c.new)
			}
			if flags != "0x9\n" { // IFF_UP|IFF_LOOPBACK
				t.Errorf("the flags of lo are %s", flags)
			}
		})
	}
}

// TestNoMoreNetworks: a network namespace that cannot be created is the error of its field, and
// leaves nothing; a container without one is not affected.
func TestNoMoreNetworks(t *testing.T) {
	w := newWorld(t)
	self, err := os.Executable()
	w.must(err)
	run := func() (string, error) {
		// The limit is the user namespace's own.
		cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec",
			`echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"`, "sh",
			self, filepath.Join(w.dir, "run"), w.id, w.bundle())
		cmd.Env = []string{helperEnv + "=run", "PATH=/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	w.save(w.sh("true"))
	out, err := run()
	if want := "linux.namespaces[1] (network): unshare: " + unix.ENOSPC.Error(); err == nil ||
		!strings.Contains(out, want) || !strings.Contains(out, "max_net_namespaces") {
		t.Errorf("found %v, %s; want %q and the cause", err, out, want)
	}
	spec := w.sh("true")
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces,
		func(n specs.LinuxNamespace) bool {
			return n.Type == specs.NetworkNamespace
		})
	spec.Mounts = spec.Mounts[:1]
	document, err := json.Marshal(spec)
	w.must(err)
	w.must(os.WriteFile(filepath.Join(w.bundle(), "config.json"),
		[]byte(`{"a":{"namespaces":[{"type":"network"}]},`+string(document[1:])), 0o600))
	if out, err := run(); err != nil {
		t.Errorf("a container with the network of its host: %v, %s", err, out)
	}
}

// TestCgroupsOfUnusualPaths: the container is in the document's cgroups, and no other cgroup is
// created, also if other text looks like linux.cgroupsPath, the directory exists already, or its
// parent does not exist.
func TestCgroupsOfUnusualPaths(t *testing.T) {
	for name, c := range map[string]struct {
		decoy, below string
		// there is the index, from 1 on, of the directory that is created in advance; under cgroup
		// v2 it is the only one.
		there int
	}{
		"plain":                         {},
		"in an extension":               {decoy: `"a":{"cgroupsPath":"elsewhere"},`},
		"in an annotation":              {decoy: `"annotations":{"cgroupsPath":"/elsewhere"},`},
		"above":                         {decoy: `"annotations":{"cgroupsPath":"../.."},`},
		"no string":                     {decoy: `"a":{"cgroupsPath":["elsewhere"]},`},
		"the folder above is not there": {below: "/above/it"},
		"the first is there":            {there: 1},
		"another is there":              {there: 4},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec := w.sh("cat /proc/self/cgroup")
			spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces,
				func(n specs.LinuxNamespace) bool {
					return n.Type == specs.CgroupNamespace
				})
			spec.Linux.CgroupsPath = w.cgroup + c.below
			document, err := json.Marshal(spec)
			w.must(err)
			w.must(os.WriteFile(filepath.Join(w.bundle(), "config.json"),
				[]byte("{"+c.decoy+string(document[1:])), 0o600))
			if c.there > 0 {
				host, err := w.rt.Host()
				w.must(err)
				group, err := cgroup.New(spec, w.id, host.Cgroup, false)
				w.must(err)
				dirs := slices.Compact(slices.Sorted(maps.Values(group.Paths())))
				w.must(os.Mkdir(dirs[min(c.there, len(dirs))-1], 0o755))
			}
			out, status, err := w.tryWith(CreateOptions{})
			if err != nil || status.ExitStatus() != 0 {
				t.Fatalf("%v, %v: %s", err, status, out)
			}
			for line := range strings.Lines(out) {
				if !strings.HasSuffix(line, ":"+spec.Linux.CgroupsPath+"\n") {
					t.Errorf("it is in %s", line)
				}
			}
			for _, dir := range w.cgroupDirs() { // those above are nobody's
				w.must(os.Remove(filepath.Join(dir, "above")))
				w.must(os.Remove(dir))
			}
			elsewhere := *w
			elsewhere.cgroup = "/elsewhere"
			if found := elsewhere.cgroupDirs(); len(found) > 0 {
				t.Errorf("found %v", found)
			}
		})
	}
}

// TestCreateKeepsOtherContainersCgroups: a container whose cgroup has processes of another is refused, and removes
// no directory of the other, not even an empty one.
func TestCreateKeepsOtherContainersCgroups(t *testing.T) {
	w := newWorld(t)
	state := w.start(w.sh("while :; do sleep 1; done"))
	dirs := w.cgroupDirs()
	for _, dir := range dirs {
		w.must(os.Mkdir(filepath.Join(dir, "empty"), 0o755))
	}
	other := *w
	other.id = "other"
	other.fails(w.sh("true"), "linux.cgroupsPath: found ", "which has processes of another container")
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, "empty")); err != nil {
			t.Error(err)
		}
	}
	w.end(w.id, state.PID)
}
