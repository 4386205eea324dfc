// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	imagev1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
)

// bigLayer is a layer with one file, which is generated each time that somebody asks for it.
type bigLayer struct {
	size int64
	seed byte // of random bytes; 0 for zeros
}

// write writes the layer, compressed and plain; both may be nil.
func (l bigLayer) write(compressed, plain io.Writer) error {
	level := gzip.BestSpeed
	if l.seed != 0 {
		level = gzip.NoCompression
	}
	z, err := gzip.NewWriterLevel(compressed, level)
	if err != nil {
		return err
	}
	w := tar.NewWriter(io.MultiWriter(z, plain))
	err = w.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: fmt.Sprint("data", l.seed), Mode: 0o644, Size: l.size,
	})
	if err != nil {
		return err
	}
	var content io.Reader = zeros{}
	if l.seed != 0 {
		content = rand.NewChaCha8([32]byte{l.seed})
	}
	if _, err := io.CopyN(w, content, l.size); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return z.Close()
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// countingHash is a hash that counts what it gets.
type countingHash struct {
	hash.Hash
	n int64
}

func (c *countingHash) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	return c.Hash.Write(b)
}

func (c *countingHash) digest() digest.Digest { return digest.NewDigest(digest.SHA256, c.Hash) }

// serveBigImage serves an image of such layers on loopback, and returns its reference.
func serveBigImage(t *testing.T, layers ...bigLayer) string {
	t.Helper()
	blobs := map[string]func(w io.Writer) error{}
	add := func(mediaType string, content any) imagev1.Descriptor {
		text, err := json.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		d := imagev1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
		blobs[d.Digest.String()] = func(w io.Writer) error {
			_, err := w.Write(text)
			return err
		}
		return d
	}
	config := imagev1.Image{Platform: imagev1.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	config.RootFS.Type = "layers"
	manifest := imagev1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: imagev1.MediaTypeImageManifest,
	}
	for _, l := range layers {
		blob, diff := &countingHash{Hash: sha256.New()}, &countingHash{Hash: sha256.New()}
		if err := l.write(blob, diff); err != nil {
			t.Fatal(err)
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diff.digest())
		manifest.Layers = append(manifest.Layers, imagev1.Descriptor{
			MediaType: imagev1.MediaTypeImageLayerGzip, Digest: blob.digest(), Size: blob.n,
		})
		blobs[blob.digest().String()] = func(w io.Writer) error { return l.write(w, io.Discard) }
	}
	manifest.Config = add(imagev1.MediaTypeImageConfig, config)
	top := add(imagev1.MediaTypeImageManifest, manifest)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		at := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
		if at == "1" {
			at = top.Digest.String()
		}
		if write := blobs[at]; write != nil {
			w.Header().Set("Content-Type", imagev1.MediaTypeImageManifest)
			w.Header().Set("Docker-Content-Digest", at)
			if r.Method == http.MethodGet {
				_ = write(w)
			}
		} else if r.URL.Path != "/v2/" {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://") + "/big:1"
}

// peakMemory returns the greatest resident memory that a process has had (VmHWM of proc(5)), in
// bytes; 0 if it has ended.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	return 0
}

// pullPeak pulls an image in a process of its own, and returns the greatest memory that this had.
func pullPeak(t *testing.T, reference string) (peak int64) {
	t.Helper()
	state := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, programs+"/berth-agent", "image", "pull", "--state-dir", state, reference)
	out := &bytes.Buffer{}
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	for {
		peak = max(peak, peakMemory(t, c.Process.Pid)) // at once: a small pull ends soon
		select {
		case err := <-ended:
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			return peak
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// TestPullMemory: a pull takes the memory that docs/images.md says, however large the layers are,
// how many, and how well they are compressed.
func TestPullMemory(t *testing.T) {
	leaktest.Check(t)
	needs.Root(t)
	const mega = 1_000_000
	// docs/images.md says 40 MB.
	const most = 40 * mega
	var many []bigLayer
	for i := range 10 {
		many = append(many, bigLayer{50 * mega, byte(i + 1)})
	}
	for _, tc := range []struct {
		name   string
		layers []bigLayer
	}{
		{"1 MB", []bigLayer{{mega, 1}}},
		{"500 MB of random bytes", []bigLayer{{500 * mega, 1}}},
		{"500 MB of zeros", []bigLayer{{500 * mega, 0}}},
		{"10 layers of 50 MB", many},
	} {
		peak := pullPeak(t, serveBigImage(t, tc.layers...))
		t.Logf("%s: %.1f MB", tc.name, float64(peak)/mega)
		if peak == 0 || peak > most {
			t.Errorf("%s: found %.1f MB at the most; allowed: %d", tc.name, float64(peak)/mega, most/mega)
		}
	}
}
