// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/berth-run/berth/node-agent/agent"
	"github.com/berth-run/berth/node-agent/claim"
	"github.com/berth-run/berth/node-agent/image"
	"github.com/berth-run/berth/node-agent/image/hostsdir"
	"github.com/berth-run/berth/node-agent/standalone"
)

func imageCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "image",
		Short: "List, pull, pin and remove the images of the node",
		Long: `The images of the node: the images of the containers of the agent with --state-dir, and all others
that were pulled before. These commands work beside the agent and without it, also on a node of a
cluster.`,
		Example: "  berth-agent image ls\n  berth-agent image pull docker.io/library/busybox:1.37\n" +
			"  berth-agent image rm docker.io/library/busybox:1.37\n  berth-agent image prune --all",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(imageListCommand(o), imageRemoveCommand(o), imagePruneCommand(o),
		imagePullCommand(o), imagePinCommand(o), imageUnpinCommand(o))
	return c
}

// withImages calls f with the images of the state directory.
func (o *options) withImages(f func(*standalone.Images) error, more ...image.Option) error {
	settings, err := o.readSettings()
	if err != nil {
		return err
	}
	images, err := standalone.OpenImages(o.StateDir, append(more,
		image.WithPinned(settings.PinnedImages))...)
	if err != nil {
		return needRoot(err)
	}
	return needRoot(errors.Join(f(images), images.Close()))
}

func imageListCommand(o *options) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "Show the images, their size, and the containers that have them",
		Example: "  berth-agent image ls\n  berth-agent image ls -o yaml",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, "json", "yaml", "name"); err != nil {
				return err
			}
			return o.withImages(func(images *standalone.Images) error {
				all, err := images.List()
				if err != nil {
					return err
				}
				switch output {
				case "":
					printImages(cmd.OutOrStdout(), all, time.Now())
					return nil
				case "name":
					for i := range all {
						fmt.Fprintln(cmd.OutOrStdout(), all[i].Name)
					}
					return nil
				}
				return print(cmd.OutOrStdout(), output, standalone.List(all))
			})
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json, yaml or name; absent, a table")
	return c
}

func printImages(w io.Writer, images []standalone.Image, now time.Time) {
	if len(images) == 0 {
		fmt.Fprintln(w, "no images")
		return
	}
	tw := newTable(w, "NAME", "DIGEST", "SIZE", "CREATED", "LAST USED", "USED BY")
	for i := range images {
		st := &images[i].Status
		names, usedBy := st.Names, joined(st.UsedBy)
		if len(names) == 0 {
			names = []string{"<none>"}
		}
		if st.Pinned {
			usedBy += " (pinned)"
		}
		_, digest, _ := strings.Cut(st.Digest, ":")
		for _, name := range names {
			fmt.Fprintf(tw, "%s\t%.12s\t%.1f MB\t%s\t%s\t%s\n", name, digest, float64(st.Size)/1e6,
				age(st.Created, now), age(&st.LastUsed, now), usedBy)
		}
	}
	_ = tw.Flush()
}

func imageRemoveCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Remove images that no container has",
		Long: `rm removes images by their names, or by the first 7 or more digits of their digests. It refuses
an image that a container has, even a stopped one. Of an image with several names, a name removes
only itself; the digest removes all of them.`,
		Example: "  berth-agent image rm docker.io/library/busybox:1.37\n  berth-agent image rm 8cf9978720e1",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.withImages(func(images *standalone.Images) error {
				var errs []error
				for _, arg := range args {
					gone, err := images.Remove(cmd.Context(), arg)
					errs = append(errs, err)
					if err == nil {
						fmt.Fprintln(cmd.OutOrStdout(), gone)
					}
				}
				return errors.Join(errs...)
			})
		},
	}
}

