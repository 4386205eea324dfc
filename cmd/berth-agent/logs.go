// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/crilog"
	"github.com/berth-run/berth/node-agent/lifecycle"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/standalone"
)

// logsFlags are the flags of logs.
type logsFlags struct {
	o                            *options
	follow, previous, timestamps bool
	tail                         int
	since                        string
	namespace                    string
}

func logsCommand(o *options) *cobra.Command {
	l := &logsFlags{o: o}
	c := &cobra.Command{
		Use:   "logs NAME...",
		Short: "Show what Containers of an agent that works alone have written",
		Long: `logs shows what the last run of a container has written. With several NAMEs each line begins with the name it is of.

The logs of a container whose manifest was removed are kept for a while (--removed-logs-count and
--removed-logs-age of the agent); logs --previous shows them.`,
		Example: `  berth-agent logs hello
  berth-agent logs hello --follow --tail 20
  berth-agent logs hello --since 10m --timestamps
  berth-agent logs web-1 web-2 -f
  berth-agent logs hello --previous`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			since, err := parseSince(l.since, time.Now())
			if err != nil {
				return err
			}
			if l.tail < -1 {
				return fmt.Errorf("--tail: found %d; allowed: a number of lines, or -1 for all", l.tail)
			}
			return l.run(cmd, args, since)
		},
	}
	f := c.Flags()
	f.BoolVarP(&l.follow, "follow", "f", false,
		"wait for more, over restarts of the container too, until it is removed")
	f.BoolVarP(&l.previous, "previous", "p", false,
		"the run before this one, or the last run of a container that was removed")
	f.BoolVar(&l.timestamps, "timestamps", false, "begin each line with its time")
	f.IntVar(&l.tail, "tail", -1, "`number` of lines to begin with, counted from the end; -1 for all")
	f.StringVar(&l.since, "since", "",
		"only what is newer than a `time`: a duration such as 10m or 24h, or a time of RFC 3339")
	f.StringVarP(&l.namespace, "namespace", "n", corev1.NamespaceDefault, "`namespace` of the NAMEs")
	return c
}

// parseSince returns the time that --since stands for.
func parseSince(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	return time.Time{},
		fmt.Errorf("--since: found %q; allowed: a duration such as 90s, 10m or 24h, or a time such as %s",
			s, now.UTC().Format(time.RFC3339))
}

// run prints the logs of all names, one after the other, or at the same time if they are followed.
func (l *logsFlags) run(cmd *cobra.Command, names []string, since time.Time) error {
	out := &crilog.Streams{Out: cmd.OutOrStdout(), Err: cmd.ErrOrStderr()}
	width := 0
	for _, name := range names {
		width = max(width, len(name))
	}
	errs := make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		p := &crilog.Printer{Streams: out, Timestamps: l.timestamps, Since: since, Tail: l.tail}
		if len(names) > 1 {
			p.Prefix = fmt.Sprintf("%-*s | ", width, name)
		}
		one := func() {
			if errs[i] = l.one(cmd.Context(), p, name); errs[i] != nil && len(names) > 1 {
				errs[i] = fmt.Errorf("%s: %w", name, errs[i])
			}
		}
		if l.follow {
			all.Go(one)
		} else {
			one()
		}
	}
	all.Wait()
	return errors.Join(errs...)
}

// one prints the log of one container.
func (l *logsFlags) one(ctx context.Context, p *crilog.Printer, name string) error {
	if l.previous {
		path, err := l.before(name)
		if err != nil {
			return err
		}
		return needRoot(p.Print(ctx, path))
	}
	path, err := l.begun(ctx, p, name)
	if err != nil || path == "" {
		return err
	}
	if !l.follow {
		return needRoot(p.Print(ctx, path))
	}
	return needRoot(p.Follow(ctx, path, func() (string, error) {
		c, err := l.find(name)
		if err != nil {
			return "", err
		}
		// The next run's log file appears once that run begins.
		if _, err := os.Stat(c.Status.LogPath); err == nil {
			path = c.Status.LogPath
		}
		return path, nil
	}))
}

func (l *logsFlags) find(name string) (*v1alpha1.Container, error) {
	all, err := l.o.containers()
	if err != nil && len(all) == 0 {
		return nil, err
	}
	return standalone.Find(all, l.namespace, name)
}

// begun returns the path of a container's log once there is one. Without --follow it is an error if
// there is not; with it, the path is "" if there never will be.
func (l *logsFlags) begun(ctx context.Context, p *crilog.Printer, name string) (string, error) {
	said := ""
	for first := true; ; first = false {
		c, err := l.find(name)
		switch {
		case err != nil && first:
			if kept, kerr := l.removed(name); kerr == nil && len(kept) > 0 {
				return "", fmt.Errorf(
					"%w; the logs of one that was removed are kept: berth-agent logs --previous %s", err, name)
			}
			return "", err
		case c == nil: // removed
			return "", nil
		}
		if path := c.Status.LogPath; path != "" {
			switch begun, err := crilog.Begun(path); {
			case err != nil:
				return "", needRoot(fmt.Errorf("log: %w", err))
			case begun:
				return path, nil
			}
		}
		if !l.follow {
			return "", errors.New(waits(c))
		}
		if now := waits(c); now != said {
			p.Say(now)
			said = now
		}
		select {
		case <-ctx.Done():
			return "", nil
		case <-time.After(crilog.FollowInterval):
		}
	}
}

// waits returns the reason why a container has no log.
func waits(c *v1alpha1.Container) string {
	text := "found no log: the container did not start yet"
	if w := c.Status.State.Waiting; w != nil {
		text += fmt.Sprintf(" (%s)", w.Reason)
	}
	if m := standalone.Message(c); m != "" {
		text += ": " + m
	}
	return text
}

// removed returns the directories of the logs of removed containers of a name, the last one first.
func (l *logsFlags) removed(name string) ([]string, error) {
	settings, err := l.o.readSettings()
	if err != nil {
		return nil, err
	}
	dirs, err := lifecycle.RemovedLogs(settings.LogDir, source.Key{Namespace: l.namespace, Name: name})
	return dirs, needRoot(err)
}

// before returns the log of the run before the one that there is: of this container, or of the last
// that was removed.
func (l *logsFlags) before(name string) (string, error) {
	c, notFound := l.find(name)
	if notFound == nil && c.Status.LogPath != "" {
		if path, err := lifecycle.LogBefore(c.Status.LogPath); path != "" || err != nil {
			return path, err
		}
	}
	dirs, err := l.removed(name)
	if err != nil {
		return "", err
	}
	if len(dirs) == 0 {
		if notFound != nil {
			return "", notFound
		}
		return "", errors.New(
			"--previous: there was no run before this one, and no logs of a removed container of the name are kept")
	}
	path, err := lifecycle.LastLog(dirs[0])
	if err != nil {
		return "", needRoot(err)
	}
	if path == "" {
		return "", fmt.Errorf("--previous: found no log in %s", dirs[0])
	}
	return path, nil
}
