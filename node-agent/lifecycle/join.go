// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/bundle"
	"github.com/berth-run/berth/node-agent/network"
	"github.com/berth-run/berth/node-agent/source"
)

// Neighbours has the other Containers of the node.
type Neighbours struct {
	// Bundle returns the bundle of a Container, or nil if there is none.
	Bundle func(source.Key) *v1alpha1.OCIBundle
	// Dir returns the directory of a container.
	Dir func(id string) bundle.Dir
}

// joinStage has a container wait for the network of another one that it is to join, before its
// image is looked for and before it may run. networkStage joins it.
type joinStage struct{ *joins }

func (joinStage) Name() string { return "join" }
func (joinStage) Scope() Scope { return PerRun }

func (s joinStage) Ensure(_ context.Context, c *Container) error {
	if joinedKey(c) == (source.Key{}) {
		return nil
	}
	other, err := s.other(c)
	if err != nil {
		return err
	}
	if err := s.networks.Connected(other); err != nil {
		return s.notReady(c, err)
	}
	return nil
}

// Release ends the membership of a container whose processes have ended: the other one may lose its
// network then.
func (s joinStage) Release(_ context.Context, c *Container) error {
	if s.networks == nil {
		return nil
	}
	name, err := s.networks.Leave(c.ID, c.Dir)
	if err != nil {
		return err
	}
	s.followers.unfollow(c.Key)
	if namespace, name, ok := strings.Cut(name, "/"); ok {
		s.followers.wake(source.Key{Namespace: namespace, Name: name})
	}
	return nil
}

// Outdated returns why a running container is no longer in the network that it asks for: the other
// container was made again, is to be removed or is to have another network.
func (s joinStage) Outdated(c *Container) (string, error) {
	key := joinedKey(c)
	if key == (source.Key{}) || s.networks == nil {
		return "", nil
	}
	s.followers.follow(key, c.Key)
	id, stays, err := s.networks.Membership(c.Dir)
	if err != nil || id == "" {
		return "", err
	}
	b := s.Bundle(key)
	switch {
	case b != nil && b.DeletionTimestamp != nil:
		return fmt.Sprintf("the Container %s, in whose network it is, is removed", key), nil
	case b != nil && ContainerID(key, b.UID) != id:
		return fmt.Sprintf("the Container %s, in whose network it is, was made again", key), nil
	case !stays:
		return fmt.Sprintf("the Container %s, in whose network it is, loses that network", key), nil
	}
	return "", nil
}

// joins finds the containers in whose networks others are, and wakes these.
type joins struct {
	Neighbours
	networks *network.Networks
	// followers of a container are in its network, or wait for it.
	followers *Followers
}

// joinedKey returns the key of the Container in whose network a container is to be, or none.
func joinedKey(c *Container) source.Key {
	if n := c.Bundle.Spec.Network; n != nil && n.Container != "" {
		return source.Key{Namespace: c.Key.Namespace, Name: n.Container}
	}
	return source.Key{}
}

// other returns the container that a container joins, or a *Pending.
func (j *joins) other(c *Container) (network.Neighbour, error) {
	key := joinedKey(c)
	if j.networks == nil || j.Bundle == nil {
		return network.Neighbour{}, errors.New("spec.network.container: found " + key.Name +
			"; allowed: nothing, since this agent makes no networks")
	}
	j.followers.follow(key, c.Key)
	b := j.Bundle(key)
	if b == nil || b.DeletionTimestamp != nil {
		return network.Neighbour{}, pendingNetwork(fmt.Sprintf(
			"spec.network.container: found %s, and no Container of that name in the namespace %s; it waits for one",
			key.Name, key.Namespace))
	}
	if n := b.Spec.Network; n != nil && n.Container != "" {
		return network.Neighbour{}, pendingNetwork(fmt.Sprintf(
			"spec.network.container: found %s, which is itself in the network of %s; allowed: a Container with a network of its own, such as %s",
			key.Name, n.Container, n.Container))
	}
	config := neighbourConfig(b)
	if !config.ownNetwork() {
		return network.Neighbour{}, pendingNetwork(fmt.Sprintf(
			"spec.network.container: found %s, which is in the node's network; allowed: a Container with a network of its own, or hostNetwork: true in place of network",
			key.Name))
	}
	id := ContainerID(key, b.UID)
	return network.Neighbour{ID: id, Name: key.String(), Files: j.Dir(id)}, nil
}

// join puts a container into the network of another one, and returns the path of its namespace.
func (j *joins) join(ctx context.Context, c *Container) (string, error) {
	other, err := j.other(c)
	if err == nil {
		var path string
		if path, err = j.networks.Join(ctx, c.ID, c.Dir, c.Key.String(), other); err == nil {
			return path, nil
		}
		err = j.notReady(c, err)
	}
	// joinStage has found it: it has gone since, and joinStage waits for the next one.
	if p := (*Pending)(nil); errors.As(err, &p) {
		err = &StageError{Reason: p.Reason, Class: NodeFault, Err: errors.New(p.Message)}
	}
	return "", err
}

// notReady returns the *Pending for a network that is not there yet. Any other error stays.
func (j *joins) notReady(c *Container, err error) error {
	if !errors.Is(err, network.ErrNotConnected) {
		return networkFault(err)
	}
	return pendingNetwork(fmt.Sprintf(
		"spec.network.container: waits until the Container %s is connected to its network", joinedKey(c)))
}

func pendingNetwork(message string) *Pending {
	return &Pending{
		Condition: v1alpha1.ConditionRunning, Reason: v1alpha1.ReasonNetworkNotReady, Message: message,
	}
}

// config has the parts of a bundle's document that matter to its neighbours.
type config struct {
	Hostname string `json:"hostname"`
	Linux    struct {
		Namespaces []struct {
			Type string `json:"type"`
		} `json:"namespaces"`
	} `json:"linux"`
}

func neighbourConfig(b *v1alpha1.OCIBundle) config {
	var out config
	_ = json.Unmarshal(b.Spec.Config.Raw, &out) // whoever runs it reports what is wrong
	return out
}

func (c config) ownNetwork() bool {
	for _, n := range c.Linux.Namespaces {
		if n.Type == "network" {
			return true
		}
	}
	return false
}

// nameserver returns the address at which a container asks for the names of others in its network;
// the zero value if nobody answers there.
func (j *joins) nameserver(c *Container) (netip.Addr, error) {
	if j.networks == nil {
		return netip.Addr{}, nil
	}
	id, _, err := j.networks.Membership(c.Dir)
	if err != nil {
		return netip.Addr{}, err
	}
	if id == "" {
		id = c.ID
	}
	address, _ := j.networks.Nameserver(id)
	return address, nil
}

// joinedNames returns what the files for names of a container are made of that is in the network of
// another one; nil if it is in its own.
func (j *joins) joinedNames(c *Container) *bundle.Joined {
	key := joinedKey(c)
	if key == (source.Key{}) || j.Bundle == nil {
		return nil
	}
	b := j.Bundle(key)
	if b == nil {
		return &bundle.Joined{Container: key.Name} // it is removed at this moment
	}
	return &bundle.Joined{
		Container: key.Name, Hostname: neighbourConfig(b).Hostname, Wanted: b.Spec.Names,
	}
}
