// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal runs a client that starts a shell in a container, with a terminal of this machine, and
// uses that shell as a person would: what is typed arrives, the window's size does and follows the
// terminal's, and Ctrl-C is the container's.
func terminal(t *testing.T, c *client, args ...string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	resize := func(rows, columns uint16) {
		t.Helper()
		if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ,
			&unix.Winsize{Row: rows, Col: columns}); err != nil {
			t.Fatal(err)
		}
	}
	resize(31, 97)
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := c.command(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var seen strings.Builder
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			mu.Lock()
			seen.Write(buf[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	shown := func(text string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Contains(seen.String(), text)
		}
	}
	defer func() {
		if t.Failed() {
			mu.Lock()
			defer mu.Unlock()
			t.Logf("the terminal shows:\n%q", seen.String())
		}
	}()
	// The quotes keep what is typed, which the terminal echoes, apart from what is printed.
	fmt.Fprint(master, "echo re''ady\n")
	eventually(t, "the shell answers", shown("ready"))
	// A client sets the size of the container's terminal once that runs.
	eventually(t, "the window has its size", func() bool {
		fmt.Fprint(master, "echo size: $(stty size)\n")
		return shown("size: 31 97")()
	})
	resize(40, 120)
	if err := cmd.Process.Signal(unix.SIGWINCH); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the window has its new size", func() bool {
		fmt.Fprint(master, "echo size: $(stty size)\n")
		return shown("size: 40 120")()
	})
	fmt.Fprint(master, "echo sl''eeping; sleep 1000\n")
	eventually(t, "the shell sleeps", shown("sleeping"))
	// The first Ctrl-C may come before the shell has started sleep, which does not get it then. Each
	// takes away what was typed before and not read yet.
	var typed time.Time
	eventually(t, "Ctrl-C ends a command in the container", func() bool {
		if shown("interrupted: 130")() {
			return true
		}
		if time.Since(typed) > 5*time.Second {
			fmt.Fprint(master, "\x03echo interr''upted: $?\n")
			typed = time.Now()
		}
		return false
	})
	fmt.Fprint(master, "exit 6\n")
	err = cmd.Wait()
	if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 6 {
		t.Errorf("want exit code 6, found %v", err)
	}
}
