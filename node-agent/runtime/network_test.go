// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestNetworkOfTheDocument: the network is begun by what looks like linux.namespaces before the document is read. Where something else
// looks like it the container has what the document asks for, all the same.
func TestNetworkOfTheDocument(t *testing.T) {
	w := newWorld(t)
	host, err := os.Readlink("/proc/thread-self/ns/net") // other tests leave the first thread elsewhere
	w.must(err)
	own := func(spec *specs.Spec) *specs.Spec { return spec }
	hosts := func(spec *specs.Spec) *specs.Spec {
		spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
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
		"new, and another order":       {own, `"a":{"namespaces":[{"type":"network"},{"type":"pid"}]},`, true},
		"new, and no list at all":      {own, `"a":{"namespaces":`, false},
		"that of the host":             {hosts, "", false},
		"that of the host, and a list": {hosts, `"a":{"namespaces":[{"type":"network"}]},`, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec := c.spec(w.sh("readlink /proc/self/ns/net; cat /sys/class/net/lo/flags"))
			if !c.new { // whose sysfs is the host's, too
				spec.Mounts[5] = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "ro"}}
			}
			document, err := json.Marshal(spec)
			w.must(err)
			w.must(os.WriteFile(filepath.Join(w.bundle(), "config.json"), []byte("{"+c.decoy+string(document[1:])), 0o600))
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

// TestNoMoreNetworks: a network that cannot be made is the error of its namespace, and leaves nothing; a container that needs none does
// not mind, whatever its document looks like.
func TestNoMoreNetworks(t *testing.T) {
	w := newWorld(t)
	self, err := os.Executable()
	w.must(err)
	run := func() (string, error) {
		// The limit is the user namespace's own.
		cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", `echo 0 > /proc/sys/user/max_net_namespaces; exec "$@"`, "sh",
			self, filepath.Join(w.dir, "run"), w.id, w.bundle())
		cmd.Env = []string{helperEnv + "=run", "PATH=/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	w.save(w.sh("true"))
	out, err := run()
	if want := "linux.namespaces[1] (network): unshare: " + unix.ENOSPC.Error(); err == nil || !strings.Contains(out, want) || !strings.Contains(out, "max_net_namespaces") {
		t.Errorf("found %v, %s; want %q and the cause", err, out, want)
	}
	spec := w.sh("true")
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	spec.Mounts = spec.Mounts[:1]
	document, err := json.Marshal(spec)
	w.must(err)
	w.must(os.WriteFile(filepath.Join(w.bundle(), "config.json"), []byte(`{"a":{"namespaces":[{"type":"network"}]},`+string(document[1:])), 0o600))
	if out, err := run(); err != nil {
		t.Errorf("a container with the network of its host: %v, %s", err, out)
	}
}
