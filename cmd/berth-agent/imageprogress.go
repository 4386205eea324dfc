// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/berth-run/berth/node-agent/image"
)

// pullPrinter prints the progress of a pull: on a terminal a line that changes, else a line for
// each layer that is done.
type pullPrinter struct {
	w         io.Writer
	terminal  bool
	reference string

	mu     sync.Mutex
	sum    image.PullProgress
	shown  time.Time
	pieces int // layers done
}

func newPullPrinter(w io.Writer, reference string) *pullPrinter {
	f, ok := w.(*os.File)
	return &pullPrinter{w: w, reference: reference, terminal: ok && term.IsTerminal(int(f.Fd()))}
}

func (p *pullPrinter) note(n image.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sum.Note(n)
	if n.Stage == image.StageDone {
		p.pieces++
	}
	switch {
	case p.terminal && (time.Since(p.shown) > 100*time.Millisecond || n.Stage == image.StageDone):
		p.shown = time.Now()
		fmt.Fprintf(p.w, "\r\033[K%s", p.sum.Text(p.reference))
	case !p.terminal && n.Stage == image.StageDone:
		fmt.Fprintf(p.w, "layer %d of %d: %.12s, %.1f MB\n", p.pieces, n.Layers, n.Layer.Encoded(),
			float64(n.Total)/1e6)
	}
}

// end ends the line.
func (p *pullPrinter) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal && !p.shown.IsZero() {
		fmt.Fprintln(p.w)
	}
}
