// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/boottime"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/source"
)

const (
	recordFile  = "record.json"
	desiredFile = "desired.json"
	runningFile = "running.json"
)

// runState is the state of a record's container.
type runState string

const (
	// stateNone: there is no container, or it could not be made.
	stateNone runState = ""
	// stateStarting: the container is being made. An agent that finds this after a start of its own
	// was killed in the middle.
	stateStarting runState = "Starting"
	// stateRunning: the process has been started.
	stateRunning runState = "Running"
	// stateEnded: the process has ended, and its end is in Exit.
	stateEnded runState = "Ended"
)

// recordVersion is the version of the format of a record. It is raised when an older agent would
// take a record for something else than it says. Records of 49c6b77 and before have none, and are
// of version 0.
const recordVersion = 1

// errNewer is returned for a record of a newer version, which is not guessed at.
var errNewer = errors.New("newer version")

// errNoRecord is for a container that the supervisor has and no record speaks of.
var errNoRecord = errors.New("there is none")

// Record is an agent's durable state of a container, for its successor.
type Record struct {
	Version int `json:"version,omitempty"`

	Key source.Key `json:"key"`
	UID types.UID  `json:"uid"`
	// ID is the container's name with the supervisor, and the name of the bundle's directory.
	ID string `json:"id"`
	// Generation of the bundle that desired.json holds.
	Generation int64 `json:"generation,omitempty"`
	// Hash of what the container was made from last, or was tried to be, or updated to since.
	Hash string `json:"hash,omitempty"`
	// Made is the generation of the bundle that Hash is of; 0 if the record is of an agent that did
	// not record it. The bundle itself is in running.json if another one was accepted since, and
	// else in desired.json.
	Made int64 `json:"made,omitempty"`
	// Interrupted is the hash of the spec whose start was interrupted last; empty once another
	// start has begun.
	Interrupted string `json:"interrupted,omitempty"`
	// Updating are the paths of the fields whose update in the running container has begun, and
	// whose values are not known therefore.
	Updating []string `json:"updating,omitempty"`
	// Refusal is the reason why the running container could not be updated to a later bundle; nil
	// if it was not tried, or succeeded.
	Refusal *refusedUpdate `json:"refusal,omitempty"`

	// Restart is the value of source.AnnotationRestart for which the container was made last, or
	// was tried to be.
	Restart string `json:"restart,omitempty"`

	// Stopped is the value of source.AnnotationStopped that the source had last. It holds while the
	// source is not read yet.
	Stopped string `json:"stopped,omitempty"`

	State runState `json:"state,omitempty"`
	// Launch is set before the supervisor may start the program, and survives a loss of power by
	// then. In a record that says Starting after another boot, it means that the program may have
	// run.
	Launch boottime.Instant `json:"launch,omitzero"`
	run
	// Before is the state of the run before the start that is under way, for the case that it
	// fails.
	Before *run `json:"before,omitempty"`

	// IPs are the addresses that the container had in its network when its program was started.
	IPs []corev1.PodIP `json:"ips,omitempty"`

	// DNS says which DNS settings resolv.conf lacked when the program was started; nil if none.
	DNS *bundle.DNSNotice `json:"dns,omitempty"`

	// ImageID is the reference with the digest of the image's manifest.
	ImageID string `json:"imageID,omitempty"`
	// VolumeImages is the same for volumes with an image, in the order of the volumes.
	VolumeImages []v1alpha1.VolumeImage `json:"volumeImages,omitempty"`
	// StopSignal of the image; empty is SIGTERM.
	StopSignal string `json:"stopSignal,omitempty"`
	// GraceSeconds between the stop signal and SIGKILL.
	GraceSeconds int64 `json:"graceSeconds"`

	BackOff backOff `json:"backOff,omitzero"`
	// Failure is the reason why the last try to create the container failed; nil if it did not.
	Failure *failure `json:"failure,omitempty"`
	// Stop is set before the stop signal is sent, and says when it has been.
	Stop *stop `json:"stop,omitempty"`

	// OwnUsers says that the container has a user namespace unless its bundle says otherwise: that was
	// the agent's default when it was first started with this spec.
	OwnUsers bool `json:"ownUsers,omitempty"`

	// unreadable is the error of reading the record on disk, or nil. Only ID and the content of
	// desired.json are known then.
	unreadable error
	// unwritten is the reason why the record on disk is older than this one; nil if it is not.
	// unwrittenDesired is the content to be written to desired.json.
	unwritten        error
	unwrittenDesired *v1alpha1.OCIBundle
	// waiting is set while a start of this agent waits for its image.
	waiting *waiting
	// flushed waits until the last end of the process survives a loss of power; nil if there is
	// nothing to wait for. No end is reported before.
	flushed func(context.Context) error
}

