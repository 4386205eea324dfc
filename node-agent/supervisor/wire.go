// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The protocol: a unix stream socket on which both sides write JSON documents, one a line, each at most maxLine bytes. The
// client opens with a hello, the supervisor answers with its own; after that the client sends one request and reads
// its replies. A reply without "more" is the last one. One that says nothing but "more" is a sign of life: it is sent when
// nothing else was for the time of heartbeat, so that a client can tell a long operation from a supervisor that has died.
const (
	protocolName = "berth.supervisor"
	// protocolMin and protocolMax are the versions that this code speaks. A new optional field needs no new version, since unknown
	// fields are skipped; a new meaning does.
	protocolMin = 1
	protocolMax = 1
	// maxLine bounds what either side reads before it gives up on the other.
	maxLine = 64 << 10
	// heartbeat is how long the supervisor is silent at most, silence how long a client bears it: three are lost, and some.
	heartbeat = 5 * time.Second
	silence   = 20 * time.Second
)

// hello is the first line in each direction. The client names the range it speaks, the supervisor the one version that it chose.
type hello struct {
	Protocol   string `json:"protocol"`
	MinVersion int    `json:"minVersion,omitempty"`
	MaxVersion int    `json:"maxVersion,omitempty"`
	Version    int    `json:"version,omitempty"`
	// PID and Program are the supervisor's own.
	PID     int    `json:"pid,omitempty"`
	Program string `json:"program,omitempty"`
	// Started tells one program in that process from the next.
	Started string `json:"started,omitempty"`
	Error   *Error `json:"error,omitempty"`
}

// The operations.
const (
	opCreate = "create"
	opStart  = "start"
	opKill   = "kill"
	opUpdate = "update"
	opDelete = "delete"
	opGet    = "get"
	opList   = "list"
	opWatch  = "watch"
	opHold   = "hold"
	// opUpgrade has the supervisor continue as another program.
	opUpgrade = "upgrade"
)

type request struct {
	Op     string         `json:"op"`
	Create *CreateRequest `json:"create,omitempty"`
	ID     string         `json:"id,omitempty"`
	Signal string         `json:"signal,omitempty"`
	All    bool           `json:"all,omitempty"`
	Force  bool           `json:"force,omitempty"`
	Update *UpdateRequest `json:"update,omitempty"`
	// Program of an upgrade.
	Program string `json:"program,omitempty"`
}

type reply struct {
	Status *Status `json:"status,omitempty"`
	// Deleted marks the event of a watch that a container is no longer known.
	Deleted bool `json:"deleted,omitempty"`
	// Synced ends the list with which a watch begins.
	Synced bool   `json:"synced,omitempty"`
	Error  *Error `json:"error,omitempty"`
	// More says that another reply follows.
	More bool `json:"more,omitempty"`
}

// errLine is returned for a line that is too long or no JSON document.
var errLine = errors.New("malformed message")

// lineBuffer is that of a connection's reader. Nearly all lines fit: an agent may have a thousand connections at once.
const lineBuffer = 4 << 10

// readLine reads one JSON document.
func readLine(r *bufio.Reader, v any) error {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line = bytes.Clone(line) // of r's buffer
		for errors.Is(err, bufio.ErrBufferFull) && len(line) < maxLine {
			var more []byte
			more, err = r.ReadSlice('\n')
			line = append(line, more...)
		}
	}
	switch {
	case errors.Is(err, bufio.ErrBufferFull), len(line) > maxLine:
		return fmt.Errorf("%w: found a line of more than %d bytes; allowed: at most that", errLine, maxLine)
	case errors.Is(err, io.EOF) && len(line) > 0:
		return fmt.Errorf("%w: the connection ended within a line", errLine)
	case err != nil:
		return err
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("%w: %w", errLine, err)
	}
	return nil
}

// writeLine writes one JSON document with a single write.
func writeLine(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}

// ParseSignal reads a signal as kill(1) takes it: "TERM", "SIGTERM", "15", "RTMIN+3". Numbers are 1 to 64.
func ParseSignal(s string) (unix.Signal, error) {
	bad := fmt.Errorf("signal: found %q; allowed: a name such as TERM or SIGTERM, RTMIN+N, or a number from 1 to 64", s)
	if n, err := strconv.Atoi(s); err == nil {
		if n < 1 || n > 64 {
			return 0, bad
		}
		return unix.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	// The kernel's numbers: SIGRTMIN is 34 and SIGRTMAX 64 for programs of glibc and musl (signal(7)).
	if rest, ok := strings.CutPrefix(name, "RTMIN"); ok {
		n, err := strconv.Atoi("0" + strings.TrimPrefix(rest, "+"))
		if err != nil || n > 30 {
			return 0, bad
		}
		return unix.Signal(34 + n), nil
	}
	if sig := unix.SignalNum("SIG" + name); sig != 0 {
		return sig, nil
	}
	return 0, bad
}
