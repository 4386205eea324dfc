// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// The protocol: a unix stream socket on which both sides write JSON documents, one a line, each at
// most MaxLine bytes. The client opens with a Hello, the supervisor answers with its own; after
// that the client sends one Request and reads its Replies. A Reply without "more" is the last one.
// One that says nothing but "more" is a sign of life: it is sent when nothing else was for the time
// of Heartbeat, so that a client can tell a long operation from a supervisor that has died.
const (
	// Name is the first field of a Hello.
	Name = "berth.supervisor"
	// MinVersion and MaxVersion are the versions that this code speaks. A new optional field needs
	// no new version, since unknown fields are skipped; a new meaning does.
	MinVersion = 1
	MaxVersion = 1
	// MaxLine bounds what either side reads before it gives up on the other.
	MaxLine = 64 << 10
	// Heartbeat is the longest silence of the supervisor, silence the time after which a client
	// gives up: a little more than three heartbeats.
	Heartbeat = 5 * time.Second
	silence   = 20 * time.Second
)

// Hello is the first line in each direction. Each side names the range that it speaks, and the
// supervisor the version that it chose.
type Hello struct {
	Protocol   string `json:"protocol"`
	MinVersion int    `json:"minVersion,omitempty"`
	MaxVersion int    `json:"maxVersion,omitempty"`
	Version    int    `json:"version,omitempty"`
	// PID and Program are the supervisor's own.
	PID     int    `json:"pid,omitempty"`
	Program string `json:"program,omitempty"`
	// Run names this run of the program: another one in the same process has another name.
	Run   string `json:"started,omitempty"`
	Error *Error `json:"error,omitempty"`
}

// The operations of a request.
const (
	OpCreate = "create"
	OpStart  = "start"
	OpKill   = "kill"
	OpUpdate = "update"
	OpDelete = "delete"
	OpGet    = "get"
	OpList   = "list"
	OpWatch  = "watch"
	OpHold   = "hold"
	OpInfo   = "info"
	// OpUpdateLog is OpUpdate with Log in its request. A supervisor that does not know the field
	// refuses it and changes nothing.
	OpUpdateLog = "update log"
	// OpUpgrade has the supervisor continue as another program.
	OpUpgrade = "upgrade"
)

// Request asks for one operation.
type Request struct {
	Op     string         `json:"op"`
	Create *CreateRequest `json:"create,omitempty"`
	ID     string         `json:"id,omitempty"`
	Signal string         `json:"signal,omitempty"`
	All    bool           `json:"all,omitempty"`
	Force  bool           `json:"force,omitempty"`
	Update *UpdateRequest `json:"update,omitempty"`
	// Program is the path of the program for an upgrade.
	Program string `json:"program,omitempty"`
}

// Reply is one answer to a Request.
type Reply struct {
	Status *Status `json:"status,omitempty"`
	// Deleted marks the event of a watch that a container is no longer known.
	Deleted bool `json:"deleted,omitempty"`
	// Synced ends the list with which a watch begins.
	Synced bool `json:"synced,omitempty"`
	// Handler is one of the supervisor's handlers, for OpInfo.
	Handler *HandlerInfo `json:"handler,omitempty"`
	Error   *Error       `json:"error,omitempty"`
	// More says that another reply follows.
	More bool `json:"more,omitempty"`
}

// ErrMalformed is returned for a line that is too long or no JSON document.
var ErrMalformed = errors.New("malformed message")

// LineBuffer is the size of a connection's read buffer. Nearly all lines fit: an agent may have a
// thousand connections at once.
const LineBuffer = 4 << 10

// ReadLine reads one JSON document.
func ReadLine(r *bufio.Reader, v any) error {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line = bytes.Clone(line) // of r's buffer
		for errors.Is(err, bufio.ErrBufferFull) && len(line) < MaxLine {
			var more []byte
			more, err = r.ReadSlice('\n')
			line = append(line, more...)
		}
	}
	switch {
	case errors.Is(err, bufio.ErrBufferFull), len(line) > MaxLine:
		return fmt.Errorf("%w: found a line of more than %d bytes; allowed: at most that", ErrMalformed,
			MaxLine)
	case errors.Is(err, io.EOF) && len(line) > 0:
		return fmt.Errorf("%w: the connection ended within a line", ErrMalformed)
	case err != nil:
		return err
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return nil
}

// WriteLine writes one JSON document with a single write.
func WriteLine(w io.Writer, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(line, '\n'))
	return err
}
