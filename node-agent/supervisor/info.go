// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// lookTimeout is the time that a handler may take to describe its features or the state of a
// container.
const lookTimeout = 10 * time.Second

// describe asks a handler what it can do.
func (s *server) describe(ctx context.Context, name string) protocol.HandlerInfo {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	f, err := s.handlers[name].Features(ctx)
	if err != nil {
		return protocol.HandlerInfo{Name: name, Error: protocol.Encode(err).Message}
	}
	if b, err := json.Marshal(f); err != nil || len(b) > protocol.MaxLine/2 {
		return protocol.HandlerInfo{
			Name:  name,
			Error: fmt.Sprintf("found features of %d bytes; allowed: %d", len(b), protocol.MaxLine/2),
		}
	}
	return protocol.HandlerInfo{Name: name, Features: f}
}
