// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"net"
	"sync"
	"time"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// replier writes replies, and signs of life while there is none to write: a client cannot rely on
// seeing our end, since a child between fork and execve may hold our end of its connection open
// when we are killed.
type replier struct {
	mu      sync.Mutex
	c       net.Conn
	timeout time.Duration
	beat    *time.Timer
	done    bool
}

func newReplier(c net.Conn, timeout time.Duration) *replier {
	r := &replier{c: c, timeout: timeout}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.beat = time.AfterFunc(protocol.Heartbeat, func() { _ = r.send(protocol.Reply{More: true}) })
	return r
}

func (r *replier) send(rep protocol.Reply) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.done {
		return nil
	}
	if r.timeout > 0 {
		_ = r.c.SetWriteDeadline(time.Now().Add(r.timeout))
	}
	r.done = !rep.More
	if err := protocol.WriteLine(r.c, rep); err != nil {
		r.done = true
		return err
	}
	r.beat.Reset(protocol.Heartbeat)
	return nil
}

func (r *replier) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done = true
	r.beat.Stop()
}
