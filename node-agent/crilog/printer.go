// SPDX-License-Identifier: Apache-2.0

package crilog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// Printer prints the log of one container.
type Printer struct {
	*Streams
	// Timestamps has each line begin with its time.
	Timestamps bool
	// Since leaves out older lines.
	Since time.Time
	// Tail is the number of lines to begin with, counted from the end; -1 for all.
	Tail int
	// Prefix begins each line, where several logs are printed.
	Prefix string

	middle bool       // of a line whose beginning has been written
	line   []logEntry // the entries of a line that is not complete and not written
	held   [][]logEntry
}

// logEntry is an entry of a log.
type logEntry struct {
	time, stream, text string
	partial            bool
}

// FollowInterval is the time between two looks at a followed file.
const FollowInterval = 200 * time.Millisecond

// Print prints the log at path with its rotated parts, oldest first.
func (p *Printer) Print(ctx context.Context, path string) error {
	return p.print(ctx, path, false, nil)
}

// Follow prints the log at path as Print does, and waits for more. now returns the path of the
// container's log as it is by then, or an error once the container is gone, which ends Follow.
func (p *Printer) Follow(ctx context.Context, path string, now func() (string, error)) error {
	return p.print(ctx, path, true, now)
}

// print prints one run's log after the other.
func (p *Printer) print(ctx context.Context, path string, follow bool,
	now func() (string, error),
) error {
	for path != "" {
		var err error
		if path, err = p.follow(ctx, path, follow, now); err != nil {
			return err
		}
	}
	return nil
}

// catchUp prints all parts of a log that are newer than the open file read, or all if that is nil,
// except the newest part, which it returns. It opens them before it prints the first: a log that is
// rotated while it is printed loses its oldest part.
func (p *Printer) catchUp(path string, read *os.File) (*os.File, error) {
	parts, err := openParts(path)
	if err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	last := len(parts) - 1
	defer closeAll(parts[:last])
	known := -1
	if read != nil {
		known = slices.IndexFunc(parts[:last], func(f *os.File) bool {
			a, aerr := f.Stat()
			b, berr := read.Stat()
			return aerr == nil && berr == nil && os.SameFile(a, b)
		})
	}
	for _, f := range parts[known+1 : last] {
		if err := p.lines(bufio.NewReader(f), new(string)); err != nil {
			parts[last].Close()
			return nil, err
		}
	}
	return parts[last], nil
}

// follow prints the log of one run to its end, and waits for more. It returns the path of the next
// run's log, or "" at the end.
func (p *Printer) follow(ctx context.Context, path string, follow bool,
	now func() (string, error),
) (string, error) {
	f, err := p.catchUp(path, nil)
	if err != nil {
		return "", err
	}
	defer func() { f.Close() }()
	r := bufio.NewReader(f)
	var rest string // of a line whose end is not written yet
	for {
		// What is asked before reading to the end cannot have happened after it.
		next, nerr := path, error(nil)
		var moved bool
		if follow {
			next, nerr = now()
			at, there := isAt(f, path)
			moved = !at && there // if nothing is there yet, it is being rotated
		}
		if err := p.lines(r, &rest); err != nil {
			return "", err
		}
		if err := p.release(); err != nil {
			return "", err
		}
		switch {
		case !follow || nerr != nil: // removed
			return "", p.end()
		case moved: // rotated: the rest has been read, and newer files are there
			g, err := p.catchUp(path, f)
			if err != nil {
				return "", err
			}
			f.Close()
			f, rest = g, ""
			r = bufio.NewReader(f)
			continue
		case next != path:
			return next, p.end()
		}
		select {
		case <-ctx.Done():
			return "", p.end()
		case <-time.After(FollowInterval):
		}
	}
}

// lines takes all whole lines that there are. What is left of an unfinished one stays in rest.
func (p *Printer) lines(r *bufio.Reader, rest *string) error {
	for {
		part, err := r.ReadString('\n')
		*rest += part
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("log: %w", err)
		}
		if err := p.take(strings.TrimSuffix(*rest, "\n")); err != nil {
			return err
		}
		*rest = ""
	}
}

// take takes an entry. It is printed at once, unless only the last lines are wanted, or lines of
// other logs may come between the parts of its line.
func (p *Printer) take(entry string) error {
	fields := strings.SplitN(entry, " ", 4)
	if len(fields) < 4 {
		return nil // no entry of the CRI format
	}
	e := logEntry{time: fields[0], stream: fields[1], text: fields[3], partial: fields[2] == "P" ||
		strings.HasPrefix(fields[2], "P:")}
	if !p.Since.IsZero() && !p.middle && len(p.line) == 0 {
		if t, err := time.Parse(time.RFC3339Nano, e.time); err == nil && t.Before(p.Since) {
			return nil
		}
	}
	if p.Tail < 0 && p.Prefix == "" {
		return p.write(e)
	}
	p.line = append(p.line, e)
	if e.partial {
		return nil
	}
	line := p.line
	p.line = nil
	if p.Tail < 0 {
		return p.writeLine(line)
	}
	p.held = append(p.held, line)
	if len(p.held) >= 2*p.Tail+64 { // now and then, so that each line is moved once
		p.held = slices.Clone(p.held[len(p.held)-p.Tail:])
	}
	return nil
}

// release prints the last lines, after everything that exists has been read. Later lines are
// printed as they arrive.
func (p *Printer) release() error {
	if p.Tail < 0 {
		return nil
	}
	held := p.held[max(0, len(p.held)-p.Tail):]
	p.Tail, p.held = -1, nil
	for _, line := range held {
		if err := p.writeLine(line); err != nil {
			return err
		}
	}
	if p.Prefix != "" {
		return nil
	}
	return p.end() // the beginning of a line whose end is to come
}

// end prints a line whose end was never written.
func (p *Printer) end() error {
	line := p.line
	p.line = nil
	return p.writeLine(line)
}

// writeLine writes the entries of a line as one.
func (p *Printer) writeLine(line []logEntry) error {
	if len(line) == 0 {
		return nil
	}
	whole := line[0]
	for _, e := range line[1:] {
		whole.text += e.text
	}
	whole.partial = p.Prefix == "" && line[len(line)-1].partial
	return p.write(whole)
}

// write writes an entry, or a whole line.
func (p *Printer) write(e logEntry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.Out
	if e.stream == "stderr" {
		w = p.Err
	}
	text := e.text
	if p.Timestamps && !p.middle {
		text = e.time + " " + text
	}
	p.middle = e.partial
	if !p.middle {
		text += "\n"
	}
	_, err := io.WriteString(w, p.Prefix+text)
	return err
}

// Say writes a message about the log to standard error.
func (p *Printer) Say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.Err, p.Prefix+text)
}
