// SPDX-License-Identifier: Apache-2.0

package ociruntime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mountsOf returns the lines of a mount table for a destination: options of the mount and of its
// filesystem.
const showMount = `show() { grep " $1 " /proc/self/mountinfo | while read id parent dev root dest options rest; do echo $dest $options ${rest##* - }; done; }; `

func mounted(spec *specs.Spec, m ...specs.Mount) *specs.Spec {
	spec.Mounts = append(spec.Mounts, m...)
	return spec
}

// source creates a directory of the host with a file, a directory, a link and a mount in it, whose
// owner is 7:8.
func (w *world) source() string {
	w.t.Helper()
	dir := filepath.Join(w.dir, "source")
	w.must(os.MkdirAll(filepath.Join(dir, "folder"), 0o755))
	w.must(os.WriteFile(filepath.Join(dir, "file"), []byte("from the host\n"), 0o644))
	w.must(os.Symlink("file", filepath.Join(dir, "link")))
	w.must(os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	for _, name := range []string{"", "folder", "file", "link"} {
		w.must(os.Lchown(filepath.Join(dir, name), 7, 8))
	}
	return dir
}

// TestIDMappedMounts: the owners of a mount's files are those that its mappings, or the
// container's, say.
func TestIDMappedMounts(t *testing.T) {
	w := newWorld(t)
	source := w.source()
	w.must(unix.Mount("tmpfs", filepath.Join(source, "folder"), "tmpfs", 0, ""))
	defer func() { w.must(unix.Unmount(filepath.Join(source, "folder"), unix.MNT_DETACH)) }()
	w.must(os.WriteFile(filepath.Join(source, "folder", "below"), nil, 0o644))
	w.must(os.Chown(filepath.Join(source, "folder", "below"), 7, 8))
	const script = "stat -c %u:%g /m/file /m/folder/below; touch /m/made; stat -c %u:%g /m/made"
	shift := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 100}}
	bind := func(options []string, mappings []specs.LinuxIDMapping) specs.Mount {
		return specs.Mount{
			Destination: "/m", Type: "bind", Source: source, Options: options,
			UIDMappings: mappings, GIDMappings: mappings,
		}
	}
	var fs unix.Statfs_t
	w.must(unix.Statfs(source, &fs))
	_, _, err := w.try(mounted(w.sh("true"), bind([]string{"bind", "idmap"}, shift)))
	if fs.Type == unix.TMPFS_MAGIC && errors.Is(err, unix.EINVAL) {
		t.Skipf("the temporary folder is a tmpfs, which has no mapped mounts before Linux 6.3: %v", err)
	}
	owner := func(want string) {
		t.Helper()
		var st unix.Stat_t
		w.must(unix.Stat(filepath.Join(source, "made"), &st))
		if got := fmt.Sprintf("%d:%d", st.Uid, st.Gid); got != want {
			t.Errorf("on the host the new file is %s's; want %s", got, want)
		}
		w.must(os.Remove(filepath.Join(source, "made")))
	}
	for _, c := range []struct {
		options []string
		want    string
	}{
		{[]string{"rbind", "ridmap"}, "1007:1008\n1007:1008\n1000:1000\n"},
		{[]string{"rbind", "idmap"}, "1007:1008\n7:8\n1000:1000\n"},
		{[]string{"rbind"}, "1007:1008\n7:8\n1000:1000\n"},
	} {
		spec := mounted(w.sh(script), bind(c.options, shift))
		spec.Process.User.UID, spec.Process.User.GID = 1000, 1000
		w.must(os.Chmod(source, 0o777))
		w.prints(spec, c.want)
		owner("0:0")
	}
	t.Run("crun's option", func(t *testing.T) {
		w.prints(mounted(w.sh("stat -c %u:%g /m/file"),
			bind([]string{"bind", "idmap=uids=0-2000-100;gids=0-3000-7#7-4000-9"}, nil)), "2007:4001\n")
	})
	t.Run("a new filesystem", func(t *testing.T) {
		m := specs.Mount{Destination: "/m", Type: "tmpfs", Source: "tmpfs", Options: []string{
			"uid=5",
			"gid=6", "idmap",
		}, UIDMappings: shift, GIDMappings: shift}
		out, _, err := w.try(mounted(w.sh("stat -c %u:%g /m"), m))
		if err != nil && strings.Contains(err.Error(), "mount_setattr: invalid argument") {
			t.Skipf("tmpfs has no mapped mounts before Linux 6.3: %v", err)
		}
		if err != nil || out != "1005:1006\n" {
			t.Errorf("it printed %q, %v", out, err)
		}
	})
	t.Run("user namespace", func(t *testing.T) {
		// The container's own mappings: its root is that of the host's files.
		spec := w.inUserNamespace(mounted(w.sh(script), bind([]string{"rbind", "ridmap"}, nil)))
		w.prints(spec, "7:8\n7:8\n0:0\n")
		owner("0:0")
		// Its own: to the host's ids, which the container sees by its own mappings.
		spec.Mounts[len(spec.Mounts)-1] = bind([]string{"bind", "idmap"},
			[]specs.LinuxIDMapping{{ContainerID: 0, HostID: 100050, Size: 100}})
		spec.Process.Args[2] = "stat -c %u:%g /m/file"
		w.prints(spec, "57:58\n")
		spec.Mounts[len(spec.Mounts)-1] = bind([]string{"bind", "idmap=uids=@0-50-100;gids=@0-50-100"},
			nil)
		w.prints(spec, "57:58\n")
		spec.Mounts[len(spec.Mounts)-1] = specs.Mount{
			Destination: "/m", Type: "tmpfs", Source: "tmpfs",
			Options: []string{"idmap"},
		}
		w.fails(spec, "mounts[7].options: found idmap; in a user namespace only bind mounts")
	})
	w.fails(mounted(w.sh("true"), bind([]string{"bind", "idmap"}, nil)), "mounts[7].options: ")
}