// run is one run of the process, and the end of the one before.
type run struct {
	// Compiled is the generation of the Container that the bundle of this run was compiled for; 0
	// if that is not known.
	Compiled int64 `json:"compiledGeneration,omitempty"`
	// Restarts before this run, which is the number of the run too.
	Restarts int32 `json:"restarts,omitempty"`
	PID      int   `json:"pid,omitempty"`
	// StartedAt is zero while there has not been a run.
	StartedAt time.Time                        `json:"startedAt,omitzero"`
	Exit      *corev1.ContainerStateTerminated `json:"exit,omitempty"`
	Last      *corev1.ContainerStateTerminated `json:"last,omitempty"`
	LogPath   string                           `json:"logPath,omitempty"`
	// OOMKills are the kills for lack of memory in this run, and PastOOMKills those in the runs
	// before.
	OOMKills     uint64 `json:"oomKills,omitempty"`
	PastOOMKills uint64 `json:"pastOOMKills,omitempty"`
	// Evicted is the volume for which the process was ended, and Emptied the one that is made anew
	// for this run, since the run before was ended for it.
	Evicted string `json:"evicted,omitempty"`
	Emptied string `json:"emptied,omitempty"`
}

type failure struct {
	// Reason is one of the reasons of api/v1alpha1.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Rootfs is true when the root filesystem was at fault.
	Rootfs bool `json:"rootfs,omitempty"`
	// AfterRootfs is true when the root filesystem had been found by then.
	AfterRootfs bool `json:"afterRootfs,omitempty"`
}

type stop struct {
	// Deadline is the end of the grace period. The zero value, or one of another boot, is past.
	Deadline boottime.Instant `json:"until,omitzero"`
	// GraceSeconds is the grace period that led to it.
	GraceSeconds int64 `json:"graceSeconds,omitempty"`
	// Sent is false until the supervisor has taken the stop signal: an agent that was killed in
	// between sends it again. A second one does no harm, while a missing one has a program killed
	// without a warning.
	Sent bool   `json:"sent,omitempty"`
	Why  string `json:"why"`
	// Volume is the one that holds more than its sizeLimit; empty if the stop has another reason.
	Volume string `json:"volume,omitempty"`
}

// refusedUpdate is an update of a running container that was refused, and undone as a whole.
type refusedUpdate struct {
	// Generation of the bundle.
	Generation int64  `json:"generation"`
	Reason     string `json:"reason"`
	Message    string `json:"message"`
	// BackOff computes the time of the next try.
	BackOff backOff `json:"backOff,omitzero"`
}

// next returns the run that follows this one.
func (r run) next() run {
	if r.Exit == nil {
		return run{
			Restarts: r.Restarts, Last: r.Last, PastOOMKills: r.PastOOMKills + r.OOMKills,
			Emptied: r.Emptied,
		}
	}
	return run{
		Restarts: r.Restarts + 1, Last: r.Exit, PastOOMKills: r.PastOOMKills + r.OOMKills,
		Emptied: r.Evicted,
	}
}

// unstart takes back the start that is under way.
func (r *Record) unstart() {
	r.waiting = nil
	if r.Before != nil {
		r.run, r.Before = *r.Before, nil
	}
	r.State, r.Launch = stateNone, boottime.Instant{}
	if r.Exit != nil {
		r.State = stateEnded
	}
}

