// SPDX-License-Identifier: Apache-2.0
//
// Compiles filters with libseccomp for the tests of package seccomp. Reads lines from
// standard input:
//
//   filter DEFAULT OPTIMIZE   starts a filter; DEFAULT is a SECCOMP_RET_* value in hex
//   arch TOKEN                adds an architecture (SCMP_ARCH_* value in hex)
//   rule ACTION NAME [ARG OP A B]...   adds a rule; OP is an enum scmp_compare, A and B are hex
//   export                    ends it
//   number TOKEN NAME         asks for a system call's number
//
// Writes for each export "ok HEX", "error ERRNO LINE", where LINE counts the filter's rules from 0, or
// "hang" where libseccomp did not come back within a second of processor time; and for each number
// its decimal value.
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>

static sigjmp_buf late;

static void on_timer(int sig)
{
	(void)sig;
	siglongjmp(late, 1);
}

static void timer(int seconds)
{
	struct itimerval value = { .it_value = { .tv_sec = seconds } };

	setitimer(ITIMER_VIRTUAL, &value, NULL);
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void export(scmp_filter_ctx ctx)
{
	unsigned char buf[65536];
	int fd = memfd_create("bpf", MFD_CLOEXEC), rc, n;

	if (fd < 0)
		die("memfd_create");
	rc = seccomp_export_bpf(ctx, fd);
	timer(0);
	if (rc < 0) {
		printf("error %d -1\n", -rc);
		close(fd);
		return;
	}
	n = pread(fd, buf, sizeof(buf), 0);
	close(fd);
	printf("ok ");
	for (int i = 0; i < n; i++)
		printf("%02x", buf[i]);
	printf("\n");
}

int main(void)
{
	/* static, so that they live on over siglongjmp */
	static char *line;
	static size_t size;
	static scmp_filter_ctx ctx;
	static int failed, failed_rule, rules, hung, exporting;

	signal(SIGVTALRM, on_timer);
	if (sigsetjmp(late, 1)) {
		hung = 1; /* the context is given up */
		if (exporting)
			printf("hang\n");
		exporting = 0;
	}
	while (getline(&line, &size, stdin) > 0) {
		char *word = strtok(line, " \n");

		if (!word)
			continue;
		if (!strcmp(word, "filter")) {
			uint32_t def = strtoul(strtok(NULL, " \n"), NULL, 16);

			ctx = seccomp_init(def);
			if (!ctx)
				die("seccomp_init");
			seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, atoi(strtok(NULL, " \n")));
			failed = rules = hung = 0;
			timer(1);
			failed_rule = -1;
		} else if ((hung || failed) && strcmp(word, "export")) {
			continue;
		} else if (!strcmp(word, "arch")) {
			int rc = seccomp_arch_add(ctx, strtoul(strtok(NULL, " \n"), NULL, 16));

			if (rc < 0 && rc != -EEXIST && !failed)
				failed = -rc;
		} else if (!strcmp(word, "rule")) {
			struct scmp_arg_cmp args[6];
			unsigned int n = 0;
			uint32_t action = strtoul(strtok(NULL, " \n"), NULL, 16);
			char *name = strtok(NULL, " \n");
			int nr = seccomp_syscall_resolve_name(name), rc;

			while (n < 6 && (word = strtok(NULL, " \n"))) {
				args[n].arg = atoi(word);
				args[n].op = atoi(strtok(NULL, " \n"));
				args[n].datum_a = strtoull(strtok(NULL, " \n"), NULL, 16);
				args[n].datum_b = strtoull(strtok(NULL, " \n"), NULL, 16);
				n++;
			}
			rc = nr == __NR_SCMP_ERROR ? -ENOENT : seccomp_rule_add_array(ctx, action, nr, n, args);
			if (rc < 0 && !failed) {
				failed = -rc;
				failed_rule = rules;
			}
			rules++;
		} else if (!strcmp(word, "export")) {
			exporting = !hung;
			if (!hung && !failed)
				export(ctx);
			exporting = 0;
			timer(0);
			if (hung)
				printf("hang\n");
			else if (failed)
				printf("error %d %d\n", failed, failed_rule);
			if (!hung)
				seccomp_release(ctx);
			ctx = NULL;
		} else if (!strcmp(word, "number")) {
			uint32_t token = strtoul(strtok(NULL, " \n"), NULL, 16);

			printf("%d\n", seccomp_syscall_resolve_name_arch(token, strtok(NULL, " \n")));
		}
	}
	return 0;
}
