// SPDX-License-Identifier: Apache-2.0

package main

import (
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

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/internal/racetest"
	"github.com/berth-run/berth/node-agent/source/folder"
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
	// flags are further flags of the agent.
	flags []string
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
	// in a virtual machine, see hack/vm/test.sh
	if built := os.Getenv("BERTH_AGENT_PROGRAMS"); built != "" {
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
	h := &host{t: t, dir: t.TempDir(), cgroup: fmt.Sprintf("/berth-agent-test-%d-%d", os.Getpid(),
		time.Now().UnixNano())}
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
	return append([]string{
		programs + "/berth-agent", plugins, "--cni-conf-dir", h.path("cni"), "--manifests", h.path("m"),
		"--state-dir", h.path("s"), "--run-dir", h.path("r"),
		"--log-dir", h.path("l"), "--cgroup-parent", h.cgroup, "--node-name", "test", "--log-format",
		"text", "--log-level", "debug",
	}, h.flags...)
}

func (h *host) signal(sig os.Signal) {
	h.t.Helper()
	if err := h.agent.Process.Signal(sig); err != nil {
		h.t.Fatal(err)
	}
	h.waitEnded()
}

// hangs is the time after which a program that should have ended hangs.
const hangs = 3 * time.Minute

// waitEnded waits for the end of the agent, which somebody has told to end. An agent that hangs
// fails the test, and leaves what its goroutines wait for in its log.
func (h *host) waitEnded() {
	h.t.Helper()
	agent := h.agent
	h.agent = nil
	select {
	case <-h.ended:
		return
	case <-time.After(hangs):
	}
	_ = agent.Process.Signal(unix.SIGQUIT) // it may end just now
	select {
	case <-h.ended:
	case <-time.After(10 * time.Second):
		_ = agent.Process.Kill() // the same
		<-h.ended
	}
	h.t.Fatalf("the agent did not end in %v", hangs)
}

// program returns the command line of an agent's command. One that hangs is ended, and prints what
// its goroutines wait for.
func (h *host) program(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	h.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, programs+"/berth-agent", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGQUIT) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// supervisorPID returns the process of the supervisor, or 0 if it does not answer.
func (h *host) supervisorPID() int {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pid, err := protocol.NewClient(h.path("r/supervisor.sock")).Ping(ctx)
	if err != nil {
		return 0
	}
	return pid
}

// supervisor waits until the supervisor answers, and returns its process.
func (h *host) supervisor() (pid int) {
	h.t.Helper()
	h.until("the supervisor answers", func() bool {
		pid = h.supervisorPID()
		return pid != 0
	})
	return pid
}

// clean ends what the test has started, whatever state it is in, and says what was left.
func (h *host) clean() {
	if h.agent != nil {
		_ = h.agent.Process.Kill() // it may have ended by itself
		<-h.ended
		h.agent = nil
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
		ctx, cancel := context.WithTimeout(context.Background(), hangs)
		defer cancel()
		client := protocol.NewClient(h.path("r/supervisor.sock"))
		all, _ := client.List(ctx)
		for _, st := range all {
			_ = client.Delete(ctx, st.ID, true)
		}
		_ = unix.Kill(pid, unix.SIGKILL)
		for range 6000 {
			if state := procState(pid); state == "" || state == "Z" {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	bundles, _ := filepath.Glob(h.path("s/bundles/*/rootfs"))
	volumes, _ := filepath.Glob(h.path("s/bundles/*/volumes/*"))
	private, _ := filepath.Glob(h.path("s/bundles/*/private"))
	pinned, _ := filepath.Glob(h.path("r/netns/*"))
	for _, m := range slices.Concat(bundles, volumes, private, pinned) {
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
		dirs, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup", hierarchy, h.cgroup, "*",
			"cgroup.procs"))
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
		if strings.Contains(string(data), h.cgroup+"/") && !strings.Contains(string(data), h.cgroup+
			"/supervisor") && procState(pid) != "Z" {
			c.processes++
		}
	}
	states, _ := filepath.Glob(h.path("r/*/*"))
	for _, s := range states { // the runtime's own records, and the supervisor's
		if strings.Contains(filepath.Base(s), "default_") {
			c.records++
		}
	}
	// A container keeps its network namespace from run to run.
	pinned, _ := filepath.Glob(h.path("r/netns/*"))
	for _, p := range pinned {
		if _, err := os.Stat(h.path("s/bundles/" + filepath.Base(p))); err == nil {
			c.records--
			c.mounts -= strings.Count(string(table), " "+p+" ")
		}
	}
	return c
}

// files counts what stands in directories of the agent itself.
func (h *host) files() (n int) {
	for _, dir := range []string{"s/bundles", "s/status", "l"} {
		entries, _ := os.ReadDir(h.path(dir))
		for _, e := range entries {
			// the logs that are kept, and the agent's own reserve
			if e.Name() != "removed" && !strings.HasPrefix(e.Name(), ".") {
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
	h.raw(file, "apiVersion: berth.run/v1alpha1\nkind: Container\nmetadata:\n  name: "+name+
		"\nspec:\n"+grace+spec)
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
	h.within(3*time.Minute+time.Duration(len(files))*2*time.Second, "all is gone", func() bool {
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
	h.within(3*time.Minute, what, ok)
}

// within is until for what many containers do.
func (h *host) within(limit time.Duration, what string, ok func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
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
		return c != nil && c.Status.PID != 0 && meta.IsStatusConditionTrue(c.Status.Conditions,
			v1alpha1.ConditionReady)
	})
	return c
}

func (h *host) untilSucceeded(name string) {
	h.t.Helper()
	h.until(name+" has succeeded", func() bool {
		c := h.get(name)
		return c != nil && c.Status.Phase == v1alpha1.ContainerSucceeded
	})
}

func (h *host) logs(args ...string) string {
	out, _ := h.program(append([]string{"logs", "--state-dir", h.path("s")}, args...)...).CombinedOutput()
	return string(out)
}

// longBackOff is a line of a spec. A container that has ended, after one restart at once, and one
// that cannot be started, is then left alone while a test looks at it.
const longBackOff = "  restartBackOff: {initialSeconds: 3600, maxSeconds: 3600}\n"

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