// TestTmpcopyup: a tmpfs has a copy of the covered files, with owners and permissions, and does not
// change them.
func TestTmpcopyup(t *testing.T) {
	setUp := func(w *world) {
		w.write("/data/file", "content\n", 0o640)
		w.write("/data/folder/deep/program", "#!/bin/sh\n", 0o755)
		w.must(unix.Chmod(w.file("/data/folder/deep/program"), 0o4755))
		w.write("/data/empty", "", 0o600)
		w.must(os.Symlink("file", w.file("/data/link")))
		w.must(os.Symlink("/etc/shadow", w.file("/data/out")))
		w.must(unix.Mkfifo(w.file("/data/fifo"), 0o622))
		w.must(unix.Chmod(w.file("/data/folder"), 0o1777))
		w.must(unix.Chmod(w.file("/data/fifo"), 0o622))
		w.must(os.Chmod(w.file("/data"), 0o750))
	}
	const script = `cd /data; stat -c '%n %F %a %u:%g' . file empty folder folder/deep/program link out fifo; readlink link; readlink out; cat link; echo new > file; echo new > more; grep -c ' /data .* tmpfs ' /proc/self/mountinfo`
	const want = ". directory 750 %[1]d:%[1]d\nfile regular file 640 5:6\nempty regular empty file 600 %[1]d:%[1]d\nfolder directory 1777 %[1]d:%[1]d\nfolder/deep/program regular file 4755 %[1]d:%[1]d\n" +
		"link symbolic link 777 %[1]d:%[1]d\nout symbolic link 777 %[1]d:%[1]d\nfifo fifo 622 %[1]d:%[1]d\nfile\n/etc/shadow\ncontent\n1\n"
	m := specs.Mount{
		Destination: "/data", Type: "tmpfs", Source: "tmpfs",
		Options: []string{"tmpcopyup", "nosuid", "nodev"},
	}
	unchanged := func(w *world) {
		w.t.Helper()
		if data, err := os.ReadFile(w.file("/data/file")); err != nil || string(data) != "content\n" {
			w.t.Errorf("the image's file has now %q, %v", data, err)
		}
		if _, err := os.Lstat(w.file("/data/more")); err == nil {
			w.t.Error("the image has got a file")
		}
	}
	t.Run("root", func(t *testing.T) {
		w := newWorld(t)
		setUp(w)
		w.must(os.Chown(w.file("/data/file"), 5, 6))
		spec := mounted(w.sh(script), m)
		spec.Process.Capabilities.Effective = append(spec.Process.Capabilities.Effective,
			"CAP_DAC_OVERRIDE")
		spec.Process.Capabilities.Permitted,
			spec.Process.Capabilities.Bounding = spec.Process.Capabilities.Effective,
			spec.Process.Capabilities.Effective
		w.prints(spec, fmt.Sprintf(want, 0))
		unchanged(w)
		// Many more than one child copies, and read-only afterwards.
		for i := range 3000 {
			w.must(os.WriteFile(w.file(fmt.Sprintf("/data/folder/%04d", i)), []byte(fmt.Sprint(i)), 0o644))
		}
		m := m
		m.Options = append([]string{"rro", "mode=711"}, m.Options...)
		w.prints(mounted(w.sh(
			"cd /data/folder; ls | grep -c .; cat 2999; touch x 2>&1; stat -c %a /data"), m),
			"3001\n2999touch: x: Read-only file system\n711\n")
		// What does not fit fails, with the file that did not.
		m.Options = []string{"tmpcopyup", "size=16k"}
		w.fails(mounted(w.sh("true"), m), "mounts[7] (/data: ", "no space left on device")
		m.Destination = "/new/folder"
		w.prints(mounted(w.sh("ls -A /new/folder; stat -c %a /new/folder"), m), "1777\n")
	})
	t.Run("user namespace", func(t *testing.T) {
		w := newWorld(t)
		setUp(w)
		spec := w.inUserNamespace(mounted(w.sh(script), m))
		w.must(os.Chown(w.file("/data/file"), 100005, 100006))
		w.must(unix.Chmod(w.file("/data/folder/deep/program"), 0o4755)) // chown(2) has taken it away
		spec.Process.Capabilities.Effective = append(spec.Process.Capabilities.Effective,
			"CAP_DAC_OVERRIDE")
		spec.Process.Capabilities.Permitted,
			spec.Process.Capabilities.Bounding = spec.Process.Capabilities.Effective,
			spec.Process.Capabilities.Effective
		w.prints(spec, fmt.Sprintf(want, 0))
		unchanged(w)
		w.must(os.Lchown(w.file("/data/link"), 42, 42))
		w.fails(spec, "mounts[7] (/data): tmpcopyup: link belongs to user 42 of the host")
	})
}

