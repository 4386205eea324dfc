// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/berth-run/berth/api/v1alpha1"
	"github.com/berth-run/berth/node-agent/standalone"
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
			if err := checkOutput(output, "json", "yaml"); err != nil {
				return err
			}
			r, err := standalone.ReadReport(o.StateDir, time.Now())
			for _, c := range r.Complaints {
				fmt.Fprintln(cmd.ErrOrStderr(), needRoot(c))
			}
			if err != nil {
				return needRoot(err)
			}
			if len(args) == 1 {
				one, err := standalone.Find(r.Containers, namespace, args[0])
				if err != nil {
					return err
				}
				r = standalone.Report{Containers: []v1alpha1.Container{*one}}
			}
			switch {
			case output != "" && len(args) == 1:
				err = print(cmd.OutOrStdout(), output, r.Containers[0])
			case output != "":
				err = print(cmd.OutOrStdout(), output, r.List())
			default:
				printTable(cmd.OutOrStdout(), r, time.Now())
				for _, m := range r.Manifests {
					for _, f := range m.Status.Faults {
						fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n", strings.ToLower(m.Status.PrintableStatus), f)
					}
				}
			}
			if err != nil || !check {
				return err
			}
			if err := r.Check(); err != nil {
				return fmt.Errorf("--check: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json or yaml; absent, a table")
	c.Flags().StringVarP(&namespace, "namespace", "n", corev1.NamespaceDefault, "namespace of NAME")
	c.Flags().BoolVar(&check, "check", false,
		"exit with 1 unless every Container is Ready and no manifest is refused or missing")
	return c
}

// printTable prints what people look for first.
func printTable(w io.Writer, r standalone.Report, now time.Time) {
	if len(r.Containers)+len(r.Manifests) == 0 {
		fmt.Fprintln(w, "no containers")
		return
	}
	tw := newTable(w, "NAME", "PHASE", "READY", "RESTARTS", "IP", "PID", "AGE", "MESSAGE")
	for i := range r.Containers {
		c := &r.Containers[i]
		ready := "Unknown"
		if cond := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionReady); cond != nil {
			ready = string(cond.Status)
		}
		pid := "-"
		if c.Status.PID != 0 {
			pid = strconv.FormatInt(c.Status.PID, 10)
		}
		ip := "-"
		if len(c.Status.IPs) > 0 {
			ip = c.Status.IPs[0].IP
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", standalone.DisplayName(c),
			standalone.Phase(c), ready, c.Status.RestartCount, ip, pid,
			duration.HumanDuration(now.Sub(c.CreationTimestamp.Time)), standalone.Message(c))
	}
	for _, m := range r.Manifests {
		text := strings.Join(strings.Fields(m.Status.Faults[0].Fault.Error()), " ")
		if more := len(m.Status.Faults) - 1; more > 0 {
			text += fmt.Sprintf(" (and %d more faults)", more)
		}
		fmt.Fprintf(tw, "%s\t%s\tFalse\t-\t-\t-\t%s\t%s\n", m.Name, m.Status.PrintableStatus,
			age(&m.Status.Faults[0].Since, now), text)
	}
	_ = tw.Flush()
}
