// SPDX-License-Identifier: Apache-2.0
//
// The system calls that a container needs and nothing else, by the shortest way there is and with no error told but that there was
// one: the floor that `make bench-runtime` measures against.
//
//   floor ROOTFS N [PAUSE [bare]]
//
// makes N containers of /bin/true, one after the other with a pause of PAUSE microseconds, of the spec that `berth spec` writes: its cgroups with their device
// rules, namespaces, mounts (those of cgroups too), masked and read-only paths, limits and capabilities. "bare" leaves out the cgroup
// filesystems, the device rules, the loopback interface, the keyring, the limit and the read-only root, as the first version of this
// program did. It prints the median of two times a container, in milliseconds: until the program is executed, and until all is removed.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <grp.h>
#include <unistd.h>

#define LEN(a) (sizeof(a) / sizeof *(a))
#define CK(x) do { if ((x) < 0) { perror(#x); _exit(99); } } while (0)

// The cgroup hierarchies of this host: where the container has a folder, and what is mounted for it to see.
static const char *hierarchies[] = {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd", "unified"};
static char there[LEN(hierarchies)];
static char folder[LEN(hierarchies)][256];
static int tasks[LEN(hierarchies)];
static int bare;

static int put(const char *dir, const char *file, const char *text)
{
	char p[512];
	snprintf(p, sizeof p, "%s/%s", dir, file);
	int fd = open(p, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	int n = write(fd, text, strlen(text));
	close(fd);
	return n;
}

static void copy_down(const char *dir, const char *file)
{
	char p[512], value[256];
	snprintf(p, sizeof p, "%s/../%s", dir, file);
	int fd = open(p, O_RDONLY | O_CLOEXEC);
	CK(fd);
	int n = read(fd, value, sizeof value - 1);
	CK(n);
	value[n] = 0;
	close(fd);
	CK(put(dir, file, value));
}

static void make_cgroups(void)
{
	for (unsigned k = 0; k < LEN(hierarchies); k++) {
		if (!there[k])
			continue;
		CK(mkdir(folder[k], 0755));
		if (!strcmp(hierarchies[k], "cpuset")) {
			copy_down(folder[k], "cpuset.cpus");
			copy_down(folder[k], "cpuset.mems");
		}
		if (strcmp(hierarchies[k], "devices") || bare)
			continue;
		CK(put(folder[k], "devices.deny", "a"));
		char p[512];
		snprintf(p, sizeof p, "%s/devices.allow", folder[k]);
		int fd = open(p, O_WRONLY | O_CLOEXEC);
		CK(fd);
		static const char *rules[] = {"c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:1 rwm", "c 5:2 rwm", "c 136:* rwm"};
		for (unsigned i = 0; i < LEN(rules); i++)
			CK(write(fd, rules[i], strlen(rules[i])));
		close(fd);
	}
}

static void mount_cgroups(void)
{
	CK(mount("tmpfs", "sys/fs/cgroup", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755"));
	for (unsigned k = 0; k < LEN(hierarchies); k++) {
		if (!there[k])
			continue;
		char p[64];
		snprintf(p, sizeof p, "sys/fs/cgroup/%s", hierarchies[k]);
		CK(mkdir(p, 0755));
		const unsigned long flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC;
		if (!strcmp(hierarchies[k], "unified"))
			CK(mount("cgroup", p, "cgroup2", flags, 0));
		else if (!strcmp(hierarchies[k], "systemd"))
			CK(mount("cgroup", p, "cgroup", flags, "none,name=systemd"));
		else
			CK(mount("cgroup", p, "cgroup", flags, hierarchies[k]));
	}
	CK(mount(0, "sys/fs/cgroup", 0, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
}

// Each joins the cgroups by itself, by "tasks" where there is one: a write to cgroup.procs waits for an RCU grace period.
static void join_cgroups(void)
{
	for (unsigned k = 0; k < LEN(hierarchies); k++)
		if (there[k])
			CK(write(tasks[k], "0", 1));
	CK(unshare(CLONE_NEWCGROUP));
}

static void child(const char *root)
{
	join_cgroups();
	if (!bare) {
		struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
		int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		CK(s);
		CK(ioctl(s, SIOCSIFFLAGS, &lo));
		close(s);
	}
	CK(mount(0, "/", 0, MS_REC | MS_SLAVE, 0));
	CK(mount(root, root, 0, MS_BIND | MS_REC, 0));
	CK(chdir(root));
	CK(setsid());
	if (!bare)
		CK(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "_ses.floor"));
	CK(mount("proc", "proc", "proc", 0, 0));
	CK(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
	CK(mkdir("dev/pts", 0755));
	CK(mkdir("dev/shm", 0755));
	CK(mkdir("dev/mqueue", 0755));
	CK(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
	CK(mount("shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=65536k"));
	CK(mount("mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
	CK(mount("sysfs", "sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, 0));
	if (!bare)
		mount_cgroups();
	static const struct { const char *name; int major, minor; } devices[] = {{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
	umask(0);
	for (unsigned k = 0; k < LEN(devices); k++) {
		char p[64];
		snprintf(p, sizeof p, "dev/%s", devices[k].name);
		CK(mknod(p, S_IFCHR | 0666, makedev(devices[k].major, devices[k].minor)));
	}
	CK(symlink("/proc/self/fd", "dev/fd"));
	CK(symlink("/proc/self/fd/0", "dev/stdin"));
	CK(symlink("/proc/self/fd/1", "dev/stdout"));
	CK(symlink("/proc/self/fd/2", "dev/stderr"));
	CK(symlink("pts/ptmx", "dev/ptmx"));
	CK(syscall(SYS_pivot_root, ".", "."));
	CK(umount2(".", MNT_DETACH));
	CK(chdir("/"));
	// What is not there is left out, as in the spec.
	static const char *readonly[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
	for (unsigned k = 0; k < LEN(readonly) - bare; k++) {
		mount(readonly[k], readonly[k], 0, MS_BIND | MS_REC, 0);
		mount(readonly[k], readonly[k], 0, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_REC, 0);
	}
	static const char *files[] = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats", "/proc/timer_stats"};
	for (unsigned k = 0; k < LEN(files) - 2 * bare; k++)
		mount("/dev/null", files[k], 0, MS_BIND, 0);
	static const char *folders[] = {"/proc/acpi", "/proc/scsi", "/sys/firmware", "/proc/asound"};
	for (unsigned k = 0; k < LEN(folders) - bare; k++)
		mount("tmpfs", folders[k], "tmpfs", MS_RDONLY, 0);
	if (!bare)
		CK(mount(0, "/", 0, MS_REMOUNT | MS_BIND | MS_RDONLY, 0));
	CK(sethostname("floor", 5));
	umask(022);
	CK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	if (!bare) {
		struct rlimit files_limit = {1024, 1024};
		CK(setrlimit(RLIMIT_NOFILE, &files_limit));
	}
	for (int k = 0; k <= CAP_LAST_CAP; k++)
		if (k != CAP_AUDIT_WRITE && k != CAP_KILL && k != CAP_NET_BIND_SERVICE)
			CK(prctl(PR_CAPBSET_DROP, k, 0, 0, 0));
	if (!bare) {
		CK(prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
		CK(syscall(SYS_setgroups, 0, 0));
		CK(syscall(SYS_setresgid, 0, 0, 0));
		CK(syscall(SYS_setresuid, 0, 0, 0));
		struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
		struct __user_cap_data_struct data[2] = {{.effective = 0x20000420, .permitted = 0x20000420}};
		CK(syscall(SYS_capset, &header, data));
	}
	char *args[] = {"/bin/true", 0}, *env[] = {"PATH=/bin", 0};
	execve("/bin/true", args, env);
	perror("execve");
	_exit(99);
}

static double since(const struct timespec *a)
{
	struct timespec b;
	clock_gettime(CLOCK_MONOTONIC, &b);
	return (b.tv_sec - a->tv_sec) * 1e3 + (b.tv_nsec - a->tv_nsec) / 1e6;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double median(double *v, int n)
{
	qsort(v, n, sizeof *v, compare);
	return v[n / 2];
}

int main(int argc, char **argv)
{
	if (argc < 3) {
		fprintf(stderr, "usage: floor ROOTFS N [PAUSE [bare]]\n");
		return 2;
	}
	const char *root = argv[1];
	int n = atoi(argv[2]);
	useconds_t pause_us = argc > 3 ? atoi(argv[3]) : 0;
	bare = argc > 4 && !strcmp(argv[4], "bare");
	for (unsigned k = 0; k < LEN(hierarchies); k++) {
		char p[256];
		snprintf(p, sizeof p, "/sys/fs/cgroup/%s/cgroup.procs", hierarchies[k]);
		there[k] = access(p, F_OK) == 0 && !(bare && !strcmp(hierarchies[k], "systemd"));
		snprintf(folder[k], sizeof folder[k], "/sys/fs/cgroup/%s/floor%d", hierarchies[k], getpid());
	}
	double *executed = calloc(n, sizeof *executed), *removed = calloc(n, sizeof *removed);
	for (int i = 0; i < n; i++) {
		struct timespec begin;
		clock_gettime(CLOCK_MONOTONIC, &begin);
		make_cgroups();
		for (unsigned k = 0; k < LEN(hierarchies); k++) {
			char p[512];
			snprintf(p, sizeof p, "%s/%s", folder[k], strcmp(hierarchies[k], "unified") ? "tasks" : "cgroup.procs");
			if (there[k])
				CK(tasks[k] = open(p, O_WRONLY | O_CLOEXEC));
		}
		int exec[2];
		CK(pipe2(exec, O_CLOEXEC));
		struct clone_args args = {.flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET, .exit_signal = SIGCHLD};
		int pid = syscall(SYS_clone3, &args, sizeof args);
		CK(pid);
		if (pid == 0)
			child(root);
		for (unsigned k = 0; k < LEN(hierarchies); k++)
			if (there[k])
				close(tasks[k]);
		close(exec[1]);
		char byte;
		CK(read(exec[0], &byte, 1)); // its end, which execve brings
		close(exec[0]);
		executed[i] = since(&begin);
		int status;
		CK(waitpid(pid, &status, 0));
		if (status) {
			fprintf(stderr, "ended with status %x\n", status);
			return 1;
		}
		for (unsigned k = 0; k < LEN(hierarchies); k++)
			for (int t = 0; there[k] && t < 100 && rmdir(folder[k]) && errno == EBUSY; t++)
				usleep(200);
		removed[i] = since(&begin);
		usleep(pause_us);
	}
	printf("%.3f %.3f\n", median(executed, n), median(removed, n));
}
