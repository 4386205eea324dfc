// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/source/folder"
)

func statusCommand(o *options) *cobra.Command {
	var output, namespace string
	var check bool
	c := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show the Containers of an agent that works alone, and the manifests that it refuses",
		Example: `  berth-agent status
  berth-agent status hello -o yaml
  berth-agent status --check`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "" && output != "json" && output != "yaml" {
				return fmt.Errorf("--output: found %q; allowed: json, yaml, or nothing for a table", output)
			}
			r, err := o.read(cmd.ErrOrStderr(), time.Now())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				one, err := find(r.containers, namespace, args[0])
				if err != nil {
					return err
				}
				r = report{containers: []v1alpha1.Container{*one}}
			}
			switch {
			case output != "" && len(args) == 1:
				err = print(cmd.OutOrStdout(), output, r.containers[0])
			case output != "":
				err = print(cmd.OutOrStdout(), output, r.list())
			default:
				r.table(cmd.OutOrStdout(), time.Now())
				for _, m := range r.manifests {
					for _, f := range m.Status.Faults {
						fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n", strings.ToLower(m.Status.PrintableStatus), f)
					}
				}
			}
			if err == nil && check {
				err = r.check()
			}
			return err
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json or yaml; absent, a table")
	c.Flags().StringVarP(&namespace, "namespace", "n", corev1.NamespaceDefault, "namespace of NAME")
	c.Flags().BoolVar(&check, "check", false, "exit with 1 unless every Container is Ready and no manifest is refused or missing")
	return c
}

// report is the agent's view of its Containers and manifests.
type report struct {
	containers []v1alpha1.Container
	manifests  []manifest
}

// manifest is an item of the list for a file that is refused, or missing while its Containers go
// on. Its conditions are in the same place as those of a Container.
type manifest struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Status            struct {
		PrintableStatus string             `json:"printableStatus"` // Refused or Missing
		Conditions      []metav1.Condition `json:"conditions"`
		Faults          []folder.Fault     `json:"faults"`
	} `json:"status"`
}

// read reads the report. What it cannot read goes to complaints, unless there is nothing else.
func (o *options) read(complaints io.Writer, now time.Time) (report, error) {
	all, err := o.containers()
	if err != nil && len(all) == 0 {
		return report{}, err
	}
	if err != nil {
		fmt.Fprintln(complaints, err)
	}
	faults, err := folder.ReadFaults(o.stateDir)
	if err != nil {
		return report{}, err
	}
	since, err := folder.Refreshed(o.stateDir)
	if err != nil {
		return report{}, err
	}
	runs := claim.AgentRuns(o.stateDir)
	if !runs {
		text := fmt.Sprintf("no agent runs with --state-dir %s: this is what the last one wrote", o.stateDir)
		if !since.IsZero() {
			text += " until " + since.Format(time.RFC3339)
		}
		fmt.Fprintln(complaints, text)
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
	return report{all, manifestsOf(faults)}, nil
}

// staleAfter is three times as long as the agent takes to mark its status as current.
const staleAfter = 90 * time.Second

// outdate says of a Container that what is written of it may not be so any more.
func outdate(c *v1alpha1.Container, since time.Time, why string) {
	if c.Status.Phase == v1alpha1.ContainerSucceeded || c.Status.Phase == v1alpha1.ContainerFailed {
		return
	}
	before := message(c)
	if ready := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady); before == "" && ready != nil {
		before = ready.Message
	}
	c.Status.PrintableStatus = string(v1alpha1.ContainerUnknown)
	meta.SetStatusCondition(&c.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionUnknown, Reason: "StatusNotRefreshed", ObservedGeneration: c.Generation,
		LastTransitionTime: metav1.NewTime(since).Rfc3339Copy(),
		Message:            fmt.Sprintf("not known since %s: %s; before that: %s", since.Format(time.RFC3339), why, before),
	})
}

// manifestsOf gathers faults by the files that they are of.
func manifestsOf(faults []folder.Fault) []manifest {
	var out []manifest
	for _, f := range faults {
		status, reason := "Refused", v1alpha1.ReasonInvalidSpec
		if len(f.Containers) > 0 {
			status, reason = "Missing", "ManifestMissing"
		}
		if last := len(out) - 1; last >= 0 && out[last].Annotations["berth.run/path"] == f.File && out[last].Status.PrintableStatus == status {
			m := &out[last]
			m.Status.Faults = append(m.Status.Faults, f)
			m.Status.Conditions[0].Message += "\n" + f.Error()
			continue
		}
		m := manifest{TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Manifest"}}
		m.Name, m.Annotations = filepath.Base(f.File), map[string]string{"berth.run/path": f.File}
		m.Status.PrintableStatus, m.Status.Faults = status, []folder.Fault{f}
		m.Status.Conditions = []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: reason, Message: f.Error(), LastTransitionTime: f.Since,
		}}
		out = append(out, m)
	}
	return out
}

