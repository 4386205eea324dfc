// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berth-run/berth/internal/leaktest"
)

// TestRunAll: the end of one part ends the others, and its error says which it was.
func TestRunAll(t *testing.T) {
	leaktest.Check(t)
	waits := func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	}
	broken := errors.New("it broke")
	err := runAll(t.Context(), map[string]task{"one": waits, "two": func(context.Context) error {
		return broken
	}, "three": waits})
	if !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "two: ") {
		t.Errorf("found %v; want that two broke", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := runAll(ctx, map[string]task{"one": waits}); err != nil {
		t.Errorf("found %v for an agent that is asked to end", err)
	}
}

// TestServeHealth: the agent lives while it cannot run containers.
func TestServeHealth(t *testing.T) {
	leaktest.Check(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fault := errors.New("the supervisor does not answer")
	var healed atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- serveHealth(ctx, listener, map[string]check{
			"readyz": func(context.Context) error {
				if healed.Load() {
					return nil
				}
				return fault
			},
			"networkz": func(context.Context) error { return nil },
		})
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		t.Helper()
		r, err := client.Get("http://" + listener.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, strings.TrimSpace(string(body))
	}
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: found %d", code)
	}
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || body != fault.Error() {
		t.Errorf("/readyz: found %d, %q; want %d, %q", code, body, http.StatusServiceUnavailable, fault)
	}
	if code, _ := get("/networkz"); code != http.StatusOK {
		t.Errorf("/networkz: found %d", code)
	}
	healed.Store(true)
	if code, _ := get("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz of an agent that can run containers: found %d", code)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
