// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// adoptOutput goes on to log the output of a container that an earlier supervisor has recorded.
func (s *server) adoptOutput(c *container) {
	rec, id := &c.rec, c.id
	log, err := openLog(rec.Log)
	if err != nil {
		s.log.Error("log of an adopted container", "id", id, "error", err)
		// Its output is read all the same, or it would wait for ever on a full pipe.
		log = &logFile{Log: rec.Log, fd: -1, err: err}
	}
	log.lost = rec.Status.LogLost
	c.mu.Lock()
	c.log = log
	c.mu.Unlock()
	// Released below: a log without streams is closed.
	log.users++
	defer log.release()
	for i, name := range protocol.Kinds[1:] {
		fd, err := s.takePipe(c, i+1)
		if err == nil {
			var st *stream
			if st, err = streamOf(name, log, fd); err == nil {
				err = s.readStream(c, st)
			}
			if err == nil {
				c.streams[i] = st
				continue
			}
			unix.Close(fd)
		}
		// What was read before is logged even if nothing more can be read.
		last := &stream{name: name, log: log, fd: -1, spoolPath: s.records.spool(id, name)}
		if rerr := last.resume(); rerr != nil {
			err = errors.Join(err, rerr)
		}
		log.add(name, last.rest, nil, true, last.spool)
		last.dropSpool()
		if rec.Status.State != protocol.Stopped {
			s.log.Warn("adopted container's output is not read", "id", id, "stream", name, "error", err)
		}
	}
}

// adopt continues a container that an earlier supervisor has recorded. It fails if it cannot find
// out whether the container's process lives.
func (s *server) adopt(ctx context.Context, rec *record) error {
	c := &container{
		id: rec.Status.ID, op: newOperations(), rec: *rec, pid: rec.Status.PID, pidfd: -1,
		adopted: true, ended: make(chan struct{}),
	}
	id, pid := rec.Status.ID, c.pid
	s.mu.Lock()
	s.containers[id] = c
	s.mu.Unlock()
	for _, name := range protocol.Kinds[1:] {
		if err := recoverSpool(s.records.spool(id, name), rec.Log.Path); err != nil {
			s.log.Error("the log may have the last output twice", "id", id, "stream", name, "error", err)
		}
	}
	stopped := func(why string) {
		s.adoptOutput(c)
		for _, st := range c.streams {
			if st != nil {
				st.drain(s.logs)
			}
		}
		_ = s.update(c, func(*protocol.Status) {
			c.rec.MountNS = 0 // the number may be that of another namespace by now
			c.rec.finish(time.Now().UTC(), boottime.Now(), nil, errors.New(why),
				cgroup.OOMKills(c.rec.Cgroup))
		})
		close(c.ended)
	}
	switch {
	case rec.Status.State == protocol.Stopped:
		s.adoptOutput(c) // others may hold the pipe and write on
		close(c.ended)
		return nil
	case rec.BootID != s.bootID:
		stopped("the machine has been restarted")
		return nil
	case rec.Status.State == protocol.Creating:
		stopped("the supervisor ended while the container was made")
		return nil
	}
	// A held pidfd knows the exit of a process that has been reaped. It is not asked while the
	// process is there: it may be of a container before that had the same id, if the holder was
	// killed before it knew of this one.
	fd, err := openProcess(pid, rec.StartTime)
	if err != nil {
		return fmt.Errorf("container %s: process %d: %w", id, pid, err)
	}
	if fd < 0 {
		fd = s.takeHeld(id, protocol.Kinds[0])
	}
	if fd < 0 {
		stopped("it ended while no supervisor ran")
		return nil
	}
	c.pidfd = fd
	p, err := procfs.ReadStat(pid)
	same := err == nil && p.StartTime == rec.StartTime
	if !same || p.Ended() {
		c.rec.MountNS = 0 // the number may be that of another namespace by now
	}
	if same && p.PPID == os.Getpid() {
		// The supervisor before was another program in this process: the container is a child, and
		// its exit waits for us.
		s.mu.Lock()
		c.adopted = false
		s.byPID[pid] = c
		s.mu.Unlock()
	}
	s.adoptOutput(c)
	s.noteKills(c)
	s.watchMemory(c)
	if rec.Status.State == protocol.Created {
		s.settleStart(ctx, c)
	}
	if err := c.await(s); err != nil {
		s.log.Error("adopted container cannot be waited for", "id", id, "error", err)
	}
	return nil
}
