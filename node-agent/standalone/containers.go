// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/v1alpha1"
)

// maxNamed is the number of containers that an error names.
const maxNamed = 20

// Find returns the Container of a name. Its error lists the names that there are.
func Find(all []v1alpha1.Container, namespace, name string) (*v1alpha1.Container, error) {
	var names []string
	for i := range all {
		if all[i].Name == name && all[i].Namespace == namespace {
			return &all[i], nil
		}
		names = append(names, DisplayName(&all[i]))
	}
	switch {
	case len(names) == 0:
		return nil, fmt.Errorf("NAME: found no container %s/%s; there are no containers", namespace, name)
	case len(names) > maxNamed:
		return nil, fmt.Errorf(
			"NAME: found no container %s/%s; berth-agent status lists the %d that there are", namespace,
			name, len(names))
	}
	return nil, fmt.Errorf("NAME: found no container %s/%s; there are: %s", namespace, name,
		strings.Join(slices.Sorted(slices.Values(names)), ", "))
}

// DisplayName returns the name with its namespace, unless that is default.
func DisplayName(c *v1alpha1.Container) string {
	if c.Namespace == corev1.NamespaceDefault {
		return c.Name
	}
	return c.Namespace + "/" + c.Name
}

// Phase returns the phase of a Container for people.
func Phase(c *v1alpha1.Container) string {
	if c.Status.PrintableStatus != "" {
		return c.Status.PrintableStatus
	}
	return string(c.Status.Phase) // of an earlier agent
}

// Message returns the most pressing thing to say of a Container, on one line.
func Message(c *v1alpha1.Container) string {
	conditions := c.Status.Conditions
	var text string
	if ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); ready != nil &&
		ready.Status == metav1.ConditionUnknown {
		text = ready.Message
	} else if valid := meta.FindStatusCondition(conditions,
		v1alpha1.ConditionSpecValid); valid != nil && valid.Status == metav1.ConditionFalse {
		text = valid.Message
	} else if image := meta.FindStatusCondition(conditions,
		v1alpha1.ConditionImageReady); image != nil && image.Status == metav1.ConditionFalse {
		text = image.Message
	} else if running := meta.FindStatusCondition(conditions,
		v1alpha1.ConditionRunning); running != nil && running.Status != metav1.ConditionTrue {
		text = running.Message
	} else if dns := meta.FindStatusCondition(conditions,
		v1alpha1.ConditionDNSConfigured); dns != nil && dns.Status == metav1.ConditionFalse {
		text = dns.Message
	} else if c.Status.OOMKills > 0 {
		text = fmt.Sprintf("%d of its processes were killed for lack of memory", c.Status.OOMKills)
	}
	if c.DeletionTimestamp != nil {
		if running := meta.FindStatusCondition(conditions, v1alpha1.ConditionRunning); text == "" &&
			running != nil {
			text = running.Message // which says what its end waits for
		}
		text = strings.TrimSuffix("being removed: "+text, ": ")
	}
	return strings.Join(strings.Fields(text), " ")
}
