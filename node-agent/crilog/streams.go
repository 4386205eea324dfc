// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"io"
	"sync"
)

// Streams are the outputs that several logs share.
type Streams struct {
	Out, Err io.Writer

	mu sync.Mutex
}