// TestTmpfsHasModeOfCoveredDirectory: without mode= a tmpfs has the permissions of the directory that it
// covers.
func TestTmpfsHasModeOfCoveredDirectory(t *testing.T) {
	w := newWorld(t)
	w.must(os.Mkdir(w.file("/run"), 0o700))
	w.must(unix.Chmod(w.file("/run"), 0o2750))
	w.prints(mounted(w.sh("stat -c %a /run /made"), specs.Mount{
		Destination: "/run", Type: "tmpfs",
		Source: "tmpfs",
	}, specs.Mount{Destination: "/made", Type: "tmpfs", Source: "tmpfs"}),
		"2750\n1777\n")
}

// TestMountFlags: every option sets or clears its flag, on the mount alone or on all mounts below
// as well.
func TestMountFlags(t *testing.T) {
	w := newWorld(t)
	source := w.source()
	below := filepath.Join(source, "folder")
	w.must(unix.Mount("tmpfs", below, "tmpfs", unix.MS_NOATIME, ""))
	defer func() { w.must(unix.Unmount(below, unix.MNT_DETACH)) }()
	flags := func(spec *specs.Spec) (top, below string) {
		out := strings.Fields(w.run(spec))
		if len(out) != 2 {
			t.Fatalf("printed %q", out)
		}
		return out[0], out[1]
	}
	bind := func(options ...string) *specs.Spec {
		return mounted(w.sh(`grep -E ' /m(/folder)? ' /proc/self/mountinfo | cut -d' ' -f6`),
			specs.Mount{Destination: "/m", Type: "bind", Source: source, Options: append([]string{"rbind"},
				options...)})
	}
	for option, want := range map[string]string{
		"ro": "ro", "nosuid": "nosuid", "nodev": "nodev", "noexec": "noexec", "nodiratime": "nodiratime",
		"nosymfollow": "nosymfollow", "noatime": "noatime",
	} {
		has := func(flags string) bool { return strings.Contains(","+flags+",", ","+want+",") }
		if top, below := flags(bind(option)); !has(top) || has(below) && want != "noatime" {
			t.Errorf("%s: found %s, and below %s", option, top, below)
		}
		if top, below := flags(bind("r" + option)); !has(top) || !has(below) {
			t.Errorf("r%s: found %s, and below %s", option, top, below)
		}
		clear := map[string]string{"ro": "rw", "noatime": "strictatime"}[option]
		if clear == "" {
			clear = strings.TrimPrefix(option, "no")
		}
		if top, below := flags(bind("r"+option, "r"+clear)); has(top) || has(below) {
			t.Errorf("r%s,r%s: found %s, and below %s", option, clear, top, below)
		}
		if top, below := flags(bind(option, clear)); has(top) || has(below) && want != "noatime" {
			t.Errorf("%s,%s: found %s, and below %s", option, clear, top, below)
		}
	}
	for option, want := range map[string]string{
		"rrelatime": "relatime", "rnoatime": "noatime",
		"rstrictatime": "rw", "rnostrictatime": "relatime", "ratime": "relatime", "rnorelatime": "rw",
	} {
		if top, below := flags(bind(option)); !strings.HasSuffix(top, want) || !strings.HasSuffix(below,
			want) {
			t.Errorf("%s: found %s, and below %s", option, top, below)
		}
	}
	// What mount(8) reads into its own options.
	for options, want := range map[string]string{
		"user":           "nosuid,nodev,noexec",
		"users,exec,dev": "nosuid,relatime", "owner": "nosuid,nodev,relatime", "group,suid": "rw,nodev",
		"nouser,noauto": "rw,relatime",
	} {
		if top, _ := flags(bind(strings.Split(options, ",")...)); !strings.Contains(top, want) {
			t.Errorf("%s: found %s", options, top)
		}
	}
	// What is a new filesystem's superblock's.
	for option, want := range map[string]string{
		"sync": "rw,sync", "dirsync": "rw,dirsync",
		"lazytime": "rw,lazytime", "size=64k": "size=64k", "iversion": "rw", "silent": "rw",
		"mand": "rw",
	} {
		out := w.run(mounted(w.sh(showMount+"show /m"), specs.Mount{
			Destination: "/m", Type: "tmpfs",
			Source: "tmpfs", Options: []string{option, "nofail", "x-comment"},
		}))
		if !strings.Contains(out, want) {
			t.Errorf("%s: found %s", option, out)
		}
	}
}

