// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/source/folder"
	"github.com/berth-run/berth/node-agent/volume"
)

// Volume is an item of the list of volumes.
type Volume struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Status            struct {
		// Path is the directory on the node.
		Path string `json:"path"`
		// Claimed reports whether the manifests have its PersistentVolumeClaim.
		Claimed bool `json:"claimed"`
		// UsedBy are the Containers that name it, and those whose container has it.
		UsedBy []string `json:"usedBy"`
	} `json:"status"`
}

// ID returns the name of the volume.
func (v *Volume) ID() volume.ID { return volume.ID{Namespace: v.Namespace, Name: v.Name} }

// usage knows who needs which volumes.
type usage struct {
	containers []v1alpha1.Container
	users      []volume.User
	claims     []volume.ID
}

// readUsage reads who needs volumes besides the users. It fails unless it knows all.
func readUsage(stateDir string, users []volume.User) (usage, error) {
	u := usage{users: users}
	var err error
	if u.containers, err = folder.Read(stateDir); err != nil {
		return u, err
	}
	u.claims, err = folder.ReadClaims(stateDir)
	return u, err
}

// by returns the names of the Containers that use a volume.
func (u usage) by(id volume.ID) []string {
	names := []string{}
	claims := func(v v1alpha1.Volume) bool {
		return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == id.Name
	}
	for i := range u.containers {
		c := &u.containers[i]
		if c.Namespace == id.Namespace && slices.ContainsFunc(c.Spec.Volumes, claims) {
			names = append(names, c.Name)
		}
	}
	for _, user := range u.users {
		if user.Uses(id) {
			names = append(names, user.Container)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// unused returns an error that names the Containers which use a volume, or nil if none does.
func (u usage) unused(id volume.ID) error {
	if names := u.by(id); len(names) > 0 {
		return fmt.Errorf("found the volume %s in use by %s; allowed: a volume that no Container names"+
			" and no container has", DisplayID(id), strings.Join(names, ", "))
	}
	return nil
}

// DisplayID returns the name of a volume with its namespace, unless that is default.
func DisplayID(id volume.ID) string {
	if id.Namespace == corev1.NamespaceDefault {
		return id.Name
	}
	return id.String()
}

// ReadVolumes returns the volumes of the agent with a state directory.
func ReadVolumes(stateDir string) ([]Volume, error) {
	store := volume.Open(stateDir)
	users, err := store.Users()
	if err != nil {
		return nil, err
	}
	u, err := readUsage(stateDir, users)
	if err != nil {
		return nil, err
	}
	found, err := store.List()
	if err != nil {
		return nil, err
	}
	var out []Volume
	for _, f := range found {
		v := Volume{TypeMeta: metav1.TypeMeta{
			APIVersion: v1alpha1.GroupVersion.String(),
			Kind:       "Volume",
		}}
		v.Namespace, v.Name, v.CreationTimestamp = f.Namespace, f.Name, metav1.NewTime(f.Created)
		v.Status.Path, v.Status.Claimed = f.Path, slices.Contains(u.claims, f.ID)
		v.Status.UsedBy = u.by(f.ID)
		out = append(out, v)
	}
	return out, nil
}

// RemoveVolume removes a volume that nobody uses, with its data.
func RemoveVolume(ctx context.Context, stateDir string, id volume.ID) error {
	err := removeVolume(ctx, stateDir, id, func(u usage) error { return u.unused(id) })
	if !errors.Is(err, volume.ErrNotExist) {
		return err
	}
	all, err := volume.Open(stateDir).List()
	if err != nil {
		return err
	}
	var names []string
	for _, v := range all {
		names = append(names, DisplayID(v.ID))
	}
	if len(names) == 0 {
		names = []string{"none"}
	}
	return fmt.Errorf("NAME: found no volume %s; there are: %s", id, strings.Join(names, ", "))
}

func removeVolume(ctx context.Context, stateDir string, id volume.ID,
	check func(usage) error,
) error {
	return volume.Open(stateDir).Remove(ctx, id, func(users []volume.User) error {
		u, err := readUsage(stateDir, users)
		if err != nil {
			return err
		}
		return check(u)
	})
}

// Unneeded returns the volumes that no manifest claims and no Container uses. It fails unless all
// manifests are known: one that is refused or missing may claim any of them.
func Unneeded(stateDir string) ([]Volume, error) {
	if err := manifestsKnown(stateDir); err != nil {
		return nil, err
	}
	all, err := ReadVolumes(stateDir)
	return slices.DeleteFunc(all, func(v Volume) bool {
		return v.Status.Claimed || len(v.Status.UsedBy) > 0
	}), err
}

// manifestsKnown returns an error unless an agent runs, writes what it knows, and takes all
// manifests.
func manifestsKnown(stateDir string) error {
	if !claim.AgentRuns(stateDir) {
		return fmt.Errorf("found no running agent with --state-dir %s; allowed: one that runs, since it"+
			" is the agent that knows the manifests", stateDir)
	}
	since, err := folder.Refreshed(stateDir)
	if err != nil {
		return err
	}
	if time.Since(since) > staleAfter {
		return errors.New("found an agent that has not written for " + staleAfter.String() +
			" what it knows of the manifests; allowed: one that writes it (see its log)")
	}
	faults, err := folder.ReadFaults(stateDir)
	if err != nil {
		return err
	}
	if len(faults) > 0 {
		return fmt.Errorf("found a manifest that is refused or missing, which may claim volumes: %w;"+
			" allowed: none (berth-agent status): correct it, or remove volumes by their names", faults[0])
	}
	return nil
}

// PruneVolume removes a volume that is unneeded still, and reports whether it has removed it.
func PruneVolume(ctx context.Context, stateDir string, id volume.ID) (bool, error) {
	needed := errors.New("it is needed")
	err := removeVolume(ctx, stateDir, id, func(u usage) error {
		if slices.Contains(u.claims, id) || len(u.by(id)) > 0 {
			return needed
		}
		return manifestsKnown(stateDir)
	})
	if errors.Is(err, needed) || errors.Is(err, volume.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
