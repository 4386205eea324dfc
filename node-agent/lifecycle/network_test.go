// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/leaktest"
	"github.com/berth-run/berth/node-agent/network"
)

// TestNetworkFault: plugins of an earlier agent that do not end, and others that have to leave its
// network first, are no fault of the container, whose back-off would grow.
func TestNetworkFault(t *testing.T) {
	leaktest.Check(t)
	for _, tc := range []struct {
		err  error
		want Class
	}{
		{fmt.Errorf("connect: %w within 2m", network.ErrBusy), NodeFault},
		{fmt.Errorf("connect: %w", unix.ENOSPC), NodeFault},
		{fmt.Errorf("%w default/side, which has to end first", network.ErrJoined), NodeFault},
		{errors.New("found hostPort 80/TCP, which another has"), ContainerFault},
	} {
		var fault *StageError
		if err := networkFault(tc.err); !errors.As(err, &fault) || fault.Class != tc.want {
			t.Errorf("%v: found %+v; want class %d", tc.err, fault, tc.want)
		}
	}
}
