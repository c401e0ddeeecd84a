/* meter MILLISECONDS PROGRAM ARGUMENT...: runs one command and writes its cost to descriptor 3 as one line:
 *
 *     wall ns, user us, system us, peak RSS KiB, wait status
 *
 * It exists because the costs of a process begin with those of its parent: Linux carries the peak RSS of the memory
 * that execve replaces over to the new program (exec_mmap), so a child of a 10 MiB interpreter never reads less
 * than 10 MiB. This parent is static, and it forks rather than vforks, which leaves about 0.1 MiB.
 *
 * wait4(2) counts the command and every descendant that was waited for. Descendants that the command left behind come
 * to us (subreaper); those that have ended are added, those that live go on to our parent. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static pid_t child;

static void late(int signal) {
    (void)signal;
    kill(child, SIGKILL);
}

static long long us(struct timeval t) {
    return t.tv_sec * 1000000LL + t.tv_usec;
}

int main(int argc, char **argv) {
    if (argc < 3)
        return 125;
    long ms = atol(argv[1]);
    struct itimerval deadline = {.it_value = {ms / 1000, ms % 1000 * 1000}};
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    signal(SIGALRM, late);

    struct timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    child = fork();
    if (child == 0) {
        close(3);
        execv(argv[2], argv + 2);
        _exit(127);
    }
    if (child < 0)
        return 125;
    setitimer(ITIMER_REAL, &deadline, NULL);
    int status;
    struct rusage r, more;
    while (wait4(child, &status, 0, &r) < 0)
        if (errno != EINTR)
            return 125;
    clock_gettime(CLOCK_MONOTONIC, &b);

    long long user = us(r.ru_utime), system = us(r.ru_stime);
    long peak = r.ru_maxrss;
    int ignored;
    while (wait4(-1, &ignored, WNOHANG, &more) > 0) {
        user += us(more.ru_utime);
        system += us(more.ru_stime);
        if (more.ru_maxrss > peak)
            peak = more.ru_maxrss;
    }
    dprintf(3, "%lld %lld %lld %ld %d\n", (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec, user, system, peak,
            status);
    return 0;
}
