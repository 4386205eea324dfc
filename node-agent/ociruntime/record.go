// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-run/berth/api/oci/document"
	"github.com/berth-run/berth/internal/containerid"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/internal/procfs"
	"github.com/berth-run/berth/node-agent/ociruntime/cgroup"
	"github.com/berth-run/berth/node-agent/ociruntime/resctrl"
)

const (
	stateFile = "state.json"
	// configFile is config.json as it was read when the container was created. Processes that are
	// executed later use it, even if the bundle has changed.
	configFile = "config.json"
	startFIFO  = "exec.fifo"
	// newFIFO is the name of startFIFO until the container is created.
	newFIFO    = "exec.fifo.new"
	resultFIFO = "result.fifo"
	// maxState is the greatest size of a record: annotations and hooks come from config.json, which
	// is bounded itself.
	maxState = 32 << 20
)

// record is state.json.
type record struct {
	// Version of the format; see recordVersion.
	Version    int       `json:"version,omitempty"`
	OCIVersion string    `json:"ociVersion"`
	ID         string    `json:"id"`
	Bundle     string    `json:"bundle"`
	Rootfs     string    `json:"rootfs"`
	Created    time.Time `json:"created"`
	// PID of the first process, 0 until there is one. StartTime is the 22nd field of its
	// /proc/PID/stat, in clock ticks since boot, and Boot names the boot (random(4), boot_id):
	// together they name one process for good, since a pid is used again but not at the same tick.
	PID       int    `json:"pid"`
	StartTime uint64 `json:"startTime"`
	Boot      string `json:"boot"`
	// OwnPIDs reports whether it is the first process of a pid namespace, whose end ends all
	// others.
	OwnPIDs bool `json:"ownPidNamespace"`
	// NoNewKeyring reports whether the container's processes keep the session keyring of their
	// creator.
	NoNewKeyring bool              `json:"noNewKeyring,omitempty"`
	Owner        int               `json:"owner"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	// IgnoreMissingLSM reports whether labels of security modules that the kernel does not have
	// were left out; later processes leave them out, too.
	IgnoreMissingLSM bool `json:"ignoreMissingLSM,omitempty"`
	// RootMount is the mount of the root filesystem in the host's mount namespace (statx(2),
	// stx_mnt_id), where the container has none of its own; 0 where it has.
	RootMount uint64 `json:"rootMount,omitempty"`
	// TimeNamespace reports whether the container has a time namespace that its document does not
	// name: criu creates one at a restore, for the clocks to go on where they were.
	TimeNamespace bool `json:"timeNamespace,omitempty"`
	// NoProgram reports whether the document has no process, so that there is nothing to start.
	NoProgram bool `json:"noProgram,omitempty"`
	// Cgroups are the container's cgroup directories by controller.
	Cgroups map[string]string `json:"cgroups"`
	// CgroupManager created them, and Unit is the scope if that was systemd.
	CgroupManager cgroup.Manager `json:"cgroupManager"`
	Unit          *cgroup.Unit   `json:"unit,omitempty"`
	// Resources are its limits as they are now, in the form of linux.resources without the device
	// rules; see encodeLimits.
	Resources json.RawMessage `json:"resources,omitempty"`
	// Devices are the device rules since an update gave others than those of the document.
	Devices []specs.LinuxDeviceCgroup `json:"devices,omitempty"`
	Hooks   *specs.Hooks              `json:"hooks,omitempty"`
	// Resctrl is the group of linux.intelRdt, nil without one.
	Resctrl *resctrl.Group `json:"resctrl,omitempty"`
	// Late are the steps of the plan after the container is created, whose failures Start can
	// report.
	Late []lateStep `json:"late,omitempty"`
}

// recordVersion is the version of the format of a record. It is raised when an older runtime would
// take a record for something else than it says. Records of 11c74ef and before have none, and are
// of version 0.
const recordVersion = 1

// errNewer is returned for a record of a newer version, which is not guessed at, not even to delete
// the container.
var errNewer = errors.New("newer version")

// lateStep describes a step for Start, which reports its failure without the plan.
type lateStep struct {
	Index   int    `json:"index"`
	Field   string `json:"field"`
	Name    string `json:"name"`
	Program string `json:"program,omitempty"`
}

// cgroup returns the container's cgroup.
func (rec *record) cgroup() (*cgroup.Group, error) {
	if rec.Unit != nil {
		return cgroup.OpenUnit(rec.Cgroups, *rec.Unit)
	}
	return cgroup.Open(rec.Cgroups)
}

func (r *Runtime) dir(id string) string { return filepath.Join(r.root, id) }

// load reads the record of a container.
func (r *Runtime) load(id string) (*record, error) {
	if err := containerid.Check(id); err != nil {
		return nil, err
	}
	data, err := ReadOwn(filepath.Join(r.dir(id), stateFile), maxState)
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read the state of container %s: %w", id, err)
	}
	rec, err := parseRecord(data, id)
	if errors.Is(err, errNewer) {
		return nil, fmt.Errorf("state of container %s: %w", id, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w of container %s: %w", errCorruptRecord, id, err)
	}
	return rec, nil
}

// errCorruptRecord is returned for a file that does not hold a valid record. Records are replaced
// as a whole: only a loss of power can leave such a file, on a filesystem that writes the new name
// before the data.
var errCorruptRecord = errors.New("state")

func parseRecord(data []byte, id string) (*record, error) {
	rec := &record{}
	err := json.Unmarshal(data, rec)
	if rec.Version > recordVersion { // whatever else it holds
		return nil, fmt.Errorf("%w: found version %d; this runtime knows up to %d", errNewer, rec.Version,
			recordVersion)
	}
	if err != nil {
		return nil, err
	}
	if rec.ID != id {
		return nil, fmt.Errorf("found the id %q", rec.ID)
	}
	if rec.PID < 0 {
		return nil, fmt.Errorf("found the pid %d", rec.PID)
	}
	return rec, nil
}

// save replaces the record atomically: a reader finds the old one or the new one, whole.
func (r *Runtime) save(rec *record) error {
	rec.Version = recordVersion
	data, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("state of container %s: %w", rec.ID, err)
	}
	file := filepath.Join(r.dir(rec.ID), stateFile)
	if err := durable.Replace(file, data, durable.Options{Temporary: file + ".new"}); err != nil {
		return fmt.Errorf("write the state of container %s: %w", rec.ID, err)
	}
	return nil
}

// command returns the kernel's name of the record's process (proc_pid_comm(5)), also after it has
// ended until it is reaped.
func (rec *record) command() string {
	// without a process it has no name
	name, _ := os.ReadFile("/proc/" + strconv.Itoa(rec.PID) + "/comm")
	return string(name)
}

// killed reports whether the record's process was ended by SIGKILL and waits for its parent. A
// program that exits of itself was not, whatever the kernel has killed of it; of a reaped one only
// its parent knows the exit status.
func (rec *record) killed() bool {
	st, err := procfs.ReadStat(rec.PID)
	return err == nil && st.State == 'Z' && st.StartTime == rec.StartTime && st.Exit.Signaled() &&
		st.Exit.Signal() == unix.SIGKILL
}

// bootID returns the id of this boot, or "" if the host has none: then all boots are one.
func bootID() string {
	id, _ := procfs.BootID()
	return id
}

// startTime returns the start time of a process, or 0 if it is gone.
func startTime(pid int) uint64 {
	st, _ := procfs.ReadStat(pid)
	return st.StartTime
}

// alive reports whether the record's process still runs. A zombie has ended.
func (rec *record) alive() bool {
	if rec.PID == 0 || rec.Boot != bootID() {
		return false
	}
	st, err := procfs.ReadStat(rec.PID)
	return err == nil && !st.Ended() && st.StartTime == rec.StartTime
}

// ending reports whether the record's process has ended, or is being ended by the kernel.
func (rec *record) ending() bool {
	st, err := procfs.ReadStat(rec.PID)
	return err != nil || st.Ended() || st.Exiting || st.StartTime != rec.StartTime
}

// pidfd opens the process of the record, and no other that has its pid now. It returns -1 if the
// process has ended.
func (rec *record) pidfd() int {
	if rec.PID == 0 || rec.Boot != bootID() {
		return -1
	}
	fd, err := unix.PidfdOpen(rec.PID, 0)
	if err != nil {
		return -1
	}
	if st, err := procfs.ReadStat(rec.PID); err != nil || st.StartTime != rec.StartTime {
		unix.Close(fd)
		return -1
	}
	return fd
}

// loadConfig reads the document that a container was made from.
func (r *Runtime) loadConfig(id string) (*specs.Spec, error) {
	data, err := ReadConfig(filepath.Join(r.dir(id), configFile))
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	spec, err := document.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("container %s: %s: %w", id, configFile, err)
	}
	if spec.Process == nil || spec.Linux == nil {
		return nil, fmt.Errorf("container %s: %s: found no process or no linux section", id, configFile)
	}
	return spec, nil
}
