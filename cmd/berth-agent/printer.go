// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// printer prints logs in the CRI format ("TIME STREAM P|F TEXT").
type printer struct {
	*streams
	timestamps bool
	since      time.Time // older lines are left out
	tail       int       // lines to begin with; -1 for all
	prefix     string    // of each line, where several logs are printed

	middle bool       // of a line whose beginning has been written
	line   []logEntry // the entries of a line that is not complete and not written
	held   [][]logEntry
}

// logEntry is an entry of a log.
type logEntry struct {
	time, stream, text string
	partial            bool
}

// followEvery is how often a followed file is looked at.
const followEvery = 200 * time.Millisecond

// print prints the log at path with its rotated parts, oldest first. With follow it waits for more;
// now returns the path of the log as it is by then.
func (p *printer) print(ctx context.Context, path string, follow bool, now func() (string, error)) error {
	for path != "" {
		var err error
		if path, err = p.follow(ctx, path, follow, now); err != nil {
			return err
		}
	}
	return nil
}

// rotated returns the files that path was rotated to, oldest first: PATH.3, PATH.2, PATH.1.
func rotated(path string) []string {
	found, _ := filepath.Glob(path + ".*")
	number := func(f string) int { n, _ := strconv.Atoi(f[len(path)+1:]); return n }
	found = slices.DeleteFunc(found, func(f string) bool { return number(f) == 0 })
	slices.SortFunc(found, func(a, b string) int { return number(b) - number(a) })
	return found
}

// openParts opens the log at path and the files that it was rotated to, oldest first.
func openParts(path string) ([]*os.File, error) {
	current, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	var parts []*os.File
	for _, name := range rotated(path) {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			closeAll(append(parts, current))
			return nil, err
		}
		parts = append(parts, f)
	}
	parts = append(parts, current)
	if isAt(current, path) {
		return parts, nil
	}
	closeAll(parts)
	return openParts(path) // it was rotated: a part may be missing, or there twice
}

// isAt reports whether an open file has a path still, or nothing has it.
func isAt(f *os.File, path string) bool {
	there, terr := os.Stat(path)
	here, err := f.Stat()
	return terr != nil || err != nil || os.SameFile(there, here)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// catchUp prints all parts of a log that are newer than the open file read, or all if that is nil,
// except the newest part, which it returns. It opens them before it prints the first: a log that is
// rotated while it is printed loses its oldest part.
func (p *printer) catchUp(path string, read *os.File) (*os.File, error) {
	parts, err := openParts(path)
	if err != nil {
		return nil, needRoot(fmt.Errorf("log: %w", err))
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

// follow prints the log of one run to its end, and what is added to it. It returns the path of the
// next run's log, or "" at the end.
func (p *printer) follow(ctx context.Context, path string, follow bool, now func() (string, error)) (string, error) {
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
			moved = !isAt(f, path)
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
		case <-time.After(followEvery):
		}
	}
}

// lines takes all whole lines that there are. What is left of an unfinished one stays in rest.
func (p *printer) lines(r *bufio.Reader, rest *string) error {
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
func (p *printer) take(entry string) error {
	fields := strings.SplitN(entry, " ", 4)
	if len(fields) < 4 {
		return nil // no entry of the CRI format
	}
	e := logEntry{time: fields[0], stream: fields[1], text: fields[3], partial: fields[2] == "P" || strings.HasPrefix(fields[2], "P:")}
	if !p.since.IsZero() && !p.middle && len(p.line) == 0 {
		if t, err := time.Parse(time.RFC3339Nano, e.time); err == nil && t.Before(p.since) {
			return nil
		}
	}
	if p.tail < 0 && p.prefix == "" {
		return p.write(e)
	}
	p.line = append(p.line, e)
	if e.partial {
		return nil
	}
	line := p.line
	p.line = nil
	if p.tail < 0 {
		return p.writeLine(line)
	}
	p.held = append(p.held, line)
	if len(p.held) >= 2*p.tail+64 { // now and then, so that each line is moved once
		p.held = slices.Clone(p.held[len(p.held)-p.tail:])
	}
	return nil
}

// release prints the last lines, once all that there is has been read. What comes then is printed
// as it comes.
func (p *printer) release() error {
	if p.tail < 0 {
		return nil
	}
	held := p.held[max(0, len(p.held)-p.tail):]
	p.tail, p.held = -1, nil
	for _, line := range held {
		if err := p.writeLine(line); err != nil {
			return err
		}
	}
	if p.prefix != "" {
		return nil
	}
	return p.end() // the beginning of a line whose end is to come
}

// end prints what there is of a line whose end was never written.
func (p *printer) end() error {
	line := p.line
	p.line = nil
	return p.writeLine(line)
}

// writeLine writes the entries of a line as one.
func (p *printer) writeLine(line []logEntry) error {
	if len(line) == 0 {
		return nil
	}
	whole := line[0]
	for _, e := range line[1:] {
		whole.text += e.text
	}
	whole.partial = p.prefix == "" && line[len(line)-1].partial
	return p.write(whole)
}

// write writes an entry, or a whole line.
func (p *printer) write(e logEntry) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.out
	if e.stream == "stderr" {
		w = p.err
	}
	text := e.text
	if p.timestamps && !p.middle {
		text = e.time + " " + text
	}
	p.middle = e.partial
	if !p.middle {
		text += "\n"
	}
	_, err := io.WriteString(w, p.prefix+text)
	return err
}

// say writes a message about the log to standard error.
func (p *printer) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.err, p.prefix+text)
}
