/*
 * The floor: the least that any program must ask of the kernel to start one container with the isolation that
 * `runc spec` describes, and to clean up after it. It is a yardstick, not a runtime: it reads no configuration,
 * checks nothing and drops no privilege. It is the only hand-written C of the project.
 *
 *   floor ROOTFS SCRATCH     ROOTFS holds a static /bin/true; SCRATCH is an existing directory for overlay's upper
 *
 * Protocol, one line each way:
 *   first, unasked  {"cgroup": "v1"|"v2", "hierarchies": H, "stages": [names]}
 *   "N J\n"         start N containers, J at once, by J resident workers (J = 1: by this process itself)
 *   answer          {"wall_ns": W, "retries": R, "starts": [[ns of each stage], ...]}   stages add up to the start
 *   "C N J\n"       the same in fewer words, for a rate: {"wall_ns": W, "retries": R, "done": N}
 *   "Q\n", or the end of input: workers end, every cgroup and directory that was made is removed
 *
 * Not counted, as any runtime can keep them between starts: the parent cgroups, and one upper and work directory a
 * worker. Everything else that clone_and_wait() does is counted. Source of the list: the OCI runtime specification
 * ("Default Filesystems", "linux.maskedPaths", "linux.readonlyPaths") and the file that `runc spec` writes.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_WORKERS 256
#define STACK_BYTES 65536
#define RMDIR_TRIES 2000

/* linux/sched.h is out of musl-gcc's sight. */
#define NR_CLONE3 435
#define CLONE_INTO_CGROUP 0x200000000ULL
struct clone3_args {
	uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

enum stage {
	CGROUP_MKDIR, CPUSET_SEED, CLONE, TASKS, UNSHARE_CGROUP, PROPAGATION, OVERLAY, PROC, DEV, NODES, DEVPTS, SHM,
	MQUEUE, SYSFS, READONLY, MASKS, PIVOT, HOSTNAME, EXECVE, RUN, CGROUP_RMDIR, STAGES
};
static const char *const stage_names[STAGES] = {
	"cgroup_mkdir", "cpuset_seed", "clone", "tasks", "unshare_cgroup", "propagation", "overlay", "proc", "dev",
	"nodes", "devpts", "shm", "mqueue", "sysfs", "readonly", "masks", "pivot", "hostname", "execve", "run_and_wait",
	"cgroup_rmdir"
};

static const char *const v1_names[] = {"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"};
#define V1_COUNT 8
#define CPUSET 2

static const struct { const char *path; mode_t mode; unsigned minor_no; unsigned major_no; } nodes[6] = {
	{"dev/null", 0666, 3, 1}, {"dev/zero", 0666, 5, 1}, {"dev/full", 0666, 7, 1},
	{"dev/random", 0666, 8, 1}, {"dev/urandom", 0666, 9, 1}, {"dev/tty", 0666, 0, 5},
};
static const char *const readonly_paths[5] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
static const struct { const char *path; int directory; } masks[8] = {
	{"proc/acpi", 1}, {"proc/asound", 1}, {"proc/kcore", 0}, {"proc/keys", 0}, {"proc/latency_stats", 0},
	{"proc/timer_list", 0}, {"proc/scsi", 1}, {"sys/firmware", 1},
};

/* What a worker needs for its starts; `at` is shared with the child through CLONE_VM. */
struct worker {
	int number;
	long serial;
	long retries;
	char merged[256];
	char overlay_options[1024];
	uint64_t at[STAGES + 1];
	int failed_errno;
	const char *failed_step;
	_Alignas(16) char stack[STACK_BYTES];
};

static int hierarchies;
static int v2_only;
static int parent_fd[V1_COUNT];
static char parent_path[V1_COUNT][128];
static char cpus[256], mems[256];
static const char *scratch;
static pid_t owner;
static struct worker own;   /* starts of this process itself, number 0 */
static struct worker hired; /* a resident worker's own copy after fork */

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* clone3 whose child runs `entry(argument)` on the stack that `args` names and never returns. libc has no wrapper,
 * and C cannot express a return on another stack. */
long clone3_call(struct clone3_args *args, size_t size, void (*entry)(void *), void *argument);
#define STRING_OF(x) #x
#define STRING(x) STRING_OF(x)
#if defined(__x86_64__)
__asm__(".text\n.globl clone3_call\n.type clone3_call,@function\nclone3_call:\n"
	"	mov %rdx, %r8\n	mov %rcx, %r9\n	mov $" STRING(NR_CLONE3) ", %eax\n	syscall\n"
	"	test %rax, %rax\n	jnz 1f\n"
	"	xor %ebp, %ebp\n	mov %r9, %rdi\n	call *%r8\n	hlt\n"
	"1:	ret\n.size clone3_call,.-clone3_call\n");
#elif defined(__aarch64__)
__asm__(".text\n.globl clone3_call\n.type clone3_call,%function\nclone3_call:\n"
	"	mov x9, x2\n	mov x10, x3\n	mov x8, #" STRING(NR_CLONE3) "\n	svc #0\n"
	"	cbnz x0, 1f\n"
	"	mov x29, xzr\n	mov x0, x10\n	blr x9\n	brk #0\n"
	"1:	ret\n.size clone3_call,.-clone3_call\n");
#else
#error "clone3_call is written for x86_64 and aarch64"
#endif

static void fail(struct worker *w, const char *step)
{
	w->failed_errno = errno;
	w->failed_step = step;
	_exit(125);
}

static void must_mount(struct worker *w, const char *source, const char *target, const char *type,
		       unsigned long flags, const char *data)
{
	if (mount(source, target, type, flags, data) < 0)
		fail(w, target);
}

static void write_file(struct worker *w, int directory, const char *path, const char *text)
{
	int fd = openat(directory, path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0) {
		if (w)
			fail(w, path);
		die(path);
	}
	close(fd);
}

/* The container's first process. It shares the parent's memory (the parent sleeps until execve), hence the marks. */
static void child(void *argument)
{
	struct worker *w = argument;
	char path[64];
	w->at[TASKS] = now();
	if (!v2_only) {
		snprintf(path, sizeof path, "%d-%ld/tasks", w->number, w->serial);
		for (int i = 0; i < hierarchies; i++)
			write_file(w, parent_fd[i], path, "0");
	}
	w->at[UNSHARE_CGROUP] = now();
	if (unshare(CLONE_NEWCGROUP) < 0)
		fail(w, "unshare");
	w->at[PROPAGATION] = now();
	must_mount(w, NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL);
	w->at[OVERLAY] = now();
	must_mount(w, "overlay", w->merged, "overlay", 0, w->overlay_options);
	if (chdir(w->merged) < 0)
		fail(w, "chdir");
	w->at[PROC] = now();
	must_mount(w, "proc", "proc", "proc", 0, NULL);
	w->at[DEV] = now();
	must_mount(w, "tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
	w->at[NODES] = now();
	for (int i = 0; i < 6; i++)
		if (mknod(nodes[i].path, S_IFCHR | nodes[i].mode, makedev(nodes[i].major_no, nodes[i].minor_no)) < 0)
			fail(w, nodes[i].path);
	w->at[DEVPTS] = now();
	if (mkdir("dev/pts", 0755) < 0)
		fail(w, "dev/pts");
	must_mount(w, "devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		   "newinstance,ptmxmode=0666,mode=0620,gid=5");
	w->at[SHM] = now();
	if (mkdir("dev/shm", 0755) < 0)
		fail(w, "dev/shm");
	must_mount(w, "shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777,size=65536k");
	w->at[MQUEUE] = now();
	if (mkdir("dev/mqueue", 0755) < 0)
		fail(w, "dev/mqueue");
	must_mount(w, "mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
	w->at[SYSFS] = now();
	must_mount(w, "sysfs", "sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, NULL);
	w->at[READONLY] = now();
	for (int i = 0; i < 5; i++) {
		/* A path that this kernel lacks costs its lookup, as it does in every runtime. */
		if (mount(readonly_paths[i], readonly_paths[i], NULL, MS_BIND | MS_REC, NULL) < 0) {
			if (errno == ENOENT)
				continue;
			fail(w, readonly_paths[i]);
		}
		must_mount(w, NULL, readonly_paths[i], NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL);
	}
	w->at[MASKS] = now();
	for (int i = 0; i < 8; i++) {
		int rc = masks[i].directory ? mount("tmpfs", masks[i].path, "tmpfs", MS_RDONLY, NULL)
					    : mount("dev/null", masks[i].path, NULL, MS_BIND, NULL);
		if (rc < 0 && errno != ENOENT)
			fail(w, masks[i].path);
	}
	w->at[PIVOT] = now();
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		fail(w, "pivot_root");
	if (umount2(".", MNT_DETACH) < 0)
		fail(w, "umount2");
	w->at[HOSTNAME] = now();
	if (sethostname("floor", 5) < 0)
		fail(w, "sethostname");
	char *argv[] = {"true", NULL};
	char *envp[] = {"PATH=/bin", NULL};
	w->at[EXECVE] = now();
	execve("/bin/true", argv, envp);
	fail(w, "execve");
}

/* One whole start, from the first mkdir to the last rmdir; w->at holds when each stage began. */
static void clone_and_wait(struct worker *w)
{
	char name[32], path[64];
	snprintf(name, sizeof name, "%d-%ld", w->number, ++w->serial);
	w->failed_step = NULL;
	w->at[CGROUP_MKDIR] = now();
	for (int i = 0; i < hierarchies; i++)
		if (mkdirat(parent_fd[i], name, 0755) < 0)
			die("mkdir of a cgroup");
	w->at[CPUSET_SEED] = now();
	struct clone3_args args = {
		.flags = CLONE_VM | CLONE_VFORK | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS |
			 CLONE_NEWNET,
		.exit_signal = SIGCHLD,
		.stack = (uint64_t)(uintptr_t)w->stack,
		.stack_size = STACK_BYTES,
	};
	int cgroup = -1;
	if (v2_only) {
		cgroup = openat(parent_fd[0], name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (cgroup < 0)
			die("open of the cgroup");
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (uint64_t)cgroup;
	} else {
		snprintf(path, sizeof path, "%s/cpuset.cpus", name);
		write_file(NULL, parent_fd[CPUSET], path, cpus);
		snprintf(path, sizeof path, "%s/cpuset.mems", name);
		write_file(NULL, parent_fd[CPUSET], path, mems);
	}
	w->at[CLONE] = now();
	long pid = clone3_call(&args, sizeof args, child, w);
	w->at[RUN] = now();
	if (pid < 0)
		die("clone3");
	int status;
	if (waitpid((pid_t)pid, &status, 0) < 0)
		die("waitpid");
	w->at[CGROUP_RMDIR] = now();
	if (cgroup >= 0)
		close(cgroup);
	for (int i = 0; i < hierarchies; i++) {
		/* The kernel may still hold the reaped task for an instant. */
		int tries = 0;
		while (unlinkat(parent_fd[i], name, AT_REMOVEDIR) < 0) {
			if (errno != EBUSY || ++tries > RMDIR_TRIES)
				die("rmdir of a cgroup");
			w->retries++;
			usleep(50);
		}
	}
	w->at[STAGES] = now();
	if (w->failed_step) {
		errno = w->failed_errno;
		die(w->failed_step);
	}
	if (status != 0) {
		errno = ECHILD;
		die("the container did not exit with 0");
	}
}

static void read_line(const char *path, char *buffer, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t length = fd < 0 ? -1 : read(fd, buffer, size - 1);
	if (length < 0)
		die(path);
	buffer[length] = 0;
	close(fd);
}

static void make_parents(void)
{
	v2_only = access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0;
	hierarchies = v2_only ? 1 : V1_COUNT;
	for (int i = 0; i < hierarchies; i++) {
		char path[128];
		snprintf(path, sizeof path, "/sys/fs/cgroup%s%s/pyrunc-floor.%d", v2_only ? "" : "/",
			 v2_only ? "" : v1_names[i], (int)getpid());
		if (mkdir(path, 0755) < 0)
			die(path);
		strcpy(parent_path[i], path);
		parent_fd[i] = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (parent_fd[i] < 0)
			die(path);
	}
	if (!v2_only) {
		read_line("/sys/fs/cgroup/cpuset/cpuset.cpus", cpus, sizeof cpus);
		read_line("/sys/fs/cgroup/cpuset/cpuset.mems", mems, sizeof mems);
		write_file(NULL, parent_fd[CPUSET], "cpuset.cpus", cpus);
		write_file(NULL, parent_fd[CPUSET], "cpuset.mems", mems);
	}
}

/* A worker's own overlay directories, made once; upper stays empty because /bin/true writes nothing. */
static void prepare(struct worker *w, int number, const char *rootfs)
{
	char upper[256], work[256];
	w->number = number;
	snprintf(w->merged, sizeof w->merged, "%s/%d.merged", scratch, number);
	snprintf(upper, sizeof upper, "%s/%d.upper", scratch, number);
	snprintf(work, sizeof work, "%s/%d.work", scratch, number);
	if (mkdir(w->merged, 0755) < 0 || mkdir(upper, 0755) < 0 || mkdir(work, 0755) < 0)
		die(w->merged);
	snprintf(w->overlay_options, sizeof w->overlay_options, "lowerdir=%s,upperdir=%s,workdir=%s", rootfs, upper,
		 work);
}

static void dismantle(int number)
{
	static const char *const suffixes[] = {"merged", "upper", "work/work", "work/index", "work"};
	char path[256];
	for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
		snprintf(path, sizeof path, "%s/%d.%s", scratch, number, suffixes[i]);
		if (rmdir(path) < 0 && errno != ENOENT)
			fprintf(stderr, "floor: rmdir %s: %s\n", path, strerror(errno));
	}
}

static void print_start(const struct worker *w, FILE *out, const char *separator)
{
	fprintf(out, "%s[", separator);
	for (int s = 0; s < STAGES; s++)
		fprintf(out, "%s%llu", s ? "," : "", (unsigned long long)(w->at[s + 1] - w->at[s]));
	fputs("]", out);
}

/* A resident worker: a share in, one line of marks (and a closing empty line) out. */
static void serve(struct worker *w, int fd)
{
	struct { long count; int brief; } order;
	FILE *out = fdopen(fd, "w");
	while (read(fd, &order, sizeof order) == (ssize_t)sizeof order) {
		long before = w->retries;
		for (long i = 0; i < order.count; i++) {
			clone_and_wait(w);
			if (!order.brief) {
				print_start(w, out, "");
				fputs("\n", out);
			}
		}
		fprintf(out, ".%ld\n", w->retries - before);
		fflush(out);
	}
	_exit(0);
}

static int worker_fd[MAX_WORKERS];
static pid_t worker_pid[MAX_WORKERS];
static FILE *worker_out[MAX_WORKERS];
static int workers;

static void hire(int wanted, const char *rootfs)
{
	for (; workers < wanted; workers++) {
		int pair[2];
		prepare(&hired, workers + 1, rootfs);
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
			die("socketpair");
		pid_t pid = fork();
		if (pid < 0)
			die("fork");
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			for (int i = 0; i < workers; i++)
				close(worker_fd[i]);
			close(pair[0]);
			serve(&hired, pair[1]);
		}
		close(pair[1]);
		worker_fd[workers] = pair[0];
		worker_pid[workers] = pid;
		worker_out[workers] = fdopen(pair[0], "r");
	}
}

static void dismiss(void)
{
	for (int i = 0; i < workers; i++) {
		fclose(worker_out[i]);
		waitpid(worker_pid[i], NULL, 0);
		dismantle(i + 1);
	}
}

/* Everything that was made goes, also after a failure in the middle of a start. */
static void clean_up(void)
{
	if (getpid() != owner)
		return;
	dismiss();
	dismantle(0);
	for (int i = 0; i < hierarchies; i++) {
		if (!parent_path[i][0])
			continue;
		DIR *parent = opendir(parent_path[i]);
		for (struct dirent *entry; parent && (entry = readdir(parent));)
			if (entry->d_type == DT_DIR && entry->d_name[0] != '.')
				unlinkat(parent_fd[i], entry->d_name, AT_REMOVEDIR);
		if (parent)
			closedir(parent);
		if (rmdir(parent_path[i]) < 0)
			fprintf(stderr, "floor: rmdir %s: %s\n", parent_path[i], strerror(errno));
	}
}

static void run_alone(long count, int brief)
{
	uint64_t begin = now();
	long before = own.retries;
	printf("{\"starts\": [");
	for (long i = 0; i < count; i++) {
		clone_and_wait(&own);
		if (!brief)
			print_start(&own, stdout, i ? "," : "");
	}
	printf("], \"retries\": %ld, \"done\": %ld, \"wall_ns\": %llu}\n", own.retries - before, count,
	       (unsigned long long)(now() - begin));
}

static void run_together(long count, int width, int brief)
{
	char line[1024];
	long retries = 0;
	const char *separator = "";
	uint64_t begin = now();
	for (int i = 0; i < width; i++) {
		struct { long count; int brief; } order = {count / width + (i < count % width), brief};
		if (write(worker_fd[i], &order, sizeof order) != (ssize_t)sizeof order)
			die("write to a worker");
	}
	printf("{\"starts\": [");
	for (int i = 0; i < width; i++)
		for (;;) {
			if (!fgets(line, sizeof line, worker_out[i])) {
				errno = ECHILD;
				die("a worker ended");
			}
			if (line[0] == '.') {
				retries += atol(line + 1);
				break;
			}
			line[strcspn(line, "\n")] = 0;
			printf("%s%s", separator, line);
			separator = ",";
		}
	printf("], \"retries\": %ld, \"done\": %ld, \"wall_ns\": %llu}\n", retries, count,
	       (unsigned long long)(now() - begin));
}

int main(int argc, char **argv)
{
	char line[128];
	if (argc != 3) {
		fputs("usage: floor ROOTFS SCRATCH\n", stderr);
		return 2;
	}
	scratch = argv[2];
	owner = getpid();
	atexit(clean_up);
	make_parents();
	prepare(&own, 0, argv[1]);
	printf("{\"cgroup\": \"%s\", \"hierarchies\": %d, \"stages\": [", v2_only ? "v2" : "v1", hierarchies);
	for (int s = 0; s < STAGES; s++)
		printf("%s\"%s\"", s ? ", " : "", stage_names[s]);
	puts("]}");
	fflush(stdout);
	while (fgets(line, sizeof line, stdin)) {
		long count;
		int width, brief = line[0] == 'C';
		if (line[0] == 'Q')
			break;
		if (sscanf(line + brief, "%ld %d", &count, &width) != 2 || width < 1 || width > MAX_WORKERS) {
			fprintf(stderr, "floor: not a command: %s", line);
			return 2;
		}
		if (width == 1) {
			run_alone(count, brief);
		} else {
			hire(width, argv[1]);
			run_together(count, width, brief);
		}
		fflush(stdout);
	}
	return 0;
}
