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

// This file has the init containers of Pods run again after a boot, as a kubelet has them: with the
// boot, their network and their volumes in memory went, which the other containers of the Pod need.

// goesOn reports whether a container that was left by a boot is to be started again. Its status is
// that of before the boot.
func goesOn(c *v1alpha1.Container) bool {
	if _, stopped := Taken(c); stopped || c.DeletionTimestamp != nil {
		return false
	}
	switch c.Spec.RestartPolicy {
	case corev1.RestartPolicyNever:
		return c.Status.State.Running == nil && c.Status.State.Terminated == nil
	case corev1.RestartPolicyOnFailure:
		return c.Status.Phase != v1alpha1.ContainerSucceeded
	}
	return true
}

// bootFile has the id of the boot in which init containers have run. It is written after the
// requests to run them again: an agent that was killed in between requests the same again.
func bootFile(stateDir string) string { return filepath.Join(stateDir, "boot") }

// afterBoot has init containers run again if the machine was booted. going are the Containers that
// go on then.
func (f *Folder) afterBoot(going map[source.Key]bool) {
	path := bootFile(f.o.StateDir)
	last, err := os.ReadFile(path)
	if err == nil && string(last) == f.o.Boot {
		return
	}
	if len(last) > 0 {
		f.repeatInit(going)
	}
	if err := f.reserve.Replace(path, []byte(f.o.Boot), durable.Options{}); err != nil {
		f.o.Log.Error("cannot write down the boot; init containers may run again at the next start",
			"error", err)
	}
}

// repeatInit requests that the init containers run again that had succeeded before the boot, and
// that a container of their Pod waits for.
func (f *Folder) repeatInit(going map[source.Key]bool) {
	needed := map[source.Key]bool{}
	for key, e := range f.entries {
		for _, d := range e.container.Spec.DependsOn {
			other := source.Key{Namespace: key.Namespace, Name: d.Name}
			if going[key] && samePod(e, f.entries[other]) &&
				d.Condition == v1alpha1.DependencyCompleted {
				needed[other] = true
			}
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

// samePod reports whether two Containers are of one Pod.
func samePod(a, b *entry) bool {
	pod := a.container.Annotations[v1alpha1.AnnotationPod]
	return pod != "" && b != nil && b.container.Annotations[v1alpha1.AnnotationPod] == pod
}
