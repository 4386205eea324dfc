// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// client is a program under its own configuration.
type client struct {
	t    *testing.T
	path string
	// args come before those of each call.
	args []string
	env  []string
}

// newClient skips the test where the program is not installed; in CI that fails.
func newClient(t *testing.T, name string, args ...string) *client {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%v: run hack/deps.sh clients", err)
		}
		t.Skipf("%v: run hack/deps.sh clients", err)
	}
	return &client{t: t, path: path, args: args}
}

// with returns the same client for another test or subtest.
func (c *client) with(t *testing.T) *client {
	d := *c
	d.t = t
	return &d
}

// result is a program's output and exit status.
type result struct {
	args        []string
	out, stderr string
	code        int
}

func (r result) String() string {
	return fmt.Sprintf("%v: exit code %d\n--- stdout:\n%s--- stderr:\n%s", r.args, r.code, r.out,
		r.stderr)
}

// limit is the time that a call may take: a client that hangs has failed. Without a processor of
// its own a guest is many times slower.
var limit = patience(3 * time.Minute)

func patience(d time.Duration) time.Duration {
	if os.Getenv("BERTH_VM") != "" {
		return 5 * d
	}
	return d
}

// setting is a file of a container's own cgroup, as the container sees it, and what it says.
type setting struct{ file, value string }

// byVersion returns the first setting on cgroup version 1 and the second on version 2.
func byVersion(one, two setting) setting {
	if unified() {
		return two
	}
	return one
}

// memoryLimit and pidsLimit are the settings of limits.
func memoryLimit(bytes string) setting {
	return byVersion(setting{"memory/memory.limit_in_bytes", bytes}, setting{"memory.max", bytes})
}

func pidsLimit(n string) setting {
	return byVersion(setting{"pids/pids.max", n}, setting{"pids.max", n})
}

// quota returns the setting of so many hundredths of a processor.
func quota(hundredths int) setting {
	us := strconv.Itoa(hundredths * 1000)
	return byVersion(setting{"cpu/cpu.cfs_quota_us", us}, setting{"cpu.max", us + " 100000"})
}

// shares512 returns the kernel's value for --cpu-shares 512: version 2 has weights, of which runc's
// formula of today makes 59.
func shares512() setting {
	return byVersion(setting{"cpu/cpu.shares", "512"}, setting{"cpu.weight", "59"})
}

// hungry is a script whose command needs some 64 MiB, once there is a file that says so: clients
// begin to listen for a lack of memory as they start the container. They hear of its end by another
// way, which is not to be the faster one.
const (
	hungry = "until test -e " + hungryFile +
		"; do sleep 0.1; done; dd if=/dev/zero of=/dev/null bs=64M count=1; code=$?; sleep 5; exit $code"
	hungryFile = "/tmp/hungry"
)

// inside wants settings as a command in the container reads them; read runs cat there.
func inside(t *testing.T, read func(file string) string, settings ...setting) {
	t.Helper()
	for _, s := range settings {
		equal(t, s.file, strings.TrimSpace(read("/sys/fs/cgroup/"+s.file)), s.value)
	}
}

// cgroupManager returns the name of the driver that the tests run the clients with.
func cgroupManager() string {
	if systemd() {
		return "systemd"
	}
	return "cgroupfs"
}

// run runs the client whatever its exit code.
func (c *client) run(args ...string) result {
	c.t.Helper()
	return c.feed("", args...)
}

// feed runs the client with a standard input.
func (c *client) feed(stdin string, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := c.command(ctx, args...)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &stderr
	// A monitor of the client may hold the pipes for longer than the client lives.
	cmd.WaitDelay = 30 * time.Second
	err := cmd.Run()
	r := result{
		args: cmd.Args, out: out.String(), stderr: stderr.String(),
		code: cmd.ProcessState.ExitCode(),
	}
	if ctx.Err() != nil {
		c.t.Fatalf("no answer in %v: %v", limit, r)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("%v: %v", err, r)
	}
	return r
}

func (c *client) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.path, append(append([]string(nil), c.args...), args...)...)
	cmd.Env = append(os.Environ(), c.env...)
	// conmon writes a file where it stands when a container is out of memory.
	cmd.Dir = work
	return cmd
}

// must runs the client, which has to succeed, and returns its standard output without the white
// space around it.
func (c *client) must(args ...string) string {
	c.t.Helper()
	r := c.run(args...)
	if r.code != 0 {
		c.t.Fatal(r)
	}
	return strings.TrimSpace(r.out)
}

// exits runs the client and wants an exit code and, in what it prints, each of the texts.
func (c *client) exits(code int, texts []string, args ...string) result {
	c.t.Helper()
	r := c.run(args...)
	if r.code != code {
		c.t.Errorf("want exit code %d of %v", code, r)
	}
	for _, text := range texts {
		if !strings.Contains(r.out+r.stderr, text) {
			c.t.Errorf("want %q from %v", text, r)
		}
	}
	return r
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	long := patience(2 * time.Minute)
	for end := time.Now().Add(long); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Fatalf("not in %v: %s", long, what)
}

// standsStill waits until the log of a paused container, which writes all the time when it is not,
// grows no more: the client may still have had a line of before to write.
func standsStill(t *testing.T, size func() int) (last int) {
	t.Helper()
	eventually(t, "the log stands still", func() bool {
		last = size()
		time.Sleep(300 * time.Millisecond)
		return size() == last
	})
	return last
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: found %v, want %v", what, got, want)
	}
}

// daemon starts a program that serves until the test is over; its log is shown when the test fails.
// ready is asked until it says yes; if the program ends before that, daemon returns what it has
// written.
func (c *client) daemon(ready func() bool, args ...string) (log string, ok bool) {
	c.t.Helper()
	cmd := c.command(context.Background(), args...)
	file, err := os.CreateTemp(work, filepath.Base(c.path)+"-*.log")
	if err != nil {
		c.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	text := func() string {
		data, _ := os.ReadFile(file.Name())
		return string(data[max(0, len(data)-8000):])
	}
	c.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience(2 * time.Minute)):
			c.t.Errorf("%s does not end in time after SIGTERM", c.path)
			cmd.Process.Kill()
			<-ended
		}
		if c.t.Failed() {
			c.t.Logf("the end of the log of %v:\n%s", cmd.Args, text())
		}
		file.Close()
	})
	for end := time.Now().Add(patience(2 * time.Minute)); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		select {
		case <-ended:
			return text(), false
		default:
		}
		if ready() {
			return "", true
		}
	}
	// Whoever goes on without it must not meet it again, nor the files that it holds.
	cmd.Process.Kill()
	<-ended
	return "not ready in time:\n" + text(), false
}

// installed is the path of the program in docs/clients.md.
const installed = "/usr/local/bin/berth"

// snippet writes a block of docs/clients.md to a file. The block is the one whose first line ends
// in the name; in it, the program under test takes the place of the installed one, and each old
// text of replace that of the new one behind it.
func snippet(t *testing.T, name, file string, replace ...string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(repo, "docs/clients.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(data), " "+name+"\n")
	text, _, ended := strings.Cut(text, "```")
	if !found || !ended {
		t.Fatalf("docs/clients.md: no block for %s", name)
	}
	if len(replace) == 0 || replace[0] != installed {
		replace = append(replace, installed, berth)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("docs/clients.md: %s: %q is not there", name, replace[i])
		}
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	write(t, file, text)
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
