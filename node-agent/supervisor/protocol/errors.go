// SPDX-License-Identifier: Apache-2.0

package protocol

import "errors"

// Errors that callers tell apart by errors.Is. Each survives the wire, with the text of the error
// that it was wrapped in.
var (
	// ErrNotExist: no container has that id.
	ErrNotExist = errors.New("container does not exist")
	// ErrExist: a container has that id already.
	ErrExist = errors.New("container with given ID already exists")
	// ErrNotRunning: the container's process has ended, or does not exist yet.
	ErrNotRunning = errors.New("container not running")
	// ErrNotCreated: Start was asked for a container that is not in the state "created".
	ErrNotCreated = errors.New("container is not in the created state")
	// ErrRunning: Delete without force was asked for a container whose process lives.
	ErrRunning = errors.New("container is running")
	// ErrInvalid: the request itself is wrong; asking again cannot help.
	ErrInvalid = errors.New("invalid request")
	// ErrDenied: the caller's user may not use this supervisor.
	ErrDenied = errors.New("permission denied")
	// ErrVersion: client and supervisor have no version of the protocol in common.
	ErrVersion = errors.New("unsupported protocol version")
	// ErrUnknownOutcome: the connection was lost, or the caller gave up, after the request was
	// sent, or the supervisor cannot find out what its handler has done. The request may have been
	// carried out, and may still be: ask Get, or ask the same again.
	ErrUnknownOutcome = errors.New("outcome unknown")
	// ErrUnreachable: no connection to the supervisor could be made, so the request was not sent.
	// It does not go over the wire.
	ErrUnreachable = errors.New("cannot be reached")
	// ErrStopping: the supervisor is on its way out and accepts nothing new; ask its successor.
	ErrStopping = errors.New("supervisor is stopping")
	// ErrHeld: another supervisor holds the run directory. It does not go over the wire: it is why
	// a supervisor cannot begin.
	ErrHeld = errors.New("another supervisor holds")
)

// ExitHeld is the exit code of a supervisor that ends with ErrHeld (EX_TEMPFAIL of sysexits.h).
const ExitHeld = 75

// codes are the names of the errors on the wire. They never change meaning. An error that is
// several of them gets the first one: that the outcome is unknown counts most.
var codes = []struct {
	code string
	err  error
}{
	{"UnknownOutcome", ErrUnknownOutcome},
	{"NotExist", ErrNotExist},
	{"Exist", ErrExist},
	{"NotRunning", ErrNotRunning},
	{"NotCreated", ErrNotCreated},
	{"Running", ErrRunning},
	{"Invalid", ErrInvalid},
	{"Denied", ErrDenied},
	{"Version", ErrVersion},
	{"Stopping", ErrStopping},
}

// Error is an error that the supervisor answered with.
type Error struct {
	// Code is one of the names above, or "" for an error that has no name.
	Code string `json:"code,omitempty"`
	// Message is the supervisor's text, unchanged.
	Message string `json:"message"`
}

// Error returns the supervisor's own text.
func (e *Error) Error() string { return e.Message }

// Is lets errors.Is find the sentinel that the code stands for.
func (e *Error) Is(target error) bool {
	for _, c := range codes {
		if c.code == e.Code {
			return target == c.err
		}
	}
	return false
}

// maxMessage bounds an error's text on the wire, so that a reply stays within MaxLine.
const maxMessage = 16 << 10

// Encode converts err to its form on the wire.
func Encode(err error) *Error {
	e := &Error{Message: err.Error()}
	if len(e.Message) > maxMessage {
		e.Message = e.Message[:maxMessage]
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			e.Code = c.code
			break
		}
	}
	return e
}
