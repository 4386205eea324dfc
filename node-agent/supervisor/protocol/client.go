// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Client asks a supervisor. It holds no connection between calls, so it goes on when the supervisor
// is replaced, and it may be used by many goroutines at once.
type Client struct {
	socket string
}

// maxSocket is the greatest length of the path of a unix socket: sun_path of unix(7) without its
// NUL.
const maxSocket = len(unix.RawSockaddrUnix{}.Path) - 1

// CheckSocket returns an error if a path is too long for a unix socket.
func CheckSocket(path string) error {
	if len(path) > maxSocket {
		return fmt.Errorf(
			"found %d bytes in the path of the socket %s; allowed: %d, the most that Linux takes", len(path),
			path, maxSocket)
	}
	return nil
}

// NewClient returns a client of the supervisor that listens on the unix socket at path. It connects
// at the first call.
func NewClient(path string) *Client { return &Client{socket: path} }

// Ping checks that a supervisor answers and speaks our protocol, and returns its process id.
func (c *Client) Ping(ctx context.Context) (pid int, err error) {
	h, err := c.hello(ctx)
	return h.PID, err
}

func (c *Client) hello(ctx context.Context) (Hello, error) {
	cn, err := c.dial(ctx)
	if err != nil {
		return Hello{}, err
	}
	defer cn.close()
	return cn.server, nil
}

// Create creates a container, up to the point where it waits for Start. When ctx ends early the
// supervisor goes on by itself: Get or List return the outcome. As of every call, an error that is
// ErrUnknownOutcome does not say that nothing was done.
func (c *Client) Create(ctx context.Context, r CreateRequest) (Status, error) {
	return c.one(ctx, Request{Op: OpCreate, Create: &r})
}

// Start lets a created container run its program, and returns its status then.
func (c *Client) Start(ctx context.Context, id string) (Status, error) {
	return c.one(ctx, Request{Op: OpStart, ID: id})
}

// Kill sends a signal (as unixsignal.Parse reads it) to the container's first process, or with all
// to every process in it. Once the process has ended it fails with ErrNotRunning. SIGKILL to all
// processes of a container whose first one has ended returns once the others have, too.
func (c *Client) Kill(ctx context.Context, id, signal string, all bool) error {
	_, err := c.one(ctx, Request{Op: OpKill, ID: id, Signal: signal, All: all})
	return err
}

// Update changes limits of a container whose process has not ended; else it fails with
// ErrNotRunning. If the supervisor answers with an error the limits are as they were, unless the
// error says that they could not be set back. The same may be asked again.
func (c *Client) Update(ctx context.Context, id string, r UpdateRequest) error {
	op := OpUpdate
	if r.Log != nil {
		op = OpUpdateLog
	}
	_, err := c.one(ctx, Request{Op: op, ID: id, Update: &r})
	return err
}

// Delete forgets a stopped container; with force it kills it first. It fails with ErrNotExist when
// there is none, and with ErrRunning when it lives and force is not set. The log files stay.
func (c *Client) Delete(ctx context.Context, id string, force bool) error {
	_, err := c.one(ctx, Request{Op: OpDelete, ID: id, Force: force})
	return err
}

// Get returns the status of one container.
func (c *Client) Get(ctx context.Context, id string) (Status, error) {
	return c.one(ctx, Request{Op: OpGet, ID: id})
}

// List returns the status of every container, sorted by id.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	cn, err := c.send(ctx, Request{Op: OpList})
	if err != nil {
		return nil, err
	}
	defer cn.close()
	var all []Status
	for {
		r, err := cn.reply()
		if err != nil {
			return nil, err
		}
		if r.Status != nil {
			all = append(all, *r.Status)
		}
		if !r.More {
			return all, nil
		}
	}
}

