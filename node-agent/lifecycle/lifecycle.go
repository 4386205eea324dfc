// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/oci/change"
	"github.com/berth-run/berth/api/oci/environment"
	"github.com/berth-run/berth/api/oci/merge"
	"github.com/berth-run/berth/api/v1alpha1"
	kernel "github.com/berth-run/berth/internal/selinux"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/network"
	"github.com/berth-run/berth/node-agent/selinux"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
	"github.com/berth-run/berth/node-agent/userns"
	"github.com/berth-run/berth/node-agent/volume"
)

// Scope is the lifetime of the objects that a stage creates.
type Scope int

const (
	// PerRun releases them after each run of the container.
	PerRun Scope = iota
	// PerContainer has them kept from run to run and released with the container.
	PerContainer
)

// Stage is one concern of a container's life on the node.
type Stage interface {
	// Name is for people, and for From.
	Name() string
	// Scope says at which end Release is called.
	Scope() Scope
	// Ensure makes what the container needs, and writes into c what later stages need. It may be
	// called again after an error, or after the agent was killed, as long as no process of the
	// container lives: it looks at what exists.
	//
	// An error is a *StageError, a *Pending, or any other, which counts as the container's fault
	// unless the supervisor says that the outcome is unknown.
	Ensure(ctx context.Context, c *Container) error
	// Release removes what Ensure has made, now or in an earlier agent. It works from the stored
	// part of c and from what is on the node. It may be called again, and returns nil when there is
	// nothing.
	Release(ctx context.Context, c *Container) error
}

// Updater is a Stage that applies changes of kind Live to a running container.
type Updater interface {
	// Update changes the container from what c.Running says to what c.Bundle says. If it fails, the
	// container is as it was, unless the outcome is unknown. It may be called again with the same
	// changes.
	Update(ctx context.Context, c *Container, changes change.Set) error
}

// Container is one run of a container, as its stages see it.
type Container struct {
	// Key, UID and ID come from the record. UID is empty if nobody knows whose the container is.
	Key source.Key
	UID types.UID
	ID  string
	// Dir is the container's directory on the node.
	Dir bundle.Dir
	// Restarts is the number of the run, and LogPath its log file.
	Restarts int32
	LogPath  string
	// Emptied is the emptyDir volume that is made anew for this run; empty if none is.
	Emptied string
	// OwnUsers gives the container a user namespace unless its bundle says otherwise.
	OwnUsers bool

	// Bundle is the desired state; nil if it is not known. Release does not need it.
	Bundle *v1alpha1.OCIBundle
	// Running is the spec that the container was created from, or last updated to. Only Update
	// needs it.
	Running *v1alpha1.OCIBundle
	// Commit writes into the record Image and that the program may run, before anything is created
	// that another agent may have to start or stop, and begins to flush the record. Release does
	// not need it.
	Commit func() error
	// Flushed returns once the record survives a loss of power. Release does not need it.
	Flushed func(context.Context) error
	// Took is called with the time that each stage took which has succeeded; optional.
	Took func(stage string, took time.Duration)

	// Labels are the SELinux labels; the zero value has none.
	Labels selinux.Labels
	// Directories has those of volumes with a PersistentVolumeClaim or of another Container, by the
	// names of the volumes.
	Directories map[string]merge.Directory
	// shares are the volumes of other Containers that sharesStage has found, by the names of the
	// volumes.
	shares map[string]bundle.Share
	// Environment are the variables of a container that asks the node for values.
	Environment environment.Variables
	// Secret reports that Environment has values of Secrets.
	Secret bool
	// ObjectsDigest is a digest of the ConfigMaps and Secrets that the container refers to; "" if it
	// refers to none.
	ObjectsDigest string
	// Image is nil for a container with a directory of the node for its root filesystem.
	Image *Image
	// VolumeImages are the images of volumes, by the names of the volumes; nil if they are not known
	// yet.
	VolumeImages map[string]*Image
	// Users is the first id of the range that the container has; 0 for the node's own ids.
	// UserNamespace is the path of its user namespace; "" if the runtime creates one.
	Users         uint32
	UserNamespace string
	// Rootfs is the path of the root filesystem.
	Rootfs string
	// Addresses holds the addresses of the container in its network. They are known once it is
	// connected.
	Addresses []netip.Addr
	Connected bool
	// Spec is the document that config.json is written from; nil once it is written.
	Spec *specs.Spec
	// Status is the supervisor's status after the start; nil if it does not answer.
	Status *protocol.Status
}

