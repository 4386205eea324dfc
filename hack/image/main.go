// SPDX-License-Identifier: Apache-2.0

// Command image makes small container images for tests and samples, from Debian's packages and from
// files of one's own, without a registry and without another container tool:
//
//	go run ./hack/image --busybox -o busybox.tar
//	go run ./hack/image --busybox --add bin/probe:/bin/probe --cmd /bin/probe --format oci -o layout/
//
// The same input gives the same bytes each time: entries are sorted, times are fixed, and nothing of
// the building machine is written. The busybox base is one layer and what --add brings is another, so
// that images made by this tool share their base.
//
// It is a development tool: it knows nothing of how Berth stores or runs an image, and nothing of
// Berth imports it.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
)

// list collects the values of a flag that may be given several times. A value that is a JSON array
// stands for all its elements.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

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

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	fs.BoolVar(&o.busybox, "busybox", false, "start from Debian's busybox-static: /bin/busybox, a link for each applet, /etc, /root, /tmp")
	fs.Var(&o.add, "add", "SRC:DST: copy a file or a folder to DST in the image (repeatable)")
	fs.Var(&o.cmd, "cmd", "one word of the command, repeatable, or all as a JSON array (default [\"sh\"] with --busybox)")
	fs.Var(&o.entrypoint, "entrypoint", "one word of the entrypoint, repeatable, or all as a JSON array")
	fs.Var(&o.env, "env", "NAME=VALUE of the image's environment, besides PATH (repeatable)")
	fs.StringVar(&o.user, "user", "", "user of the image's config, as name, uid or uid:gid")
	fs.StringVar(&o.workdir, "workdir", "", "working directory of the image's config")
	fs.StringVar(&o.arch, "arch", runtime.GOARCH, "architecture written to the image; the programs inside stay this machine's, so another one is for tests of refusal")
	fs.StringVar(&o.tag, "tag", "latest", "name of the image in its archive or folder; docker-archive wants NAME:TAG")
	fs.StringVar(&o.format, "format", "oci-archive", "oci-archive, oci (a folder) or docker-archive")
	fs.StringVar(&o.compress, "compress", "gzip", "layers of the OCI formats: gzip or none")
	fs.StringVar(&o.output, "o", "", "file, or folder with --format oci, to write")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("found argument %q; allowed: flags only", fs.Arg(0))
	}
	if o.output == "" {
		return o, errors.New("-o: found nothing; allowed: the file or folder to write")
	}
	if formats := []string{"oci-archive", "oci", "docker-archive"}; !slices.Contains(formats, o.format) {
		return o, fmt.Errorf("--format: found %q; allowed: %s", o.format, strings.Join(formats, ", "))
	}
	if o.compress != "gzip" && o.compress != "none" {
		return o, fmt.Errorf("--compress: found %q; allowed: gzip, none", o.compress)
	}
	for _, e := range o.env {
		if i := strings.IndexByte(e, '='); i < 1 {
			return o, fmt.Errorf("--env: found %q; allowed: NAME=VALUE", e)
		}
	}
	if !o.busybox && len(o.add) == 0 {
		return o, errors.New("found neither --busybox nor --add; allowed: at least one of them")
	}
	if o.busybox && len(o.cmd) == 0 && len(o.entrypoint) == 0 {
		o.cmd = list{"sh"}
	}
	return o, nil
}

func run(args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	var layers [][]byte
	if o.busybox {
		t, err := busyboxTree()
		if err != nil {
			return fmt.Errorf("busybox base: %w", err)
		}
		layer, err := t.tar()
		if err != nil {
			return err
		}
		layers = append(layers, layer)
	}
	if len(o.add) > 0 {
		t := tree{}
		for _, a := range o.add {
			if err := t.addHost(a); err != nil {
				return fmt.Errorf("--add %s: %w", a, err)
			}
		}
		layer, err := t.tar()
		if err != nil {
			return err
		}
		layers = append(layers, layer)
	}
	return write(o, layers)
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}
