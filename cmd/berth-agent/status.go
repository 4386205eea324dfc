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
	"github.com/berth-run/berth/internal/durable"
	"github.com/berth-run/berth/node-agent/source/folder"
)

func statusCommand(o *options) *cobra.Command {
	var output, namespace string
	c := &cobra.Command{
		Use:   "status [NAME]",
		Short: "Show the Containers of an agent that works alone",
		Example: `  berth-agent status
  berth-agent status hello -o yaml`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if output != "" && output != "json" && output != "yaml" {
				return fmt.Errorf("--output: found %q; allowed: json, yaml, or nothing for a table", output)
			}
			all, err := o.containers()
			if err != nil && len(all) == 0 {
				return err
			}
			if err != nil {
				fmt.Fprintln(cmd.ErrOrStderr(), err)
			}
			faults, err := folder.ReadFaults(o.stateDir)
			if err != nil {
				return err
			}
			if !agentRuns(o.stateDir) {
				fmt.Fprintf(cmd.ErrOrStderr(), "no agent runs with --state-dir %s: this is what the last one wrote\n", o.stateDir)
			}
			if len(args) == 1 {
				one, err := find(all, namespace, args[0])
				if err != nil {
					return err
				}
				if output != "" {
					return print(cmd.OutOrStdout(), output, one)
				}
				all, faults = []v1alpha1.Container{*one}, nil
			}
			if output != "" {
				list := v1alpha1.ContainerList{Items: all}
				list.APIVersion, list.Kind = v1alpha1.GroupVersion.String(), "ContainerList"
				if list.Items == nil {
					list.Items = []v1alpha1.Container{}
				}
				return print(cmd.OutOrStdout(), output, list)
			}
			table(cmd.OutOrStdout(), all, time.Now())
			for _, f := range faults {
				if len(f.Containers) > 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "missing: %v (%s)\n", f, strings.Join(f.Containers, ", "))
					continue
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "refused: %v\n", f)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json or yaml; absent, a table")
	c.Flags().StringVarP(&namespace, "namespace", "n", corev1.NamespaceDefault, "namespace of NAME")
	return c
}

// agentRuns tells whether an agent holds the lock of the folder.
func agentRuns(stateDir string) bool {
	return durable.Locked(filepath.Join(stateDir, "agent.lock"))
}

func find(all []v1alpha1.Container, namespace, name string) (*v1alpha1.Container, error) {
	var names []string
	for i := range all {
		if all[i].Name == name && all[i].Namespace == namespace {
			return &all[i], nil
		}
		names = append(names, display(&all[i]))
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("NAME: found no container %s/%s; there is none at all", namespace, name)
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

// table prints what people look for first.
func table(w io.Writer, all []v1alpha1.Container, now time.Time) {
	if len(all) == 0 {
		fmt.Fprintln(w, "no containers")
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "NAME\tPHASE\tREADY\tRESTARTS\tPID\tAGE\tMESSAGE")
	for i := range all {
		c := &all[i]
		ready := "Unknown"
		if cond := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady); cond != nil {
			ready = string(cond.Status)
		}
		pid := "-"
		if c.Status.PID != 0 {
			pid = strconv.FormatInt(c.Status.PID, 10)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", display(c), c.Status.Phase, ready, c.Status.RestartCount, pid,
			duration.HumanDuration(now.Sub(c.CreationTimestamp.Time)), message(c))
	}
	_ = tw.Flush()
}

// message is the most pressing thing to say of a container, on one line.
func message(c *v1alpha1.Container) string {
	conditions := c.Status.Conditions
	var text string
	if valid := meta.FindStatusCondition(conditions, v1alpha1.ConditionSpecValid); valid != nil && valid.Status == metav1.ConditionFalse {
		text = valid.Message
	} else if image := meta.FindStatusCondition(conditions, v1alpha1.ConditionImageReady); image != nil && image.Status == metav1.ConditionFalse {
		text = image.Message
	} else if running := meta.FindStatusCondition(conditions, v1alpha1.ConditionRunning); running != nil && running.Status != metav1.ConditionTrue {
		text = running.Message
	}
	text = strings.Join(strings.Fields(text), " ")
	if c.DeletionTimestamp != nil {
		text = strings.TrimSpace("being removed " + text)
	}
	return text
}
