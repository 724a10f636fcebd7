/* What the conformance suite runs inside a sandbox: one static program that needs nothing else there.
 *
 * Each verb does one thing and prints facts, one per line; the suite judges. Compiled by testing/probe.py.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static void sleep_ms(long ms)
{
    struct timespec wait = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&wait, NULL);
}

static int say_errno(const char *what, long result)
{
    printf("%s %d\n", what, result < 0 ? errno : 0);
    return 0;
}

static void print_hex(const char *text)
{
    for (; *text; text++)
        printf("%02x", (unsigned char)*text);
    putchar('\n');
}

static int verb_argv(int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        print_hex(argv[i]);
    return 0;
}

static int verb_environ(int argc, char **argv)
{
    (void)argc, (void)argv;
    for (char **entry = environ; *entry; entry++)
        print_hex(*entry);
    return 0;
}

static int verb_exit(int argc, char **argv)
{
    return argc > 0 ? atoi(argv[0]) : 0;
}

/* Ends by a signal: its default action, no core file. */
static int verb_raise(int argc, char **argv)
{
    int number = argc > 0 ? atoi(argv[0]) : SIGTERM;
    sigset_t set;
    prctl(PR_SET_DUMPABLE, 0);
    signal(number, SIG_DFL);
    sigemptyset(&set);
    sigaddset(&set, number);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    kill(getpid(), number);
    sleep_ms(2000);
    return 99;
}

static int write_all(int fd, const unsigned char *bytes, size_t size)
{
    while (size) {
        ssize_t done = write(fd, bytes, size);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return -1;
        bytes += done;
        size -= (size_t)done;
    }
    return 0;
}

/* N bytes on each stream, in turns: byte i is i % 251 on stdout and 250 - i % 251 on stderr. */
static int verb_spew(int argc, char **argv)
{
    static unsigned char block[2][251 * 16];
    size_t left = argc > 0 ? strtoull(argv[0], NULL, 10) : 0;
    for (size_t i = 0; i < sizeof block[0]; i++) {
        block[0][i] = (unsigned char)(i % 251);
        block[1][i] = (unsigned char)(250 - i % 251);
    }
    while (left) {
        size_t now = left < sizeof block[0] ? left : sizeof block[0];
        if (write_all(1, block[0], now) < 0 || write_all(2, block[1], now) < 0)
            return 1;
        left -= now;
    }
    return 0;
}

static void beat(const char *path)
{
    for (int i = 0; i < 6000; i++) {
        int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (fd >= 0) {
            (void)!write(fd, ".", 1);
            close(fd);
        }
        sleep_ms(10);
    }
}

/* A daemon in the old manner (two forks, own session, every descriptor closed) that appends to FILE every 10 ms; its parent leaves or stays. */
static int verb_daemon(int argc, char **argv)
{
    struct stat found;
    if (argc < 2)
        return 2;
    pid_t child = fork();
    if (child == 0) {
        setsid();
        signal(SIGHUP, SIG_IGN);
        signal(SIGTERM, SIG_IGN);
        if (fork() != 0)
            _exit(0);
        setpgid(0, 0);
        for (int fd = 0; fd < 64; fd++)
            close(fd);
        beat(argv[0]);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    for (int i = 0; i < 500 && stat(argv[0], &found) < 0; i++)
        sleep_ms(10);
    if (strcmp(argv[1], "stay") == 0)
        sleep_ms(60000);
    return 0;
}

static int verb_beat(int argc, char **argv)
{
    if (argc > 0)
        beat(argv[0]);
    return 0;
}

static int verb_allocate(int argc, char **argv)
{
    size_t size = argc > 0 ? strtoull(argv[0], NULL, 10) << 20 : 0;
    unsigned char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return say_errno("mmap", -1);
    for (size_t i = 0; i < size; i += 4096)
        memory[i] = (unsigned char)(i >> 12 | 1);
    if (argc > 1)
        sleep_ms(atol(argv[1]));
    puts("allocated");
    return 0;
}

static int verb_forks(int argc, char **argv)
{
    int wanted = argc > 0 ? atoi(argv[0]) : 0, made = 0;
    pid_t *children = calloc((size_t)wanted + 1, sizeof *children);
    while (made < wanted) {
        pid_t child = fork();
        if (child == 0) {
            sleep_ms(60000);
            _exit(0);
        }
        if (child < 0)
            break;
        children[made++] = child;
    }
    printf("forked %d\n", made);
    fflush(stdout);
    for (int i = 0; i < made; i++)
        kill(children[i], SIGKILL);
    while (wait(NULL) > 0 || errno == EINTR)
        ;
    return 0;
}

/* N processes spin for MS; prints the processor time that all of them got, in ms. */
static int verb_spin(int argc, char **argv)
{
    int processes = argc > 0 ? atoi(argv[0]) : 1;
    long limit_ms = argc > 1 ? atol(argv[1]) : 1000;
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < processes; i++)
        if (fork() == 0) {
            do
                clock_gettime(CLOCK_MONOTONIC, &now);
            while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < limit_ms);
            _exit(0);
        }
    while (wait(NULL) > 0)
        ;
    struct rusage used;
    getrusage(RUSAGE_CHILDREN, &used);
    printf("cpu_ms %ld\n", (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1000 + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1000);
    return 0;
}

