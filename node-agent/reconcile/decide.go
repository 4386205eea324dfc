// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// Input has all data from which a decision is made. Gathering it is apart from deciding.
type Input struct {
	Now time.Time
	// Instant is the present as durations are measured.
	Instant boottime.Instant
	// Synced: the source knows all that is wanted, so that a nil Desired means that nobody wants
	// the container.
	Synced bool
	// Desired is nil when nobody wants the container, or Synced is false and nothing is known.
	Desired *v1alpha1.OCIBundle
	// Hash of Desired.
	Hash string
	// Refused is the reason why this agent cannot honour the desired spec; empty if it can. GoesOn
	// reports whether Desired has the previously accepted spec in its place.
	Refused string
	// Reason of the refusal, one of api/v1alpha1.
	RefusedReason string
	GoesOn        bool
	// Elsewhere is the key of the wanted bundle whose container a record is of which nothing but
	// the id can be read: the worker of that key takes it over. It is empty if there is none.
	Elsewhere source.Key
	// Claim reports whether the record of this container, of which only the id can be read, belongs
	// to another worker.
	Claim bool
	// Next is the record as it is once it says all that is desired; nil if it does.
	Next *Record
	// Running is the bundle that the container was made from last, or updated to, and Change is
	// what it takes to get from there to Desired. Running is nil if that is known to be nothing, or
	// if it is not known what the container was made from.
	Running *v1alpha1.OCIBundle
	Change  change.Set
	// Newer says what this version of Berth would compile otherwise than what is kept; empty if
	// nothing.
	Newer string
	// Record is nil when nothing has been made for this bundle yet.
	Record *Record
	// Actual is nil when the supervisor does not know the container.
	Actual *protocol.Status
	// RootfsLeft reports whether a container that has ended and is no longer known to the
	// supervisor still has a root filesystem, or a volume of another container: the agent was killed
	// as it discarded it.
	RootfsLeft bool
	// Stale reports whether the running container has files of sources that have changed.
	Stale bool
	// Outdated is the reason to restart the running container, such as a change of objects that it
	// refers to; empty if there is none.
	Outdated string
	// Untold is the digest of objects of which the running program is to be told by a signal.
	Untold string
	// Overfull is the volume of the running container that holds more than its limit; nil if none
	// does.
	Overfull *overfull
	// Trouble is the obstacle that keeps the agent from acting on its decision or from recording
	// it, such as a full disk; empty if nothing does. It is for the status; no decision depends on
	// it. StorageFailed is whether it is that files cannot be written.
	Trouble       string
	StorageFailed bool
	// Unseen is the reason why Actual could not be read since UnseenSince, such as a supervisor
	// that does not answer; empty if it could. Nothing is decided then, and the status says so.
	Unseen      string
	UnseenSince time.Time
}

func (in Input) wanted() bool { return in.Desired != nil && in.Desired.DeletionTimestamp == nil }

// alive reports whether there is a process, or may be one in a moment. Actual is the container of
// Record.
func (in Input) alive() bool {
	return in.Record != nil && in.Actual != nil && in.Actual.State != protocol.Stopped
}

// changed reports whether the container is to be replaced by one of another spec. One that does not
// live is, also for a change that it could be given if it did.
func (in Input) changed() bool {
	switch {
	case in.Record == nil || in.Record.Hash == in.Hash || in.finished():
		return false
	case in.Running == nil:
		return true
	}
	return in.Change.Kind == change.Replace || !in.alive() && len(in.Change.Limits()) > 0
}

// takesDefaults reports whether a start is the first one from its spec, and so has the agent's
// defaults of today. Limits that a running container could be given are no other spec.
func (in Input) takesDefaults() bool {
	return in.Record == nil || in.changed() && in.Record.Interrupted != in.Hash &&
		(in.Running == nil || in.Change.Kind == change.Replace)
}

// finished reports whether the container has ended for good and its Container was not edited since.
// Then it is not made again, even if another version of the compiler makes another document of it.
// One that was told to run again, and whose start was interrupted, has not finished.
func (in Input) finished() bool {
	r := in.Record
	return in.Desired != nil && r != nil && r.Exit != nil && r.Failure == nil && r.Compiled != 0 &&
		r.Interrupted != in.Hash &&
		r.Compiled == in.Desired.Spec.CompiledGeneration && !restarts(in.Desired.Spec.RestartPolicy,
		r.Exit)
}

// toldToStop reports whether the container is to be stopped and stay so.
func toldToStop(b *v1alpha1.OCIBundle) bool {
	return b != nil && b.Annotations[source.AnnotationStopped] != ""
}

// toldToRestart reports whether the container is to be started afresh.
func (in Input) toldToRestart() bool {
	if in.Desired == nil || in.Record == nil {
		return false
	}
	told := in.Desired.Annotations[source.AnnotationRestart]
	return told != "" && told != in.Record.Restart
}

