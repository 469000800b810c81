/* What the shell cannot do: one attempt, its outcome as one word on stdout. */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <unistd.h>

static int outcome(int result)
{
	puts(result >= 0 ? "ok" : strerror(errno));
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "ids";
	if (strcmp(what, "ids") == 0) /* with the set-user-id bit: who the program becomes */
		return printf("%d %d %d\n", getuid(), geteuid(), prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)), 0;
	if (strcmp(what, "open") == 0) { /* TYPE MAJOR MINOR FLAGS: make a device node and open it */
		mode_t type = argv[2][0] == 'b' ? S_IFBLK : S_IFCHR;
		unlink("/tmp/node");
		if (mknod("/tmp/node", type | 0600, makedev(atoi(argv[3]), atoi(argv[4]))) < 0)
			return printf("mknod "), outcome(-1);
		return outcome(open("/tmp/node", argv[5][0] == 'r' ? O_RDONLY : O_WRONLY));
	}
	if (strcmp(what, "touch") == 0) { /* FILE: open an existing file to write */
		return outcome(open(argv[2], O_WRONLY));
	}
	if (strcmp(what, "pty") == 0) {
		char text[8] = "";
		int master = posix_openpt(O_RDWR | O_NOCTTY);
		if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
			return outcome(-1);
		int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
		if (slave < 0 || write(slave, "hi\n", 3) != 3 || read(master, text, 4) != 4)
			return outcome(-1);
		return printf("%s %s", ptsname(master), text), 0;
	}
	if (strcmp(what, "mqueue") == 0) { /* NAME: open (or make) a queue and send one message */
		struct mq_attr attr = {.mq_maxmsg = 2, .mq_msgsize = 8};
		mqd_t queue = mq_open(argv[2], O_CREAT | O_RDWR, 0600, &attr);
		return outcome(queue == (mqd_t)-1 ? -1 : mq_send(queue, "hi", 2, 0));
	}
	if (strcmp(what, "memory") == 0) { /* MEBIBYTES: touch that much */
		size_t size = (size_t)atoi(argv[2]) << 20;
		char *area = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (area == MAP_FAILED)
			return outcome(-1);
		for (size_t i = 0; i < size; i += 4096)
			area[i] = 1;
		return outcome(0);
	}
	if (strcmp(what, "rlimit") == 0) { /* NUMBER: soft and hard */
		struct rlimit limit;
		getrlimit(atoi(argv[2]), &limit);
		return printf("%lld %lld\n", (long long)limit.rlim_cur, (long long)limit.rlim_max), 0;
	}
	if (strcmp(what, "ping") == 0) /* an ICMP socket without CAP_NET_RAW */
		return outcome(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP));
	if (strcmp(what, "port") == 0) { /* NUMBER: bind it on the loopback */
		struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
		return outcome(bind(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&address, sizeof(address)));
	}
	return 64;
}
