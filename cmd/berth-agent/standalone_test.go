// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/internal/racetest"
	"github.com/berth-run/berth/node-agent/source/folder"
	"github.com/berth-run/berth/node-agent/standalone"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// host is an agent that works alone, with directories and a cgroup of its own, and a real
// supervisor and runtime.
type host struct {
	t      *testing.T
	dir    string
	cgroup string
	tracer []string // a command line that runs the agent; it becomes the agent itself
	agent  *exec.Cmd
	ended  chan error // of the agent
	logged int64      // size of agent.log when it was started
	// network is the path of a network namespace that is the agent's node; "" for that of the test,
	// in which containers have loopback alone.
	network string
	// manager starts the agent as a service if it is not nil.
	manager *fakeManager
}

// programs are built once for all tests of the package.
var programs string

func TestMain(m *testing.M) {
	code, err := mainOf(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func mainOf(m *testing.M) (int, error) {
	if order := os.Getenv(killerVariable); order != "" {
		return 0, beKiller(order)
	}
	if order := os.Getenv(janitorVariable); order != "" {
		return 0, beJanitor(order)
	}
	if os.Geteuid() != 0 {
		return m.Run(), nil
	}
	// Hosts wait more than they work.
	flag.Parse()
	if err := flag.Set("test.parallel", strconv.Itoa(2*stepWorkers)); err != nil {
		return 0, err
	}
	if built := os.Getenv("BERTH_AGENT_PROGRAMS"); built != "" { // in a virtual machine, see hack/vm/test.sh
		programs = built
		return m.Run(), nil
	}
	dir := os.Getenv(victimVariable)
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "berth-agent-test-"); err != nil {
			return 0, err
		}
	}
	defer os.RemoveAll(dir)
	programs = dir
	stop, err := startJanitor(dir)
	if err != nil {
		return 0, err
	}
	defer stop()
	if os.Getenv(victimVariable) != "" {
		return m.Run(), nil
	}
	build := exec.Command("go", "build", "-o", dir, ".", "../berth", "../../hack/image")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if racetest.Enabled {
		build.Args = slices.Insert(build.Args, 2, "-race")
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
		if err := racetest.Collect(dir); err != nil {
			return 0, err
		}
	}
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", build, err, out)
	}
	for _, img := range [][]string{
		{"--busybox", "-o", dir + "/busybox.tar"},
		{"--busybox", "--arch", "s390x", "-o", dir + "/s390x.tar"},
	} {
		if out, err := exec.Command(dir+"/image", img...).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("image %s: %w\n%s", strings.Join(img, " "), err, out)
		}
	}
	return m.Run(), nil
}

func newHost(t *testing.T) *host {
	t.Helper()
	needs.Root(t)
	h := &host{t: t, dir: t.TempDir(), cgroup: fmt.Sprintf("/berth-agent-test-%d-%d", os.Getpid(), time.Now().UnixNano())}
	if err := os.Mkdir(h.path("m"), 0o700); err != nil {
		t.Fatal(err)
	}
	noteHost(t, h.dir)
	t.Cleanup(h.clean)
	return h
}

func (h *host) path(name string) string { return filepath.Join(h.dir, name) }

