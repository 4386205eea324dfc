// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	ggcr "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/internal/needs"
	"github.com/berth-run/berth/internal/registrytest"
)

// brokenProxy stands before a real registry and spoils what it answers about one blob.
type brokenProxy struct {
	*httptest.Server
	reference string
	size      int64

	mu     sync.Mutex
	ranges []string // of the requests for the blob
	// spoil answers a request for the blob in place of next, the registry; n is its number, from 1.
	spoil func(n int, w http.ResponseWriter, r *http.Request, next http.Handler)
}

// newBrokenProxy publishes an image whose layer has 4 MiB.
func newBrokenProxy(t *testing.T) *brokenProxy {
	t.Helper()
	needs.Root(t)
	reg := registrytest.Start(t, registrytest.Options{})
	content := mebibytes(t, "data", 4)
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(content, types.OCIUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config.OS, config.Architecture = "linux", nodePlatform().Architecture
	if img, err = mutate.ConfigFile(img, config); err != nil {
		t.Fatal(err)
	}
	reg.Push(t, "app:1", img)
	p := &brokenProxy{size: int64(len(content))}
	layer, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var blob ggcr.Hash
	if blob, err = layer[0].Digest(); err != nil {
		t.Fatal(err)
	}
	next := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: reg.Host})
	next.ErrorLog = discardLogger()
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/blobs/"+blob.String()) {
			next.ServeHTTP(w, r)
			return
		}
		p.mu.Lock()
		p.ranges = append(p.ranges, r.Header.Get("Range"))
		n, spoil := len(p.ranges), p.spoil
		p.mu.Unlock()
		if spoil == nil {
			next.ServeHTTP(w, r)
			return
		}
		spoil(n, w, r, next)
	}))
	p.Config.ErrorLog = discardLogger()
	t.Cleanup(p.Close)
	p.reference = strings.TrimPrefix(p.URL, "http://") + "/app:1"
	return p
}

// cutter passes so many bytes of a body, and then cuts the connection.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(b []byte) (int, error) {
	if len(b) > c.left {
		_, _ = c.ResponseWriter.Write(b[:c.left])
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(b)
	return c.ResponseWriter.Write(b)
}

const piece = 3 << 19 // 1.5 MiB: a try that brings more than 1 MiB was no failure

func cut(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(&cutter{w, piece}, r)
}

// from is the header Range of the requests after so many pieces.
func from(pieces int) string { return fmt.Sprintf("bytes=%d-", pieces*piece) }

