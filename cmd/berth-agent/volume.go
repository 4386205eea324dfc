// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

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
			if err := checkOutput(output, "json", "yaml"); err != nil {
				return err
			}
			if _, err := o.readSettings(); err != nil {
				return err
			}
			volumes, err := standalone.ReadVolumes(o.StateDir)
			if err != nil {
				return needRoot(err)
			}
			if output != "" {
				return print(cmd.OutOrStdout(), output, standalone.List(volumes))
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
	tw := newTable(w, "NAMESPACE", "NAME", "CLAIMED", "USED BY", "AGE")
	for i := range volumes {
		v := &volumes[i]
		claimed := "no"
		if v.Status.Claimed {
			claimed = "yes"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", v.Namespace, v.Name, claimed,
			joined(v.Status.UsedBy), age(&v.CreationTimestamp, now))
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
			if !force {
				if err := confirmVolumes(cmd, unneeded); err != nil {
					return err
				}
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

// confirmVolumes asks whether volumes are to be removed.
func confirmVolumes(cmd *cobra.Command, volumes []standalone.Volume) error {
	var lines []string
	for i := range volumes {
		lines = append(lines, standalone.DisplayID(volumes[i].ID())+"   "+volumes[i].Status.Path)
	}
	return confirm(cmd, "These volumes are removed with all their data:", lines)
}
