// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// telling returns a hook that writes its observations into a file: the state that it gets and lines
// of key and value.
func telling(shell, file string) []specs.Hook {
	return []specs.Hook{{
		Path: shell, Args: []string{"hook", "-c", `{ read -r state; read -r env < /proc/self/environ
echo "zero $0"; echo "env $env"; echo "cwd $(pwd)"; echo "pid $$"; echo "state $state"
for n in cgroup ipc mnt net pid user uts; do echo "$n $(readlink /proc/self/ns/$n)"; done
grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status; echo "ran $(test -e ` + "/ran" + ` && echo yes)"; } > ` + file + ` 2>&1`},
		Env: []string{"A=b"},
	}}
}

// told reads the file that telling has written.
func (w *world) told(file string) map[string]string {
	w.t.Helper()
	data, err := os.ReadFile(file)
	w.must(err)
	out := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		key, value, _ := strings.Cut(line, " ")
		if k, v, ok := strings.Cut(line, ":\t"); ok && !strings.Contains(k, " ") {
			key, value = k, v
		}
		out[key] = value
	}
	return out
}

func (w *world) toldState(told map[string]string) (s specs.State) {
	w.t.Helper()
	w.must(json.Unmarshal([]byte(told["state"]), &s))
	return s
}

// TestHooksInTheContainer: createContainer hooks have the container's namespaces and the runtime's
// files and rights, startContainer hooks all that the container's process will have, in that order
// and before that runs.
func TestHooksInTheContainer(t *testing.T) {
	mapped := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.GIDMappings = s.Linux.UIDMappings
	}
	for name, change := range map[string]func(*specs.Spec){
		"root": func(*specs.Spec) {}, "user": func(s *specs.Spec) {
			s.Process.User.UID = 1000
		}, "user namespace": mapped,
		"pids of the host": func(s *specs.Spec) {
			s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool {
				return n.Type == specs.PIDNamespace
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.must(os.MkdirAll(w.file("/scratch"), 0o777))
			w.must(os.Chmod(w.file("/scratch"), 0o777))
			w.must(os.Chmod(w.bundle(), 0o777))
			w.must(os.Chmod(w.dir, 0o777))
			w.must(os.Symlink("busybox", w.file("/bin/shell-of-the-image"))) // on no host
			spec := w.sh("touch /scratch/ran; exec sleep 1000")
			change(spec)
			if len(spec.Linux.UIDMappings) > 0 {
				w.must(filepath.WalkDir(w.file("/"), func(path string, _ os.DirEntry, err error) error {
					return errors.Join(err, os.Lchown(path, 100000, 100000))
				}))
			}
			spec.Annotations = map[string]string{"k": "v"}
			spec.Process.Cwd = "/scratch"
			spec.Linux.Seccomp = &specs.LinuxSeccomp{
				DefaultAction: "SCMP_ACT_ALLOW",
				Syscalls:      []specs.LinuxSyscall{{Names: []string{"swapon"}, Action: "SCMP_ACT_TRAP"}},
			}
			created := filepath.Join(w.dir, "told")
			w.must(os.WriteFile(created, nil, 0o666))
			w.must(os.Chmod(created, 0o666))
			spec.Hooks = &specs.Hooks{
				Prestart: w.noting("prestart"), CreateRuntime: w.noting("createRuntime"), //nolint:staticcheck // deprecated, not gone
				CreateContainer: append(w.noting("createContainer"), telling("/bin/sh", created)...),
				StartContainer:  telling("/bin/shell-of-the-image", "/scratch/told"),
				Poststart:       w.noting("poststart"), Poststop: w.noting("poststop"),
			}
			for _, file := range []string{"hooks", "createContainer.json"} {
				w.must(os.WriteFile(filepath.Join(w.dir, file), nil, 0o666))
				w.must(os.Chmod(filepath.Join(w.dir, file), 0o666))
			}
			spec.Hooks.StartContainer[0].Args[0] = "sh"
			s := w.create(spec)
			if got, want := w.noted(),
				"prestart b none\ncreateRuntime b none\ncreateContainer b none\n"; got != want {
				t.Errorf("after create: %q", got)
			}
			namespaces := map[string]string{}
			for _, n := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
				var err error
				namespaces[n], err = os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", s.PID, n))
				w.must(err)
			}
			inner := 1
			if name == "pids of the host" {
				inner = s.PID
			}
			told := w.told(created)
			for n, want := range namespaces {
				if told[n] != want {
					t.Errorf("createContainer: the namespace %s is %s, the container's %s", n, told[n], want)
				}
			}
			if told["zero"] != "hook" || told["env"] != "A=b" || told["cwd"] != w.file("") ||
				told["pid"] == "1" {
				t.Errorf("createContainer: %q", told)
			}
			if st := w.toldState(told); st.Pid != inner || st.ID != w.id ||
				st.Status != specs.StateCreated || st.Bundle != w.bundle() || st.Annotations["k"] != "v" ||
				st.Version != "1.3.0" {
				t.Errorf("createContainer: state %+v", st)
			}
			if told["Seccomp"] != "0" || told["NoNewPrivs"] != "0" || !strings.HasPrefix(told["Uid"],
				"0\t") {
				t.Errorf("createContainer: %q", told)
			}
			w.must(w.rt.Start(background, w.id))
			if got := w.noted(); !strings.HasSuffix(got, "\npoststart b none\n") {
				t.Errorf("after start: %q", got)
			}
			w.await("the process", func() bool {
				_, err := os.Stat(w.file("/scratch/ran"))
				return err == nil
			})
			told = w.told(w.file("/scratch/told"))
			for n, want := range namespaces {
				if told[n] != want {
					t.Errorf("startContainer: the namespace %s is %s, the container's %s", n, told[n], want)
				}
			}
			if told["zero"] != "sh" || told["env"] != "A=b" || told["cwd"] != "/scratch" ||
				told["ran"] != "" {
				t.Errorf("startContainer: %q", told)
			}
			if st := w.toldState(told); st.Pid != inner || st.ID != w.id ||
				st.Status != specs.StateCreated || st.Bundle != w.bundle() {
				t.Errorf("startContainer: state %+v", st)
			}
			for _, key := range []string{"CapEff", "CapBnd", "NoNewPrivs", "Seccomp"} {
				if want := statusLine(t, s.PID, key); told[key] != want {
					t.Errorf("startContainer: %s is %s, the process's %s", key, told[key], want)
				}
			}
			if want := fmt.Sprint(spec.Process.User.UID); !strings.HasPrefix(told["Uid"], want+"\t") {
				t.Errorf("startContainer: its user is %s", told["Uid"])
			}
		})
	}
}

