// SPDX-License-Identifier: Apache-2.0

package supervision

import (
	"bufio"
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// fakeSupervisor answers a handshake as a supervisor does, and every request with the same replies.
func fakeSupervisor(t *testing.T, h protocol.Hello, replies ...protocol.Reply) *protocol.Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r := bufio.NewReader(c)
			var theirs protocol.Hello
			var q protocol.Request
			if protocol.ReadLine(r, &theirs) == nil && protocol.WriteLine(c, h) == nil &&
				protocol.ReadLine(r, &q) == nil {
				for _, reply := range replies {
					_ = protocol.WriteLine(c, reply)
				}
			}
			c.Close()
		}
	}()
	return protocol.NewClient(socket)
}

// TestMeetFakeSupervisor: the agent offers the handlers that the supervisor has, whatever its own
// flags name, and says what differs.
func TestMeetFakeSupervisor(t *testing.T) {
	leaktest.Check(t)
	hello := protocol.Hello{Protocol: protocol.Name, Version: 1, Program: "berth v9", Run: "x"}
	for name, tc := range map[string]struct {
		replies []protocol.Reply
		want    []string
		words   []string
	}{
		"of another version": {
			[]protocol.Reply{
				{Handler: &protocol.HandlerInfo{
					Name:     "berth",
					Features: &features.Features{OCIVersionMax: "1.2.0"},
				}, More: true},
				{Handler: &protocol.HandlerInfo{Name: "crun", Error: "exit status 1"}, More: true},
				{},
			},
			[]string{"berth", "crun"},
			[]string{"berth v9", "handler=runsc", "exit status 1"},
		},
		"too old to say": {
			[]protocol.Reply{{Error: protocol.Encode(protocol.ErrInvalid)}},
			[]string{"berth", "runsc"},
			[]string{"older than this agent", "berth v9"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			k := &Keeper{config: Config{
				Client: fakeSupervisor(t, hello, tc.replies...), Handlers: []string{"runsc=/usr/bin/runsc"},
				Log: slog.New(slog.NewTextHandler(&log, nil)), Claim: func(context.Context) error {
					return nil
				},
			}}
			if err := k.meet(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := k.HandlerNames(); !slices.Equal(got, tc.want) {
				t.Errorf("found handlers %v; want %v", got, tc.want)
			}
			for _, w := range tc.words {
				if !strings.Contains(log.String(), w) {
					t.Errorf("the log does not say %q:\n%s", w, log.String())
				}
			}
			log.Reset()
			if err := k.meet(t.Context()); err != nil || log.Len() > 0 {
				t.Errorf("met again: %v; found log %q; want nothing new", err, log.String())
			}
		})
	}
}

// TestHoldEndsItsChecks: Run claims the run directory again once hold has returned, so no claim of
// hold's may be under way then.
func TestHoldEndsItsChecks(t *testing.T) {
	leaktest.Check(t)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // answers handshakes, and says no more
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var theirs protocol.Hello
			if protocol.ReadLine(bufio.NewReader(c), &theirs) != nil ||
				protocol.WriteLine(c, protocol.Hello{Protocol: protocol.Name, Version: 1}) != nil {
				c.Close()
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	claimed := make(chan struct{})
	k := &Keeper{holder: &protocol.Holder{}, config: Config{
		Client: protocol.NewClient(l.Addr().String()),
		Claim: func(context.Context) error {
			cancel()
			time.Sleep(200 * time.Millisecond)
			close(claimed)
			return nil
		},
	}}
	if err := k.hold(ctx); err == nil {
		t.Error("hold ended without an error")
	}
	select {
	case <-claimed:
	default:
		t.Error("hold returned while the run directory was being claimed")
	}
}