// interrupted takes back a start that nobody's fault ended. Without a hash the record differs from
// every spec, so that the start is tried again at once. It keeps its back-off (see begin): an
// interruption does not end a crash loop.
func (r *Record) interrupted() {
	r.unstart()
	r.Interrupted, r.Hash, r.Made = r.Hash, "", 0
}

// replace is Dir.Replace or Dir.ReplaceReserved.
type replace func(d bundle.Dir, name string, data []byte) error

func (r *Record) write(d bundle.Dir, how replace) error {
	r.Version = recordVersion
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return how(d, recordFile, data)
}

// readRecord returns nil when there is no record. now and instant are the present, for a record of
// a version of Berth that kept deadlines by the node's clock.
func readRecord(d bundle.Dir, now time.Time, instant boottime.Instant) (*Record, error) {
	data, err := os.ReadFile(d.File(recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record: %w", err)
	}
	r := &Record{}
	err = json.Unmarshal(data, r)
	if r.Version > recordVersion { // whatever else it holds
		return nil, fmt.Errorf("read record %s: %w: found version %d; this agent knows up to %d",
			d.File(recordFile), errNewer, r.Version, recordVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("read record %s: %w", d.File(recordFile), err)
	}
	var old struct {
		BackOff struct{ NotBefore time.Time }
		Stop    struct{ Deadline time.Time }
	}
	if json.Unmarshal(data, &old) == nil {
		// That clock may have been set since: no deadline is further away than it can have been
		// when it was written.
		from := func(t time.Time, atMost time.Duration) boottime.Instant {
			return instant.Add(min(max(t.Sub(now), 0), atMost))
		}
		if t := old.BackOff.NotBefore; !t.IsZero() {
			r.BackOff.Until = from(t, r.BackOff.Waits)
		}
		if t := old.Stop.Deadline; !t.IsZero() && r.Stop != nil {
			r.Stop.Deadline = from(t, boottime.Seconds(r.GraceSeconds))
		}
	}
	return r, nil
}

// unreadable returns a record for a container whose record cannot be read. It takes the owner from
// desired.json, if that can be read.
func unreadable(d bundle.Dir, id string, err error) *Record {
	r := orphan(id)
	r.unreadable = err
	if b := readDesired(d); b != nil && b.Name != "" {
		r.Key, r.UID, r.GraceSeconds = source.Key{Namespace: b.Namespace, Name: b.Name}, b.UID,
			b.Spec.TerminationGracePeriodSeconds
	}
	return r
}

// bundleVersion is the version of the format of desired.json and running.json. Files of 11c74ef and
// before have none, and are of version 0.
const bundleVersion = 1

// versioned is the content of desired.json and running.json.
type versioned struct {
	Version int `json:"version,omitempty"`
	*v1alpha1.OCIBundle
}

func writeDesired(d bundle.Dir, b *v1alpha1.OCIBundle, how replace) error {
	return writeBundle(d, desiredFile, b, how)
}

func writeBundle(d bundle.Dir, file string, b *v1alpha1.OCIBundle, how replace) error {
	data, err := json.Marshal(versioned{bundleVersion, b})
	if err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return how(d, file, data)
}

// accepted returns the bundle that was accepted last, or nil.
func (r *Record) accepted(d bundle.Dir) *v1alpha1.OCIBundle {
	if r.unwrittenDesired != nil {
		return r.unwrittenDesired
	}
	return readDesired(d)
}

// readDesired returns the spec that writeDesired wrote, or nil if there is none that this agent can
// read.
func readDesired(d bundle.Dir) *v1alpha1.OCIBundle { return readBundle(d, desiredFile) }

func readBundle(d bundle.Dir, file string) *v1alpha1.OCIBundle {
	data, err := os.ReadFile(d.File(file))
	if err != nil {
		return nil
	}
	var head struct{ Version int }
	if json.Unmarshal(data, &head) != nil || head.Version > bundleVersion {
		return nil
	}
	b := &v1alpha1.OCIBundle{}
	if source.Decode(data, b) != nil {
		return nil
	}
	return b
}
