// SPDX-License-Identifier: Apache-2.0

package folder

import (
	"os"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/source"
)

// This file runs the init containers of Pods again after a boot, as a kubelet does: the boot has
// removed their network and their volumes in memory, which the other containers of the Pod need.

// goesOn reports whether a container starts again after a boot. Its status is from before the boot,
// or from an agent that was killed soon after it.
func goesOn(c *v1alpha1.Container) bool {
	if _, stopped := Taken(c); stopped || c.DeletionTimestamp != nil {
		return false
	}
	switch c.Spec.RestartPolicy {
	case corev1.RestartPolicyNever:
		st := c.Status.State
		return st.Running == nil && st.Terminated == nil &&
			(st.Waiting == nil || st.Waiting.Message != notLookedAt)
	case corev1.RestartPolicyOnFailure:
		return c.Status.Phase != v1alpha1.ContainerSucceeded
	}
	return true
}

// bootFile returns the path of the file with the id of the boot in which init containers have run.
// It is written after the requests to run them again: an agent that was killed in between requests
// the same again.
func bootFile(stateDir string) string { return filepath.Join(stateDir, "boot") }

// afterBoot requests further runs of init containers if the machine was booted. going has the
// Containers that start again.
func (f *Folder) afterBoot(going map[source.Key]bool) {
	path := bootFile(f.o.StateDir)
	last, err := os.ReadFile(path)
	if err == nil && string(last) == f.o.Boot {
		return
	}
	// If the file is lost or unreadable, the status on disk shows whether there was a boot.
	if len(last) > 0 || f.o.NewBoot {
		f.repeatInit(going)
	}
	err = f.reserve.Replace(path, []byte(f.o.Boot), durable.Options{Sync: true})
	if err != nil {
		f.o.Log.Error("cannot write down the boot; init containers may run again at the next start",
			"error", err)
	}
}

// repeatInit requests another run of each init container that succeeded before the boot and that a
// container of its Pod waits for.
func (f *Folder) repeatInit(going map[source.Key]bool) {
	needed := map[source.Key]bool{}
	for key := range f.entries {
		if going[key] {
			f.needs(key, needed)
		}
	}
	for key := range needed {
		e := f.entries[key]
		if e.bundle == nil || e.bundle.DeletionTimestamp != nil ||
			e.container.Status.Phase != v1alpha1.ContainerSucceeded {
			continue
		}
		f.replace(key, func(_ *entry, c *v1alpha1.Container, b *v1alpha1.OCIBundle) {
			c.Annotations[source.AnnotationRestart] = "boot " + f.o.Boot
			b.Annotations = annotations(c)
			// Until it has run again, nobody may take it for completed.
			c.Status.ObservedGeneration, b.Status.ObservedGeneration = -1, -1
		})
	}
}

// needs adds the init containers that a container of a Pod waits for, and the init containers
// before them: the first one owns the network.
func (f *Folder) needs(key source.Key, needed map[source.Key]bool) {
	e := f.entries[key]
	for _, d := range e.container.Spec.DependsOn {
		other := source.Key{Namespace: key.Namespace, Name: d.Name}
		if d.Condition == v1alpha1.DependencyCompleted && !needed[other] && samePod(e, f.entries[other]) {
			needed[other] = true
			f.needs(other, needed)
		}
	}
}

// samePod reports whether two Containers are of one Pod.
func samePod(a, b *entry) bool {
	pod := a.container.Annotations[v1alpha1.AnnotationPod]
	return pod != "" && b != nil && b.container.Annotations[v1alpha1.AnnotationPod] == pod
}