func (h *host) start() {
	h.t.Helper()
	log, err := os.OpenFile(h.path("agent.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	if h.logged, err = log.Seek(0, io.SeekEnd); err != nil {
		h.t.Fatal(err)
	}
	args := append(slices.Clone(h.tracer), h.command()...)
	h.agent = exec.Command(args[0], args[1:]...)
	h.agent.Stderr = log
	if h.manager != nil {
		err = h.manager.start(h.agent)
	} else {
		err = h.agent.Start()
	}
	if err != nil {
		h.t.Fatal(err)
	}
	ended, agent := make(chan error, 1), h.agent
	h.ended = ended
	go func() { ended <- agent.Wait() }()
}

// command returns the command line of the agent.
func (h *host) command() []string {
	plugins := "--cni-bin-dir="
	if h.network != "" {
		plugins += cniPlugins
	}
	return []string{
		programs + "/berth-agent", plugins, "--cni-conf-dir", h.path("cni"), "--manifests", h.path("m"), "--state-dir", h.path("s"), "--run-dir", h.path("r"),
		"--log-dir", h.path("l"), "--cgroup-parent", h.cgroup, "--node-name", "test", "--log-format", "text", "--log-level", "debug",
	}
}

func (h *host) signal(sig os.Signal) {
	h.t.Helper()
	if err := h.agent.Process.Signal(sig); err != nil {
		h.t.Fatal(err)
	}
	<-h.ended
	h.agent = nil
}

func (h *host) supervisorPID() int {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	pid, err := protocol.NewClient(h.path("r/supervisor.sock")).Ping(ctx)
	if err != nil {
		return 0
	}
	return pid
}

// clean ends what the test has started, whatever state it is in, and says what was left.
func (h *host) clean() {
	if h.agent != nil {
		h.signal(unix.SIGKILL)
	}
	defer func() {
		if races := racetest.Reports(programs); races != "" {
			h.t.Errorf("a program of this test, or of one beside it, has a race:\n%s", races)
		}
	}()
	if h.t.Failed() {
		for _, f := range []string{"agent.log", "r/supervisor.log"} {
			data, _ := os.ReadFile(h.path(f))
			h.t.Logf("%s:\n%s", f, data)
		}
	}
	left := h.leftovers()
	if !h.t.Failed() && left != (counts{}) {
		h.t.Errorf("found %+v left at the end", left)
	}
	if pid := h.supervisorPID(); pid > 0 {
		ctx := context.Background()
		client := protocol.NewClient(h.path("r/supervisor.sock"))
		all, _ := client.List(ctx)
		for _, st := range all {
			_ = client.Delete(ctx, st.ID, true)
		}
		_ = unix.Kill(pid, unix.SIGKILL)
		for range 200 {
			if state := procState(pid); state == "" || state == "Z" {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	bundles, _ := filepath.Glob(h.path("s/bundles/*/rootfs"))
	volumes, _ := filepath.Glob(h.path("s/bundles/*/volumes/*"))
	private, _ := filepath.Glob(h.path("s/bundles/*/private"))
	for _, m := range slices.Concat(bundles, volumes, private) {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
	for range 3 { // children before parents
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + h.cgroup + "/*")
		v2, _ := filepath.Glob("/sys/fs/cgroup" + h.cgroup + "/*")
		roots, _ := filepath.Glob("/sys/fs/cgroup/*" + h.cgroup)
		for _, d := range append(append(append(dirs, v2...), roots...), "/sys/fs/cgroup"+h.cgroup) {
			_ = unix.Rmdir(d)
		}
	}
}

func procState(pid int) string {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	return fields[0]
}

// counts has the numbers of things that containers may leave behind.
type counts struct{ mounts, cgroups, processes, records int }

func (h *host) leftovers() counts {
	var c counts
	table, _ := os.ReadFile("/proc/self/mountinfo")
	c.mounts = strings.Count(string(table), " "+h.dir+"/")
	for _, hierarchy := range []string{"", "*"} {
		dirs, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", hierarchy, h.cgroup, "*", "cgroup.procs"))
		for _, dir := range dirs {
			if filepath.Base(filepath.Dir(dir)) != "supervisor" {
				c.cgroups++
			}
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	for _, p := range procs {
		data, _ := os.ReadFile(p)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
		if strings.Contains(string(data), h.cgroup+"/") && !strings.Contains(string(data), h.cgroup+"/supervisor") && procState(pid) != "Z" {
			c.processes++
		}
	}
	states, _ := filepath.Glob(h.path("r/*/*"))
	for _, s := range states { // the runtime's own records, and the supervisor's
		if strings.Contains(filepath.Base(s), "default_") {
			c.records++
		}
	}
	return c
}

// files counts what stands in directories of the agent itself.
func (h *host) files() (n int) {
	for _, dir := range []string{"s/bundles", "s/status", "l"} {
		entries, _ := os.ReadDir(h.path(dir))
		for _, e := range entries {
			if e.Name() != "removed" && !strings.HasPrefix(e.Name(), ".") { // the logs that are kept, and the agent's own reserve
				n++
			}
		}
	}
	return n
}

func (h *host) write(file, spec string) {
	h.t.Helper()
	name, grace := strings.TrimSuffix(file, ".yaml"), "  terminationGracePeriodSeconds: 1\n"
	if strings.Contains(spec, "terminationGracePeriodSeconds") {
		grace = ""
	}
	h.raw(file, "apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata:\n  name: "+name+"\nspec:\n"+grace+spec)
}

func (h *host) raw(file, content string) {
	h.t.Helper()
	if err := os.WriteFile(h.path("m/"+file), []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) remove(file string) {
	h.t.Helper()
	if err := os.Remove(h.path("m/" + file)); err != nil {
		h.t.Fatal(err)
	}
}

// removeAll removes all manifests that there are and, since that may be a mistake, confirms it.
func (h *host) removeAll(files ...string) {
	h.t.Helper()
	for _, f := range files {
		h.remove(f)
	}
	h.until("all is gone", func() bool {
		h.run("", "prune", "--no-wait")
		return h.files() == 0
	})
}

// get returns the Container's status, or nil.
func (h *host) get(name string) *v1alpha1.Container {
	all, _ := folder.Read(h.path("s"))
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	return nil
}

// until waits for a state. How long that takes is no part of the test; three minutes mean that it
// never comes.
func (h *host) until(what string, ok func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if h.agent != nil && len(h.ended) > 0 {
			h.agent = nil
			h.t.Fatalf("the agent ended (%v) before: %s", <-h.ended, what)
		}
		if time.Now().After(deadline) {
			for _, f := range []string{"s/status"} {
				found, _ := filepath.Glob(h.path(f) + "/*")
				for _, p := range found {
					data, _ := os.ReadFile(p)
					h.t.Logf("%s: %s", p, data)
				}
			}
			h.t.Fatalf("never came: %s", what)
		}
	}
}

func (h *host) untilRunning(name string) *v1alpha1.Container {
	h.t.Helper()
	var c *v1alpha1.Container
	h.until(name+" runs", func() bool {
		c = h.get(name)
		return c != nil && c.Status.PID != 0 && meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionReady)
	})
	return c
}

func (h *host) logs(args ...string) string {
	out, _ := exec.Command(programs+"/berth-agent", append([]string{"logs", "--state-dir", h.path("s")}, args...)...).CombinedOutput()
	return string(out)
}

// counting ends by itself when it is signalled; the grace period is long enough. Its image is in
// the spelling from before the field archive, which manifests on hosts have.
const counting = `  image: oci-archive:IMAGE
  terminationGracePeriodSeconds: 300
  command: ["/bin/sh", "-c", "trap 'echo bye; exit 3' TERM; i=0; while true; do echo $WORD $i; i=$((i+1)); sleep 0.1; done"]
  env: [{name: WORD, value: VALUE}]
  resources: {limits: {memory: 32Mi}}
  volumes: [{name: mem, emptyDir: {medium: Memory}}, {name: disk, emptyDir: {}}]
  volumeMounts: [{name: mem, mountPath: /mem}, {name: disk, mountPath: /disk}]
`

func (h *host) counting(word string) string {
	return strings.NewReplacer("IMAGE", programs+"/busybox.tar", "VALUE", word).Replace(counting)
}

func TestStandaloneLife(t *testing.T) {
	h := newHost(t)
	h.start()
	h.write("count.yaml", h.counting("one"))
	c := h.untilRunning("count")
	pid := c.Status.PID
	h.until("a line of the log", func() bool { return strings.Contains(h.logs("count"), "one 2\n") })
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/root", pid))
	if err != nil || exe == "" {
		t.Fatalf("root of pid %d: %v", pid, err)
	}
	if !strings.HasSuffix(c.Status.LogPath, "/0.log") || !strings.Contains(c.Status.ImageID, "@sha256:") {
		t.Errorf("found logPath %q, imageID %q", c.Status.LogPath, c.Status.ImageID)
	}

	// The agent dies: the same process goes on, and so does its log.
	h.signal(unix.SIGKILL)
	if state := procState(int(pid)); state == "" || state == "Z" {
		t.Fatalf("pid %d died with the agent", pid)
	}
	n := strings.Count(h.logs("count"), "\n")
	h.start()
	h.until("the log goes on", func() bool { return strings.Count(h.logs("count"), "\n") > n+3 })
	if c := h.untilRunning("count"); c.Status.PID != pid || c.Status.RestartCount != 0 {
		t.Fatalf("found pid %d with %d restarts after the agent's restart; want %d with 0", c.Status.PID, c.Status.RestartCount, pid)
	}

	// The supervisor dies: the same.
	supervisor := 0
	h.until("the supervisor answers", func() bool { supervisor = h.supervisorPID(); return supervisor != 0 })
	if err := unix.Kill(supervisor, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.until("another supervisor", func() bool { return h.supervisorPID() != 0 })
	n = strings.Count(h.logs("count"), "\n")
	h.until("the log goes on", func() bool { return strings.Count(h.logs("count"), "\n") > n+3 })

	// A broken manifest changes nothing but the report.
	h.write("count.yaml", "  image: x\n  colour: blue\n")
	h.until("the fault is told", func() bool {
		c := h.get("count")
		valid := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionSpecValid)
		return valid != nil && valid.Status == metav1.ConditionFalse && strings.Contains(valid.Message, "spec.colour")
	})
	h.signal(unix.SIGTERM) // an agent that begins with a broken manifest keeps it, too
	h.start()
	h.until("the agent has read the directory", func() bool {
		data, _ := os.ReadFile(h.path("agent.log"))
		return strings.Count(string(data), "manifest refused") >= 2
	})
	if c := h.untilRunning("count"); c.Status.PID != pid {
		t.Fatalf("found pid %d after a broken manifest; want %d", c.Status.PID, pid)
	}

	// An edit replaces it, with grace: the trap has spoken.
	h.write("count.yaml", h.counting("two"))
	h.until("the replacement", func() bool { c := h.get("count"); return c.Status.PID != 0 && c.Status.PID != pid })
	h.until("its log", func() bool { return strings.Contains(h.logs("count"), "two 1\n") })
	if !strings.Contains(h.logs("count", "--previous"), "bye\n") {
		t.Errorf("the first one was not stopped with grace; its log: %s", h.logs("count", "--previous"))
	}
	c = h.get("count")
	if c.Status.RestartCount != 1 || c.Status.LastState.Terminated == nil || c.Status.LastState.Terminated.ExitCode != 3 {
		t.Errorf("found %+v; want 1 restart after exit code 3", c.Status.RunStatus)
	}

	// An end that happens while no agent runs is seen once.
	h.signal(unix.SIGKILL)
	if err := unix.Kill(int(c.Status.PID), unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	h.until("its end", func() bool { s := procState(int(c.Status.PID)); return s == "" || s == "Z" })
	h.start()
	h.until("the restart", func() bool {
		c := h.get("count")
		return c != nil && c.Status.RestartCount == 2 && c.Status.PID != 0 && c.Status.LastState.Terminated.ExitCode == 3
	})

	h.remove("count.yaml")
	h.until("all is gone", func() bool { return h.get("count") == nil })
	if left := h.leftovers(); left != (counts{}) || h.files() != 0 {
		t.Fatalf("found %+v and %d files left", left, h.files())
	}
}

func TestStandaloneRemovedWhileAway(t *testing.T) {
	h := newHost(t)
	h.start()
	h.write("count.yaml", h.counting("one"))
	h.untilRunning("count")
	h.signal(unix.SIGKILL)
	h.remove("count.yaml")
	h.start()
	h.until("all is gone", func() bool { return h.files() == 0 })
	if left := h.leftovers(); left != (counts{}) {
		t.Fatalf("found %+v left", left)
	}
}

func TestStandaloneRestartPolicy(t *testing.T) {
	h := newHost(t)
	h.start()
	run := func(name, policy, script string) {
		h.write(name+".yaml", fmt.Sprintf("  archive: {path: %s/busybox.tar}\n  restartPolicy: %s\n  command: [/bin/sh, -c, %q]\n", programs, policy, script))
	}
	run("good", "Never", "echo done")
	run("bad", "Never", "exit 7")
	run("once", "OnFailure", "exit 0")
	run("loop", "Always", "exit 9")
	h.until("good has succeeded", func() bool { c := h.get("good"); return c != nil && c.Status.Phase == v1alpha1.ContainerSucceeded })
	h.until("bad has failed", func() bool {
		c := h.get("bad")
		return c != nil && c.Status.Phase == v1alpha1.ContainerFailed && c.Status.State.Terminated.ExitCode == 7
	})
	h.until("once has succeeded", func() bool { c := h.get("once"); return c != nil && c.Status.Phase == v1alpha1.ContainerSucceeded })
	h.until("loop backs off", func() bool {
		c := h.get("loop")
		return c != nil && c.Status.RestartCount >= 1 && c.Status.State.Waiting != nil && c.Status.State.Waiting.Reason == v1alpha1.ReasonCrashLoopBackOff &&
			c.Status.LastState.Terminated.ExitCode == 9
	})
	if log := h.logs("good"); log != "done\n" {
		t.Errorf("found log %q of one that has ended; want done", log)
	}
	// What has ended holds nothing but its log, its record and its network namespace.
	if left, want := h.leftovers(), (counts{mounts: 4, records: 4}); left != want {
		t.Errorf("found %+v of four ended containers; want %+v", left, want)
	}
	h.removeAll("good.yaml", "bad.yaml", "once.yaml", "loop.yaml")
}

// corrupt copies an archive with one byte of its largest file changed.
func corrupt(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(data))
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if len(content) > 100<<10 { // the layer
			content[len(content)/2] ^= 0xff
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestStandaloneBadInput: each ends in a condition that names the cause, and holds nothing while it
// waits.
func TestStandaloneBadInput(t *testing.T) {
	h := newHost(t)
	corrupt(t, programs+"/busybox.tar", h.path("corrupt.tar"))
	h.start()
	good := "  archive: {path: " + programs + "/busybox.tar}\n"
	for _, tc := range []struct {
		name, spec, condition, reason string
		words                         []string
	}{
		// First, while the store has no layer of it: one that it has is not read again.
		{"image-corrupt", "  archive: {path: " + h.path("corrupt.tar") + "}\n", v1alpha1.ConditionImageReady, v1alpha1.ReasonImagePullFailed, []string{"sha256:"}},
		{"image-missing", "  archive: {path: /nowhere/x.tar}\n", v1alpha1.ConditionImageReady, v1alpha1.ReasonImagePullFailed, []string{"/nowhere/x.tar"}},
		{"image-arch", "  archive: {path: " + programs + "/s390x.tar}\n", v1alpha1.ConditionImageReady, v1alpha1.ReasonImagePullFailed, []string{"s390x"}},
		{"command-missing", good + "  command: [/no/such/program]\n", v1alpha1.ConditionRunning, v1alpha1.ReasonCreateFailed, []string{"/no/such/program"}},
		{"rootfs-missing", "  rootfs: {path: /nowhere/rootfs}\n  command: [/bin/sh]\n", v1alpha1.ConditionImageReady, v1alpha1.ReasonCreateFailed, []string{"/nowhere/rootfs", "root.path"}},
		{
			"source-missing", good + "  volumes: [{name: v, hostPath: {path: /nowhere/source}}]\n  volumeMounts: [{name: v, mountPath: /v}]\n",
			v1alpha1.ConditionRunning, v1alpha1.ReasonCreateFailed,
			[]string{"/nowhere/source", "volumes[0].hostPath.path"},
		},
		{"handler-missing", good + "  runtimeClassName: kata\n", v1alpha1.ConditionRunning, v1alpha1.ReasonHandlerNotFound, []string{"kata", "berth"}},
		{"run-as-root", good + "  securityContext: {runAsNonRoot: true}\n", v1alpha1.ConditionRunning, v1alpha1.ReasonCreateFailed, []string{"runAsNonRoot"}},
		{"cwd-is-a-file", good + "  workingDir: /bin/busybox\n", v1alpha1.ConditionRunning, v1alpha1.ReasonCreateFailed, []string{"cwd"}},
	} {
		name := tc.name
		t.Run(name, func(t *testing.T) {
			h.t = t
			h.write(name+".yaml", tc.spec)
			h.until("the condition "+tc.condition, func() bool {
				c := h.get(name)
				return c != nil && meta.IsStatusConditionFalse(c.Status.Conditions, tc.condition) &&
					meta.FindStatusCondition(c.Status.Conditions, tc.condition).Reason == tc.reason
			})
			got := meta.FindStatusCondition(h.get(name).Status.Conditions, tc.condition)
			t.Log(got.Message)
			for _, w := range tc.words {
				if !strings.Contains(got.Message, w) {
					t.Errorf("found %q; want it to name %q", got.Message, w)
				}
			}
			if left := h.leftovers(); left != (counts{}) {
				t.Errorf("found %+v held while it waits", left)
			}
			h.remove(name + ".yaml")
			h.until("all is gone", func() bool { return h.files() == 0 })
		})
	}
	h.t = t

	// Too little memory to exec may fail in the kernel before or after the new program has begun.
	h.write("no-memory.yaml", good+"  command: [/bin/sh, -c, sleep 60]\n  resources: {limits: {memory: 100Ki}}\n")
	h.until("the end for lack of memory", func() bool {
		c := h.get("no-memory")
		if c == nil {
			return false
		}
		m := standalone.Message(c)
		return strings.Contains(m, "memory")
	})
	t.Log(standalone.Message(h.get("no-memory")))
	h.remove("no-memory.yaml")
	h.until("all is gone", func() bool { return h.files() == 0 && h.leftovers() == counts{} })
}
