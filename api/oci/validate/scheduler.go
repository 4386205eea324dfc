// SPDX-License-Identifier: Apache-2.0

package validate

import "github.com/opencontainers/runtime-spec/specs-go"

// scheduler checks process.scheduler (config.md, "Linux Process"; sched(7),
// sched_setattr(2)).
func (c *checker) scheduler(path string, s *specs.Scheduler) {
	realtime, deadline := false, false
	switch s.Policy {
	case specs.SchedOther, specs.SchedBatch, specs.SchedIdle:
	case specs.SchedFIFO, specs.SchedRR:
		realtime = true
	case specs.SchedDeadline:
		deadline = true
	case specs.SchedISO:
		// A number that Linux reserves and has never implemented.
		c.warn(path+".policy", quote(string(s.Policy)),
			"a policy that Linux implements: the kernel refuses this one")
	default:
		c.err(path+".policy", quoteOrNothing(string(s.Policy)),
			"one of SCHED_OTHER, SCHED_FIFO, SCHED_RR, SCHED_BATCH, SCHED_ISO, SCHED_IDLE, SCHED_DEADLINE")
		return
	}
	if s.Nice < -20 || s.Nice > 19 {
		c.err(path+".nice", decimal(s.Nice), "-20 to 19")
	}
	switch {
	case realtime && (s.Priority < 1 || s.Priority > 99):
		c.err(path+".priority", decimal(s.Priority), "1 to 99 with "+string(s.Policy))
	case !realtime && s.Priority != 0:
		c.err(path+".priority", decimal(s.Priority), "0, unless policy is SCHED_FIFO or SCHED_RR")
	}
	for i, f := range s.Flags {
		switch f {
		case specs.SchedFlagResetOnFork, specs.SchedFlagReclaim, specs.SchedFlagDLOverrun,
			specs.SchedFlagKeepPolicy,
			specs.SchedFlagKeepParams, specs.SchedFlagUtilClampMin, specs.SchedFlagUtilClampMax:
		default:
			c.err(at(path+".flags", i), quote(string(f)),
				"SCHED_FLAG_ and one of RESET_ON_FORK, RECLAIM, DL_OVERRUN, "+
					"KEEP_POLICY, KEEP_PARAMS, UTIL_CLAMP_MIN, UTIL_CLAMP_MAX")
		}
	}
	if deadline {
		c.deadline(path, s)
		return
	}
	const only = "nothing, unless policy is SCHED_DEADLINE"
	if s.Runtime != 0 {
		c.err(path+".runtime", unsigned(s.Runtime), only)
	}
	if s.Deadline != 0 {
		c.err(path+".deadline", unsigned(s.Deadline), only)
	}
	if s.Period != 0 {
		c.err(path+".period", unsigned(s.Period), only)
	}
}

// deadline checks the limits of sched(7), "SCHED_DEADLINE": runtime <= deadline <= period, each of
// at least 1024 ns and at most 2^63-1. Its messages quote those of crun, which users of crun know.
func (c *checker) deadline(path string, s *specs.Scheduler) {
	const (
		crun   = "sched_setattr: `SCHED_DEADLINE` "
		limits = "must be between 1024 and 9223372036854775807"
		most   = 1<<63 - 1
	)
	period := s.Period
	if period == 0 {
		period = s.Deadline
	}
	switch runtime := unsigned(s.Runtime); {
	case s.Runtime == 0:
		c.err(path+".runtime", runtime, "1024 ns to the deadline ("+
			crun+"requires `runtime`; "+crun+"runtime must be greater than 0)")
	case s.Runtime < 1024 || s.Runtime > most:
		c.err(path+".runtime", runtime, "1024 ns to the deadline ("+crun+"runtime "+runtime+" "+
			limits+")")
	case s.Deadline != 0 && s.Runtime > s.Deadline:
		c.err(path+".runtime", runtime, "1024 ns to the deadline ("+
			crun+"runtime "+runtime+" must be <= deadline "+unsigned(s.Deadline)+")")
	}
	switch deadline := unsigned(s.Deadline); {
	case s.Deadline == 0:
		c.err(path+".deadline", deadline, "the runtime to the period ("+crun+"requires `deadline`)")
	case s.Deadline > period:
		c.err(path+".deadline", deadline, "the runtime to the period ("+
			crun+"deadline "+deadline+" must be <= period "+unsigned(period)+")")
	}
	if period > most {
		c.err(path+".period", unsigned(period), "at most 9223372036854775807")
	}
}