// Upgrade makes the supervisor continue as another program, in its own process. It returns when
// that answers. A program that cannot read the supervisor's records is refused, and nothing
// changes.
func (c *Client) Upgrade(ctx context.Context, program string) error {
	before, err := c.hello(ctx)
	if err != nil {
		return err
	}
	if _, err := c.one(ctx, Request{Op: OpUpgrade, Program: program}); err != nil {
		return err
	}
	for {
		after, err := c.hello(ctx)
		switch {
		case err == nil && after.PID != before.PID:
			return fmt.Errorf("upgrade: found process %d in place of %d: it was started anew", after.PID,
				before.PID)
		case err == nil && after.Run != before.Run:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("upgrade: %w", ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Watch begins a stream of changes. It returns once the full list has been read (Watcher.List), so
// that the caller's view is complete before the first change.
func (c *Client) Watch(ctx context.Context) (*Watcher, error) {
	cn, err := c.send(ctx, Request{Op: OpWatch})
	if err != nil {
		return nil, err
	}
	w := &Watcher{conn: cn}
	for {
		r, err := cn.reply()
		if err != nil {
			cn.close()
			return nil, err
		}
		if r.Status != nil {
			w.List = append(w.List, *r.Status)
		}
		if r.Synced {
			return w, nil
		}
	}
}

// Watcher is a stream of changes. Changes of one container that come faster than they are read are
// merged into the latest; the last state is never lost.
type Watcher struct {
	// List is every container as the stream began, sorted by id.
	List []Status
	conn *conn
}

// Next waits for a change. It ends with an error when the context of Watch ends, Close is called,
// or the supervisor goes.
func (w *Watcher) Next() (Event, error) {
	r, err := w.conn.reply()
	if err != nil {
		return Event{}, err
	}
	if r.Status == nil {
		return Event{}, fmt.Errorf("watch: %w: an event without a status", ErrMalformed)
	}
	return Event{Status: *r.Status, Deleted: r.Deleted}, nil
}

// Close ends the stream. A Next that waits returns.
func (w *Watcher) Close() { w.conn.close() }

// conn is one connection after the handshake.
type conn struct {
	ctx    context.Context
	c      net.Conn
	r      *bufio.Reader
	server Hello
	close  func()
}

// dialTimeout bounds the handshake with something that accepts but never answers.
const dialTimeout = 10 * time.Second

func (c *Client) dial(ctx context.Context) (*conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", c.socket)
	if err != nil {
		return nil, fmt.Errorf("supervisor %w: %w", ErrUnreachable, err)
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	cn := &conn{ctx: ctx, c: nc, r: bufio.NewReaderSize(nc, LineBuffer), close: sync.OnceFunc(func() {
		stop()
		nc.Close()
	})}
	nc.SetDeadline(time.Now().Add(dialTimeout))
	err = WriteLine(nc, Hello{Protocol: Name, MinVersion: MinVersion, MaxVersion: MaxVersion})
	if rerr := ReadLine(cn.r, &cn.server); rerr != nil {
		err = errors.Join(err, rerr)
	} else {
		// A refusal may come before our own line has been taken, so its words matter more than the
		// error of writing.
		err = nil
	}
	switch {
	case err != nil:
		err = fmt.Errorf("supervisor %w: %w", ErrUnreachable,
			cn.because(fmt.Errorf("at %s: handshake: %w", c.socket, err)))
	case cn.server.Error != nil:
		err = cn.server.Error
	case cn.server.Protocol != Name || cn.server.Version < MinVersion ||
		cn.server.Version > MaxVersion:
		err = fmt.Errorf("supervisor at %s: %w: found %q %d; allowed: %q %d to %d", c.socket, ErrVersion,
			cn.server.Protocol, cn.server.Version, Name, MinVersion, MaxVersion)
	}
	if err != nil {
		cn.close()
		return nil, err
	}
	nc.SetDeadline(time.Time{})
	return cn, nil
}

func (c *Client) send(ctx context.Context, r Request) (*conn, error) {
	cn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	if err := WriteLine(cn.c, r); err != nil {
		cn.close()
		return nil, fmt.Errorf("%w: %w", ErrUnknownOutcome,
			cn.because(fmt.Errorf("supervisor: %s: %w", r.Op, err)))
	}
	return cn, nil
}

// one sends a request that has a single reply.
func (c *Client) one(ctx context.Context, r Request) (Status, error) {
	cn, err := c.send(ctx, r)
	if err != nil {
		return Status{}, err
	}
	defer cn.close()
	rep, err := cn.reply()
	if answer := (*Error)(nil); err != nil && !errors.As(err, &answer) {
		err = fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	if err != nil {
		return Status{}, err
	}
	if rep.Status == nil {
		return Status{}, nil
	}
	return *rep.Status, nil
}

func (cn *conn) reply() (Reply, error) {
	for {
		var r Reply
		_ = cn.c.SetReadDeadline(time.Now().Add(silence))
		err := ReadLine(cn.r, &r)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return Reply{}, cn.because(fmt.Errorf("supervisor: no sign of life for %v: %w", silence, err))
		case err != nil:
			return Reply{}, cn.because(fmt.Errorf("supervisor: %w", err))
		case r.Error != nil:
			return Reply{}, r.Error
		case r == Reply{More: true}:
			continue // a sign of life
		}
		return r, nil
	}
}

// because says that the context ended, where that is why the connection was closed.
func (cn *conn) because(err error) error {
	if cerr := cn.ctx.Err(); cerr != nil {
		return fmt.Errorf("supervisor: %w", cerr)
	}
	return err
}
