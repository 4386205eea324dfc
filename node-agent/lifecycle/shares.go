// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/berth-run/berth/api/oci/merge"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/source"
)

// sharesStage waits for volumes of other containers, before the image is pulled. volumesStage takes
// them.
type sharesStage struct{ *shares }

func (sharesStage) Name() string { return "shares" }
func (sharesStage) Scope() Scope { return PerRun }

func (s sharesStage) Ensure(_ context.Context, c *Container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, err := s.find(c)
	c.shares = list
	if err != nil || len(list) == 0 {
		return err
	}
	c.Directories = map[string]merge.Directory{}
	for name, share := range list {
		c.Directories[name] = merge.Directory{Path: s.Dir(share.Owner).Volume(share.Volume)}
	}
	return nil
}

// Release gives back the volumes of a container whose processes have ended. It wakes their owners,
// which may remove them now.
func (s sharesStage) Release(_ context.Context, c *Container) error {
	if s.Dir == nil {
		return nil
	}
	s.mu.Lock()
	list, err := c.Dir.Unshare(s.Dir)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	s.followers.unfollow(c.Key)
	for _, share := range list {
		s.followers.wake(keyOf(share))
	}
	return nil
}

// Outdated returns why a running container no longer has the volumes that it asks for: the owner of
// one was made again, is removed, or is about to make that volume anew.
func (s sharesStage) Outdated(c *Container) (string, error) {
	if s.Dir == nil || !slices.ContainsFunc(c.Bundle.Spec.Volumes, ofContainer) {
		return "", nil
	}
	list, err := c.Dir.Shares()
	if err != nil {
		return "", err
	}
	for _, share := range list {
		key := keyOf(share)
		s.followers.follow(key, c.Key)
		b := s.Bundle(key)
		s.mu.Lock()
		leaves := s.leaving[share.Owner][share.Volume]
		has, err := s.Dir(share.Owner).HasShared(share)
		s.mu.Unlock()
		var what string
		switch {
		case b != nil && b.DeletionTimestamp != nil:
			what = "is removed"
		case b != nil && ContainerID(key, b.UID) != share.Owner:
			what = "was made again"
		case leaves || err == nil && !has:
			what = "loses that volume"
		case err != nil:
			return "", err
		default:
			continue
		}
		return fmt.Sprintf("the Container %s, whose volume %s it has, %s", key, share.Volume, what), nil
	}
	return "", nil
}

func ofContainer(v v1alpha1.Volume) bool { return v.Container != nil }

// keyOf returns the key of the Container whose volume a share is.
func keyOf(share bundle.Share) source.Key {
	namespace, name, _ := strings.Cut(share.Container, "/")
	return source.Key{Namespace: namespace, Name: name}
}

// shares gives emptyDirs of containers to others.
type shares struct {
	Neighbours
	// followers are the containers that use a volume of a container, or wait for one.
	followers *Followers
	// mu is held while a volume is given to a container, and while its owner lists the sharers.
	mu sync.Mutex
	// leaving has the volumes that no other container may take, since their owners are about to remove
	// them, by the ids of the owners.
	leaving map[string]map[string]bool
}

// errShared is for a volume that its container cannot remove, since others have it.
var errShared = errors.New("others have it")

// leave forbids others to take these volumes of a container, and allows its other volumes again. It
// returns errShared while others have one of them, and wakes those: Outdated ends their runs.
func (s *shares) leave(c *Container, volumes []string) error {
	if s.Dir == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leaving, c.ID)
	for _, volume := range volumes {
		if s.leaving == nil {
			s.leaving = map[string]map[string]bool{}
		}
		if s.leaving[c.ID] == nil {
			s.leaving[c.ID] = map[string]bool{}
		}
		s.leaving[c.ID][volume] = true
	}
	for _, volume := range volumes {
		names, err := c.Dir.Sharers(volume, s.Dir)
		if err != nil {
			return err
		}
		if len(names) > 0 {
			s.followers.Changed(c.Key)
			return fmt.Errorf("the volume %s: %w: %s, which has to end first", volume, errShared,
				strings.Join(names, ", "))
		}
	}
	return nil
}

// stay undoes leave for all volumes of a container.
func (s *shares) stay(c *Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leaving, c.ID)
}

// take stores that a container has the volumes of others that it asks for. Their owners keep them
// until the container has given them back.
func (s *shares) take(c *Container) error {
	if s.Dir == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	found, err := s.find(c)
	if p := (*Pending)(nil); errors.As(err, &p) {
		// sharesStage has found it: it has gone since, and sharesStage waits for the next one.
		return &StageError{Reason: p.Reason, Class: NodeFault, Err: errors.New(p.Message)}
	}
	if err != nil {
		return err
	}
	if !maps.Equal(found, c.shares) {
		// Stages before this one have used the earlier volume: its path, and variables in its files.
		return &StageError{
			Reason: v1alpha1.ReasonVolumeNotReady, Class: NodeFault,
			Err: errors.New("spec.volumes: the volume of another Container was made anew during the start"),
		}
	}
	var list []bundle.Share
	for _, v := range c.Bundle.Spec.Volumes {
		if share, ok := found[v.Name]; ok {
			list = append(list, share)
		}
	}
	return ownFiles(c.Dir.Share(c.Key.String(), list, s.Dir))
}

