"""The compiled seccomp filters, judged by a BPF machine of the tests' own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from bpf_machine import AARCH64, ALLOW, ARM, ENOSYS, EPERM, ERRNO, I386, X86_64, decode, oracle, run, syscall_data
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkernel.errors import UnknownKey, Unsupported
from agentkernel.policy import bpf
from agentkernel.policy.profiles import PROFILES
from agentkernel.policy.seccomp import compile_filter
from agentkernel.policy.syscall_numbers import AUDIT_ARCHITECTURES, NUMBERS
from agentkernel.policy.syscall_tables import REFUSED, TABLES, WITHOUT_UNMAPPED_MEMORY
from agentkernel.policy.word_list import words

FILTERS = [(table, architecture) for table in TABLES for architecture in NUMBERS]
PROGRAMS = {key: decode(compile_filter(*key)) for key in FILTERS}
NAMES = frozenset(name for numbers in NUMBERS.values() for name in numbers)

EAFNOSUPPORT, EPROTONOSUPPORT, EINVAL = ERRNO | 97, ERRNO | 93, ERRNO | 22
HEADERS = {"x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "aarch64": "/usr/aarch64-linux-gnu/include/asm/unistd.h"}


def verdict(table: str, architecture: str, name: str, *arguments: int) -> int:
    data = syscall_data(AUDIT_ARCHITECTURES[architecture], NUMBERS[architecture][name], arguments)
    return run(PROGRAMS[table, architecture], data)[0]


def everywhere(name: str, *arguments: int, table: str = "moderate") -> int:
    """The verdict, which must be the same on every architecture that has the syscall."""
    verdicts = {verdict(table, architecture, name, *arguments) for architecture in NUMBERS if name in NUMBERS[architecture]}
    assert len(verdicts) == 1
    return verdicts.pop()


@pytest.mark.parametrize(("table", "architecture"), FILTERS)
def test_a_filter_fits_and_judges_quickly(table: str, architecture: str) -> None:
    program = PROGRAMS[table, architecture]
    assert len(program) <= 512
    for name, most in [*((name, 12) for name in ("read", "write", "futex", "mmap", "close", "execve", "getpid")), ("openat", 16)]:
        data = syscall_data(AUDIT_ARCHITECTURES[architecture], NUMBERS[architecture][name])
        assert run(program, data)[1] <= most


@pytest.mark.parametrize(("table", "architecture"), FILTERS)
def test_every_number_gets_what_the_table_says(table: str, architecture: str) -> None:
    for number in [*range(1024), 0x3FFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF]:
        data = syscall_data(AUDIT_ARCHITECTURES[architecture], number, (0,) * 6)
        assert run(PROGRAMS[table, architecture], data)[0] == oracle(TABLES[table], NUMBERS[architecture], number, (0,) * 6), number


JUDGED_VALUES = sorted(
    {
        value
        for table in TABLES.values()
        for rule in table.rules.values()
        for case in rule.cases
        for check in case.checks
        for value in check.values
    }
)
ARGUMENT = st.one_of(
    st.sampled_from(JUDGED_VALUES),
    st.sampled_from(JUDGED_VALUES).map(lambda value: value + 1),
    st.sampled_from(JUDGED_VALUES).map(lambda value: value | 1 << 40),
    st.integers(0, 2**64 - 1),
    st.integers(0, 31).map(lambda bit: 1 << bit),
)
JUDGED_NAMES = sorted({name for table in TABLES.values() for name in table.rules})


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(FILTERS), st.one_of(st.sampled_from(JUDGED_NAMES), st.sampled_from(sorted(NAMES))), st.tuples(*[ARGUMENT] * 6))
def test_a_filter_agrees_with_its_table_for_any_arguments(key: tuple[str, str], name: str, arguments: tuple[int, ...]) -> None:
    table, architecture = key
    number = NUMBERS[architecture].get(name, 5000)
    data = syscall_data(AUDIT_ARCHITECTURES[architecture], number, arguments)
    assert run(PROGRAMS[key], data)[0] == oracle(TABLES[table], NUMBERS[architecture], number, arguments)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(FILTERS), st.sampled_from(JUDGED_NAMES), st.tuples(*[ARGUMENT] * 6), st.tuples(*[st.integers(0, 2**32 - 1)] * 6))
def test_high_words_that_the_kernel_ignores_change_no_verdict(
    key: tuple[str, str], name: str, arguments: tuple[int, ...], high: tuple[int, ...]
) -> None:
    table, architecture = key
    if name not in NUMBERS[architecture]:
        return
    low = [argument & 0xFFFFFFFF for argument in arguments]
    raised = [argument | word << 32 for argument, word in zip(low, high, strict=True)]
    assert verdict(table, architecture, name, *low) == verdict(table, architecture, name, *raised)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FILTERS), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_foreign_architecture_can_do_nothing(key: tuple[str, str], architecture: int, number: int) -> None:
    if architecture != AUDIT_ARCHITECTURES[key[1]]:
        assert run(PROGRAMS[key], syscall_data(architecture, number))[0] == ENOSYS


@pytest.mark.parametrize("table", TABLES)
def test_i386_x32_and_arm_entries_are_refused(table: str) -> None:
    for number in range(512):
        assert run(PROGRAMS[table, "x86_64"], syscall_data(I386, number))[0] == ENOSYS
        assert run(PROGRAMS[table, "x86_64"], syscall_data(X86_64, number | 0x40000000))[0] == ENOSYS
        assert run(PROGRAMS[table, "x86_64"], syscall_data(AARCH64, number))[0] == ENOSYS
        assert run(PROGRAMS[table, "aarch64"], syscall_data(ARM, number))[0] == ENOSYS


def test_every_known_syscall_stands_in_exactly_one_place() -> None:
    table = TABLES["moderate"]
    places = [table.allowed, table.hidden, frozenset(table.rules), REFUSED]
    counts = {name: sum(name in place for place in places) for name in frozenset().union(*places) | NAMES}
    assert {name: count for name, count in counts.items() if count != 1} == {}
    assert frozenset().union(*places) == NAMES


def test_restrictive_allows_nothing_that_moderate_does_not() -> None:
    assert TABLES["restrictive"].allowed < TABLES["moderate"].allowed
    assert TABLES["restrictive"].rules == TABLES["moderate"].rules
    assert everywhere("ptrace") == ALLOW
    assert everywhere("ptrace", table="restrictive") == EPERM


def test_every_profile_names_a_table() -> None:
    assert {profile.seccomp for profile in PROFILES.values()} <= set(TABLES)


def test_the_table_of_level_process_leaves_only_connected_pairs_of_sockets() -> None:
    for family in (1, 2, 10, 16, 17):
        assert everywhere("socket", family, 1, 0, table="process") == EPERM
    assert everywhere("socketpair", 1, 1 | 0x80000, 0, table="process") == ALLOW
    assert everywhere("socketpair", 1, 5, 0, table="process") == ALLOW
    assert everywhere("socketpair", 1, 2, 0, table="process") == EPERM
    assert TABLES["process"].allowed == TABLES["moderate"].allowed


ESCAPES = words("""unshare setns mount umount2 pivot_root chroot open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr bpf
perf_event_open io_uring_setup io_uring_enter io_uring_register userfaultfd keyctl add_key request_key kexec_load kexec_file_load init_module
finit_module delete_module swapon swapoff reboot settimeofday clock_settime adjtimex clock_adjtime iopl ioperm process_vm_readv
process_vm_writev pidfd_getfd open_by_handle_at name_to_handle_at quotactl quotactl_fd acct syslog nfsservctl lookup_dcookie memfd_secret
mbind migrate_pages move_pages set_mempolicy fanotify_init kcmp modify_ldt sethostname setdomainname process_madvise""")


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize("table", TABLES)
def test_what_helps_to_escape_is_refused(name: str, table: str) -> None:
    assert everywhere(name, table=table) == EPERM


@pytest.mark.parametrize("table", TABLES)
def test_clone3_is_hidden_so_that_libraries_fall_back_to_clone(table: str) -> None:
    assert everywhere("clone3", 0x7FFF0000, 88, table=table) == ENOSYS


@pytest.mark.parametrize("bit", [0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_makes_no_namespace(bit: int) -> None:
    assert everywhere("clone", bit) == EPERM
    assert everywhere("clone", bit | 0x11) == EPERM
    assert everywhere("clone", bit | 1 << 40) == EPERM


@pytest.mark.parametrize("flags", [0x11, 0x3D0F00, 0x01200011, 0x4111, 0x80000011])
def test_clone_makes_threads_and_processes(flags: int) -> None:
    assert everywhere("clone", flags) == ALLOW


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((1, 1, 0), ALLOW),  # unix
        ((1, 5 | 0x80000, 0), ALLOW),
        ((2, 1, 0), ALLOW),  # TCP
        ((2, 1 | 0x80800, 6), ALLOW),
        ((10, 1, 6), ALLOW),
        ((2, 2, 17), ALLOW),  # UDP
        ((10, 2 | 0x800, 0), ALLOW),
        ((2, 2, 1), ALLOW),  # ping sockets
        ((10, 2, 58), ALLOW),
        ((2, 1, 132), EPROTONOSUPPORT),  # SCTP
        ((2, 1, 262), EPROTONOSUPPORT),  # MPTCP
        ((2, 2, 115), EPROTONOSUPPORT),  # L2TP
        ((2, 2, 136), EPROTONOSUPPORT),  # UDP-Lite
        ((2, 3, 1), EPERM),  # raw
        ((10, 3 | 0x80000, 58), EPERM),
        ((2, 10, 0), EPERM),  # SOCK_PACKET
        ((2, 5, 132), EPERM),
        ((2, 6, 33), EPERM),  # DCCP
        ((16, 3, 0), ALLOW),  # NETLINK_ROUTE
        ((16, 2, 9), EPROTONOSUPPORT),  # NETLINK_AUDIT
        ((16, 3, 15), EPROTONOSUPPORT),
        ((17, 3, 0x0300), EAFNOSUPPORT),  # AF_PACKET
        ((40, 1, 0), EAFNOSUPPORT),  # AF_VSOCK
        ((38, 5, 0), EAFNOSUPPORT),  # AF_ALG
        ((31, 1, 0), EAFNOSUPPORT),  # AF_BLUETOOTH
        ((44, 3, 0), EAFNOSUPPORT),  # AF_XDP
        ((0, 1, 0), EAFNOSUPPORT),
        ((1 << 32 | 17, 3, 0), EAFNOSUPPORT),
        ((2, 1 << 33 | 3, 0), EPERM),
    ],
)
def test_a_socket_is_for_the_network_or_this_machine(arguments: tuple[int, ...], expected: int) -> None:
    assert everywhere("socket", *arguments) == expected


def test_socket_pairs_are_unix_sockets() -> None:
    assert everywhere("socketpair", 1, 1, 0) == ALLOW
    assert everywhere("socketpair", 2, 1, 0) == EAFNOSUPPORT
    assert everywhere("socketpair", 30, 1, 0) == EAFNOSUPPORT  # AF_TIPC


@pytest.mark.parametrize("request_number", [0x5412, 0x541C, 0x541D, 0x5423, 0x5437, 0xC0045877, 0xC0045878, 0xC0185879, 0xB701, 0xB702])
def test_ioctls_that_reach_the_terminals_reader_are_refused_however_they_are_written(request_number: int) -> None:
    assert everywhere("ioctl", 0, request_number, 0) == EPERM
    assert everywhere("ioctl", 0, request_number | 1 << 32, 0) == EPERM  # CVE-2019-10063, CVE-2023-28100
    assert everywhere("ioctl", 0, request_number | 0xFFFFFFFF << 32, 0) == EPERM


@pytest.mark.parametrize("request_number", [0x5401, 0x5402, 0x5413, 0x5414, 0x540E, 0x541B, 0x5421, 0x5451, 0x40049409])
def test_other_ioctls_are_left_to_the_devices(request_number: int) -> None:
    assert everywhere("ioctl", 0, request_number, 0) == ALLOW


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (15, ALLOW),
        (38, ALLOW),
        (22, ALLOW),
        (1, ALLOW),
        (36, ALLOW),
        (0x53564D41, ALLOW),
        (35, EPERM),
        (62, EPERM),
        (28, EPERM),
        (67, EPERM),
        (9999, EINVAL),
        (0, EINVAL),
        (1 << 32 | 35, EPERM),
    ],
)
def test_prctl_options_are_allowed_one_by_one(option: int, expected: int) -> None:
    assert everywhere("prctl", option) == expected


def test_only_harmless_personalities_can_be_taken() -> None:
    assert [everywhere("personality", value) for value in (0, 8, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)] == [ALLOW] * 4
    assert [everywhere("personality", value) for value in (0x40000, 0x20000, 0x400000, 0x8000000, 1)] == [EPERM] * 5


def test_limits_are_set_for_oneself_only() -> None:
    assert everywhere("prlimit64", 0, 7) == ALLOW
    assert everywhere("prlimit64", 1, 7) == EPERM


def test_nodes_are_files_pipes_and_sockets_never_devices() -> None:
    for harmless in (0o644, 0o100644, 0o010600, 0o140777):
        assert everywhere("mknod", 0, harmless) == ALLOW
        assert everywhere("mknodat", 0, 0, harmless) == ALLOW
    for device in (0o020600, 0o060600, 0o020600 | 1 << 16):
        assert everywhere("mknod", 0, device) == EPERM
        assert everywhere("mknodat", 0, 0, device) == EPERM


def test_no_file_gets_a_set_id_bit_that_the_host_would_honour() -> None:
    for set_id in (0o4755, 0o2755, 0o6755, 0o106755):
        assert everywhere("creat", 0, set_id) == everywhere("chmod", 0, set_id) == everywhere("fchmod", 0, set_id) == EPERM
        assert everywhere("fchmodat", 0, 0, set_id) == everywhere("fchmodat2", 0, 0, set_id, 0) == EPERM
        assert everywhere("mknod", 0, set_id) == everywhere("mknodat", 0, 0, set_id) == EPERM
        for creating in (0o100, 0o1101, 0o20200002):  # O_CREAT, with O_WRONLY and O_TRUNC, O_TMPFILE
            assert everywhere("open", 0, creating, set_id) == everywhere("openat", 0, 0, creating, set_id) == EPERM
        assert everywhere("openat", 0, 0, 0o2000000, set_id) == ALLOW  # no mode is looked at
    assert everywhere("openat2", 0, 0, 0, 24) == ENOSYS  # its mode lies in memory


def test_files_get_every_other_mode() -> None:
    for mode in (0, 0o644, 0o1777, 0o100755):
        assert everywhere("chmod", 0, mode) == everywhere("fchmodat", 0, 0, mode) == everywhere("creat", 0, mode) == ALLOW
        assert everywhere("openat", 0, 0, 0o100, mode) == everywhere("open", 0, 0o20200002, mode) == ALLOW


RUNTIMES = words("""read write openat newfstatat mmap mprotect brk rt_sigaction rt_sigprocmask rt_sigreturn execve exit_group wait4 futex set_robust_list rseq
getrandom prlimit64 statx close_range epoll_create1 epoll_ctl epoll_pwait eventfd2 pipe2 dup3 sched_getaffinity sched_yield sigaltstack tgkill
madvise mremap memfd_create membarrier clock_nanosleep fchmodat2 faccessat2 renameat2 utimensat fchownat linkat symlinkat flock fallocate
copy_file_range inotify_init1 inotify_add_watch timerfd_create signalfd4 pidfd_open pidfd_send_signal waitid execveat setsid setpgid
getdents64 statfs fsync seccomp landlock_create_ruleset landlock_restrict_self shmget semop setpriority sched_setscheduler restart_syscall
rt_tgsigqueueinfo getresuid setresuid setgroups capget pkey_alloc mlock timer_create epoll_pwait2 futex_waitv mseal sendmmsg""")


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize("table", TABLES)
def test_what_compilers_and_language_runtimes_need_is_allowed(name: str, table: str) -> None:
    unseen = table.endswith(WITHOUT_UNMAPPED_MEMORY) and name in ("memfd_create", "shmget")
    assert everywhere(name, table=table) == (ENOSYS if unseen else ALLOW)


def test_unknown_tables_and_architectures_are_errors() -> None:
    with pytest.raises(UnknownKey, match="'moderat'") as unknown:
        compile_filter("moderat", "x86_64")
    assert unknown.value.hint == "did you mean 'moderate'?"
    with pytest.raises(Unsupported, match="riscv64"):
        compile_filter("moderate", "riscv64")


def _header_numbers(architecture: str) -> dict[str, int]:
    header = HEADERS[architecture]
    if not Path(header).exists():
        pytest.skip(f"this machine lacks {header}")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("this machine lacks a C compiler to read kernel headers with")
    include = [] if architecture == "x86_64" else ["-nostdinc", "-isystem", "/usr/aarch64-linux-gnu/include"]
    command = [compiler, "-E", "-dM", "-x", "c", *include, "-include", header, "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    macros = dict(re.findall(r"#define (__NR\w*) (\w+)", done.stdout))
    result = {}
    for macro, value in macros.items():
        while value in macros:
            value = macros[value]
        if macro.startswith("__NR_") and macro not in ("__NR_syscalls", "__NR_arch_specific_syscall"):
            result[macro.removeprefix("__NR_")] = int(value)
    return result


@pytest.mark.parametrize("architecture", NUMBERS)
def test_numbers_are_those_of_the_kernels_headers(architecture: str) -> None:
    header, ours = _header_numbers(architecture), NUMBERS[architecture]
    assert len(header) > 300
    newest = max(header.values())
    assert {name: number for name, number in ours.items() if number <= newest and name not in ("uretprobe", "uprobe")} == {
        name: number for name, number in header.items() if name in ours
    }
    assert header.keys() - ours.keys() == frozenset()


def test_new_syscalls_have_one_number_on_every_architecture() -> None:
    late = [{name: number for name, number in numbers.items() if number >= 424} for numbers in NUMBERS.values()]
    assert late[0].items() ^ late[1].items() == set()


def test_the_assembler_bridges_distances_beyond_a_byte() -> None:
    program = bpf.Assembler()
    far_yes, far_no = program.ret(1), program.ret(2)
    label = program.ret(3)
    for value in range(300):
        label = program.load(value % 16 * 4, label)
    start = program.branch(bpf.JUMP_EQUAL, 7, far_yes, far_no)
    instructions = decode(program.program(program.load(bpf.NUMBER_OFFSET, start)))
    assert run(instructions, syscall_data(X86_64, 7))[0] == 1
    assert run(instructions, syscall_data(X86_64, 8))[0] == 2


def test_the_assembler_refuses_what_the_kernel_would() -> None:
    program = bpf.Assembler()
    label = program.ret(0)
    for _ in range(bpf.MAX_INSTRUCTIONS):
        label = program.load(0, label)
    with pytest.raises(OverflowError):
        program.program(label)