// TestHooksOfRun: run goes through the same hooks.
func TestHooksOfRun(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("cat /told; echo process")
	spec.Hooks = &specs.Hooks{
		CreateContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{
			"sh", "-c",
			"echo createContainer > told",
		}}},
		StartContainer: []specs.Hook{
			{Path: "/bin/sh", Args: []string{"sh", "-c", "echo first >> /told"}},
			{Path: "/hook"},
		},
	}
	w.write("/hook", "#!/bin/sh\necho \"$0 $#\" >> /told\n", 0o755)
	w.prints(spec, "createContainer\nfirst\n/hook 0\nprocess\n")
}

// TestScriptAsCreateContainerHook: the kernel does not execute a script by a descriptor that is to
// be closed.
func TestScriptAsCreateContainerHook(t *testing.T) {
	w := newWorld(t)
	script := filepath.Join(w.dir, "script")
	w.must(os.WriteFile(script,
		[]byte("#!/bin/sh\necho \"$0 $*\" > told; ls /proc/self/fd | wc -l >> told\n"), 0o755))
	spec := w.sh("cat /told")
	spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: script, Args: []string{"x", "y"}}}}
	w.prints(spec, script+" y\n4\n") // 0 to 2 and that of ls
}

// TestCreateContainerHookIsTheRuntimes: its path means a program of the runtime's, also where the
// container joins a mount namespace in which there is another at that path.
func TestCreateContainerHookIsTheRuntimes(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "hooks")
	w.must(os.Mkdir(dir, 0o755))
	program, err := os.ReadFile(busybox)
	w.must(err)
	w.must(os.WriteFile(filepath.Join(dir, "program"), program, 0o755))
	w.must(os.WriteFile(filepath.Join(dir, "script"), []byte("#!/bin/sh\necho right > told\n"), 0o755))
	for _, hook := range []specs.Hook{{Path: filepath.Join(dir, "program"), Args: []string{
		"sh", "-c",
		"echo right > told",
	}}, {Path: filepath.Join(dir, "script")}} {
		other := w.mountNamespace(dir)
		spec := w.sh("cat /told; rm -f /told")
		for i := range spec.Linux.Namespaces {
			if n := &spec.Linux.Namespaces[i]; n.Type == specs.MountNamespace {
				n.Path = fmt.Sprintf("/proc/%d/ns/mnt", other)
			}
		}
		spec.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{hook}}
		out, status, err := w.try(spec)
		if err != nil || status != 0 || out != "right\n" {
			t.Errorf("%s: %q, %v, %v", hook.Path, out, status, err)
		}
	}
}