// list returns Containers and manifests as kubectl lists objects of several kinds.
func (r report) list() any {
	items := []any{}
	for i := range r.containers {
		items = append(items, &r.containers[i])
	}
	for i := range r.manifests {
		items = append(items, &r.manifests[i])
	}
	return map[string]any{"apiVersion": "v1", "kind": "List", "items": items}
}

// check returns what is not as it should be.
func (r report) check() error {
	var wrong []string
	for _, m := range r.manifests {
		wrong = append(wrong, fmt.Sprintf("manifest %s is %s", m.Name, strings.ToLower(m.Status.PrintableStatus)))
	}
	for i := range r.containers {
		c := &r.containers[i]
		valid := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionSpecValid)
		switch {
		case !meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionReady):
			wrong = append(wrong, fmt.Sprintf("container %s is not Ready: %s", display(c), word(c)))
		case valid != nil && valid.Status == metav1.ConditionFalse:
			wrong = append(wrong, fmt.Sprintf("container %s has a manifest that is refused", display(c)))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("--check: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// maxNamed is how many containers an error names.
const maxNamed = 20

func find(all []v1alpha1.Container, namespace, name string) (*v1alpha1.Container, error) {
	var names []string
	for i := range all {
		if all[i].Name == name && all[i].Namespace == namespace {
			return &all[i], nil
		}
		names = append(names, display(&all[i]))
	}
	switch {
	case len(names) == 0:
		return nil, fmt.Errorf("NAME: found no container %s/%s; there are no containers", namespace, name)
	case len(names) > maxNamed:
		return nil, fmt.Errorf("NAME: found no container %s/%s; berth-agent status lists the %d that there are", namespace, name, len(names))
	}
	return nil, fmt.Errorf("NAME: found no container %s/%s; there are: %s", namespace, name, sortedNames(names))
}

func print(w io.Writer, format string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err == nil && format == "yaml" {
		data, err = yaml.JSONToYAML(data)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, strings.TrimRight(string(data), "\n"))
	return err
}

// display is the name with its namespace, unless that is default.
func display(c *v1alpha1.Container) string {
	if c.Namespace == corev1.NamespaceDefault {
		return c.Name
	}
	return c.Namespace + "/" + c.Name
}

// word is the phase of a Container for people.
func word(c *v1alpha1.Container) string {
	if c.Status.PrintableStatus != "" {
		return c.Status.PrintableStatus
	}
	return string(c.Status.Phase) // of an earlier agent
}

// table prints what people look for first.
func (r report) table(w io.Writer, now time.Time) {
	if len(r.containers)+len(r.manifests) == 0 {
		fmt.Fprintln(w, "no containers")
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "NAME\tPHASE\tREADY\tRESTARTS\tPID\tAGE\tMESSAGE")
	for i := range r.containers {
		c := &r.containers[i]
		ready := "Unknown"
		if cond := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady); cond != nil {
			ready = string(cond.Status)
		}
		pid := "-"
		if c.Status.PID != 0 {
			pid = strconv.FormatInt(c.Status.PID, 10)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", display(c), word(c), ready, c.Status.RestartCount, pid,
			duration.HumanDuration(now.Sub(c.CreationTimestamp.Time)), message(c))
	}
	for _, m := range r.manifests {
		age := "-"
		if since := m.Status.Faults[0].Since; !since.IsZero() {
			age = duration.HumanDuration(now.Sub(since.Time))
		}
		text := strings.Join(strings.Fields(m.Status.Faults[0].Fault.Error()), " ")
		if more := len(m.Status.Faults) - 1; more > 0 {
			text += fmt.Sprintf(" (and %d more faults)", more)
		}
		fmt.Fprintf(tw, "%s\t%s\tFalse\t-\t-\t%s\t%s\n", m.Name, m.Status.PrintableStatus, age, text)
	}
	_ = tw.Flush()
}

// message is the most pressing thing to say of a container, on one line.
func message(c *v1alpha1.Container) string {
	conditions := c.Status.Conditions
	var text string
	if ready := meta.FindStatusCondition(conditions, v1alpha1.ConditionReady); ready != nil && ready.Status == metav1.ConditionUnknown {
		text = ready.Message
	} else if valid := meta.FindStatusCondition(conditions, v1alpha1.ConditionSpecValid); valid != nil && valid.Status == metav1.ConditionFalse {
		text = valid.Message
	} else if image := meta.FindStatusCondition(conditions, v1alpha1.ConditionImageReady); image != nil && image.Status == metav1.ConditionFalse {
		text = image.Message
	} else if running := meta.FindStatusCondition(conditions, v1alpha1.ConditionRunning); running != nil && running.Status != metav1.ConditionTrue {
		text = running.Message
	} else if c.Status.OOMKills > 0 {
		text = fmt.Sprintf("%d of its processes were killed for lack of memory", c.Status.OOMKills)
	}
	if c.DeletionTimestamp != nil {
		if running := meta.FindStatusCondition(conditions, v1alpha1.ConditionRunning); text == "" && running != nil {
			text = running.Message // which says what its end waits for
		}
		text = strings.TrimSuffix("being removed: "+text, ": ")
	}
	return strings.Join(strings.Fields(text), " ")
}
