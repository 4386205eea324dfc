// SPDX-License-Identifier: Apache-2.0

package clients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// looksAround prints what a process can see of its container.
const looksAround = `
id; umask; pwd; ulimit -a
grep -E '^(Cap|NoNew|Seccomp:|Groups)' /proc/self/status
echo "env: $(env | sort | tr '\n' ' ')"
echo "maps: $(cat /proc/self/uid_map /proc/self/gid_map | tr -s ' \n' ' ')"
echo "oom: $(cat /proc/self/oom_score_adj)"
echo "dev: $(cd /dev; stat -c '%n %F %a %u:%g %t:%T' * 2>/dev/null | tr '\n' ';')"
echo "first: $(cat /proc/1/comm)"
echo "namespaces: $(for n in cgroup ipc mnt net pid user uts; do test "$(readlink /proc/self/ns/$n)" = "$(eval echo \$HOST_$n)" && echo $n of the host; done | tr '\n' ';')"
echo "cgroup: $(ls /sys/fs/cgroup 2>&1 | tr '\n' ' '); writable: $(for d in /sys/fs/cgroup/*; do mkdir $d/made 2>/dev/null && echo ${d##*/} && rmdir $d/made; done | tr '\n' ' ')"
echo "written: $(for f in /tmp/x /etc/x /dev/x /dev/shm/x /run/x /proc/sys/kernel/msgmax /sys/x; do (echo 8192 >$f) 2>/dev/null && echo $f; done | tr '\n' ' ')"
for f in /proc/kcore /proc/keys /proc/timer_list /proc/sched_debug /proc/scsi /proc/acpi /sys/firmware; do
	test -f $f && echo "$f: $(head -c 1 $f 2>/dev/null | wc -c)"; test -d $f && echo "$f: $(ls $f | wc -l)"
done
for f in kernel/msgmax kernel/shmmni net/ipv4/ip_unprivileged_port_start net/ipv4/ping_group_range net/ipv4/ip_forward kernel/domainname; do echo "$f: $(cat /proc/sys/$f)"; done
awk '{ options = $6; root = $4; for (i = 7; $i != "-"; i++) options = options " " $i; print "mount", $5, $(i+1), options }' /proc/self/mountinfo | sed 's/\(shared\|master\):[0-9]*/\1/g' | sort
`

// alike are flags of an engine, and what to run where it is not looksAround.
type alike struct {
	flags   []string
	command []string
}

func flags(f ...string) alike { return alike{flags: f} }

func (a alike) runs(command ...string) alike { a.command = command; return a }