// Class says which next step an error allows.
type Class int

const (
	// ContainerFault goes into the status, and a back-off begins.
	ContainerFault Class = iota
	// NodeFault has the same tried again soon.
	NodeFault
	// Unknown is for an effect that may have happened, or may happen yet. Nothing is released until
	// it is known.
	Unknown
)

// StageError is the error of a stage that failed.
type StageError struct {
	Stage string
	// Reason is one of api/v1alpha1, for the condition.
	Reason string
	Class  Class
	Err    error
}

func (e *StageError) Error() string { return e.Err.Error() }
func (e *StageError) Unwrap() error { return e.Err }

// Pending is returned by Ensure of a stage that waits for something that goes on elsewhere.
// Config.Wake is called when it is worth calling Ensure again.
type Pending struct {
	// Condition is the type of the condition that says so.
	Condition string
	// Reason is one of api/v1alpha1, and Message says how far it is.
	Reason, Message string
}

func (p *Pending) Error() string { return p.Message }

// Config holds the services and settings that stages use.
type Config struct {
	// Handlers returns the names of the node's handlers. A bundle without one gets
	// v1alpha1.HandlerNative.
	Handlers func() []string
	// Node has the facts about the node that variables may refer to.
	Node Node
	// Objects has what variables and volumes refer to; nil if the agent can read none.
	Objects Objects
	// Tokens has the tokens of ServiceAccounts that volumes ask for; nil without a cluster.
	Tokens Tokens
	// Claims has the PersistentVolumeClaims that volumes refer to, and Volumes their directories; both
	// are nil in a cluster, where an OCIBundle names the directories.
	Claims  Claims
	Volumes *volume.Store
	// Pulls fetches images.
	Pulls *Pulls
	// Wake is called with the key of a container whose Ensure returned a *Pending.
	Wake       func(source.Key)
	Supervisor Supervisor
	// CgroupParent is the cgroup in which each container's is created.
	CgroupParent string
	// LogMaxBytes is the size at which a log file is rotated if the bundle says nothing.
	LogMaxBytes int64
	Logs        *Logs
	// Parallel is the number of containers of one handler that are created concurrently.
	Parallel int
	// Networks connects containers to the node's network; nil leaves each with a namespace that the
	// runtime creates.
	Networks *network.Networks
	// Users has the ids of containers with a user namespace; nil if the agent has none.
	Users *userns.Ranges
	// Levels has the levels of containers with SELinux labels; nil if the agent has none.
	Levels *selinux.Levels
	// SeccompRoot is the directory of the node's seccomp profiles.
	SeccompRoot string
	// CDIDirs are the directories of the node's CDI specs.
	CDIDirs []string
	// Neighbours has the other Containers, whose networks and volumes a container may have and on
	// whose states its start may depend; optional. Followers are told of changes of these; optional.
	Neighbours Neighbours
	Followers  *Followers
	// ClusterDNS has the DNS servers and the domain of the cluster; optional.
	ClusterDNS bundle.ClusterDNS
}

// Stages returns the stages in the order of Ensure.
func Stages(c Config) List {
	if c.Followers == nil {
		c.Followers = NewFollowers(c.Wake)
	}
	joins := &joins{Neighbours: c.Neighbours, networks: c.Networks, followers: c.Followers}
	shares := &shares{Neighbours: c.Neighbours, followers: c.Followers}
	variables := environmentStage{c.Node, c.Objects, shares, c.Tokens}
	document := documentStage{c.CgroupParent}
	return List{
		handlerStage{c.Handlers},
		emptyDirsStage{shares},
		dependencyStage{c.Neighbours, c.Followers},
		sharesStage{shares},
		objectsStage{variables},
		variables,
		labelsStage{c.Levels, kernel.Enabled, os.DirFS("/")},
		filesStage{variables},
		claimsStage{c.Claims, c.Volumes, &waiters{wake: c.Wake, keys: map[source.Key]bool{}}},
		joinStage{joins},
		imageStage{c.Pulls, c.Wake, variables},
		commitStage{c.Pulls},
		usersStage{c.Users},
		rootfsStage{},
		volumesStage{shares},
		imageVolumesStage{},
		document,
		networkStage{c.Networks, joins},
		addressesStage{variables, document},
		subPathsStage{},
		namesStage{c.ClusterDNS, joins},
		cdiStage{c.CDIDirs},
		mappedStage{},
		&securityStage{seccompRoot: c.SeccompRoot},
		configStage{},
		logsStage{c.Logs},
		createStage{c.Supervisor, c.LogMaxBytes, &tokens{
			each: c.Parallel,
			of:   map[string]chan struct{}{},
		}},
		limitsStage{c.Supervisor, c.LogMaxBytes},
		startStage{c.Supervisor},
	}
}