static int verb_fill(int argc, char **argv)
{
    static unsigned char block[1 << 16];
    long long written = 0, wanted = argc > 1 ? atoll(argv[1]) << 20 : 0;
    memset(block, 7, sizeof block);
    int fd = open(argv[0], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0)
        return say_errno("open", -1);
    while (written < wanted) {
        ssize_t done = write(fd, block, sizeof block);
        if (done < 0) {
            printf("errno %d\n", errno);
            break;
        }
        written += done;
    }
    printf("written %lld\n", written);
    return 0;
}

static int verb_interfaces(int argc, char **argv)
{
    (void)argc, (void)argv;
    struct if_nameindex *all = if_nameindex();
    for (struct if_nameindex *each = all; each && each->if_index; each++)
        puts(each->if_name);
    return all == NULL;
}

static int tcp_socket(const char *host, int port, struct sockaddr_in *address)
{
    memset(address, 0, sizeof *address);
    address->sin_family = AF_INET;
    address->sin_port = htons((uint16_t)port);
    inet_pton(AF_INET, host, &address->sin_addr);
    return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static int verb_connect(int argc, char **argv)
{
    struct sockaddr_in address;
    if (argc < 2)
        return 2;
    int fd = tcp_socket(argv[0], atoi(argv[1]), &address);
    return say_errno("connect", fd < 0 ? -1 : connect(fd, (void *)&address, sizeof address));
}

/* An upper-casing server on loopback: prints "ready", serves one connection after another. */
static int verb_serve(int argc, char **argv)
{
    struct sockaddr_in address;
    unsigned char buffer[65536];
    int one = 1, fd = tcp_socket("127.0.0.1", argc > 0 ? atoi(argv[0]) : 0, &address);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (void *)&address, sizeof address) < 0 || listen(fd, 8) < 0)
        return say_errno("listen", -1);
    puts("ready");
    fflush(stdout);
    for (;;) {
        int peer = accept(fd, NULL, NULL);
        ssize_t size;
        while ((size = read(peer, buffer, sizeof buffer)) > 0) {
            for (ssize_t i = 0; i < size; i++)
                if (buffer[i] >= 'a' && buffer[i] <= 'z')
                    buffer[i] = (unsigned char)(buffer[i] - 32);
            if (write_all(peer, buffer, (size_t)size) < 0)
                break;
        }
        close(peer);
    }
}

