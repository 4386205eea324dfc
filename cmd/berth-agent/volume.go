// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/berth-run/berth/node-agent/standalone"
	"github.com/berth-run/berth/node-agent/volume"
)

func volumeCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "volume",
		Short: "List and remove the volumes of an agent that works alone",
		Long: `A volume is the directory of a PersistentVolumeClaim. It outlives the Containers that use it
and the claim: these commands alone remove it.`,
		Example: "  berth-agent volume ls\n  berth-agent volume rm database\n  berth-agent volume prune",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(volumeListCommand(o), volumeRemoveCommand(o), volumePruneCommand(o))
	return c
}

func volumeListCommand(o *options) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "Show the volumes, whether a manifest claims them, and the Containers that use them",
		Example: "  berth-agent volume ls\n  berth-agent volume ls -o yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" && output != "yaml" {
				return fmt.Errorf("--output: found %q; allowed: json, yaml, or nothing for a table", output)
			}
			if _, err := o.readSettings(); err != nil {
				return err
			}
			volumes, err := standalone.ReadVolumes(o.StateDir)
			if err != nil {
				return needRoot(err)
			}
			if output != "" {
				return print(cmd.OutOrStdout(), output, standalone.ListVolumes(volumes))
			}
			printVolumes(cmd.OutOrStdout(), volumes, time.Now())
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json or yaml; absent, a table")
	return c
}

func printVolumes(w io.Writer, volumes []standalone.Volume, now time.Time) {
	if len(volumes) == 0 {
		fmt.Fprintln(w, "no volumes")
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "NAMESPACE\tNAME\tCLAIMED\tUSED BY\tAGE")
	for i := range volumes {
		v := &volumes[i]
		claimed, usedBy, age := "no", "-", "-"
		if v.Status.Claimed {
			claimed = "yes"
		}
		if len(v.Status.UsedBy) > 0 {
			usedBy = strings.Join(v.Status.UsedBy, ", ")
		}
		if !v.CreationTimestamp.IsZero() {
			age = duration.HumanDuration(now.Sub(v.CreationTimestamp.Time))
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", v.Namespace, v.Name, claimed, usedBy, age)
	}
	_ = tw.Flush()
}

func volumeRemoveCommand(o *options) *cobra.Command {
	var namespace string
	c := &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove volumes that no Container uses, with their data",
		Long: `rm removes volumes with their data. It refuses a volume that a Container of the manifests
names, or that a container has. A volume whose PersistentVolumeClaim is still in the manifests is
created anew, and empty, for the next Container that names it.`,
		Example: "  berth-agent volume rm database\n  berth-agent volume rm -n shop orders invoices",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := o.readSettings(); err != nil {
				return err
			}
			var errs []error
			for _, name := range args {
				id := volume.ID{Namespace: namespace, Name: name}
				if err := standalone.RemoveVolume(cmd.Context(), o.StateDir, id); err != nil {
					errs = append(errs, needRoot(err))
					continue
				}
				fmt.Fprintln(cmd.OutOrStdout(), standalone.DisplayID(id))
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().StringVarP(&namespace, "namespace", "n", corev1.NamespaceDefault,
		"`namespace` of the NAMEs")
	return c
}

func volumePruneCommand(o *options) *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove the volumes that no manifest claims and no Container uses, with their data",
		Long: `prune removes the volumes that are neither claimed by a PersistentVolumeClaim of the manifests
nor used by a Container. It asks before it removes them. While a manifest is refused or missing,
which may claim any of them, nothing is removed.`,
		Example: "  berth-agent volume prune\n  berth-agent volume prune --force",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := o.readSettings(); err != nil {
				return err
			}
			unneeded, err := standalone.Unneeded(o.StateDir)
			if err != nil || len(unneeded) == 0 {
				return needRoot(err)
			}
			if !force && !confirmed(cmd, unneeded) {
				return errors.New("nothing is removed: found no confirmation; allowed: y, or --force")
			}
			var errs []error
			for i := range unneeded {
				removed, err := standalone.PruneVolume(cmd.Context(), o.StateDir, unneeded[i].ID())
				errs = append(errs, needRoot(err))
				if removed {
					fmt.Fprintln(cmd.OutOrStdout(), standalone.DisplayID(unneeded[i].ID()))
				}
			}
			return errors.Join(errs...)
		},
	}
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return c
}

// confirmed asks whether volumes are to be removed.
func confirmed(cmd *cobra.Command, volumes []standalone.Volume) bool {
	w := cmd.ErrOrStderr()
	fmt.Fprintln(w, "These volumes are removed with all their data:")
	for i := range volumes {
		fmt.Fprintf(w, "  %s   %s\n", standalone.DisplayID(volumes[i].ID()), volumes[i].Status.Path)
	}
	fmt.Fprint(w, "Continue? [y/N] ")
	return saysYes(bufio.NewReader(cmd.InOrStdin()))
}

// saysYes reports whether a line is the answer yes.
func saysYes(r *bufio.Reader) bool {
	answer, _ := r.ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}
