// SPDX-License-Identifier: Apache-2.0

package standalone

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/berth-run/berth/api/status"
	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/source/folder"
)

// Report is an agent's status of its Containers and manifests, as read from its files.
type Report struct {
	Containers []v1alpha1.Container
	Manifests  []Manifest
	// Complaints are the errors that keep the rest from being complete or current.
	Complaints []error
}

// Manifest is an item of the list for a file that is refused, or missing while its Containers go
// on. Its conditions are in the same place as those of a Container.
type Manifest struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Status            struct {
		PrintableStatus string             `json:"printableStatus"` // Refused or Missing
		Conditions      []metav1.Condition `json:"conditions"`
		Faults          []folder.Fault     `json:"faults"`
	} `json:"status"`
}

// ReadReport reads the report of the agent with this state directory. What cannot be read is a
// complaint, and an error only if there is nothing else.
func ReadReport(stateDir string, now time.Time) (Report, error) {
	var r Report
	all, err := folder.Read(stateDir)
	if err != nil && len(all) == 0 {
		return r, err
	}
	if err != nil {
		r.Complaints = append(r.Complaints, err)
	}
	r.Containers = all
	faults, err := folder.ReadFaults(stateDir)
	if err != nil {
		return r, err
	}
	r.Manifests = manifestsOf(faults)
	network, err := folder.ReadNetworkFault(stateDir)
	if err != nil {
		return r, err
	}
	if network != "" {
		r.Complaints = append(r.Complaints, fmt.Errorf("containers cannot be connected: %s", network))
	}
	since, err := folder.Refreshed(stateDir)
	if err != nil {
		return r, err
	}
	runs := claim.AgentRuns(stateDir)
	if !runs {
		text := fmt.Sprintf("no agent runs with --state-dir %s: this is what the last one wrote",
			stateDir)
		if !since.IsZero() {
			text += " until " + since.Format(time.RFC3339)
		}
		r.Complaints = append(r.Complaints, errors.New(text))
	}
	if !since.IsZero() && now.Sub(since) > staleAfter {
		why := "no agent runs"
		if runs {
			why = "the agent cannot write its state directory, or does not get on: see its log"
		}
		for i := range all {
			outdate(&all[i], since, why)
		}
	}
	return r, nil
}

// staleAfter is three times as long as the agent takes to mark its status as current.
const staleAfter = 90 * time.Second

// outdate marks the status of a Container as possibly outdated.
func outdate(c *v1alpha1.Container, since time.Time, why string) {
	if status.Finished(c.Status.Phase) {
		return
	}
	before := Message(c)
	if ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady); before == "" &&
		ready != nil {
		before = ready.Message
	}
	c.Status.PrintableStatus = string(v1alpha1.ContainerUnknown)
	meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionUnknown, Reason: "StatusNotRefreshed",
		ObservedGeneration: c.Generation,
		LastTransitionTime: metav1.NewTime(since).Rfc3339Copy(),
		Message: fmt.Sprintf("not known since %s: %s; before that: %s",
			since.Format(time.RFC3339), why, before),
	})
}

// manifestsOf groups faults by file.
func manifestsOf(faults []folder.Fault) []Manifest {
	var out []Manifest
	for _, f := range faults {
		status, reason := "Refused", v1alpha1.ReasonInvalidSpec
		if len(f.Containers) > 0 {
			status, reason = "Missing", "ManifestMissing"
		}
		if last := len(out) - 1; last >= 0 && out[last].Annotations["berth.run/path"] == f.File &&
			out[last].Status.PrintableStatus == status {
			m := &out[last]
			m.Status.Faults = append(m.Status.Faults, f)
			m.Status.Conditions[0].Message += "\n" + f.Error()
			continue
		}
		m := Manifest{TypeMeta: metav1.TypeMeta{
			APIVersion: v1alpha1.GroupVersion.String(),
			Kind:       "Manifest",
		}}
		m.Name, m.Annotations = filepath.Base(f.File), map[string]string{"berth.run/path": f.File}
		m.Status.PrintableStatus, m.Status.Faults = status, []folder.Fault{f}
		m.Status.Conditions = []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason, Message: f.Error(),
			LastTransitionTime: f.Since,
		}}
		out = append(out, m)
	}
	return out
}

// List returns Containers and manifests as kubectl lists objects of several kinds.
func (r Report) List() any {
	return list(append(pointers(r.Containers), pointers(r.Manifests)...))
}

// Check returns an error that lists the Containers that are not Ready, and the manifests that are
// refused or missing.
func (r Report) Check() error {
	var wrong []string
	for _, m := range r.Manifests {
		wrong = append(wrong, fmt.Sprintf("manifest %s is %s", m.Name,
			strings.ToLower(m.Status.PrintableStatus)))
	}
	for i := range r.Containers {
		c := &r.Containers[i]
		valid := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionSpecValid)
		switch {
		case !meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionReady):
			wrong = append(wrong, fmt.Sprintf("container %s is not Ready: %s", DisplayName(c), Phase(c)))
		case valid != nil && valid.Status == metav1.ConditionFalse:
			wrong = append(wrong, fmt.Sprintf("container %s has a manifest that is refused", DisplayName(c)))
		}
	}
	if len(wrong) > 0 {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}
