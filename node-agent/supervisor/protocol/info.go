// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"context"
	"errors"

	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// Info describes a running supervisor.
type Info struct {
	PID int
	// Program is its name and version, such as "berth v0.1.0".
	Program string
	// Run is a random name of this run of the program: it changes when the supervisor is started
	// anew or upgraded in place.
	Run string
	// Version is the version of the protocol that is spoken; MinVersion and MaxVersion are those
	// that the supervisor speaks, or 0 if it is too old to say.
	Version, MinVersion, MaxVersion int
	// Handlers are sorted by name.
	Handlers []HandlerInfo
}

// HandlerInfo describes a handler of a supervisor.
type HandlerInfo struct {
	Name string `json:"name"`
	// Features are nil if the handler does not say what it can do; Error is why.
	Features *features.Features `json:"features,omitempty"`
	Error    string             `json:"error,omitempty"`
}

// Info asks the supervisor what it is. One that is too old for the question fails with ErrInvalid,
// and all but its handlers is returned.
func (c *Client) Info(ctx context.Context) (Info, error) {
	cn, err := c.send(ctx, Request{Op: OpInfo})
	if err != nil {
		return Info{}, err
	}
	defer cn.close()
	s := cn.server
	info := Info{
		PID: s.PID, Program: s.Program, Run: s.Run,
		Version: s.Version, MinVersion: s.MinVersion, MaxVersion: s.MaxVersion,
	}
	for {
		r, err := cn.reply()
		if errors.Is(err, ErrInvalid) {
			return info, err
		}
		if err != nil {
			return Info{}, err
		}
		if r.Handler != nil {
			info.Handlers = append(info.Handlers, *r.Handler)
		}
		if !r.More {
			return info, nil
		}
	}
}