// TestPropagationOptions sets all eight options, on a mount and on the mounts below it.
func TestPropagationOptions(t *testing.T) {
	w := newWorld(t)
	source := w.source()
	below := filepath.Join(source, "folder")
	w.must(unix.Mount("tmpfs", below, "tmpfs", 0, ""))
	defer func() { w.must(unix.Unmount(below, unix.MNT_DETACH)) }()
	for option, want := range map[string][2]string{
		"private": {"", "?"}, "rprivate": {"", ""}, "shared": {"shared", "?"},
		"rshared":    {"shared", "shared"},
		"unbindable": {"unbindable", "?"}, "runbindable": {"unbindable", "unbindable"},
		"slave": {"", "?"}, "rslave": {"", ""},
	} {
		spec := mounted(w.sh(`grep -E ' /m(/folder)? ' /proc/self/mountinfo | cut -d' ' -f7`),
			specs.Mount{Destination: "/m", Type: "bind", Source: source, Options: []string{"rbind", option}})
		lines := strings.Split(strings.TrimSpace(w.run(spec)), "\n")
		for i, l := range lines {
			kind, _, _ := strings.Cut(l, ":")
			if kind == "-" || kind == "master" {
				kind = ""
			}
			if want[i] != "?" && kind != want[i] {
				t.Errorf("%s: mount %d is %q; want %q", option, i, l, want[i])
			}
		}
	}
	// Of a mount that is there already, also by itself.
	spec := mounted(w.sh(`grep ' /m ' /proc/self/mountinfo | cut -d' ' -f6,7`),
		specs.Mount{Destination: "/m", Type: "tmpfs", Source: "tmpfs"},
		specs.Mount{Destination: "/m", Options: []string{"shared", "nodev"}})
	if out := w.run(spec); !strings.HasPrefix(out, "rw,nodev,relatime shared:") {
		t.Errorf("found %q", out)
	}
}

// TestRemount changes mounts that are there.
func TestRemount(t *testing.T) {
	w := newWorld(t)
	tmpfs := specs.Mount{
		Destination: "/m", Type: "tmpfs", Source: "tmpfs",
		Options: []string{"size=64k", "nosuid"},
	}
	remount := func(options ...string) *specs.Spec {
		return mounted(w.sh(showMount+"show /m"), tmpfs, specs.Mount{
			Destination: "/m", Type: "tmpfs",
			Source: "tmpfs", Options: append([]string{"remount"}, options...),
		})
	}
	for options, want := range map[string]string{
		"size=128k":             "/m rw,nosuid,relatime - tmpfs tmpfs rw,size=128k\n",
		"noexec":                "/m rw,nosuid,noexec,relatime - tmpfs tmpfs rw,size=64k\n",
		"bind,ro":               "/m ro,nosuid,relatime - tmpfs tmpfs rw,size=64k\n",
		"ro,suid,size=32k":      "/m ro,relatime - tmpfs tmpfs rw,size=32k\n",
		"bind,nosymfollow,suid": "/m rw,relatime,nosymfollow - tmpfs tmpfs rw,size=64k\n",
	} {
		out := w.run(remount(strings.Split(options, ",")...))
		out = strings.ReplaceAll(strings.ReplaceAll(out, ",inode64", ""), ",mode=1777", "")
		if out != want {
			t.Errorf("%s: found %q; want %q", options, out, want)
		}
	}
	spec := mounted(w.sh("touch /dev/x 2>&1; stat -c %t:%T /dev/null"),
		specs.Mount{Destination: "/dev", Options: []string{"remount", "ro"}})
	w.prints(spec, "touch: /dev/x: Read-only file system\n1:3\n") // made before it is read-only
	w.fails(mounted(w.sh("true"), specs.Mount{Destination: "/bin", Options: []string{
		"remount",
		"ro",
	}}), "mounts[7] (/bin): mount_setattr: invalid argument")
	w.fails(mounted(w.sh("true"), specs.Mount{Destination: "/nothing", Options: []string{
		"remount",
		"ro",
	}}), "mounts[7] (/nothing): openat2: no such file or directory")
}