// mountNamespace makes one in which a directory has other programs, and returns the pid of a
// process in it.
func (w *world) mountNamespace(dir string) int {
	w.t.Helper()
	other := exec.Command("unshare", "-m", "sh", "-c",
		`mount -t tmpfs none "$0" && for f in program script; do
printf '#!/bin/sh\necho wrong > told\n' > "$0/$f"; chmod 755 "$0/$f"; done; echo; exec sleep 1000`, dir)
	ready, err := other.StdoutPipe()
	w.must(err)
	w.must(other.Start())
	w.t.Cleanup(func() { _ = other.Process.Kill(); _ = other.Wait() })
	_, err = ready.Read(make([]byte, 1))
	w.must(err)
	return other.Process.Pid
}

// eachKind are documents with a hook of each kind that can fail a container.
func eachKind(hooks []specs.Hook) map[string]*specs.Hooks {
	return map[string]*specs.Hooks{
		"prestart":      {Prestart: hooks}, //nolint:staticcheck // deprecated, not gone
		"createRuntime": {CreateRuntime: hooks}, "createContainer": {CreateContainer: hooks},
		"startContainer": {StartContainer: hooks}, "poststart": {Poststart: hooks},
	}
}

// TestHookTimeouts: a hook of any kind that takes too long is killed with its children, and counts
// as failed.
func TestHookTimeouts(t *testing.T) {
	const mark = "86421"
	for kind, hooks := range eachKind([]specs.Hook{{Path: "/bin/sh", Args: []string{
		"sh", "-c",
		"sleep " + mark + " & sleep " + mark,
	}, Env: []string{"PATH=/bin"}, Timeout: ptr(1)}}) {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t)
			spec := w.spec("/bin/sleep", "1000")
			spec.Hooks = hooks
			hooks.Poststop = w.noting("poststop")
			began := time.Now()
			w.fails(spec, "error running "+kind+" hook #0: hook ran past specified timeout of 1.0s")
			if d := time.Since(began); d < time.Second || d > patience {
				t.Errorf("it took %v", d)
			}
			if got := w.noted(); got != "poststop b none\n" {
				t.Errorf("the poststop hooks noted %q", got)
			}
			w.await("the end of its children", func() bool { return len(processesWith(t, mark)) == 0 })
		})
	}
}

func processesWith(t *testing.T, word string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && slices.Contains(strings.Split(string(data), "\x00"),
			word) {
			pids = append(pids, f)
		}
	}
	return pids
}

// TestHooksThatAreNotThere: for every kind, with the path.
func TestHooksThatAreNotThere(t *testing.T) {
	for kind, hooks := range eachKind([]specs.Hook{{Path: "/does/not/exist"}}) {
		w := newWorld(t)
		spec := w.spec("/bin/sleep", "1000")
		spec.Hooks = hooks
		w.fails(spec, "error running "+kind+" hook #0: ",
			"exec /does/not/exist: no such file or directory")
	}
}

// TestHookWithMuchState: a hook that does not read its state, or reads it late, is no failure.
func TestHookWithMuchState(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("cat /size")
	spec.Annotations = map[string]string{"a": strings.Repeat("x", 1<<20)}
	spec.Hooks = &specs.Hooks{
		CreateRuntime: []specs.Hook{{Path: "/bin/true"}},
		CreateContainer: []specs.Hook{
			{Path: "/bin/true"},
			{Path: "/bin/sh", Args: []string{"sh", "-c", "wc -c > size"}},
		},
		StartContainer: []specs.Hook{{Path: "/bin/true"}},
	}
	out := w.run(spec)
	var size int
	if _, err := fmt.Sscan(out, &size); err != nil || size < 1<<20 {
		t.Errorf("the hook got %q bytes", out)
	}
}

// TestHookLeavesADaemon: a daemon that a hook leaves running does not delay the container.
func TestHookLeavesADaemon(t *testing.T) {
	const mark = "97531"
	w := newWorld(t)
	spec := w.sh("echo ran")
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{
		"sh", "-c",
		"sleep " + mark + " &",
	}, Timeout: ptr(600)}}}
	began := time.Now()
	w.prints(spec, "ran\n")
	if d := time.Since(began); d > patience {
		t.Errorf("it took %v", d)
	}
	var left []string
	// which the container may have overtaken
	w.await("the daemon", func() bool { left = processesWith(t, mark); return len(left) == 1 })
	for _, f := range left {
		var pid int
		_, err := fmt.Sscanf(f, "/proc/%d/", &pid)
		w.must(err)
		w.must(unix.Kill(pid, unix.SIGKILL))
	}
}
