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

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/node-agent/source/folder"
)

func logsCommand(o *options) *cobra.Command {
	var follow, previous, timestamps bool
	var namespace string
	c := &cobra.Command{
		Use:   "logs NAME",
		Short: "Show what a Container of an agent that works alone has written",
		Example: `  berth-agent logs hello
  berth-agent logs hello --follow
  berth-agent logs hello --previous`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := func() (string, error) {
				all, err := folder.Read(o.stateDir)
				if err != nil && len(all) == 0 {
					return "", err
				}
				c, err := find(all, namespace, args[0])
				if err != nil {
					return "", err
				}
				if c.Status.LogPath == "" {
					return "", fmt.Errorf("%s has not been started: %s", args[0], message(c))
				}
				return c.Status.LogPath, nil
			}
			current, err := path()
			if err != nil {
				return err
			}
			p := &printer{out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), timestamps: timestamps}
			if previous {
				if current, err = before(current); err != nil {
					return err
				}
				follow = false
			}
			return p.print(cmd.Context(), current, follow, path)
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "wait for more, over restarts of the container too, until it is removed")
	c.Flags().BoolVarP(&previous, "previous", "p", false, "the run before this one")
	c.Flags().BoolVar(&timestamps, "timestamps", false, "begin each line with its time")
	c.Flags().StringVarP(&namespace, "namespace", "n", corev1.NamespaceDefault, "namespace of NAME")
	return c
}

// before is the log of the run before the one whose log is path.
func before(path string) (string, error) {
	n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(path), ".log"))
	if err != nil {
		return "", fmt.Errorf("log file %s: found no number of the run", path)
	}
	if n == 0 {
		return "", errors.New("--previous: there was no run before this one")
	}
	return filepath.Join(filepath.Dir(path), strconv.Itoa(n-1)+".log"), nil
}

// printer prints logs in the CRI format ("TIME STREAM P|F TEXT").
type printer struct {
	out, err   io.Writer
	timestamps bool
	middle     bool // of a line whose beginning has been printed
}

// followEvery is how often a followed file is looked at.
const followEvery = 200 * time.Millisecond

// print prints the log at path with its rotated parts, oldest first. With follow it waits for more; now tells the log's path as it is by then.
func (p *printer) print(ctx context.Context, path string, follow bool, now func() (string, error)) error {
	for {
		for _, old := range rotated(path) {
			if err := p.file(old); err != nil {
				return err
			}
		}
		next, err := p.follow(ctx, path, follow, now)
		if err != nil || next == "" {
			return err
		}
		path = next
	}
}

// rotated returns the files that path was rotated to, oldest first: PATH.3, PATH.2, PATH.1.
func rotated(path string) []string {
	found, _ := filepath.Glob(path + ".*")
	number := func(f string) int { n, _ := strconv.Atoi(f[len(path)+1:]); return n }
	found = slices.DeleteFunc(found, func(f string) bool { return number(f) == 0 })
	slices.SortFunc(found, func(a, b string) int { return number(b) - number(a) })
	return found
}

func (p *printer) file(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return p.lines(bufio.NewReader(f), new(string))
}

// follow prints one file to its end, and what is added to it. It returns the path of the next run's log, or "" at the end.
func (p *printer) follow(ctx context.Context, path string, follow bool, now func() (string, error)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("log: %w", err)
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
			there, serr := os.Stat(path)
			here, herr := f.Stat()
			moved = serr == nil && herr == nil && !os.SameFile(there, here)
		}
		if err := p.lines(r, &rest); err != nil {
			return "", err
		}
		switch {
		case !follow || nerr != nil: // removed
			return "", nil
		case next != path:
			return next, nil
		case moved: // rotated: the rest has been read, and the new file begins
			g, err := os.Open(path)
			if err != nil {
				return "", fmt.Errorf("log: %w", err)
			}
			f.Close()
			f, rest = g, ""
			r = bufio.NewReader(f)
			continue
		}
		select {
		case <-ctx.Done():
			return "", nil
		case <-time.After(followEvery):
		}
	}
}

// lines prints all whole lines that there are. What is left of an unfinished one stays in rest.
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
		if err := p.line(strings.TrimSuffix(*rest, "\n")); err != nil {
			return err
		}
		*rest = ""
	}
}

func (p *printer) line(l string) error {
	fields := strings.SplitN(l, " ", 4)
	if len(fields) < 4 {
		return nil // no entry of the CRI format
	}
	w := p.out
	if fields[1] == "stderr" {
		w = p.err
	}
	text := fields[3]
	if p.timestamps && !p.middle {
		text = fields[0] + " " + text
	}
	p.middle = fields[2] == "P" || strings.HasPrefix(fields[2], "P:")
	if !p.middle {
		text += "\n"
	}
	_, err := io.WriteString(w, text)
	return err
}