// TestBindSources: the type of the source decides the type of the mount point.
func TestBindSources(t *testing.T) {
	w := newWorld(t)
	source := w.source()
	w.must(unix.Mkfifo(filepath.Join(source, "fifo"), 0o600))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	w.must(err)
	defer unix.Close(fd)
	w.must(unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(source, "socket")}))
	bind := func(from, to string, options ...string) specs.Mount {
		return specs.Mount{Destination: to, Type: "bind", Source: from, Options: append([]string{"rbind"},
			options...)}
	}
	w.must(os.WriteFile(filepath.Join(w.bundle(), "inBundle"), []byte("in the bundle\n"), 0o644))
	w.must(os.MkdirAll(w.file("/folder"), 0o755))
	w.write("/file", "", 0o644)
	w.must(os.Symlink("/elsewhere", w.file("/link")))
	w.write("/elsewhere", "the image's\n", 0o644)
	for name, c := range map[string]struct {
		mounts       []specs.Mount
		script, want string
	}{
		"fifo": {
			[]specs.Mount{bind(source+"/fifo", "/a/fifo")},
			"stat -c %F /a/fifo",
			"fifo\n",
		},
		"socket": {
			[]specs.Mount{bind(source+"/socket", "/a/socket")},
			"stat -c %F /a/socket",
			"socket\n",
		},
		"relative": {[]specs.Mount{bind("inBundle", "/a/rel")}, "cat /a/rel", "in the bundle\n"},
		"link": {
			[]specs.Mount{bind(source+"/link", "/a/link")},
			"cat /a/link",
			"from the host\n",
		},
		"nested": {
			[]specs.Mount{bind(source, "/n"), bind("inBundle", "/n/folder/f")},
			"cat /n/folder/f; ls /n/folder", "in the bundle\nf\n",
		},
		"covered": {
			[]specs.Mount{bind("inBundle", "/c/f"), bind(source, "/c")},
			"ls /c",
			"dangling\nfifo\nfile\nfolder\nlink\nsocket\n",
		},
		"twice": {
			[]specs.Mount{bind(source+"/file", "/t"), bind("inBundle", "/t")},
			"cat /t",
			"in the bundle\n",
		},
		"src-nofollow": {[]specs.Mount{
			bind(source+"/link", "/l/file", "src-nofollow"),
			bind(source+"/file", "/l/target"),
		}, "readlink /l/file", "file\n"},
		"dest-nofollow": {
			[]specs.Mount{bind("inBundle", "/link", "dest-nofollow")},
			"cat /elsewhere; cat /link", "the image's\nin the bundle\n",
		},
		"dest follow": {
			[]specs.Mount{bind("inBundle", "/link")},
			"cat /elsewhere; cat /link",
			"in the bundle\nin the bundle\n",
		},
		"copy-symlink": {
			[]specs.Mount{bind(source+"/dangling", "/x/y", "copy-symlink")},
			"readlink /x/y; readlink /x/y", "nowhere\nnowhere\n",
		},
		"copy again": {
			[]specs.Mount{bind(source+"/link", "/x/y", "copy-symlink")},
			"readlink /x/y",
			"file\n",
		},
		"copy, not a link": {
			[]specs.Mount{bind(source+"/file", "/x/z", "copy-symlink")},
			"cat /x/z",
			"from the host\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := *w
			s.t = t
			s.prints(mounted(w.sh(c.script), c.mounts...), c.want)
			w.must(os.RemoveAll(filepath.Join(source, "folder", "f")))
		})
	}
	w.fails(mounted(w.sh("true"), bind(source+"/file", "/folder")),
		"mounts[7] (/folder): move_mount: invalid argument",
		"a directory can be mounted on a directory alone")
	w.fails(mounted(w.sh("true"), bind(source, "/file")),
		"mounts[7] (/file): move_mount: invalid argument")
	w.fails(mounted(w.sh("true"), bind(source+"/link", "/file", "copy-symlink")),
		"mounts[7] (/file): expect: file exists")
	w.fails(mounted(w.sh("true"), bind("none", "/file")),
		"mounts[7] (/file): open_tree: no such file or directory", filepath.Join(w.bundle(), "none"))
}

// TestDestinationOnHost: a destination that begins with the host's path of the root filesystem lies
// in it; a source there includes the container's earlier mounts.
func TestDestinationOnHost(t *testing.T) {
	w := newWorld(t)
	source := w.source()
	w.prints(mounted(w.sh("cat /a/file /final/file"),
		specs.Mount{Destination: "/a", Type: "bind", Source: source, Options: []string{"rbind"}},
		specs.Mount{
			Destination: w.file("/final"), Type: "bind", Source: w.file("/a"),
			Options: []string{"rbind"},
		},
	), "from the host\nfrom the host\n")
	if len(w.warned) != 1 || !strings.Contains(w.warned[0],
		"mounts[8].destination: found the host's path") {
		t.Errorf("warned: %q", w.warned)
	}
}

// TestBindFlags: a bind mount keeps the flags of its source as long as no option names one, and
// else has those that its options name.
func TestBindFlags(t *testing.T) {
	w := newWorld(t)
	source := w.source()
	w.must(unix.Mount("tmpfs", source, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|
		unix.MS_NOATIME, "mode=755"))
	defer func() { w.must(unix.Unmount(source, unix.MNT_DETACH)) }()
	for options, want := range map[string]string{
		"rbind":               "rw,nosuid,nodev,noexec,noatime",
		"rbind,rprivate":      "rw,nosuid,nodev,noexec,noatime",
		"rbind,rw":            "rw,noatime", // CRI's
		"bind,ro":             "ro,noatime",
		"rbind,ro,nodev":      "ro,nodev,noatime",
		"rbind,exec":          "rw,noatime",
		"rbind,relatime":      "rw,relatime",
		"rbind,rro":           "ro,nosuid,nodev,noexec,noatime", // of all mounts below, and takes nothing
		"rbind,rro,rw,nosuid": "ro,nosuid,noatime",
	} {
		m := specs.Mount{
			Destination: "/m", Type: "bind", Source: source,
			Options: strings.Split(options, ","),
		}
		got := w.run(mounted(w.sh(`grep ' /m ' /proc/self/mountinfo | cut -d' ' -f6`), m))
		if got != want+"\n" {
			t.Errorf("%s: found %s; want %s", options, strings.TrimSpace(got), want)
		}
	}
	program, err := os.ReadFile(busybox)
	w.must(err)
	w.must(os.WriteFile(filepath.Join(source, "true"), program, 0o755))
	w.prints(mounted(w.sh("/m/true true && echo runs"), specs.Mount{
		Destination: "/m", Type: "bind",
		Source: source, Options: []string{"rbind", "rprivate", "rw"},
	}), "runs\n")
}