// Verb is one thing to do.
type Verb string

const (
	// Nothing is to be done now.
	Nothing Verb = "Nothing"
	// TakeOver takes a record over from a worker that cannot know whose it is.
	TakeOver Verb = "TakeOver"
	// NoteDesired writes down what is desired.
	NoteDesired Verb = "NoteDesired"
	// NoteRunning writes down that the container runs: the agent that started it did not come to
	// it.
	NoteRunning Verb = "NoteRunning"
	// NoteKills writes down that the kernel has killed other processes than the first for lack of
	// memory.
	NoteKills Verb = "NoteKills"
	// NoteExit writes down how the process ended.
	NoteExit Verb = "NoteExit"
	// NoteLost writes down that the process has gone with its end unseen.
	NoteLost Verb = "NoteLost"
	// Discard removes the container and its root filesystem; volumes, record and logs stay.
	Discard Verb = "Discard"
	// Stop sends the stop signal and begins the grace period.
	Stop Verb = "Stop"
	// Kill sends SIGKILL to every process.
	Kill Verb = "Kill"
	// Update gives a running container what it can be given of a spec that has changed.
	Update Verb = "Update"
	// Refresh gives a running container the files of sources that have changed.
	Refresh Verb = "Refresh"
	// Signal tells the program that sources have changed.
	Signal Verb = "Signal"
	// Start starts a container that was made, and whose start may have been interrupted.
	Start Verb = "Start"
	// Make makes the container and starts it.
	Make Verb = "Make"
	// Remove removes everything, and says so to the source.
	Remove Verb = "Remove"
)

// Decision is the next action, and its reason.
type Decision struct {
	Verb Verb
	// Policy is the name of the policy that decided.
	Policy string
	// Why is the reason, for people.
	Why string
	// Evict is the volume for which a Stop ends the container; nil for any other.
	Evict *overfull
	// After is the time after which to look again even if nothing happens; zero is never.
	After time.Duration
}

// Policy is one rule. It returns false when it has nothing to say.
type Policy struct {
	Name string
	Func func(Input) (Decision, bool)
}

// Chain is a list of policies, of which the first that has something to say decides. Read from
// above it is the whole behaviour.
type Chain []Policy

// Decide asks one policy after the other.
func (c Chain) Decide(in Input) Decision {
	for _, p := range c {
		if d, ok := p.Func(in); ok {
			d.Policy = p.Name
			return d
		}
	}
	return Decision{Verb: Nothing}
}

// Policies returns the chain for a container. It is a function, not a variable, so that nobody
// changes it.
func Policies() Chain {
	return Chain{
		{"TakeOwn", takeOwn},
		{"NoteDesired", noteDesired},
		{"NotKnownWhetherWanted", notKnownWhetherWanted},
		{"LeaveUnreadable", leaveUnreadable},
		{"AdoptRunning", adoptRunning},
		{"NoteExit", noteExit},
		{"NoteLost", noteLost},
		{"NoteKills", noteKills},
		{"StartMade", startMade},
		{"GoOnMaking", goOnMaking},
		{"DiscardHalfMade", discardHalfMade},
		{"StopUnwanted", stopUnwanted},
		{"RemoveUnwanted", removeUnwanted},
		{"FinishStopping", finishStopping},
		{"StopTold", stopTold},
		{"StopToRestart", stopToRestart},
		{"LeaveRefused", leaveRefused},
		{"StopChanged", stopChanged},
		{"StopOverfull", stopOverfull},
		{"UpdateChanged", updateChanged},
		{"WaitToUpdate", waitToUpdate},
		{"StopOutdated", stopOutdated},
		{"RefreshStale", refreshStale},
		{"SignalOutdated", signalOutdated},
		{"LeaveRunning", leaveRunning},
		{"DiscardEnded", discardEnded},
		{"LeaveStopped", leaveStopped},
		{"MakeFirst", makeFirst},
		{"MakeTold", makeTold},
		{"MakeChanged", makeChanged},
		{"MakeAfterOwnStop", makeAfterOwnStop},
		{"LeaveFinished", leaveFinished},
		{"WaitBackOff", waitBackOff},
		{"MakeAgain", makeAgain},
	}
}

func takeOwn(in Input) (Decision, bool) {
	return Decision{Verb: TakeOver, Why: "its record cannot be read and is kept under another name"},
		in.Claim
}

func noteDesired(in Input) (Decision, bool) {
	return Decision{Verb: NoteDesired, Why: "what is desired has changed"}, in.Next != nil
}

func notKnownWhetherWanted(in Input) (Decision, bool) {
	return Decision{Verb: Nothing, Why: "the source is not read yet"}, in.Desired == nil && !in.Synced
}