// List is stages in the order of Ensure.
type List []Stage

// From returns the stages from the one of that name on.
func (l List) From(name string) List {
	i := slices.IndexFunc(l, func(s Stage) bool { return s.Name() == name })
	if i < 0 {
		return nil
	}
	return l[i:]
}

// Ensure calls Ensure of each stage until one does not succeed, and returns a *Pending, a
// *StageError or nil. It releases nothing.
func (l List) Ensure(ctx context.Context, c *Container) error {
	for _, s := range l {
		began := time.Now()
		if err := s.Ensure(ctx, c); err != nil {
			return fault(s, err)
		}
		if c.Took != nil {
			c.Took(s.Name(), time.Since(began))
		}
	}
	return nil
}

// Update applies changes of kind Live to a running container, stage by stage, and returns a
// *StageError or nil. A second Updater would have to take back what the first one has done.
func (l List) Update(ctx context.Context, c *Container, changes change.Set) error {
	for _, s := range l {
		if u, ok := s.(Updater); ok {
			if err := u.Update(ctx, c, changes); err != nil {
				return fault(s, err)
			}
		}
	}
	return nil
}

// Release calls Release backwards and returns the *StageError of the first stage that fails, or
// nil. A stage before that one may still be in use. PerContainer includes the stages of PerRun.
func (l List) Release(ctx context.Context, c *Container, scope Scope) error {
	for _, s := range slices.Backward(l) {
		if s.Scope() > scope {
			continue
		}
		if err := s.Release(ctx, c); err != nil {
			return fault(s, fmt.Errorf("release %s: %w", s.Name(), err))
		}
	}
	return nil
}

// fault returns the error of a stage as a *StageError, or as the *Pending that it is.
func fault(s Stage, err error) error {
	if p := (*Pending)(nil); errors.As(err, &p) {
		return p
	}
	out := StageError{Reason: v1alpha1.ReasonCreateFailed, Err: err}
	if e := (*StageError)(nil); errors.As(err, &e) {
		out.Class = e.Class
		if e.Reason != "" {
			out.Reason = e.Reason
		}
	} else if outcomeUnknown(err) {
		out.Class = Unknown
	}
	out.Stage = s.Name()
	return &out
}

// outcomeUnknown reports whether what the supervisor was asked for may have been done, or may be
// done yet, although it failed. A supervisor that is ending or cannot be reached has done nothing,
// but the container is not at fault either. A container that exists already is one of this agent's
// whose creation had an unknown outcome: a run directory belongs to one agent.
func outcomeUnknown(err error) bool {
	return errors.Is(err, protocol.ErrUnknownOutcome) || errors.Is(err, protocol.ErrStopping) ||
		errors.Is(err, protocol.ErrUnreachable) || errors.Is(err, protocol.ErrExist)
}

// ownFiles returns the error of writing the agent's own files. It is the node's fault if the
// node's storage is full or broken.
func ownFiles(err error) error {
	if StorageFailed(err) {
		return &StageError{Reason: v1alpha1.ReasonStorageFailed, Class: NodeFault, Err: err}
	}
	return err
}

// StorageFailed reports whether an error says that files cannot be written on the node.
func StorageFailed(err error) bool {
	return slices.ContainsFunc([]error{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EIO},
		func(errno error) bool { return errors.Is(err, errno) })
}