func imagePruneCommand(o *options) *cobra.Command {
	var all, force bool
	c := &cobra.Command{
		Use:   "prune",
		Short: "Remove the images without a name that no container has; with --all, also those with one",
		Long: `prune removes images that no container has and that are not pinned. It asks before it removes
them. An image has no name once its tag leads to another image.`,
		Example: "  berth-agent image prune\n  berth-agent image prune --all --force",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.withImages(func(images *standalone.Images) error {
				unneeded, err := images.Prunable(all)
				if err != nil || len(unneeded) == 0 {
					return err
				}
				if !force {
					if err := confirmImages(cmd, unneeded); err != nil {
						return err
					}
				}
				var errs []error
				for i := range unneeded {
					removed, err := images.Prune(cmd.Context(), &unneeded[i], all)
					errs = append(errs, err)
					if removed {
						fmt.Fprintln(cmd.OutOrStdout(), unneeded[i].Name)
					}
				}
				return errors.Join(errs...)
			})
		},
	}
	c.Flags().BoolVarP(&all, "all", "a", false, "also images with a name")
	c.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	return c
}

// confirmImages asks whether images are to be removed.
func confirmImages(cmd *cobra.Command, images []standalone.Image) error {
	var lines []string
	for i := range images {
		lines = append(lines, fmt.Sprintf("%s   %.1f MB", images[i].Name,
			float64(images[i].Status.Size)/1e6))
	}
	return confirm(cmd, "These images are removed:", lines)
}

func imagePullCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "pull REFERENCE",
		Short: "Pull an image, or the newer one of its tag",
		Long: `pull asks the registry for the image and fetches the layers that the node lacks. It uses the
credentials, mirrors and certificates of the agent unless a flag names others. Every container of
the node may use the image then.`,
		Example: "  berth-agent image pull docker.io/library/busybox:1.37\n" +
			"  berth-agent image pull --registry-config ~/.docker/config.json registry.example.com/app:1",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			settings, err := claim.Read(o.StateDir)
			if err != nil && !errors.Is(err, claim.ErrNoSettings) {
				return needRoot(err)
			}
			if !cmd.Flags().Changed("registry-config") {
				o.RegistryConfig = settings.RegistryConfig
			}
			if !cmd.Flags().Changed("registry-hosts-dir") {
				o.RegistryHosts = settings.RegistryHosts
			}
			return o.pull(cmd.Context(), cmd, args[0], settings.Node == "")
		},
	}
	c.Flags().StringVar(&o.RegistryConfig, "registry-config", "",
		"`file` of credentials for registries; absent, the agent's")
	c.Flags().StringVar(&o.RegistryHosts, "registry-hosts-dir", "",
		"`directory` of mirrors and certificates of registries; absent, the agent's")
	return c
}

// pull pulls an image, and prints its ID. Its progress goes to standard error.
func (o *options) pull(ctx context.Context, cmd *cobra.Command, reference string,
	alone bool,
) error {
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
	progress := newPullPrinter(cmd.ErrOrStderr(), reference)
	images, err := standalone.OpenImages(o.StateDir,
		image.WithKeyring(agent.RegistryFiles(o.RegistryConfig, alone, log)),
		image.WithHosts(hostsdir.Dir(o.RegistryHosts)), image.WithProgress(progress.note))
	if err != nil {
		return needRoot(err)
	}
	id, err := images.Pull(ctx, reference)
	progress.end()
	if err = errors.Join(err, images.Close()); err != nil {
		return needRoot(err)
	}
	fmt.Fprintln(cmd.OutOrStdout(), id)
	return nil
}

func imagePinCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "pin REFERENCE...",
		Short: "Keep images from garbage collection and prune",
		Long: `pin protects the image that a reference names at any time, also after its tag moves, from garbage
collection and prune. It need not be on the node yet. "image rm" removes it all the same.`,
		Example: "  berth-agent image pin docker.io/library/busybox:1.37",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return o.forEachImage(args, (*standalone.Images).Pin)
		},
	}
}

func imageUnpinCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "unpin REFERENCE...",
		Short:   "Let garbage collection and prune remove images again",
		Example: "  berth-agent image unpin docker.io/library/busybox:1.37",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return o.forEachImage(args, (*standalone.Images).Unpin)
		},
	}
}

func (o *options) forEachImage(references []string,
	f func(*standalone.Images, string) error,
) error {
	return o.withImages(func(images *standalone.Images) error {
		var errs []error
		for _, reference := range references {
			errs = append(errs, f(images, reference))
		}
		return errors.Join(errs...)
	})
}
