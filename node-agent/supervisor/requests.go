// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// serve accepts clients until the listener is closed. ctx bounds their operations, and streams
// their watches and holds.
func (s *server) serve(ctx, streams context.Context, l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			// Out of descriptors, most likely: those of clients that end will do.
			s.log.Error("accept", "error", err)
			time.Sleep(50 * time.Millisecond)
			continue
		}
		s.mu.Lock()
		s.conns[c] = struct{}{}
		s.mu.Unlock()
		s.ops.Go(func() {
			defer func() {
				_ = c.Close()
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
			}()
			if err := s.talk(ctx, streams, c); err != nil && !errors.Is(err, io.EOF) &&
				!errors.Is(err, net.ErrClosed) {
				s.log.Warn("client", "error", err)
			}
		})
	}
}

// readers are the buffers of connections.
var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, protocol.LineBuffer) }}

// talk serves one connection: a handshake, a request, its replies.
func (s *server) talk(ctx, streams context.Context, c *net.UnixConn) error {
	h := protocol.Hello{
		Protocol: protocol.Name, MinVersion: protocol.MinVersion, MaxVersion: protocol.MaxVersion,
		PID: os.Getpid(), Program: s.program, Run: s.run,
	}
	refuse := func(err error) error {
		h.Error = wireError(err)
		_ = protocol.WriteLine(c, h)
		return err
	}
	_ = c.SetDeadline(time.Now().Add(requestTimeout))
	if err := checkPeer(c); err != nil {
		return refuse(err)
	}
	r := readers.Get().(*bufio.Reader)
	r.Reset(c)
	defer func() {
		r.Reset(nil)
		readers.Put(r)
	}()
	var theirs protocol.Hello
	if err := protocol.ReadLine(r, &theirs); err != nil {
		if errors.Is(err, protocol.ErrMalformed) {
			return refuse(fmt.Errorf("%w: %w", protocol.ErrInvalid, err))
		}
		return err
	}
	if h.Version = min(theirs.MaxVersion, protocol.MaxVersion); theirs.Protocol != protocol.Name ||
		h.Version < max(theirs.MinVersion, protocol.MinVersion) {
		h.Version = 0
		return refuse(fmt.Errorf("%w: found %q %d to %d; allowed: %q %d to %d", protocol.ErrVersion,
			theirs.Protocol, theirs.MinVersion, theirs.MaxVersion, protocol.Name, protocol.MinVersion,
			protocol.MaxVersion))
	}
	if err := protocol.WriteLine(c, h); err != nil {
		return err
	}
	var q protocol.Request
	if err := protocol.ReadLine(r, &q); err != nil {
		if errors.Is(err, protocol.ErrMalformed) {
			_ = protocol.WriteLine(c,
				protocol.Reply{Error: wireError(fmt.Errorf("%w: %w", protocol.ErrInvalid, err))})
		}
		return err
	}
	_ = c.SetDeadline(time.Time{})
	switch q.Op {
	case protocol.OpWatch:
		return s.watch(streams, c, r)
	case protocol.OpHold:
		return s.hold(streams, c)
	}
	return s.answer(ctx, c, &q)
}

// checkPeer lets in root and our own user. The socket's mode says the same; this holds even if
// somebody changes it.
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if cerr != nil {
		return fmt.Errorf("SO_PEERCRED: %w", cerr)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: found user %d; allowed: 0 and %d", protocol.ErrDenied, cred.Uid,
			os.Geteuid())
	}
	return nil
}

// answer carries out a request and replies.
func (s *server) answer(ctx context.Context, c net.Conn, q *protocol.Request) error {
	r := newReplier(c, replyTimeout)
	defer r.stop()
	switch q.Op {
	case protocol.OpInfo:
		for _, name := range s.handlers.Names() {
			info := s.describe(ctx, name)
			if err := r.send(protocol.Reply{Handler: &info, More: true}); err != nil {
				return err
			}
		}
		return r.send(protocol.Reply{})
	case protocol.OpList:
		all := s.list()
		for i := range all {
			if err := r.send(protocol.Reply{Status: &all[i], More: true}); err != nil {
				return err
			}
		}
		return r.send(protocol.Reply{})
	}
	st, err := s.do(ctx, q)
	if err != nil {
		return r.send(protocol.Reply{Error: wireError(err)})
	}
	return r.send(protocol.Reply{Status: st})
}

func (s *server) do(ctx context.Context, q *protocol.Request) (*protocol.Status, error) {
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	if stopping {
		return nil, protocol.ErrStopping
	}
	switch q.Op {
	case protocol.OpCreate:
		if q.Create == nil {
			return nil, fmt.Errorf("%w: create: found nothing; allowed: a create request",
				protocol.ErrInvalid)
		}
		st, err := s.create(ctx, q.Create)
		return &st, err
	case protocol.OpStart:
		st, err := s.start(ctx, q.ID)
		return &st, err
	case protocol.OpKill:
		return nil, s.kill(ctx, q.ID, q.Signal, q.All)
	case protocol.OpUpdate, protocol.OpUpdateLog:
		if q.Update == nil {
			return nil, fmt.Errorf("%w: update: found nothing; allowed: an update request",
				protocol.ErrInvalid)
		}
		return nil, s.limit(ctx, q.ID, q.Update)
	case protocol.OpDelete:
		return nil, s.remove(ctx, q.ID, q.Force)
	case protocol.OpUpgrade:
		if err := s.checkUpgrade(ctx, q.Program); err != nil {
			return nil, err
		}
		select {
		case s.upgrade <- q.Program:
		default: // another one is under way
		}
		return nil, nil
	case protocol.OpGet:
		c, err := s.find(q.ID)
		if err != nil {
			return nil, err
		}
		st := c.status()
		return &st, nil
	}
	return nil, fmt.Errorf(
		"%w: op: found %q; allowed: create, start, kill, update, update log, delete, get, list, watch, hold, info, upgrade", protocol.ErrInvalid, q.Op)
}
