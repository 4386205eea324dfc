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
	reference string
	// terminal is the descriptor of the terminal that w is; -1 if it is none.
	terminal int

	mu     sync.Mutex
	sum    image.PullProgress
	shown  time.Time
	later  *time.Timer // shows what came too soon after that; nil if nothing did
	ended  bool
	pieces int // layers done
}

// showEvery is the least time between two lines on a terminal.
const showEvery = 100 * time.Millisecond

func newPullPrinter(w io.Writer, reference string) *pullPrinter {
	p := &pullPrinter{w: w, reference: reference, terminal: -1}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.terminal = int(f.Fd())
	}
	return p
}

func (p *pullPrinter) note(n image.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sum.Note(n)
	if n.Stage == image.StageDone {
		p.pieces++
	}
	switch wait := showEvery - time.Since(p.shown); {
	case p.terminal >= 0 && (wait <= 0 || n.Stage == image.StageDone):
		p.show()
	case p.terminal >= 0 && p.later == nil && !p.ended:
		// Nothing else may come for long: a registry may stall.
		p.later = time.AfterFunc(wait, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.later != nil {
				p.show()
			}
		})
	case p.terminal < 0 && n.Stage == image.StageDone:
		fmt.Fprintf(p.w, "layer %d of %d: %.12s, %.1f MB\n", p.pieces, n.Layers, n.Layer.Encoded(),
			float64(n.Total)/1e6)
	}
}

// show replaces the line on the terminal. p.mu is held.
func (p *pullPrinter) show() {
	if p.later != nil {
		p.later.Stop()
		p.later = nil
	}
	p.shown = time.Now()
	fmt.Fprintf(p.w, "\r\033[K%s", p.fitting(p.sum.Text(p.reference)))
}

// fitting cuts a line to the width of the terminal, less one. The next line could not replace what
// runs into a second row.
func (p *pullPrinter) fitting(line string) string {
	width, _, err := term.GetSize(p.terminal)
	if err != nil || width < 2 {
		return line
	}
	return line[:min(len(line), width-1)]
}

// end ends the line.
func (p *pullPrinter) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.later != nil {
		p.show()
	}
	p.ended = true
	if p.terminal >= 0 && !p.shown.IsZero() {
		fmt.Fprintln(p.w)
	}
}
