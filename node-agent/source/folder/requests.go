// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/source"
)

// Verb is the action of a Request.
type Verb string

const (
	// Stop stops a container within its grace period. It stays stopped, also over starts of the
	// agent and the machine, until Start.
	Stop Verb = "Stop"
	// Start starts a container that was stopped, has ended, or waits for its next start.
	Start Verb = "Start"
	// Restart stops a container within its grace period and starts it again.
	Restart Verb = "Restart"
	// Remove stops and removes a container whose manifest is gone.
	Remove Verb = "Remove"
)

// Request is an administrator's request for one Container, such as to stop it. It is a file, so no
// request is lost while no agent runs.
type Request struct {
	Verb      Verb      `json:"verb"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       types.UID `json:"uid"`
	// ID is different for each request.
	ID string `json:"id"`
}

func requestsDir(stateDir string) string { return filepath.Join(stateDir, "requests") }

// Ask leaves a request for the agent with this state folder, and returns its ID.
func Ask(stateDir string, verb Verb, c *v1alpha1.Container) (id string, err error) {
	r := Request{Verb: verb, Namespace: c.Namespace, Name: c.Name, UID: c.UID, ID: uuid.NewString()}
	data, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(requestsDir(stateDir), 0o700); err != nil {
		return "", fmt.Errorf("leave a request: %w", err)
	}
	// In the order of their names they are in that of their times.
	path := filepath.Join(requestsDir(stateDir), fmt.Sprintf("%020d-%s.json",
		time.Now().UnixNano(), r.ID))
	if err := durable.Replace(path, data, durable.Options{}); err != nil {
		return "", fmt.Errorf("leave a request: %w", err)
	}
	return r.ID, nil
}

// Pending reports whether the agent with this state directory has yet to carry a request out. After
// that, Read returns the state that this request, or a later one, has led to.
func Pending(stateDir, id string) (bool, error) {
	entries, err := os.ReadDir(requestsDir(stateDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look for a request: %w", err)
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return strings.HasSuffix(e.Name(), "-"+id+".json")
	}), nil
}

// Taken returns the ID of the last Start or Restart that the agent has taken for a Container, and
// whether it is to stay stopped.
func Taken(c *v1alpha1.Container) (restart string, stopped bool) {
	return c.Annotations[source.AnnotationRestart], c.Annotations[source.AnnotationStopped] != ""
}

// obey carries out the existing requests and returns the keys of the changed Containers. A request
// is removed once its effect is on disk; to carry one out twice does no harm.
func (f *Folder) obey() []source.Key {
	f.mu.Lock()
	defer f.mu.Unlock()
	entries, err := os.ReadDir(requestsDir(f.o.StateDir)) // sorted
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.o.Log.Error("cannot read requests", "error", err)
	}
	changed := map[source.Key]bool{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // is being written
		}
		path := filepath.Join(requestsDir(f.o.StateDir), e.Name())
		data, err := os.ReadFile(path)
		if err != nil { // such as EMFILE
			f.o.Log.Error("a request cannot be read; trying again at the next look", "file", path,
				"error", err)
			continue
		}
		var r Request
		err = json.Unmarshal(data, &r)
		if err == nil {
			err = f.take(r, changed)
		}
		if err != nil {
			f.o.Log.Error("a request is not obeyed", "file", path, "error", err)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.o.Log.Error("cannot remove a request", "error", err)
		}
	}
	keys := make([]source.Key, 0, len(changed))
	for key := range changed {
		keys = append(keys, key)
	}
	return keys
}

// take carries out one request.
func (f *Folder) take(r Request, changed map[source.Key]bool) error {
	key := source.Key{Namespace: r.Namespace, Name: r.Name}
	e := f.entries[key]
	switch {
	case e == nil || e.bundle == nil || e.bundle.UID != r.UID || e.bundle.DeletionTimestamp != nil:
		return fmt.Errorf("%s: found no container %s with UID %s", r.Verb, key, r.UID)
	case r.Verb == Remove && Missing(e.container) == "":
		return fmt.Errorf("%s: found the manifest of %s; allowed: a container whose manifest is gone",
			r.Verb, key)
	case r.Verb == Remove:
		f.remove(key, "its manifest is gone, and the removal was confirmed", changed)
		return nil
	case r.Verb != Stop && r.Verb != Start && r.Verb != Restart:
		return fmt.Errorf("verb: found %q; allowed: %s, %s, %s, %s", r.Verb, Stop, Start, Restart, Remove)
	}
	f.o.Log.Info("request", "verb", r.Verb, "container", key.String())
	f.replace(key, func(_ *entry, c *v1alpha1.Container, b *v1alpha1.OCIBundle) {
		_, stopped := Taken(c)
		delete(c.Annotations, source.AnnotationStopped)
		switch {
		case r.Verb == Stop:
			c.Annotations[source.AnnotationStopped] = "true"
		case r.Verb == Restart, stopped, c.Status.PID == 0: // to start what runs is nothing to do
			c.Annotations[source.AnnotationRestart] = r.ID
		}
		b.Annotations = annotations(c)
	})
	changed[key] = true
	return nil
}

// requested returns the annotations of a Container that stand for requests.
func requested(c *v1alpha1.Container) map[string]string {
	out := map[string]string{}
	for _, a := range []string{source.AnnotationStopped, source.AnnotationRestart} {
		if v, ok := c.Annotations[a]; ok {
			out[a] = v
		}
	}
	return out
}