// find returns the volumes of others that a container asks for, by the names that it gives them, or
// a *Pending. s.mu is held.
func (s *shares) find(c *Container) (map[string]bundle.Share, error) {
	out := map[string]bundle.Share{}
	for i, v := range c.Bundle.Spec.Volumes {
		if v.Container == nil {
			continue
		}
		share, err := s.one(c, i)
		if err != nil {
			return nil, err
		}
		out[v.Name] = share
	}
	return out, nil
}

// path returns the directory of a volume of another container, or a *Pending.
func (s *shares) path(c *Container, i int) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	share, err := s.one(c, i)
	if err != nil {
		return "", err
	}
	return s.Dir(share.Owner).Volume(share.Volume), nil
}

// one returns the volume of another container that has this index in the spec of a container, or a
// *Pending. s.mu is held.
func (s *shares) one(c *Container, i int) (bundle.Share, error) {
	ref := c.Bundle.Spec.Volumes[i].Container
	at := fmt.Sprintf("spec.volumes[%d].container", i)
	if s.Bundle == nil || s.Dir == nil {
		return bundle.Share{}, errors.New(at + ": found " + ref.Name +
			"; allowed: nothing, since this agent knows of no other Containers")
	}
	share, why, err := s.volume(c.Key, ref)
	if err == nil && why != "" {
		err = &Pending{
			Condition: v1alpha1.ConditionRunning, Reason: v1alpha1.ReasonVolumeNotReady,
			Message: at + why,
		}
	}
	return share, err
}

// volume returns an emptyDir of another container, or why the container has to wait for it.
func (s *shares) volume(of source.Key, ref *v1alpha1.ContainerVolume) (share bundle.Share,
	why string, err error,
) {
	key := source.Key{Namespace: of.Namespace, Name: ref.Name}
	s.followers.follow(key, of) // before it is looked at
	b := s.Bundle(key)
	if b == nil || b.DeletionTimestamp != nil {
		return share, fmt.Sprintf(
			".name: found %s, and no Container of that name in the namespace %s; it waits for one",
			key.Name, key.Namespace), nil
	}
	i := slices.IndexFunc(b.Spec.Volumes, func(v v1alpha1.Volume) bool { return v.Name == ref.Volume })
	switch {
	case i < 0:
		return share, fmt.Sprintf(".volume: found %s, which the Container %s does not have; allowed: %s",
			ref.Volume, key.Name, emptyDirsOf(b)), nil
	case b.Spec.Volumes[i].Container != nil:
		other := b.Spec.Volumes[i].Container
		return share, fmt.Sprintf(".volume: found %s, which is the volume %s of the Container %s;"+
			" allowed: that volume by its own name", ref.Volume, other.Volume, other.Name), nil
	case b.Spec.Volumes[i].EmptyDir == nil:
		return share, fmt.Sprintf(".volume: found %s, which is no emptyDir of the Container %s;"+
			" allowed: %s", ref.Volume, key.Name, emptyDirsOf(b)), nil
	}
	id := ContainerID(key, b.UID)
	found := false
	if !s.leaving[id][ref.Volume] {
		share, found, err = s.Dir(id).FindVolume(&b.Spec.Volumes[i])
	}
	if !found && err == nil {
		why = fmt.Sprintf(": waits until the Container %s has made its volume %s", key.Name, ref.Volume)
	}
	share.Container = key.String()
	return share, why, err
}

// labelledAlike reports whether the container that a volume belongs to has the same labels as this
// one. Without a level each has one of its own.
func (s *shares) labelledAlike(c *Container, ref *v1alpha1.ContainerVolume) bool {
	b := s.Bundle(source.Key{Namespace: c.Key.Namespace, Name: ref.Name})
	if b == nil || b.Spec.Security == nil || c.Bundle.Spec.Security == nil {
		return false
	}
	own, others := c.Bundle.Spec.Security.SELinuxOptions, b.Spec.Security.SELinuxOptions
	return own != nil && others != nil && *own == *others && own.Level != ""
}

// emptyDirsOf returns the names of the emptyDirs of a Container, for people.
func emptyDirsOf(b *v1alpha1.OCIBundle) string {
	var names []string
	for _, v := range b.Spec.Volumes {
		if v.EmptyDir != nil {
			names = append(names, v.Name)
		}
	}
	if len(names) == 0 {
		return "an emptyDir, once it has one"
	}
	return strings.Join(names, ", ")
}