// TestLockedFlags: in a user namespace the flags of the host's mounts stay, and to ask for less is
// an error.
func TestLockedFlags(t *testing.T) {
	w := newWorld(t)
	source := w.source()
	w.must(unix.Mount("tmpfs", source, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|
		unix.MS_NOATIME, "mode=755"))
	defer func() { w.must(unix.Unmount(source, unix.MNT_DETACH)) }()
	bind := func(options ...string) *specs.Spec {
		return mounted(w.sh(`grep ' /m ' /proc/self/mountinfo | cut -d' ' -f6`),
			specs.Mount{Destination: "/m", Type: "bind", Source: source, Options: append([]string{"rbind"},
				options...)})
	}
	w.prints(w.inUserNamespace(bind("ro")), "ro,nosuid,nodev,noexec,noatime\n")
	w.prints(w.inUserNamespace(bind("rw", "nosuid")), "rw,nosuid,nodev,noexec,noatime\n")
	// The kernel locks all of them but nosymfollow.
	w.must(unix.Mount("", source, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV|
		unix.MS_NOEXEC|unix.MS_NOATIME|unix.MS_NOSYMFOLLOW, ""))
	w.prints(w.inUserNamespace(bind()), "rw,nosuid,nodev,noexec,noatime,nosymfollow\n")
	w.prints(w.inUserNamespace(bind("rw")), "rw,nosuid,nodev,noexec,noatime\n")
	w.fails(w.inUserNamespace(bind("exec")), "mounts[7] (/m): mount_setattr: operation not permitted",
		"cannot be taken away in a user namespace")
	w.fails(w.inUserNamespace(bind("strictatime")),
		"mounts[7] (/m): mount_setattr: operation not permitted")
}

// TestUserNamespaceMounts: sources that only the runtime's user can reach, and the filesystems of
// an engine's document.
func TestUserNamespaceMounts(t *testing.T) {
	w := newWorld(t)
	hidden := filepath.Join(w.dir, "hidden")
	w.must(os.MkdirAll(filepath.Join(hidden, "source"), 0o777))
	w.must(os.Chmod(hidden, 0o700))
	w.must(os.Chmod(filepath.Join(hidden, "source"), 0o777))
	spec := w.inUserNamespace(mounted(w.sh(
		"touch /m/made && ls /m; stat -c %g /dev/pts/ptmx >/dev/null && exec 3<>/dev/ptmx && stat -c %g /dev/pts/0; touch /dev/mqueue/q && echo q; ls /sys/kernel >/dev/null && echo sysfs"),
		specs.Mount{
			Destination: "/m", Type: "bind", Source: hidden + "/source",
			Options: []string{"rbind"},
		}))
	w.prints(spec, "made\n5\nq\nsysfs\n")
	// The network is the host's, and with it the sysfs.
	spec.Linux.Namespaces = append(spec.Linux.Namespaces[:1], spec.Linux.Namespaces[2:]...)
	w.prints(spec, "made\n5\nq\nsysfs\n")
}