// lookAgain is the time after which an unreadable record is read again.
const lookAgain = 10 * time.Second

// leaveUnreadable leaves a container alone whose record cannot be read, for as long as somebody
// wants it. What runs goes on; what does not run may be a job that has done its work. Without a
// container, and for one that is to run always, there is nothing to lose by starting.
func leaveUnreadable(in Input) (Decision, bool) {
	if in.Record == nil || in.Record.unreadable == nil || !in.wanted() &&
		(in.Desired != nil || in.Synced) && in.Elsewhere == (source.Key{}) {
		return Decision{}, false
	}
	if in.wanted() && in.Synced && in.Actual == nil &&
		in.Desired.Spec.RestartPolicy == corev1.RestartPolicyAlways && !errors.Is(in.Record.unreadable,
		errNewer) {
		return Decision{}, false
	}
	return Decision{
		Verb: Nothing, Why: "its record cannot be read: " + in.Record.unreadable.Error(),
		After: lookAgain,
	}, true
}

func adoptRunning(in Input) (Decision, bool) {
	ok := in.Record != nil && in.Record.State != stateRunning && in.Actual != nil &&
		in.Actual.State == protocol.Running
	return Decision{Verb: NoteRunning, Why: "the container runs"}, ok
}

func noteExit(in Input) (Decision, bool) {
	if in.Record == nil || in.Actual == nil || in.Actual.State != protocol.Stopped ||
		in.Actual.StartedAt.IsZero() {
		return Decision{}, false
	}
	return Decision{Verb: NoteExit, Why: "the process has ended"}, in.Record.State == stateRunning ||
		in.Record.State == stateStarting
}

func noteLost(in Input) (Decision, bool) {
	r := in.Record
	ok := r != nil && in.Actual == nil && (r.State == stateRunning || r.State == stateStarting &&
		!r.Launch.IsZero() && r.Launch.Boot != in.Instant.Boot)
	return Decision{
		Verb: NoteLost,
		Why:  "the supervisor does not know the container any more: the node was booted, or it was deleted by hand",
	}, ok
}

func noteKills(in Input) (Decision, bool) {
	ok := in.Record != nil && in.Record.State == stateRunning && in.Actual != nil &&
		in.Actual.OOMKills > in.Record.OOMKills
	return Decision{Verb: NoteKills, Why: "the kernel has killed processes of it for lack of memory"},
		ok
}

// startMade starts what stands ready, rather than making it again: a start that is still on its way
// would otherwise have the program killed and run a second time. So would a container that runs and
// that a new supervisor takes for created, since its handler did not answer: to start it once more
// changes nothing.
func startMade(in Input) (Decision, bool) {
	ok := in.wanted() && in.Record != nil && (in.Record.State == stateStarting ||
		in.Record.State == stateRunning && in.Record.Stop == nil) &&
		in.Actual != nil && in.Actual.State == protocol.Created &&
		!in.changed() && !toldToStop(in.Desired) && !in.toldToRestart() && in.Refused == ""
	return Decision{Verb: Start, Why: "it was made, and its start was interrupted"}, ok
}

// goOnMaking goes on with a start of this agent that waits for its image, also if another spec is
// wanted since. If it is not to be started any more, discardHalfMade gives the image up.
func goOnMaking(in Input) (Decision, bool) {
	ok := in.wanted() && in.Record != nil && in.Record.waiting != nil && in.Actual == nil &&
		!toldToStop(in.Desired) && in.Refused == ""
	return Decision{
		Verb: Make,
		Why:  "its start waits for the image, or for an object that it refers to",
	}, ok
}

// discardHalfMade discards a container whose program has not run. One that is recorded as running
// has a program that ends by its stop signal, also if a new supervisor takes it for created.
func discardHalfMade(in Input) (Decision, bool) {
	hasRun := in.Record != nil && in.Record.State == stateRunning
	half := in.Record != nil && in.Record.State == stateStarting ||
		in.Actual != nil && (in.Actual.State == protocol.Creating ||
			in.Actual.State == protocol.Created && !hasRun)
	return Decision{Verb: Discard, Why: "a start was interrupted"}, half
}

func stopUnwanted(in Input) (Decision, bool) {
	if in.wanted() || !in.alive() {
		return Decision{}, false
	}
	return stopping(in, "the container is deleted"), true
}

func removeUnwanted(in Input) (Decision, bool) {
	return Decision{Verb: Remove, Why: "nobody wants it"}, !in.wanted()
}

func finishStopping(in Input) (Decision, bool) {
	if !in.alive() || in.Record.Stop == nil {
		return Decision{}, false
	}
	return stopping(in, in.Record.Stop.Why), true
}

func leaveRefused(in Input) (Decision, bool) {
	return Decision{Verb: Nothing, Why: in.Refused}, in.Refused != "" && !in.GoesOn
}