// TestPodmanAlike runs podman with many flags, each with berth and with runc: the exit code and
// what the container sees are the same.
func TestPodmanAlike(t *testing.T) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err) // hack/deps.sh clients installs it
	}
	p := newPodman(t)
	var (
		base = t.TempDir()
		dir  = filepath.Join(base, "volume")
		file = filepath.Join(base, "file")
	)
	write(t, filepath.Join(dir, "f"), "volume\n")
	write(t, filepath.Join(dir, "sub/f"), "below\n")
	write(t, file, "root:x:0:0::/of/file:/bin/sh\n")
	private := filepath.Join(base, "private")
	write(t, filepath.Join(private, "volume/f"), "private\n")
	for path, mode := range map[string]os.FileMode{base: 0o755, dir: 0o777, private: 0o700} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(private, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(dir, "sub"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|
		unix.MS_NOEXEC, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(filepath.Join(dir, "sub"), unix.MNT_DETACH) })
	hooks := filepath.Join(base, "hooks")
	write(t, filepath.Join(hooks, "hook.json"),
		`{"version": "1.0.0", "hook": {"path": "/bin/sh", "args": ["sh", "-c", "echo $PATH | grep -q bin && cat >/dev/null"]}, "when": {"always": true}, "stages": ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]}`)
	failing := filepath.Join(base, "failing-hooks")
	write(t, filepath.Join(failing, "hook.json"),
		`{"version": "1.0.0", "hook": {"path": "/bin/false"}, "when": {"always": true}, "stages": ["createRuntime"]}`)
	profile := filepath.Join(base, "seccomp.json")
	write(t, profile,
		`{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}`)
	users := []string{"--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"}
	inUsers := func(f ...string) alike { return flags(append(slices.Clone(users), f...)...) }
	sh := func(script string) []string { return []string{"sh", "-c", script} }

	with := func(runtime string) []string { return []string{"--runtime", runtime, "run"} }
	compare(t, p, with, berth, runc, []alike{
		flags(),
		inUsers(),
		inUsers("-v", dir+
			":/v").runs(sh(
			"cat /v/f /v/sub/f; touch /v/x; stat -c %u:%g /v /v/f; rm -f /v/x; grep ' /v' /proc/self/mountinfo | cut -d' ' -f5,6")...),
		inUsers("-v", private+"/volume:/v").runs("cat", "/v/f"),
		inUsers("-v", private+"/volume:/v:ro").runs(sh("cat /v/f; touch /v/x")...),
		inUsers("--pid", "host").runs("cat", "/proc/sys/net/ipv4/ping_group_range"),
		inUsers("--pid", "host", "--sysctl", "net.ipv4.ip_unprivileged_port_start=77").runs("cat",
			"/proc/sys/net/ipv4/ip_unprivileged_port_start"),
		inUsers("--ipc", "host"),
		inUsers("--uts", "host"),
		inUsers("--device", "/dev/zero:/dev/zero").runs(sh("head -c 3 /dev/zero | wc -c")...),
		inUsers("--cap-add", "SYS_ADMIN").runs(sh("mount -t tmpfs x /tmp && echo mounted")...),
		inUsers("--read-only"),
		inUsers("--user", "7:8"),
		inUsers("--tmpfs", "/scratch:size=1m"),
		flags("--userns", "keep-id"),
		flags("--userns", "host"),
		flags("--pid", "host"),
		flags("--ipc", "host"),
		flags("--uts", "host"),
		flags("--cgroupns", "host"),
		flags("--cgroupns", "private"),
		flags("--privileged"),
		flags("--privileged", "--read-only"),
		flags("--privileged", "--cgroupns", "host"),
		flags("--read-only"),
		flags("--read-only", "--read-only-tmpfs=false"),
		flags("--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.msgmax=8193"),
		flags("--sysctl", "kernel.nonsense=1"),
		flags("--sysctl", "net.ipv4.nonsense=1"),
		flags("--sysctl", "kernel.shmmni=1234", "--ipc", "host"),
		flags("--cap-add", "SYS_ADMIN"),
		flags("--cap-add", "ALL"),
		flags("--cap-drop", "ALL"),
		flags("--cap-drop", "ALL", "--cap-add", "CHOWN", "--user", "7"),
		flags("--user", "7:8"),
		flags("--user", "7:8", "--group-add", "9", "--group-add", "10"),
		flags("--user", "nobody"),
		flags("--user", "nosuchuser"),
		flags("--security-opt", "no-new-privileges"),
		flags("--security-opt", "seccomp=unconfined"),
		flags("--security-opt", "seccomp="+profile).runs(sh("mkdir /tmp/d; echo $?")...),
		flags("--security-opt", "mask=/etc/passwd:/etc"),
		flags("--security-opt", "unmask=ALL"),
		flags("--security-opt", "unmask=/proc/kcore:/sys/firmware"),
		flags("--security-opt", "label=disable"),
		flags("--security-opt", "apparmor=unconfined"),
		flags("--security-opt", "proc-opts=hidepid=2"),
		flags("--device", "/dev/zero:/dev/nought:r"),
		flags("--device", "/dev/zero:/dev/deep/nought:rwm"),
		flags("--device", "/dev/nosuchdevice"),
		flags("--device", "/dev/net"),
		flags("--device-cgroup-rule", "c 10:200 rwm"),
		flags("-v", dir+":/v"),
		flags("-v", dir+":/v:ro"),
		flags("-v", dir+":/v:ro,noexec,nosuid,nodev"),
		flags("-v", dir+":/v:rslave"),
		flags("-v", dir+":/v:rshared"),
		flags("-v", dir+":/etc"),
		flags("-v", file+":/etc/passwd:ro"),
		flags("-v", file+":/etc/passwd:ro", "--user", "0").runs(sh("echo $HOME")...),
		flags("-v", file+":/new/file").runs("cat", "/new/file"),
		flags("-v", file+":/etc"),
		flags("-v", dir+":/etc/passwd"),
		flags("-v", base+"/missing:/v"),
		flags("-v", "named:/v"),
		flags("-v", "/anonymous"),
		flags("--mount", "type=bind,src="+dir+",dst=/v,ro=true"),
		flags("--mount", "type=bind,src="+dir+",dst=/v,bind-propagation=rprivate"),
		flags("--mount", "type=bind,src="+dir+",dst=/v,bind-nonrecursive"),
		flags("--mount", "type=tmpfs,dst=/v,tmpfs-size=1m,tmpfs-mode=0700"),
		flags("--mount", "type=tmpfs,dst=/etc,notmpcopyup"),
		flags("--mount", "type=devpts,dst=/pts"),
		flags("--mount", "type=volume,src=another,dst=/v"),
		flags("--tmpfs", "/scratch"),
		flags("--tmpfs", "/scratch:size=1m,mode=0700,noexec"),
		flags("--tmpfs", "/etc"),
		flags("--tmpfs", "/run:rw,exec,suid,dev"),
		flags("--shm-size", "1m").runs("df", "/dev/shm"),
		flags("--ulimit", "nofile=99:100", "--ulimit", "core=0", "--ulimit", "nproc=500:500"),
		flags("--ulimit", "nofile=9999999:9999999"),
		flags("--oom-score-adj", "100"),
		flags("--memory", "64m", "--pids-limit", "50", "--cpu-shares", "512", "--cpus", "0.5"),
		flags("--memory", "64m", "--kernel-memory", "32m"),
		flags("--memory", "64m", "--memory-reservation", "32m", "--memory-swappiness", "10"),
		flags("--memory", "1k"),
		flags("--cpuset-cpus", "0"),
		flags("--cpuset-cpus", "999"),
		flags("--blkio-weight", "100"),
		flags("--init", "--init-path", "/usr/bin/tini-static"),
		flags("--workdir", "/tmp"),
		flags("--workdir", "/missing/folder"),
		flags("--workdir", "/etc/passwd"),
		flags("--hostname", "named"),
		flags("--env", "A=b c", "--env", "EMPTY="),
		flags("--env", "PATH=/nowhere").runs("ls"),
		flags("--umask", "0077"),
		flags("--tty").runs(sh("tty; stty size; stat -c %a:%u /dev/console $(tty)")...),
		flags("--no-hosts"),
		flags("--entrypoint", "/bin/echo").runs("words"),
		flags("--annotation", "a=b"),
		flags("--hooks-dir", hooks),
		flags("--hooks-dir", failing),
		flags("--cgroups", "disabled"),
		flags("--cgroup-parent", "/parent"),
		flags("--systemd", "always"),
		flags("--preserve-fds", "0"),
		flags().runs(""),
		flags().runs("missing"),
		flags().runs("/missing"),
		flags().runs("/etc/passwd"),
		flags().runs("/etc"),
		flags().runs(sh("kill -9 $$")...),
		flags().runs(sh("exit 7")...),
	})
}

