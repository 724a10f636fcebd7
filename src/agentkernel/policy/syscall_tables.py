"""Which syscalls a workload may make, and why: the tables behind its seccomp filter, as data for review.

Every syscall that `syscall_numbers` knows stands in exactly one place here (a test counts them): allowed, refused (EPERM),
hidden (ENOSYS, so that programs fall back to an older call), or judged by its arguments. A number that is in no table is ENOSYS.

No argument that is judged here is wider than 32 bits in the kernel (`int`, `unsigned int`, `umode_t`, and the flags of `clone`,
of which kernel/fork.c takes the lower 32): so filters look at the low word only. To look at the high one as well would let a
program pass a refused value by setting a bit that the kernel then ignores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agentkernel.policy.word_list import words

# Linux's numbers, not this machine's `errno`: the same on both architectures, another on macOS.
EPERM, EINVAL, ENOSYS, EPROTONOSUPPORT, EAFNOSUPPORT = 1, 22, 38, 93, 97

RET_ALLOW = 0x7FFF0000
RET_ERRNO = 0x00050000


@dataclass(frozen=True, slots=True)
class Check:
    """True when the low word of an argument, masked, is one of `values`."""

    argument: int
    values: frozenset[int]
    mask: int = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Case:
    """What happens when all checks hold: errno, or 0 to allow."""

    checks: tuple[Check, ...]
    errno: int


@dataclass(frozen=True, slots=True)
class Rule:
    """Cases in order; `otherwise` (errno, or 0 to allow) when none holds."""

    cases: tuple[Case, ...]
    otherwise: int


@dataclass(frozen=True, slots=True)
class Table:
    """A whole filter, independent of the architecture. What is in none of the three is refused with EPERM where it is known."""

    allowed: frozenset[str]
    hidden: frozenset[str]
    rules: Mapping[str, Rule]


_ALLOWED = """
# reading and writing
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek sendfile splice tee vmsplice copy_file_range
readahead fadvise64 sync_file_range close close_range dup dup2 dup3 pipe pipe2 fcntl flock
# waiting for events
poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2 signalfd
signalfd4 timerfd_create timerfd_settime timerfd_gettime inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
# kernel AIO, which databases use
io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents
# files and directories
access faccessat faccessat2 stat fstat lstat newfstatat statx statfs fstatfs getdents getdents64 getcwd
chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat symlink symlinkat readlink readlinkat
truncate ftruncate fallocate fsync fdatasync sync syncfs umask utime utimes futimesat utimensat cachestat file_getattr
file_setattr
# owners and attributes
chown fchown lchown fchownat setxattr lsetxattr fsetxattr getxattr lgetxattr fgetxattr listxattr
llistxattr flistxattr removexattr lremovexattr fremovexattr setxattrat getxattrat listxattrat removexattrat
# memory
mmap mprotect munmap mremap msync mincore madvise brk mlock mlock2 munlock mlockall munlockall remap_file_pages memfd_create
membarrier pkey_alloc pkey_free pkey_mprotect mseal map_shadow_stack
# processes and threads
fork vfork execve execveat exit exit_group wait4 waitid set_tid_address gettid getpid getppid getpgid getpgrp getsid setpgid
setsid pidfd_open pidfd_send_signal kill tkill tgkill ptrace restart_syscall rseq set_robust_list get_robust_list arch_prctl futex
futex_waitv futex_wake futex_wait futex_requeue
# probes that a tracer on the host has put into a shared library; without them the traced program dies
uretprobe uprobe
# signals
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo rt_sigsuspend sigaltstack
pause
# users and groups; without capabilities a process can only become what it is
getuid geteuid getgid getegid getgroups getresuid getresgid setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid
setgroups capget capset
# clocks and timers
time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep alarm getitimer setitimer timer_create timer_settime
timer_gettime timer_getoverrun timer_delete times
# scheduling, within RLIMIT_NICE and RLIMIT_RTPRIO
sched_yield sched_setparam sched_getparam sched_setscheduler sched_getscheduler sched_get_priority_max sched_get_priority_min
sched_rr_get_interval sched_setaffinity sched_getaffinity sched_setattr sched_getattr getpriority setpriority ioprio_set
ioprio_get getcpu
# limits and facts
getrlimit setrlimit getrusage sysinfo uname getrandom
# sockets, once made
bind connect listen accept accept4 getsockname getpeername getsockopt setsockopt shutdown sendto recvfrom sendmsg recvmsg sendmmsg
recvmmsg
# System V and POSIX IPC, in the sandbox's own namespace
shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl mq_open mq_unlink mq_timedsend
mq_timedreceive mq_notify mq_getsetattr
# sandboxes that programs make for themselves
seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
"""
_REFUSED = """
# namespaces and roots: the way to capabilities over more kernel code
unshare setns chroot pivot_root
# mounting, by the old and the new interface
mount umount2 open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr
# programs and probes in the kernel
bpf perf_event_open kexec_load kexec_file_load init_module finit_module delete_module create_module get_kernel_syms query_module
# io_uring does file and network work that no later filter sees
io_uring_setup io_uring_enter io_uring_register
# user-space page faults make kernel races easy to win
userfaultfd
# keyrings are not separated by namespaces
add_key request_key keyctl
# other processes' memory and descriptors (ptrace and /proc/PID/mem go through one check; these are not worth a second)
process_vm_readv process_vm_writev pidfd_getfd process_madvise process_mrelease kcmp
# files by handle go round directory permissions and mounts
open_by_handle_at name_to_handle_at
# memory policy and secret memory
mbind set_mempolicy get_mempolicy set_mempolicy_home_node migrate_pages move_pages memfd_secret
# the host's clock
settimeofday clock_settime adjtimex clock_adjtime
# the host's administration
reboot swapon swapoff acct quotactl quotactl_fd syslog sethostname setdomainname vhangup nfsservctl lookup_dcookie
# whole file systems' events
fanotify_init fanotify_mark
# I/O ports and segments
iopl ioperm modify_ldt set_thread_area get_thread_area
# obsolete
uselib ustat sysfs _sysctl getpmsg putpmsg afs_syscall tuxcall security vserver epoll_ctl_old epoll_wait_old
"""
_HIDDEN = """
# their flags and modes lie in memory, where no filter can read them: programs fall back to clone and openat
clone3 openat2
# young, with fallbacks in the programs that use them
statmount listmount listns lsm_get_self_attr lsm_set_self_attr lsm_list_modules
"""
_NOT_IN_RESTRICTIVE = """
# tracing: nothing that runs under this profile needs a debugger
ptrace
# messages of a chosen size and lifetime in kernel memory are the classic help to an exploit
msgget msgsnd msgrcv msgctl mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
# kernel AIO and gifts of pages to pipes: rare, and each with a history of holes
io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents vmsplice
# emulated by the kernel for programs that no longer exist
remap_file_pages
# these flush the whole host's disks
sync syncfs
"""

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_INTERNET = Check(0, frozenset({_AF_INET, _AF_INET6}))
_NETLINK = Check(0, frozenset({_AF_NETLINK}))
_TYPE_MASK = 0xF  # SOCK_TYPE_MASK: without SOCK_CLOEXEC and SOCK_NONBLOCK
_STREAM = Check(1, frozenset({1}), _TYPE_MASK)
_DATAGRAM = Check(1, frozenset({2}), _TYPE_MASK)
_STREAM_OR_DATAGRAM = Check(1, frozenset({1, 2}), _TYPE_MASK)
_TCP = Check(2, frozenset({0, 6}))
_UDP_OR_PING = Check(2, frozenset({0, 1, 17, 58}))
_ROUTE = Check(2, frozenset({0}))

# Every CLONE_NEW* that clone() takes; CLONE_NEWTIME is a signal number here and means a namespace only to clone3 and unshare.
_NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000

# Set-user-id and set-group-id: harmless inside, where every mount is nosuid. But in a directory that is shared with the host they would
# make a program of the sandbox's one that runs there as the directory's owner. As systemd's RestrictSUIDSGID= has it.
_SET_ID_MASK = 0o6000
_CREATION_MASK = 0o20000100  # O_TMPFILE, O_CREAT: without them open does not look at its mode, and anything may be in that register


def _without_set_id(argument: int) -> Check:
    return Check(argument, frozenset({0}), _SET_ID_MASK)


def _sets_mode(argument: int) -> Rule:
    return Rule((Case((_without_set_id(argument),), 0),), EPERM)


def _opens(flags: int) -> Rule:
    return Rule((Case((_without_set_id(flags + 1),), 0), Case((Check(flags, frozenset({0}), _CREATION_MASK),), 0)), EPERM)


_FILE_TYPE_MASK = 0o170000
_HARMLESS_NODES = frozenset({0, 0o100000, 0o010000, 0o140000})  # regular file (0 means that too), FIFO, socket

# Type into, take over or reconfigure the terminal that a human looks at; freeze or trim file systems; climb to a parent namespace.
_REFUSED_IOCTLS = frozenset(
    {
        0x5412, 0x541C, 0x541D, 0x5423, 0x5437,  # TIOCSTI TIOCLINUX TIOCCONS TIOCSETD TIOCVHANGUP
        0xC0045877, 0xC0045878, 0xC0185879,  # FIFREEZE FITHAW FITRIM
        0xB701, 0xB702,  # NS_GET_USERNS NS_GET_PARENT
    }
)  # fmt: skip

_PRCTL_ALLOWED = frozenset(
    {
        1, 2, 3, 4, 7, 8, 15, 16,  # PDEATHSIG DUMPABLE KEEPCAPS NAME
        13, 14, 25, 26, 29, 30,  # TIMING TSC TIMERSLACK
        21, 22, 38, 39, 23, 24, 27, 47,  # SECCOMP NO_NEW_PRIVS CAPBSET GET_SECUREBITS CAP_AMBIENT
        34, 36, 37, 40, 41, 42, 68,  # MCE_KILL_GET CHILD_SUBREAPER GET_TID_ADDRESS THP_DISABLE GET_MEMORY_MERGE
        50, 51, 54, 55, 56, 60, 61, 63, 64, 74, 75, 76,  # aarch64: SVE PAC TAGGED_ADDR SME; shadow stacks
        52, 53, 59, 65, 66, 78,  # SPECULATION_CTRL SYSCALL_USER_DISPATCH MDWE FUTEX_HASH
        0x41555856, 0x53564D41, 0x59616D61,  # GET_AUXV SET_VMA SET_PTRACER
    }
)  # fmt: skip
# SECUREBITS PERF_EVENTS MCE_KILL SET_MM (lies to /proc about the program) IO_FLUSHER SCHED_CORE MEMORY_MERGE (a side channel).
# What is in neither set gets EINVAL, as from a kernel that does not know it.
_PRCTL_REFUSED = frozenset({28, 31, 32, 33, 35, 57, 58, 62, 67})

_PERSONALITIES = frozenset({0, 8, 0xFFFFFFFF})  # PER_LINUX, PER_LINUX32, and the question; not ADDR_NO_RANDOMIZE

_RULES = {
    "clone": Rule((Case((Check(0, frozenset({0}), _NEW_NAMESPACES),), 0),), EPERM),
    "socket": Rule(
        (
            Case((Check(0, frozenset({_AF_UNIX})),), 0),
            Case((_INTERNET, _STREAM, _TCP), 0),
            Case((_INTERNET, _DATAGRAM, _UDP_OR_PING), 0),
            Case((_INTERNET, _STREAM_OR_DATAGRAM), EPROTONOSUPPORT),
            Case((_INTERNET,), EPERM),  # raw and packet sockets: what the kernel says to those without CAP_NET_RAW
            Case((_NETLINK, _ROUTE), 0),  # getifaddrs
            Case((_NETLINK,), EPROTONOSUPPORT),  # libaudit and libudev take this for a kernel without the protocol
        ),
        EAFNOSUPPORT,
    ),
    "socketpair": Rule((Case((Check(0, frozenset({_AF_UNIX})),), 0),), EAFNOSUPPORT),
    "ioctl": Rule((Case((Check(1, _REFUSED_IOCTLS),), EPERM),), 0),
    "prctl": Rule((Case((Check(0, _PRCTL_ALLOWED),), 0), Case((Check(0, _PRCTL_REFUSED),), EPERM)), EINVAL),
    "personality": Rule((Case((Check(0, _PERSONALITIES),), 0),), EPERM),
    "prlimit64": Rule((Case((Check(0, frozenset({0})),), 0),), EPERM),
    "open": _opens(1),
    "openat": _opens(2),
    "creat": _sets_mode(1),
    "chmod": _sets_mode(1),
    "fchmod": _sets_mode(1),
    "fchmodat": _sets_mode(2),
    "fchmodat2": _sets_mode(2),
    "mknod": Rule((Case((Check(1, _HARMLESS_NODES, _FILE_TYPE_MASK), _without_set_id(1)), 0),), EPERM),
    "mknodat": Rule((Case((Check(2, _HARMLESS_NODES, _FILE_TYPE_MASK), _without_set_id(2)), 0),), EPERM),
}

_CONNECTED_PAIR = Rule((Case((Check(0, frozenset({_AF_UNIX})), Check(1, frozenset({1, 5}), _TYPE_MASK)), 0),), EPERM)  # stream, seqpacket

REFUSED = frozenset(words(_REFUSED))
_MODERATE = Table(allowed=frozenset(words(_ALLOWED)), hidden=frozenset(words(_HIDDEN)), rules=_RULES)

# Memory that no process maps is seen by a memory cgroup alone. Where the limit is sampled instead there is none: programs fall back to
# files in /dev/shm, whose size is limited.
_UNMAPPED_MEMORY = frozenset({"memfd_create", "shmget"})
WITHOUT_UNMAPPED_MEMORY = "-sampled"


def _sampled(table: Table) -> Table:
    return replace(table, allowed=table.allowed - _UNMAPPED_MEMORY, hidden=table.hidden | _UNMAPPED_MEMORY)


TABLES = {
    "moderate": _MODERATE,  # also what the permissive profile uses
    # Isolation level `process` has no network namespace: there are no sockets but connected pairs (a pair of datagram sockets
    # could be connected elsewhere).
    "process": replace(_MODERATE, rules={**_RULES, "socket": Rule((), EPERM), "socketpair": _CONNECTED_PAIR}),
    "restrictive": replace(_MODERATE, allowed=_MODERATE.allowed - set(words(_NOT_IN_RESTRICTIVE))),
}
TABLES |= {f"{name}{WITHOUT_UNMAPPED_MEMORY}": _sampled(table) for name, table in TABLES.items()}
