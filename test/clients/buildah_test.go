// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"path/filepath"
	"testing"
)

func TestBuildah(t *testing.T) {
	b := newClient(t, "buildah", "--storage-driver", "overlay")
	snippet(t, "/etc/containers/containers.conf", "/etc/containers/containers.conf")
	write(t, "/etc/containers/policy.json", `{"default": [{"type": "insecureAcceptAnything"}]}`)
	// The layout runs a shell, in which nothing but busybox is.
	write(t, filepath.Join(work, "context/Containerfile"), `FROM localhost/busybox:1
RUN echo built >/built && test "$(id -u)" = 0
CMD ["cat", "/built"]
`)
	b.must("pull", "oci-archive:"+filepath.Join(work, busyboxOCI))
	id := b.must("images", "-q")
	b.must("tag", id, busybox)
	t.Cleanup(func() { b.must("rm", "-a") })

	// Each way of choosing the runtime: the flag, the environment, and the configuration, which is
	// at work in the others.
	flag := []string{"--runtime", berth, "--isolation", "oci"}
	run := func(name string, args ...string) []string {
		return append(append([]string{"run", "--network", "none"}, flag...),
			append([]string{name}, args...)...)
	}
	t.Run("run", func(t *testing.T) {
		b := b.with(t)
		name := b.must("from", busybox)
		equal(t, "output", b.must(run(name, "echo", "hello")...), "hello")
		b.exits(5, nil, run(name, "sh", "-c", "exit 5")...)
		b.must(run(name, "sh", "-c", "echo kept >/kept")...)
		equal(t, "a file of an earlier run", b.must(run(name, "cat", "/kept")...), "kept")
		equal(t, "terminal", b.must(append([]string{"run", "-t", "--network", "none"},
			append(flag, name, "tty")...)...), "/dev/pts/0")
		equal(t, "user", b.must(append([]string{"run", "--user", "12:34", "--network", "none"},
			append(flag, name, "id", "-u")...)...), "12")
		if r := b.run(run(name, "/missing")...); r.code == 0 {
			t.Error(r)
		}
	})
	t.Run("from scratch", func(t *testing.T) {
		b := b.with(t)
		name := b.must("from", "scratch")
		b.must("copy", name, "/bin/busybox", "/bin/busybox")
		equal(t, "output", b.must(run(name, "/bin/busybox", "echo", "hello")...), "hello")
	})
	t.Run("environment", func(t *testing.T) {
		b := b.with(t)
		b.env = []string{"BUILDAH_RUNTIME=" + berth, "BUILDAH_ISOLATION=oci"}
		name := b.must("from", busybox)
		equal(t, "output", b.must("run", "--network", "none", name, "echo", "hello"), "hello")
	})
	t.Run("build", func(t *testing.T) {
		b := b.with(t)
		b.must(append(append([]string{"build"}, flag...), "--network", "none", "-t", "localhost/built:1",
			filepath.Join(work, "context"))...)
		name := b.must("from", "localhost/built:1")
		equal(t, "file of the image", b.must(run(name, "cat", "/built")...), "built")
		r := b.run(append(append([]string{"build"}, flag...), "--network", "none", "-f", "-", work+
			"/context")...)
		if r.code == 0 {
			t.Error(r)
		}
	})
}