static int verb_identity(int argc, char **argv)
{
    (void)argc, (void)argv;
    gid_t groups[64];
    int count = getgroups(64, groups);
    printf("uid %d\neuid %d\ngid %d\negid %d\nno_new_privs %d\nsession %d\n", getuid(), geteuid(), getgid(), getegid(),
           prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), getsid(0) == getpid());
    for (int i = 0; i < count; i++)
        printf("group %d\n", groups[i]);
    struct {
        uint32_t version;
        int pid;
    } header = {0x20080522, 0};
    uint32_t data[6] = {0};
    syscall(SYS_capget, &header, data);
    printf("capabilities %x%08x\nbounding %d\nseccomp %d\n", data[3] | data[4], data[0] | data[1], prctl(PR_CAPBSET_READ, 21, 0, 0, 0),
           prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
    for (int fd = 0; fd < 1024; fd++)
        if (fcntl(fd, F_GETFD) >= 0)
            printf("descriptor %d\n", fd);
    for (int number = 1; number < 32; number++) {
        struct sigaction action;
        if (sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN)
            printf("ignored %d\n", number);
    }
    return 0;
}

/* Counts how many Landlock domains can be stacked: the kernel allows 16, so fewer tells that an outer one is there. */
static int verb_landlock(int argc, char **argv)
{
    (void)argc, (void)argv;
    uint64_t handled[3] = {1ull << 12 /* MAKE_SYM */, 0, 0};
    int layers = 0;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    for (; layers < 20; layers++) {
        long ruleset = syscall(444, handled, sizeof handled[0], 0);
        if (ruleset < 0 && layers == 0)
            return say_errno("landlock_create_ruleset", -1);
        if (ruleset < 0 || syscall(446, ruleset, 0) < 0)
            break;
        close((int)ruleset);
    }
    printf("layers %d\n", layers);
    return 0;
}

static int verb_signal(int argc, char **argv)
{
    return argc > 1 ? say_errno("kill", kill(atoi(argv[0]), atoi(argv[1]))) : 2;
}

static int verb_open(int argc, char **argv)
{
    int writing = argc > 1 && strcmp(argv[1], "w") == 0;
    return say_errno("open", open(argv[0], writing ? O_WRONLY | O_CREAT | O_CLOEXEC : O_RDONLY | O_CLOEXEC, 0644));
}

static int verb_syscalls(int argc, char **argv)
{
    (void)argc, (void)argv;
    say_errno("unknown", syscall(0x7ff, 0, 0, 0));
    say_errno("mount", syscall(SYS_mount, "none", "/", "tmpfs", 0, ""));
    say_errno("ptrace", syscall(SYS_ptrace, 16, 1, 0, 0));
    say_errno("bpf", syscall(SYS_bpf, 0, 0, 0));
    say_errno("add_key", syscall(SYS_add_key, "user", "agentkernel", "x", 1, -3));
    say_errno("perf_event_open", syscall(SYS_perf_event_open, 0, 0, -1, -1, 0));
    say_errno("init_module", syscall(SYS_init_module, 0, 0, ""));
    say_errno("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
    say_errno("unshare_user", syscall(SYS_unshare, 0x10000000));
    return 0;
}

static int verb_sleep(int argc, char **argv)
{
    puts("asleep");
    fflush(stdout);
    sleep_ms(argc > 0 ? atol(argv[0]) : 60000);
    return 0;
}

static int verb_cat(int argc, char **argv)
{
    unsigned char buffer[65536];
    ssize_t size;
    (void)argc, (void)argv;
    while ((size = read(0, buffer, sizeof buffer)) > 0)
        if (write_all(1, buffer, (size_t)size) < 0)
            return 1;
    return size < 0;
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} verbs[] = {
    {"allocate", verb_allocate}, {"argv", verb_argv},         {"beat", verb_beat},         {"cat", verb_cat},
    {"connect", verb_connect},   {"daemon", verb_daemon},     {"environ", verb_environ},   {"exit", verb_exit},
    {"fill", verb_fill},         {"forks", verb_forks},       {"identity", verb_identity}, {"interfaces", verb_interfaces},
    {"landlock", verb_landlock}, {"open", verb_open},         {"raise", verb_raise},       {"serve", verb_serve},
    {"signal", verb_signal},     {"sleep", verb_sleep},       {"spew", verb_spew},         {"spin", verb_spin},
    {"syscalls", verb_syscalls},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof verbs[0]; i++)
        if (strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(argc - 2, argv + 2);
    fputs("usage: probe VERB ARGUMENTS\n", stderr);
    return 2;
}
