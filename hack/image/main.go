// SPDX-License-Identifier: Apache-2.0

// Command image (bin/berth-image) makes container images without a registry and without another
// container tool: small ones for tests and samples from Debian's packages and from files of one's
// own, and one of a root filesystem as it is:
//
//	berth-image busybox -o busybox.tar
//	berth-image rootfs /srv/debian --cmd /bin/bash -o debian.tar
//	berth-image build --busybox --add bin/probe:/bin/probe --cmd /bin/probe --format oci -o layout/
//
// The same input gives the same bytes each time: entries are sorted, times are fixed or those of
// the files, and nothing of the building machine is written. The busybox base is one layer, and
// what --copy and --add bring are others, so that images made by this tool share their base.
//
// It is a development tool: it knows nothing of how Berth stores or runs an image, and nothing of
// Berth imports it.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// list collects the values of a flag that may be given several times. A value that is a JSON array
// stands for all its elements.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }
func (l *list) Type() string   { return "value" }

func (l *list) Set(v string) error {
	if strings.HasPrefix(v, "[") {
		var many []string
		if err := json.Unmarshal([]byte(v), &many); err != nil {
			return fmt.Errorf("found %q; allowed: one word, or a JSON array of strings: %w", v, err)
		}
		*l = append(*l, many...)
		return nil
	}
	*l = append(*l, v)
	return nil
}

// options are the command line, parsed.
type options struct {
	busybox    bool
	rootfs     string
	copy       list
	add        list
	cmd        list
	entrypoint list
	env        list
	user       string
	workdir    string
	arch       string
	tag        string
	format     string
	compress   string
	output     string
}

// common declares the flags that each command has.
func (o *options) common(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.StringVarP(&o.output, "output", "o", "", "`file` to write, or directory with --format oci")
	fs.StringVar(&o.format, "format", "oci-archive",
		"`form` of the image: oci-archive, oci (a directory) or docker-archive")
	fs.StringVar(&o.compress, "compress", "gzip",
		"`how` layers of the OCI forms are compressed: gzip or none")
	fs.StringVar(&o.tag, "tag", "latest",
		"`name` of the image in its archive or directory; docker-archive wants NAME:TAG")
	fs.Var(&o.copy, "copy",
		"`SRC:DST`: copy a file or a directory to DST as it is: owners, modes, times, links, devices and extended attributes (repeatable)")
	fs.Var(&o.add, "add",
		"`SRC:DST`: add a file or a directory at DST as root's, with mode 0755 or 0644 (repeatable)")
	fs.Var(&o.cmd, "cmd",
		"one `word` of the command, repeatable, or all as a JSON array (default [\"sh\"] with busybox)")
	fs.Var(&o.entrypoint, "entrypoint",
		"one `word` of the entrypoint, repeatable, or all as a JSON array")
	fs.Var(&o.env, "env", "`NAME=VALUE` of the image's environment, besides PATH (repeatable)")
	fs.StringVar(&o.user, "user", "", "`user` of the image's config, as name, uid or uid:gid")
	fs.StringVar(&o.workdir, "workdir", "", "working `directory` of the image's config")
	fs.StringVar(&o.arch, "arch", runtime.GOARCH,
		"`architecture` written to the image; the programs inside stay this machine's, so another one is for tests of refusal")
}

// check returns an error that names a bad flag, and sets the default command.
func (o *options) check() error {
	if o.output == "" {
		return errors.New("-o: found nothing; allowed: the file or directory to write")
	}
	formats := []string{"oci-archive", "oci", "docker-archive"}
	if !slices.Contains(formats, o.format) {
		return fmt.Errorf("--format: found %q; allowed: %s", o.format, strings.Join(formats, ", "))
	}
	if o.compress != "gzip" && o.compress != "none" {
		return fmt.Errorf("--compress: found %q; allowed: gzip, none", o.compress)
	}
	for _, e := range o.env {
		if i := strings.IndexByte(e, '='); i < 1 {
			return fmt.Errorf("--env: found %q; allowed: NAME=VALUE", e)
		}
	}
	if !o.busybox && o.rootfs == "" && len(o.add) == 0 && len(o.copy) == 0 {
		return errors.New("found neither --busybox nor --copy nor --add; allowed: at least one of them")
	}
	if o.busybox && len(o.cmd) == 0 && len(o.entrypoint) == 0 {
		o.cmd = list{"sh"}
	}
	return nil
}