// TestDockerAlike compares with docker, whose ids are those of a user namespace the second time.
func TestDockerAlike(t *testing.T) {
	for _, remapped := range []bool{false, true} {
		t.Run(fmt.Sprintf("userns-remap=%v", remapped), func(t *testing.T) { dockerAlike(t, remapped) })
	}
}

func dockerAlike(t *testing.T, remapped bool) {
	var options []string
	if remapped {
		for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
			write(t, file, "nobody:100000:65536\n")
		}
		options = []string{"--userns-remap", "nobody:nogroup"}
	}
	docker := newDocker(t, options...)
	base := t.TempDir()
	dir, file, private := filepath.Join(base, "volume"), filepath.Join(base, "file"),
		filepath.Join(base, "private")
	write(t, filepath.Join(dir, "f"), "volume\n")
	write(t, file, "root:x:0:0::/of/file:/bin/sh\n")
	write(t, filepath.Join(private, "volume/f"), "private\n")
	for path, mode := range map[string]os.FileMode{base: 0o755, dir: 0o777, private: 0o700} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(private, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	sh := func(script string) []string { return []string{"sh", "-c", script} }
	all := []alike{
		flags(),
		flags("-v", dir+":/v"),
		flags("-v", private+"/volume:/v").runs("cat", "/v/f"),
		flags("-v", file+":/etc/passwd"),
		flags("-v", dir+":/etc/passwd"),
		flags("-v", file+":/etc"),
		flags("--read-only"),
		flags("--tmpfs", "/scratch:size=1m,mode=0700"),
		flags("--mount", "type=bind,src="+dir+",dst=/v,readonly"),
		flags("--mount", "type=bind,src="+base+"/missing,dst=/v"),
		flags("--mount", "type=tmpfs,dst=/v,tmpfs-size=1m"),
		flags("--sysctl", "net.ipv4.ip_forward=1"),
		flags("--sysctl", "kernel.nonsense=1"),
		flags("--cap-add", "SYS_ADMIN"),
		flags("--cap-drop", "ALL"),
		flags("--user", "7:8", "--group-add", "9"),
		flags("--security-opt", "no-new-privileges"),
		flags("--security-opt", "seccomp=unconfined"),
		flags("--ulimit", "nofile=99:100"),
		flags("--memory", "64m", "--kernel-memory", "32m"),
		flags("--workdir", "/missing/folder"),
		flags("--workdir", "/etc/passwd"),
		flags("--init"),
		flags("--hostname", "named"),
		flags("--shm-size", "1m").runs("df", "/dev/shm"),
		flags().runs(""),
		flags().runs("missing"),
		flags().runs("/missing"),
		flags().runs("/etc/passwd"),
		flags().runs(sh("exit 7")...),
	}
	if !remapped {
		// runc has no device of another name in a user namespace.
		all = append(all,
			flags("--device",
				"/dev/zero:/dev/nought:r").runs(sh(
				"head -c 3 /dev/nought | wc -c; stat -c '%F %a %u:%g' /dev/nought")...), flags("--pid", "host"),
			flags("--ipc", "host"), flags("--uts", "host"), flags("--cgroupns", "host"),
			flags("--cgroupns", "private"))
	}
	compare(t, docker, func(runtime string) []string {
		return []string{"run", "--runtime", runtime}
	}, "berth", "runc", all)
}

