// SPDX-License-Identifier: Apache-2.0

// Package power cuts the power of a virtual machine whose agent starts containers and unpacks
// images, and asserts what docs/durability.md promises: its QEMU is killed at random moments, and
// started again with the same disk.
package power

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/needs"

	"github.com/google/go-containerregistry/pkg/name"
)

const (
	// imagesARound is the number of images that a round may unpack, of randomLayers layers beside
	// busybox.
	imagesARound = 4
	randomLayers = 3
)

// contents are the SHA-256 of the files of each layer, by the hex of its diffID and the path.
type contents map[string]map[string]string

// TestPowerLoss cuts the power BERTH_POWER_CUTS times, 2 by default.
func TestPowerLoss(t *testing.T) {
	if os.Getenv("BERTH_POWER_GUEST") != "" {
		t.Skip("this is the guest")
	}
	needs.Root(t)
	cuts := 2
	if s := os.Getenv("BERTH_POWER_CUTS"); s != "" {
		var err error
		if cuts, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	t.Cleanup(func() {
		for _, f := range []string{"faults", "guest.log", "agent.log"} {
			if b, err := os.ReadFile(filepath.Join(dir, f)); err == nil && t.Failed() {
				t.Logf("%s:\n%s", f, b[max(0, len(b)-32<<10):])
			}
		}
	})
	prepare(t, dir, cuts+1)
	for round := range cuts + 1 {
		last := round == cuts
		vm := boot(t, dir, round, last)
		if last {
			if err := <-vm.ended; err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		} else {
			vm.awaitReady(t, filepath.Join(dir, fmt.Sprintf("ready-%d", round)))
			events := vm.churn(t, mathrand.N(20))
			time.Sleep(mathrand.N(300 * time.Millisecond))
			vm.cut(t)
			t.Logf("round %d: power lost after %d changes of status", round, events)
		}
		if faults, err := os.ReadFile(filepath.Join(dir, "faults")); err == nil {
			t.Errorf("round %d: %s", round, faults)
		}
		if t.Failed() {
			return
		}
	}
	marks, err := os.ReadDir(filepath.Join(dir, "marks"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range marks {
		b, err := os.ReadFile(filepath.Join(dir, "marks", m.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(b, []byte("\n")); n > 1 {
			t.Errorf("the job %s ran %d times:\n%s", m.Name(), n, b)
		}
	}
	summary, _ := os.ReadFile(filepath.Join(dir, "summary"))
	t.Logf("%d cuts; %d jobs ran; %s", cuts, len(marks), summary)
}

// prepare makes the programs, the images and the disk in the directory that the guest has as /host.
func prepare(t *testing.T, dir string, rounds int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"go", "build", "-ldflags", "-E main.entry", "-o", dir + "/berth", "../../cmd/berth"},
		{"go", "build", "-o", dir + "/berth-agent", "../../cmd/berth-agent"},
		{"cp", self, dir + "/power.test"},
		{"mkdir", dir + "/m", dir + "/marks", dir + "/archives"},
		{"truncate", "--size=1G", dir + "/disk"},
		{"mkfs.ext4", "-q", dir + "/disk"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	base := layerOf(t, map[string][]byte{"bin/sh": program}, nil, nil)
	all := contents{}
	for i := range rounds * imagesARound {
		layers := []v1.Layer{base}
		for l := range randomLayers {
			files := map[string][]byte{}
			for f := range 10 {
				data := make([]byte, 16<<10)
				_, _ = rand.Read(data)
				files[fmt.Sprintf("data%d/%d", l, f)] = data
			}
			sums := map[string]string{}
			layer := layerOf(t, files, all, sums)
			layers = append(layers, layer)
		}
		img, err := mutate.AppendLayers(empty.Image, layers...)
		if err == nil {
			img, err = mutate.Config(img, v1.Config{Cmd: []string{"/bin/sh"}})
		}
		if err != nil {
			t.Fatal(err)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		config = config.DeepCopy()
		config.OS, config.Architecture = "linux", "amd64"
		if img, err = mutate.ConfigFile(img, config); err != nil {
			t.Fatal(err)
		}
		if err := tarball.WriteToFile(filepath.Join(dir, "archives", fmt.Sprintf("%d.tar", i)),
			name.MustParseReference("berth.test/x:latest"), img); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/contents.json", b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// layerOf creates a layer that describes each directory of its files, and records their content.
func layerOf(t *testing.T, files map[string][]byte, all contents, sums map[string]string) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	dirs := map[string]bool{}
	for path, data := range files {
		if dir := filepath.Dir(path); !dirs[dir] {
			dirs[dir] = true
			err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
			if err != nil {
				t.Fatal(err)
			}
		}
		err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(data))})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if sums != nil {
			sum := sha256.Sum256(data)
			sums[path] = hex.EncodeToString(sum[:])
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := layer.DiffID()
	if err != nil {
		t.Fatal(err)
	}
	if sums != nil {
		all[id.Hex] = sums
	}
	return layer
}

// machine is a virtual machine that runs the guest's half of the test.
type machine struct {
	disk  string
	ended chan error
}

func boot(t *testing.T, dir string, round int, last bool) *machine {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "../../hack/vm/run.sh", "--share", dir, "--disk", dir+"/disk",
		"--timeout", "1200",
		"--env", "BERTH_POWER_GUEST=1", "--env", fmt.Sprint("ROUND=", round), "--env",
		fmt.Sprint("LAST=", last),
		"--", "/host/power.test", "-test.run", "^TestGuest$", "-test.v")
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) } // it ends QEMU, too
	cmd.WaitDelay = 10 * time.Second
	log, err := os.OpenFile(dir+"/guest.log", os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m := &machine{disk: dir + "/disk", ended: make(chan error, 1)}
	go func() { m.ended <- cmd.Wait() }()
	return m
}

func (m *machine) awaitReady(t *testing.T, file string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(file); err == nil {
			return
		}
		select {
		case err := <-m.ended:
			t.Fatalf("the guest ended: %v", err)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("the agent of the guest never became ready")
		}
	}
}

// churn waits until the guest has seen so many changes of status, and returns how many.
func (m *machine) churn(t *testing.T, events int) int {
	t.Helper()
	lines := func() int {
		b, err := os.ReadFile(filepath.Join(filepath.Dir(m.disk), "seen"))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte("\n"))
	}
	before := lines()
	for deadline := time.Now().Add(3 * time.Minute); lines() < before+events &&
		time.Now().Before(deadline); {
		select {
		case err := <-m.ended:
			t.Fatalf("the guest ended: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	return lines() - before
}

// cut kills the machine's QEMU: what its kernel has not written to the disk is lost.
func (m *machine) cut(t *testing.T) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	killed := false
	for _, p := range processes {
		line, _ := os.ReadFile(p)
		program, _, _ := strings.Cut(string(line), "\x00")
		if filepath.Base(program) == "qemu-system-x86_64" &&
			bytes.Contains(line, []byte("file="+m.disk+",")) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			if err == nil {
				err = unix.Kill(pid, unix.SIGKILL)
			}
			if err != nil {
				t.Fatal(err)
			}
			killed = true
		}
	}
	if !killed {
		t.Fatal("found no QEMU to kill")
	}
	<-m.ended
}
