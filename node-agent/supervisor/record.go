// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/berth-run/berth/internal/containerid"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/supervisor/protocol"
)

// record is the state of a container that the next supervisor needs, in
// <run-dir>/supervisor/<id>.json.
type record struct {
	Version int             `json:"version,omitempty"`
	Status  protocol.Status `json:"status"`
	Log     protocol.Log    `json:"log"`
	// BootID (/proc/sys/kernel/random/boot_id) and StartTime make PID the name of one process for
	// ever.
	BootID    string `json:"bootID"`
	StartTime uint64 `json:"startTime,omitempty"`
	// Cgroup is the directory that holds the counters of the container's memory.
	Cgroup string `json:"cgroup,omitempty"`
	// KillsOfOthers is the number of kills for lack of memory in the cgroup when the first process
	// was last seen alive.
	KillsOfOthers uint64 `json:"killsOfOthers,omitempty"`
	// Killed reports whether a client has had SIGKILL sent.
	Killed bool `json:"killed,omitempty"`
	// MountNS is the inode number of the container's mount namespace, if its processes may outlive
	// its cgroup (see strays.go).
	MountNS uint64 `json:"mountNS,omitempty"`
	// Pipes are the inode numbers of standard output and error, as fstat(2) has them.
	Pipes [2]uint64 `json:"pipes"`
}

// recordVersion is the version of the format of a record. It is raised when an older supervisor
// would take a record for something else than it says. Records of 49c6b77 and before have none, and
// are of version 0.
const recordVersion = 1

// maxRecord bounds what is read of a record.
const maxRecord = 256 << 10

// records is the directory of the records.
type records struct {
	dir string
}

func (r records) path(id string) string { return filepath.Join(r.dir, id+".json") }

// spool returns where the output of a container's stream is kept until it is in the log.
func (r records) spool(id, stream string) string {
	return filepath.Join(r.dir, id+"."+stream+".spool")
}

// save replaces a record in one step. It is not synced to the disk: records are for the death of
// this process, and a machine that goes down takes the containers with it.
func (r records) save(rec *record) error {
	rec.Version = recordVersion
	b, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("record of %s: %w", rec.Status.ID, err)
	}
	if err := durable.Replace(r.path(rec.Status.ID), append(b, '\n'), durable.Options{}); err != nil {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}

// remove forgets a record; one that is not there is no error.
func (r records) remove(id string) error {
	if err := os.Remove(r.path(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record: %w", err)
	}
	return nil
}

// load reads all records. What cannot be read is left where it is and named in unreadable, by id.
func (r records) load() (recs []*record, unreadable map[string]error, err error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("records: %w", err)
	}
	unreadable = map[string]error{}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".json.new") {
			// Its writer was killed half way; the record it was to replace still stands.
			os.Remove(filepath.Join(r.dir, e.Name()))
			continue
		}
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok {
			continue
		}
		rec, err := r.read(id)
		if err != nil {
			unreadable[id] = err
			continue
		}
		recs = append(recs, rec)
	}
	return recs, unreadable, nil
}

func (r records) read(id string) (*record, error) {
	f, err := os.Open(r.path(id))
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return nil, fmt.Errorf("record: %w", err)
	}
	var rec record
	err = json.Unmarshal(b, &rec)
	if rec.Version > recordVersion { // whatever else it holds
		return nil, fmt.Errorf("record %s: found version %d; this supervisor knows up to %d", r.path(id),
			rec.Version, recordVersion)
	}
	if err != nil {
		return nil, fmt.Errorf("record %s: %w", r.path(id), err)
	}
	if rec.Status.ID != id || containerid.CheckSupervised(id) != nil {
		return nil, fmt.Errorf("record %s: found id %q; allowed: the name of the file", r.path(id),
			rec.Status.ID)
	}
	return &rec, nil
}