// TestOverlay: relative directories are below the bundle, and more layers than fsconfig(2) takes in
// one value work.
func TestOverlay(t *testing.T) {
	w := newWorld(t)
	var lower, deep []string
	for i := range 40 {
		name := fmt.Sprintf("layers/number-%02d", i)
		w.must(os.MkdirAll(filepath.Join(w.bundle(), name), 0o755))
		w.must(os.WriteFile(filepath.Join(w.bundle(), name, fmt.Sprint(i)), nil, 0o644))
		w.must(os.WriteFile(filepath.Join(w.bundle(), name, "same"), []byte(fmt.Sprintln(i)), 0o644))
		deep = append(deep, filepath.Join(w.bundle(), name))
		if i < 3 {
			lower = append(lower, name)
		}
	}
	// An overlay needs a filesystem below that is none.
	w.must(os.MkdirAll(filepath.Join(w.bundle(), "rw"), 0o755))
	w.must(unix.Mount("tmpfs", filepath.Join(w.bundle(), "rw"), "tmpfs", 0, ""))
	defer func() { w.must(unix.Unmount(filepath.Join(w.bundle(), "rw"), unix.MNT_DETACH)) }()
	w.must(os.MkdirAll(filepath.Join(w.bundle(), "rw/upper"), 0o755))
	w.must(os.MkdirAll(filepath.Join(w.bundle(), "rw/work"), 0o755))
	overlay := func(options ...string) specs.Mount {
		return specs.Mount{Destination: "/o", Type: "overlay", Source: "overlay", Options: options}
	}
	short := "lowerdir=" + strings.Join(lower, ":")
	if len(short) > 250 {
		t.Fatal("not short")
	}
	w.prints(mounted(w.sh("ls /o; cat /o/same; touch /o/made"), overlay(short, "upperdir=rw/upper",
		"workdir=rw/work", "nosuid")), "0\n1\n2\nsame\n0\n")
	if _, err := os.Stat(filepath.Join(w.bundle(), "rw/upper/made")); err != nil {
		t.Error(err)
	}
	w.prints(mounted(w.sh(
		"ls /o | grep -c .; cat /o/same; touch /o/made 2>&1; grep ' /o ' /proc/self/mountinfo | cut -d' ' -f6"), overlay("lowerdir="+strings.Join(deep, ":"), "nodev", "ro")),
		"41\n0\ntouch: /o/made: Read-only file system\nro,nodev,relatime\n")

	// More than a page, which mount(2) would cut: the layers one by one, also those of a long name
	// and with characters that mean something in the option.
	var many []string
	for i := range 3 {
		name := fmt.Sprintf("layers/%d-%s/a:b,c", i, strings.Repeat("n", 250))
		w.must(os.MkdirAll(filepath.Join(w.bundle(), name), 0o755))
		w.must(os.WriteFile(filepath.Join(w.bundle(), name, "long"), []byte(fmt.Sprintln(i)), 0o644))
		many = append(many, strings.NewReplacer(":", `\:`).Replace(name))
	}
	for _, name := range []string{"rw/" + strings.Repeat("u", 250), "rw/" + strings.Repeat("w", 250)} {
		w.must(os.MkdirAll(filepath.Join(w.bundle(), name), 0o755))
	}
	many = append(many, deep...)
	for i := 0; len(strings.Join(many, ":")) <= os.Getpagesize(); i++ {
		name := fmt.Sprintf("layers/more-%04d-%s", i, strings.Repeat("m", 100))
		w.must(os.MkdirAll(filepath.Join(w.bundle(), name), 0o755))
		many = append(many, name)
	}
	lowerdir := "lowerdir=" + strings.Join(many, ":")
	spec := mounted(w.sh("ls /o | grep -c .; cat /o/same /o/long; touch /o/last"),
		overlay(lowerdir, "upperdir=rw/"+strings.Repeat("u", 250), "workdir=rw/"+
			strings.Repeat("w", 250)))
	var uts unix.Utsname
	w.must(unix.Uname(&uts))
	var major, minor int
	_, err := fmt.Sscanf(unix.ByteSliceToString(uts.Release[:]), "%d.%d", &major, &minor)
	if err != nil {
		t.Fatal(err)
	}
	if major < 6 || major == 6 && minor < 7 {
		w.fails(spec, "mounts[7] (/o): fsconfig: invalid argument",
			"lowerdir+ of an overlay came with Linux 6.7")
		return
	}
	w.prints(spec,
		"42\n0\n0\n")
	if _, err := os.Stat(filepath.Join(w.bundle(), "rw", strings.Repeat("u", 250),
		"last")); err != nil {
		t.Error(err)
	}
}