// TestResume breaks the download of a layer in each way, and expects the requests that follow. An
// image is there only if the whole layer has its digest.
func TestResume(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil  func(n int, w http.ResponseWriter, r *http.Request, next http.Handler)
		ranges []string
		fails  string
	}{
		"cut again and again": {func(_ int, w http.ResponseWriter, r *http.Request, next http.Handler) {
			cut(w, r, next)
		}, []string{"", from(1), from(2)}, ""},
		"busy": {func(n int, w http.ResponseWriter, r *http.Request, next http.Handler) {
			if n <= 2 {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader([]int{http.StatusTooManyRequests, http.StatusServiceUnavailable}[n-1])
				return
			}
			next.ServeHTTP(w, r)
		}, []string{"", "", ""}, ""},
		"busy for long": {func(_ int, w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		}, []string{"", "", ""}, "429 Too Many Requests"},
		"ignores Range": {func(n int, w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.Header.Del("Range")
			if n == 1 {
				cut(w, r, next)
			}
			next.ServeHTTP(w, r)
		}, []string{"", from(1)}, ""},
		"wrong Content-Range": {func(n int, w http.ResponseWriter, r *http.Request, next http.Handler) {
			switch n {
			case 1:
				cut(w, r, next)
			case 2:
				r.Header.Set("Range", "bytes=100-")
			}
			next.ServeHTTP(w, r)
		}, []string{"", from(1), ""}, ""},
		"other bytes in the right range": {func(n int, w http.ResponseWriter, r *http.Request, next http.Handler) {
			switch n {
			case 1:
				cut(w, r, next)
			case 2:
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, r)
				for k, v := range rec.Header() {
					w.Header()[k] = v
				}
				w.WriteHeader(rec.Code)
				_, _ = w.Write(make([]byte, rec.Body.Len()))
				return
			}
			next.ServeHTTP(w, r)
		}, []string{"", from(1), ""}, ""},
		"no such range": {func(n int, w http.ResponseWriter, r *http.Request, next http.Handler) {
			switch n {
			case 1:
				cut(w, r, next)
			case 2:
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			next.ServeHTTP(w, r)
		}, []string{"", from(1), ""}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			leaktest.Check(t)
			p := newBrokenProxy(t)
			p.spoil = tc.spoil
			s := openStore(t)
			img, err := s.Ensure(t.Context(), p.reference, Default)
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Errorf("found %v; want %s", err, tc.fails)
				}
			} else if err != nil {
				t.Fatal(err)
			} else if info, err := os.Stat(img.Layers[0] + "/data"); err != nil || info.Size() != 4<<20 {
				t.Errorf("found %v, %v", info, err)
			}
			img.Release()
			if !slices.Equal(p.ranges, tc.ranges) {
				t.Errorf("found requests for %q; want %q", p.ranges, tc.ranges)
			}
			if left, _ := os.ReadDir(filepath.Join(s.dir, partialDir)); len(left) > 0 {
				t.Errorf("found %v left", left)
			}
			noRubbish(t, s)
			s.transport.(*http.Transport).CloseIdleConnections()
		})
	}
}

// TestResumeAfterRestart: the next store goes on with the bytes that one has left which was killed
// or given up, begins again if they are damaged, and they go when they are old or the disk is full.
func TestResumeAfterRestart(t *testing.T) {
	leaktest.Check(t)
	p := newBrokenProxy(t)
	dir := t.TempDir()
	interrupt := func() (file string) {
		t.Helper()
		s := openStoreAt(t, dir)
		ctx, cancel := context.WithCancel(t.Context())
		p.ranges = nil
		p.spoil = func(n int, w http.ResponseWriter, r *http.Request, next http.Handler) {
			if n == 1 {
				cut(w, r, next)
			}
			cancel()
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}
		if _, err := s.Ensure(ctx, p.reference, Default); !errors.Is(err, context.Canceled) {
			t.Fatalf("found %v", err)
		}
		s.transport.(*http.Transport).CloseIdleConnections()
		_ = s.Close()
		files, _ := filepath.Glob(filepath.Join(dir, partialDir, "sha256-*"))
		if len(files) != 1 {
			t.Fatalf("found the files %v; want one", files)
		}
		p.ranges, p.spoil = nil, nil
		return files[0]
	}
	goesOn := func(ranges ...string) {
		t.Helper()
		s := openStoreAt(t, dir)
		ensure(t, s, p.reference, Default)
		if !slices.Equal(p.ranges, ranges) {
			t.Errorf("found requests for %q; want %q", p.ranges, ranges)
		}
		all := must(s.List(func() ([]Use, error) { return nil, nil }))
		if _, err := s.Remove(t.Context(), &all[0]); err != nil {
			t.Fatal(err)
		}
		s.transport.(*http.Transport).CloseIdleConnections()
		_ = s.Close()
	}
	interrupt()
	goesOn(from(1))

	damaged := interrupt()
	f, err := os.OpenFile(damaged, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteAt([]byte("damage"), 1000)
	_ = f.Close()
	goesOn(from(1), "")

	left := interrupt()
	s := openStoreAt(t, dir)
	users := func() ([]Use, error) { return nil, nil }
	for _, full := range []bool{false, true} {
		policy := CollectPolicy{High: 100, Low: 80}
		if full {
			policy.High, policy.Low = 0, 0
		}
		if _, err := s.Collect(t.Context(), policy, users); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(left); (err == nil) == full {
			t.Errorf("full: %t; found %v", full, err)
		}
	}
}