// unlike matches values that differ between any two containers or runtimes.
var unlike = []struct{ pattern, replacement string }{
	{`[0-9a-f]{12,64}|/\S*berth-clients-\S*`, "ID"},
	// A file is masked by the host's /dev/null or by the container's, a directory by a read-only
	// tmpfs with more or fewer flags.
	{
		`(?m)^mount (/proc/acpi|/proc/keys|/proc/timer_list|/proc/scsi|/sys/firmware|/sys/dev/block|/etc/passwd|/etc) .*(tmpfs|devtmpfs) .*$`, "mask $1",
	},
	// What holds the hierarchies of version 1 is as the document says with berth; runc shows that
	// of version 2 from 1.2 on.
	{`(?m)^mount /sys/fs/cgroup tmpfs .*$|^mount /sys/fs/cgroup/unified .*\n`, ""},
	{` systemd unified `, " systemd "},
	// In a user namespace runc leaves out the ro of the document: what can be written there is
	// asked apart.
	{`(?m)^(mount /sys/fs/cgroup/\S+ cgroup) r[ow],`, "$1 "},
	// It belongs to who made the ipc namespace, in a user namespace to somebody outside of it: all
	// may write there.
	{`mqueue directory 1777 \d+:\d+`, "mqueue directory 1777"},
	// podman --privileged lists it among the devices, where runc has its symbolic link all the
	// same.
	{`ptmx (symbolic link|character special file) [^;]*;`, "ptmx;"},
	// With linux.rootfsPropagation of a volume that is shared, which runc gives the host's mounts
	// alone.
	{`(?m)^(mount / .*) shared$`, "$1"},
}

func common(output string) string {
	for _, u := range unlike {
		output = regexp.MustCompile(u.pattern).ReplaceAllString(output, u.replacement)
	}
	return output
}

// compare runs each with berth and with a peer, some at a time; with are the first arguments of an
// engine that runs a container.
func compare(t *testing.T, engine *client, with func(runtime string) []string, ours, peer string,
	all []alike,
) {
	t.Helper()
	var host []string
	for _, n := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		link, err := os.Readlink("/proc/self/ns/" + n)
		if err != nil {
			t.Fatal(err)
		}
		host = append(host, "--env", "HOST_"+n+"="+link)
	}
	type pair [2]result
	results := make([]pair, len(all))
	run := func(a alike, runtime string) result {
		command := a.command
		if command == nil {
			command = []string{"sh", "-c", looksAround}
		}
		return engine.run(slices.Concat(with(runtime), []string{"--rm", "--network", "none"}, host,
			a.flags, []string{busybox}, command)...)
	}
	limit := make(chan struct{}, 4)
	var wait sync.WaitGroup
	for i, a := range all {
		for j, runtime := range []string{ours, peer} {
			limit <- struct{}{}
			wait.Go(func() {
				defer func() { <-limit }() // also if a call hangs, which ends the goroutine
				results[i][j] = run(a, runtime)
			})
		}
	}
	wait.Wait()
	for i, a := range all {
		ours, theirs := results[i][0], results[i][1]
		name := common(strings.Join(append(slices.Clone(a.flags), a.command...), " "))
		t.Run(name, func(t *testing.T) {
			t.Logf("exit code %d", ours.code)
			if ours.code != theirs.code {
				t.Errorf("exit code %d, with %s %d:\n%s\n%s", ours.code, peer, theirs.code, ours.stderr,
					theirs.stderr)
			}
			if a, b := common(ours.out), common(theirs.out); a != b {
				t.Errorf("it sees otherwise than with %s:\n%s", peer, differences(a, b))
			}
		})
	}
}

// differences returns the lines that one text alone has.
func differences(ours, theirs string) string {
	var b strings.Builder
	a, c := strings.Split(ours, "\n"), strings.Split(theirs, "\n")
	for _, line := range a {
		if !slices.Contains(c, line) {
			fmt.Fprintf(&b, "  berth %s\n", line)
		}
	}
	for _, line := range c {
		if !slices.Contains(a, line) {
			fmt.Fprintf(&b, "  peer  %s\n", line)
		}
	}
	if b.Len() == 0 {
		return "  the same lines in another order"
	}
	return b.String()
}
