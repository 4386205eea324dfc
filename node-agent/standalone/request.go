// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/source"
	"github.com/berth-run/berth/node-agent/source/folder"
)

// Request is something that the agent with a state directory has been asked to do to a Container.
type Request struct {
	stateDir string
	verb     folder.Verb
	before   v1alpha1.Container
	id       string
	// taken is the last time at which the agent had not come to the request.
	taken time.Time
}

// Needed reports whether a verb would change anything of a Container.
func Needed(verb folder.Verb, c *v1alpha1.Container) bool {
	_, stopped := folder.Taken(c)
	switch verb {
	case folder.Stop:
		return !stopped && !status.Finished(c.Status.Phase)
	case folder.Start:
		return stopped || c.Status.PID == 0
	}
	return true
}

// Ask asks the agent with a state directory for something, and returns at once.
func Ask(stateDir string, verb folder.Verb, c *v1alpha1.Container) (*Request, error) {
	id, err := folder.Ask(stateDir, verb, c)
	if err != nil {
		return nil, err
	}
	return &Request{stateDir: stateDir, verb: verb, before: *c, id: id, taken: time.Now()}, nil
}

// Wait waits until the agent has carried out a request. While it pulls the Container's image,
// pulling is called with the Container now and then.
func (r *Request) Wait(ctx context.Context, pulling func(*v1alpha1.Container)) error {
	for {
		select {
		case <-ctx.Done():
			return errors.New("interrupted; the agent does it all the same")
		case <-time.After(50 * time.Millisecond):
		}
		pending, err := folder.Pending(r.stateDir, r.id)
		if err != nil {
			return err
		}
		all, err := folder.Read(r.stateDir)
		if err != nil && len(all) == 0 {
			return err
		}
		i := slices.IndexFunc(all, func(c v1alpha1.Container) bool { return c.UID == r.before.UID })
		switch {
		case i < 0 && (r.verb == folder.Remove || r.verb == folder.Stop):
			return nil
		case i < 0:
			return errors.New("it was removed")
		case !claim.AgentRuns(r.stateDir):
			return errors.New("the agent ended before it was done; the next one goes on with it")
		}
		if pending {
			r.taken = time.Now()
		}
		if done, err := r.settled(&all[i], time.Since(r.taken)); done || err != nil {
			return err
		}
		if s := all[i].Status.State.Waiting; s != nil && s.Reason == v1alpha1.ReasonPulling {
			pulling(&all[i])
		}
	}
}

// failureAfter is the time for which a failure from before the agent came to a request does not
// count as the answer to it, nor that the request has no effect.
const failureAfter = 3 * time.Second

// settled reports whether the status of a container is the one after a request, to which the agent
// has come so long ago.
func (r *Request) settled(c *v1alpha1.Container, waited time.Duration) (bool, error) {
	restart, stopped := folder.Taken(c)
	switch r.verb {
	case folder.Remove:
		return false, nil
	case folder.Stop:
		if !stopped && waited > failureAfter { // another request came after it
			return true, nil
		}
		waiting := c.Status.State.Waiting
		return stopped && c.Status.PID == 0 && waiting != nil &&
			waiting.Reason == v1alpha1.ReasonStopped, nil
	}
	if restart != r.id {
		if waited > failureAfter && restart == r.before.Annotations[source.AnnotationRestart] &&
			c.Status.PID != 0 {
			return true, nil // it ran by the time that the agent came to the request
		}
		return false, nil
	}
	if c.Status.PID != 0 && c.Status.PID != r.before.Status.PID {
		return true, nil
	}
	again := c.Status.RestartCount > r.before.Status.RestartCount
	if again && status.Finished(c.Status.Phase) {
		return true, nil
	}
	waiting := c.Status.State.Waiting
	if waiting == nil {
		return false, nil
	}
	switch waiting.Reason {
	case v1alpha1.ReasonProgressing, v1alpha1.ReasonPulling, v1alpha1.ReasonStopped:
		return false, nil
	case v1alpha1.ReasonCrashLoopBackOff:
		if !again {
			return false, nil
		}
	default:
		if before := r.before.Status.State.Waiting; before != nil && before.Message == waiting.Message &&
			waited < failureAfter {
			return false, nil
		}
	}
	return false, errors.New(Message(c))
}