// TestAddAndRemoveMounts of a running container.
func TestAddAndRemoveMounts(t *testing.T) {
	for _, user := range []bool{false, true} {
		t.Run(fmt.Sprintf("user namespace=%v", user), func(t *testing.T) {
			w := newWorld(t)
			source := w.source()
			w.must(os.Symlink("/outside", w.file("/link")))
			w.must(os.MkdirAll(w.file("/outside"), 0o755))
			w.write("/data/image", "", 0o644)
			spec := w.sh(
				"while ! test -e /go; do sleep 0.02; done; cat /added/file; ls -A /link /tmp /data; touch /added/x 2>&1; grep -c ' /link ' /proc/self/mountinfo; touch /ready; while test -e /go; do sleep 0.02; done; ls -A /added; grep -c -E ' (/added|/outside|/tmp) ' /proc/self/mountinfo")
			if user {
				spec = w.inUserNamespace(spec)
			}
			out := filepath.Join(w.dir, "out")
			f, err := os.Create(out)
			w.must(err)
			w.save(spec)
			s, err := w.rt.Create(background, w.id, CreateOptions{Bundle: w.bundle(), Stdout: f, Stderr: f})
			w.must(err)
			f.Close()
			defer w.end(w.id, s.PID)
			w.must(w.rt.Start(background, w.id))
			bind := func(from, to string, options ...string) specs.Mount {
				return specs.Mount{
					Destination: to, Type: "bind", Source: from,
					Options: append([]string{"rbind"}, options...),
				}
			}
			mounts := []specs.Mount{
				bind(source, "/added", "ro"), bind("../source/folder", "/link/below"),
				{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k"}},
			}
			copied := []specs.Mount{{
				Destination: "/data", Type: "tmpfs", Source: "tmpfs",
				Options: []string{"tmpcopyup"},
			}}
			w.must(w.rt.AddMounts(background, w.id, mounts))
			w.must(w.rt.AddMounts(background, w.id, copied))
			table := func() string {
				data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", s.PID))
				w.must(err)
				return string(data)
			}
			before := table()
			err = w.rt.AddMounts(background, w.id, []specs.Mount{
				bind(source, "/undone"),
				bind(source, "/undone/folder"),
				{Destination: "/x", Type: "nosuchfs", Source: "none"},
			})
			if err == nil || !strings.Contains(err.Error(), "mounts[2] (/x): fsopen: no such device") ||
				table() != before {
				t.Errorf("%v; the mounts were:\n%s\nand are:\n%s", err, before, table())
			}
			for want, m := range map[string]specs.Mount{
				"mounts[0] (/added): open_tree /nothing: no such file": bind("/nothing", "/added"),
				"mounts[0].options: found copy-symlink":                bind(source, "/added", "copy-symlink"),
				"mounts[0].type: ":                                     {Destination: "/added"},
				"mounts[0].destination: ":                              {Type: "tmpfs"},
			} {
				if err := w.rt.AddMounts(background, w.id, []specs.Mount{m}); err == nil ||
					!strings.Contains(err.Error(), want) {
					t.Errorf("found %v; want %s", err, want)
				}
			}
			w.must(os.WriteFile(w.file("/go"), nil, 0o644))
			w.await("the container has looked", func() bool {
				_, err := os.Stat(w.file("/ready"))
				return err == nil
			})
			w.must(w.rt.RemoveMounts(background, w.id,
				append(mounts[:1:1], specs.Mount{Destination: "/outside/below"}, mounts[2])))
			if err := w.rt.RemoveMounts(background, w.id, mounts[:1]); err == nil ||
				!strings.Contains(err.Error(), "mounts[0] (/added): umount2: invalid argument") {
				t.Errorf("again: %v", err)
			}
			w.must(os.Remove(w.file("/go")))
			reap(s.PID)
			data, err := os.ReadFile(out)
			w.must(err)
			const want = "from the host\n/data:\nimage\n\n/link:\nbelow\n\n/tmp:\ntouch: /added/x: Read-only file system\n0\n0\n"
			if string(data) != want {
				t.Errorf("it printed:\n%s\nwant:\n%s", data, want)
			}
			if err := w.rt.AddMounts(background, w.id, mounts); err == nil || !strings.Contains(err.Error(),
				"stopped") {
				t.Errorf("stopped: %v", err)
			}
		})
	}
}

// TestCgroup2Mount shows a container its own cgroup of version 2, writable where the document says
// so, with a cgroup namespace and without one.
func TestCgroup2Mount(t *testing.T) {
	w := newWorld(t)
	m := specs.Mount{
		Destination: "/cgroup", Type: "cgroup2", Source: "cgroup",
		Options: []string{"rw", "nosuid"},
	}
	const script = "mkdir /cgroup/x 2>&1 && rmdir /cgroup/x; grep -c . /cgroup/cgroup.procs; grep ' /cgroup ' /proc/self/mountinfo | cut -d' ' -f6 | cut -d, -f1,2"
	w.prints(mounted(w.sh(script), m), "2\nrw,nosuid\n")
	spec := mounted(w.sh(script), m)
	spec.Linux.Namespaces = spec.Linux.Namespaces[:5]
	w.prints(spec, "2\nrw,nosuid\n")
	m.Options[0] = "ro"
	spec.Mounts[len(spec.Mounts)-1] = m
	w.prints(spec, "mkdir: can't create directory '/cgroup/x': Read-only file system\n2\nro,nosuid\n")
	if len(w.warned) > 0 {
		t.Errorf("warned: %q", w.warned)
	}
}

// TestNoPivotHidesTheHostsProc: the host's procfs, which stays in the mount namespace, is none that
// allows a process in a user namespace of its own another without the masks of the container's.
func TestNoPivotHidesTheHostsProc(t *testing.T) {
	w := newWorld(t)
	spec := w.sh(
		"/bin/busybox unshare -mUrpf mount -t proc proc /proc && echo mounted || echo refused")
	spec.Linux.MaskedPaths = []string{"/proc/keys"}
	w.save(spec)
	for _, noPivot := range []bool{false, true} {
		out, _, err := w.tryWith(CreateOptions{NoPivot: noPivot})
		if err != nil || !strings.HasSuffix(out, "refused\n") {
			t.Errorf("no pivot %v: printed %q, %v", noPivot, out, err)
		}
	}
	// In a user namespace the host's mounts are locked.
	if out, _, err := func() (string, unix.WaitStatus, error) {
		w.save(w.inUserNamespace(spec))
		return w.tryWith(CreateOptions{NoPivot: true})
	}(); err != nil || !strings.HasSuffix(out, "refused\n") {
		t.Errorf("in a user namespace: printed %q, %v", out, err)
	}
}

// TestNoPivotIsNotPrivate: the host's mounts are still there below a root that was moved.
func TestNoPivotIsNotPrivate(t *testing.T) {
	w := newWorld(t)
	spec := w.sh("true")
	spec.Linux.RootfsPropagation = "rprivate"
	w.save(spec)
	_, err := w.rt.Run(background, w.id, CreateOptions{Bundle: w.bundle(), NoPivot: true})
	if err == nil || !strings.Contains(err.Error(),
		"linux.rootfsPropagation: found rprivate; --no-pivot") {
		t.Errorf("found %v", err)
	}
}
