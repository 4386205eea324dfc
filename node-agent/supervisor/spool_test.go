// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// spooled is a log with one stream, as a supervisor has them.
type spooled struct {
	t     *testing.T
	log   protocol.Log
	spool string
	s     *stream
	pipe  int // its writing end
}

func newSpooled(t *testing.T, log protocol.Log) *spooled {
	t.Helper()
	leaktest.Check(t)
	dir := t.TempDir()
	log.Path = filepath.Join(dir, "0.log")
	x := &spooled{t: t, log: log, spool: filepath.Join(dir, "web.stdout.spool")}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	x.pipe = p[1]
	t.Cleanup(func() {
		unix.Close(x.pipe)
		unix.Close(p[0])
		x.forget()
	})
	x.open(p[0])
	return x
}

func (x *spooled) open(fd int) {
	x.t.Helper()
	if err := recoverSpool(x.spool, x.log.Path); err != nil {
		x.t.Fatal(err)
	}
	f, err := openLog(x.log)
	if err != nil {
		x.t.Fatal(err)
	}
	if x.s, err = streamOf("stdout", f, fd); err != nil {
		x.t.Fatal(err)
	}
	x.s.spoolPath = x.spool
	if err := x.s.resume(); err != nil {
		x.t.Fatal(err)
	}
}

// killed forgets all that is in memory, as a kill does, and goes on with what is in files and in
// the pipe.
func (x *spooled) killed() {
	x.t.Helper()
	fd := x.s.fd
	x.forget()
	x.open(fd)
}

// forget closes the files, but not the pipe.
func (x *spooled) forget() {
	if x.s == nil {
		return
	}
	if x.s.spool != nil {
		x.s.spool.close()
	}
	x.s.log.close()
}

func (x *spooled) write(text string) {
	x.t.Helper()
	if _, err := unix.Write(x.pipe, []byte(text)); err != nil {
		x.t.Fatal(err)
	}
}

func (x *spooled) pump() {
	x.t.Helper()
	if !x.s.pump(1 << 20) {
		x.t.Fatal("the pipe has ended")
	}
}

func (x *spooled) want(lines ...string) {
	x.t.Helper()
	if got := join(parseAll(x.t, x.log.Path), "stdout"); !slices.Equal(got, lines) {
		x.t.Errorf("the log has %q; want %q", got, lines)
	}
}

// TestSpoolKeepsALineWithoutEnd kills the supervisor twice within a line.
func TestSpoolKeepsALineWithoutEnd(t *testing.T) {
	x := newSpooled(t, protocol.Log{})
	x.write("one\ntw")
	x.pump()
	x.killed()
	x.want("one")
	x.write("o, and")
	x.pump()
	x.killed()
	x.write(" more\n")
	x.pump()
	x.want("one", "two, and more")
	x.killed()
	x.want("one", "two, and more")
}

// TestSpoolKilledBeforeTheLog kills the supervisor after output has left the pipe and before
// anything is in the log.
func TestSpoolKilledBeforeTheLog(t *testing.T) {
	x := newSpooled(t, protocol.Log{})
	x.write("one\n")
	x.pump()
	x.write("two\n")
	if n, err := x.s.spool.take(x.s.fd, 1<<16); n != 4 || err != nil {
		t.Fatal(n, err)
	}
	x.killed()
	x.want("one", "two")
}

// TestSpoolKilledWithinTheLog kills the supervisor at each byte of a write to the log, and after
// it: the log has the lines once.
func TestSpoolKilledWithinTheLog(t *testing.T) {
	const entries = "2026-01-02T03:04:05.000000006Z stdout F two\n2026-01-02T03:04:05.000000006Z stdout F three\n"
	for n := range len(entries) + 1 {
		x := newSpooled(t, protocol.Log{})
		x.write("one\n")
		x.pump()
		x.write("two\nthree\nfour")
		if _, err := x.s.spool.take(x.s.fd, 1<<16); err != nil {
			t.Fatal(err)
		}
		f := x.s.log
		if err := x.s.spool.begin(x.s.spool.from+10, f.inode, f.size, int64(len(entries))); err != nil {
			t.Fatal(err)
		}
		if _, err := unix.Write(f.fd, []byte(entries[:n])); err != nil {
			t.Fatal(err)
		}
		x.killed()
		x.want("one", "two", "three")
		x.write("\n")
		x.pump()
		x.want("one", "two", "three", "four")
	}
}

// TestSpoolIsEmptied moves much output: the spool does not grow with it, whenever the supervisor is
// killed.
func TestSpoolIsEmptied(t *testing.T) {
	x := newSpooled(t, protocol.Log{LogLimits: protocol.LogLimits{MaxBytes: 64 << 20, MaxFiles: 2}})
	line := strings.Repeat("x", 1023)
	var want []string
	for i := range 1000 {
		x.write(line + "\n")
		x.pump()
		want = append(want, line)
		if i%97 == 0 {
			x.killed()
		}
		if fi, err := os.Stat(x.spool); err != nil || fi.Size() > spoolReset+spoolTurn {
			t.Fatalf("after %d lines the spool has %d bytes, %v", i+1, fi.Size(), err)
		}
	}
	x.want(want...)
	// Killed between emptying the file and writing that down.
	if err := unix.Ftruncate(x.s.spool.fd, spoolHeader); err != nil {
		t.Fatal(err)
	}
	x.killed()
	x.write("more\n")
	x.pump()
	x.killed()
	x.write("and more\n")
	x.pump()
	x.want(append(want, "more", "and more")...)
}

// TestSpoolRotates rotates the log at every few lines and kills the supervisor between them.
func TestSpoolRotates(t *testing.T) {
	x := newSpooled(t, protocol.Log{LogLimits: protocol.LogLimits{
		MaxBytes: protocol.MinLogBytes,
		MaxFiles: 50,
	}})
	line := strings.Repeat("y", 4000)
	for range 40 {
		x.write(line + "\n" + line[:10])
		x.pump()
		x.killed()
		x.write("\n")
		x.pump()
	}
	files, err := filepath.Glob(x.log.Path + "*")
	if err != nil || len(files) < 4 {
		t.Fatalf("found %v, %v; want rotated files", files, err)
	}
	long, short := 0, 0
	for _, l := range join(parseAll(t, x.log.Path), "stdout") {
		switch l {
		case line:
			long++
		case line[:10]:
			short++
		default:
			t.Fatalf("found the line %q", l)
		}
	}
	if long != 40 || short != 40 {
		t.Errorf("found %d and %d lines; want 40 of each", long, short)
	}
}

// TestNoRoomForASpool goes on to log where no spool can be kept.
func TestNoRoomForASpool(t *testing.T) {
	x := newSpooled(t, protocol.Log{})
	if err := os.Mkdir(x.spool, 0o700); err != nil {
		t.Fatal(err)
	}
	x.write("one\ntwo\nthr")
	x.pump()
	x.write("ee\n")
	x.pump()
	x.want("one", "two", "three")
}
