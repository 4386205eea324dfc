// SPDX-License-Identifier: Apache-2.0

//go:build standalone

package main

import (
	"errors"
	"log/slog"

	"github.com/berth-run/berth/node-agent/source"
)

// clusterSource is not in this build, which leaves the Kubernetes client out: half of what the program is made of, and more of
// the time to compile it.
func (o *options) clusterSource(*slog.Logger) (source.Source, register, error) {
	return nil, nil, errors.New("found no --manifests; this build of berth-agent works alone and knows no Kubernetes: build it without the tag standalone")
}
