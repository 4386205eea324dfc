// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"errors"

	"github.com/berth-run/berth/node-agent/handler"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// handlerErrors are the errors of handlers that clients tell apart, and those of the protocol that
// they become.
var handlerErrors = map[error]error{
	handler.ErrNotExist:   protocol.ErrNotExist,
	handler.ErrExist:      protocol.ErrExist,
	handler.ErrNotRunning: protocol.ErrNotRunning,
}

// wireError returns err as clients get it.
func wireError(err error) *protocol.Error {
	e := protocol.Encode(err)
	if errors.Is(err, protocol.ErrUnknownOutcome) {
		return e // whatever the handler said
	}
	for from, to := range handlerErrors {
		if errors.Is(err, from) {
			e.Code = protocol.Encode(to).Code
		}
	}
	return e
}