func stopTold(in Input) (Decision, bool) {
	if !in.alive() || !toldToStop(in.Desired) {
		return Decision{}, false
	}
	return stopping(in, "it was told to stop"), true
}

func stopToRestart(in Input) (Decision, bool) {
	if !in.alive() || !in.toldToRestart() {
		return Decision{}, false
	}
	return stopping(in, "it was told to restart"), true
}

func leaveStopped(in Input) (Decision, bool) {
	return Decision{Verb: Nothing, Why: "it was told to stop"}, toldToStop(in.Desired)
}

func makeTold(in Input) (Decision, bool) {
	return Decision{Verb: Make, Why: "it was told to start"}, in.toldToRestart()
}

func stopChanged(in Input) (Decision, bool) {
	if !in.alive() || !in.changed() {
		return Decision{}, false
	}
	return stopping(in, "the spec has changed: the container is replaced"), true
}

// stopOverfull ends a container as the kubelet evicts a Pod. It is started again by its restart
// policy, with that volume empty.
func stopOverfull(in Input) (Decision, bool) {
	if in.Overfull == nil || !in.alive() {
		return Decision{}, false
	}
	d := stopping(in, in.Overfull.Why)
	d.Evict = in.Overfull
	return d, true
}

func updateChanged(in Input) (Decision, bool) {
	ok := in.Running != nil && in.alive() && in.Actual.State == protocol.Running
	return Decision{
		Verb: Update,
		Why:  "the spec has changed in what a running container can be given",
	}, ok
}

func waitToUpdate(in Input) (Decision, bool) {
	if !in.alive() || !in.refusedUpdate() {
		return Decision{}, false
	}
	return Decision{
		Verb: Nothing, Why: in.Refused,
		After: in.Record.Refusal.BackOff.left(defaultBackOff(), in.Instant),
	}, true
}

func stopOutdated(in Input) (Decision, bool) {
	if in.Outdated == "" || !in.alive() {
		return Decision{}, false
	}
	return stopping(in, in.Outdated), true
}

func refreshStale(in Input) (Decision, bool) {
	return Decision{Verb: Refresh, Why: "the sources of its files have changed"},
		in.Stale && in.alive() && in.Actual.State == protocol.Running
}

func leaveRunning(in Input) (Decision, bool) {
	return Decision{Verb: Nothing, Why: "it runs"}, in.alive()
}

func discardEnded(in Input) (Decision, bool) {
	return Decision{Verb: Discard, Why: "the process has ended"}, in.Actual != nil || in.RootfsLeft
}

func makeFirst(in Input) (Decision, bool) {
	return Decision{Verb: Make, Why: "new"}, in.Record == nil
}

func makeChanged(in Input) (Decision, bool) {
	return Decision{Verb: Make, Why: "the spec has changed"}, in.changed()
}

func makeAfterOwnStop(in Input) (Decision, bool) {
	// The spec changed, the container was stopped for that, and the change was taken back since.
	return Decision{Verb: Make, Why: "it was stopped to be replaced"}, in.Record.Stop != nil &&
		in.Record.Stop.Volume == ""
}

func leaveFinished(in Input) (Decision, bool) {
	if in.Record.Failure != nil || in.Record.Exit == nil {
		return Decision{}, false
	}
	return Decision{Verb: Nothing, Why: "it has ended and is not to be restarted"},
		!restarts(in.Desired.Spec.RestartPolicy, in.Record.Exit)
}

func waitBackOff(in Input) (Decision, bool) {
	b, limits := in.Record.BackOff, in.Record.backOffLimits(in.Desired)
	left := b.left(limits, in.Instant)
	return Decision{Verb: Nothing, Why: fmt.Sprintf("back-off of %s", b.length(limits)), After: left},
		left > 0
}

func makeAgain(Input) (Decision, bool) {
	return Decision{Verb: Make, Why: "to be started again"}, true
}

// killAgain is the time between two SIGKILLs to a process that does not end: one may have been
// forking.
const killAgain = 5 * time.Second

func stopping(in Input, why string) Decision {
	if in.Record.Stop == nil || !in.Record.Stop.Sent {
		return Decision{Verb: Stop, Why: why}
	}
	if left := remaining(in.Record.Stop.Deadline, in.Instant); left > 0 {
		return Decision{Verb: Nothing, Why: why, After: left}
	}
	return Decision{Verb: Kill, Why: why + "; the grace period is over", After: killAgain}
}

// restarts applies a Pod's restart policy. An eviction is a failure, whatever the exit code is.
func restarts(policy corev1.RestartPolicy, exit *corev1.ContainerStateTerminated) bool {
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exit.ExitCode != 0 || exit.Reason == v1alpha1.ReasonEvicted
	}
	return true
}