// build writes the image.
func (o *options) build(warn func(string)) error {
	if err := o.check(); err != nil {
		return err
	}
	if inside(o.rootfs, o.output) {
		return fmt.Errorf("-o: found %s, which is in the root filesystem; allowed: a file outside of it",
			o.output)
	}
	var trees []tree
	if o.busybox {
		t, err := busyboxTree()
		if err != nil {
			return fmt.Errorf("busybox base: %w", err)
		}
		trees = append(trees, t)
	}
	if o.rootfs != "" {
		t := tree{}
		if err := t.copy(o.rootfs, "/", warn); err != nil {
			return err
		}
		trees = append(trees, t)
	}
	if len(o.copy) > 0 {
		t := tree{}
		for _, c := range o.copy {
			src, dst, err := splitPair(c)
			if err == nil {
				err = t.copy(src, dst, warn)
			}
			if err != nil {
				return fmt.Errorf("--copy %s: %w", c, err)
			}
		}
		trees = append(trees, t)
	}
	if len(o.add) > 0 {
		t := tree{}
		for _, a := range o.add {
			if err := t.add(a); err != nil {
				return fmt.Errorf("--add %s: %w", a, err)
			}
		}
		trees = append(trees, t)
	}
	// Beside the result there is room for it, and /tmp may be memory. It is created after the
	// walks, which may pass there.
	parent := filepath.Dir(filepath.Clean(o.output))
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(parent, ".image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var layers []content
	for _, t := range trees {
		layer, err := onDisk(dir, t.tar)
		if err != nil {
			return err
		}
		layers = append(layers, layer)
	}
	return write(*o, dir, layers)
}

// inside reports whether a file is, or would be, below a directory.
func inside(dir, file string) bool {
	if dir == "" {
		return false
	}
	a, err1 := filepath.Abs(dir)
	b, err2 := filepath.Abs(file)
	if err1 != nil || err2 != nil {
		return false
	}
	rel, err := filepath.Rel(a, b)
	return err == nil && filepath.IsLocal(rel)
}

// command returns the command line. Without a command, the flags are those of build.
func command() *cobra.Command {
	flags := func(c *cobra.Command, set func(o *options, args []string)) *cobra.Command {
		o := &options{}
		o.common(c.Flags())
		if c.Name() != "busybox" && c.Name() != "rootfs" {
			c.Flags().BoolVar(&o.busybox, "busybox", false,
				"begin with Debian's busybox-static: /bin/busybox, a link for each applet, /etc, /root, /tmp")
		}
		c.RunE = func(cmd *cobra.Command, args []string) error {
			if set != nil {
				set(o, args)
			}
			return o.build(func(text string) {
				fmt.Fprintln(cmd.ErrOrStderr(), "berth-image: warning:", text)
			})
		}
		return c
	}
	none := func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("found argument %q; allowed: flags only", args[0])
		}
		return nil
	}
	root := flags(&cobra.Command{
		Use:   "berth-image",
		Short: "Make container images of Debian's busybox, of files, and of root filesystems",
		Example: `  berth-image busybox -o busybox.tar
  berth-image rootfs /srv/debian --cmd /bin/bash -o debian.tar
  berth-image build --busybox --add bin/probe:/bin/probe --cmd /bin/probe -o probe.tar`,
		Args: none, SilenceUsage: true, SilenceErrors: true,
	}, nil)
	root.AddCommand(
		flags(&cobra.Command{
			Use:   "build",
			Short: "Make an image of busybox and files; it is what berth-image does without a command",
			Long: `build makes an image with a layer of busybox (--busybox), one of the files copied unchanged (--copy)
and one of the files added (--add).

--add is for programs that you have built: it drops owners, permissions but the executable one, and
times, so that images are the same wherever they are built. It refuses what would be lost by that:
setuid, setgid and sticky bits, capabilities and devices.`,
			Example: "  berth-image build --busybox --add bin/probe:/bin/probe --cmd /bin/probe -o probe.tar\n  berth-image build --copy etc:/etc --add bin/app:/app --cmd /app --format oci -o layout/",
			Args:    none,
		}, nil),
		flags(&cobra.Command{
			Use:     "busybox",
			Short:   "Make an image of Debian's busybox-static",
			Example: "  berth-image busybox -o busybox.tar\n  berth-image busybox --add bin/probe:/bin/probe --cmd /bin/probe -o probe.tar",
			Args:    none,
		}, func(o *options, _ []string) { o.busybox = true }),
		flags(&cobra.Command{
			Use:   "rootfs DIRECTORY",
			Short: "Make an image of a root filesystem, as it is",
			Long: `rootfs makes an image with one layer, of a directory such as debootstrap makes. It keeps owners,
modes with setuid, setgid and sticky, times, symbolic and hard links, devices, fifos and extended
attributes such as file capabilities. It refuses what an image cannot hold: sockets, and whiteouts
of overlayfs. Other filesystems that are mounted in the directory are left out, with a warning.`,
			Example: "  debootstrap bookworm /srv/debian\n  berth-image rootfs /srv/debian --cmd /bin/bash -o debian.tar",
			Args: func(_ *cobra.Command, args []string) error {
				if len(args) != 1 {
					return fmt.Errorf("found %d arguments; allowed: one, the DIRECTORY of the root filesystem",
						len(args))
				}
				info, err := os.Stat(args[0])
				if err == nil && !info.IsDir() {
					err = errors.New("it is a file")
				}
				if err != nil {
					return fmt.Errorf("DIRECTORY: found no directory at %s: %w", args[0], err)
				}
				return nil
			},
		}, func(o *options, args []string) { o.rootfs = args[0] }),
	)
	return root
}

// run runs a command line.
func run(args []string) error {
	c := command()
	c.SetArgs(args)
	return c.Execute()
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "berth-image:", err)
		os.Exit(1)
	}
}
