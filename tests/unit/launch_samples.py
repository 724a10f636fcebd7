"""Launch plans of whole sandboxes, and what their tests look at from outside and inside."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

from unit.plan_wire import ALL_NAMESPACES, LISTEN_FD, NODEV, NOEXEC, NOSUID, RDONLY, Step

ID_BASE, ID_COUNT = 300_000, 65_536
WANTED_CAPABILITIES = 1 << 0 | 1 << 5 | 1 << 6 | 1 << 7  # chown, kill, setgid, setuid
PLAIN_UID = 12_345
HARD = NOSUID | NODEV
READ_DIRECTORY, READ_FILE, EXECUTE, WRITE_FILE = 1 << 3, 1 << 2, 1 << 0, 1 << 1
ALL_ACCESS = (1 << 14) - 1  # ABI 2


def furniture() -> list[Step]:
    """What every sandbox has: kernel file systems, devices, masks, files."""
    return [
        *(("SYMLINK", f"usr/{name}", name) for name in ("bin", "sbin", "lib", "lib64")),
        ("FILE", "etc/passwd", 0o644, b"root:x:0:0::/:/bin/sh\n"),
        ("PROC", "proc", "", HARD | NOEXEC),
        *(("MASK", f"proc/{name}") for name in ("kallsyms", "timer_list", "acpi", "scsi", "irq", "tty", "no-such-file")),
        *(("READ_ONLY", f"proc/{name}") for name in ("sys", "bus", "no-such-directory")),
        ("TMPFS", "dev", "size=64k,nr_inodes=64,mode=755", NOSUID | NOEXEC),
        *(("BIND", f"/dev/{name}", f"dev/{name}", NOSUID | NOEXEC, 0) for name in ("null", "zero", "urandom")),
        ("DEVPTS", "dev/pts", "newinstance,ptmxmode=0666,mode=620", NOSUID | NOEXEC),
        ("MQUEUE", "dev/mqueue", HARD | NOEXEC),
        ("TMPFS", "tmp", "size=1m,mode=1777", HARD),
    ]


def walls(capabilities: int) -> list[Step]:
    """From the end of the root to the agent."""
    return [
        ("REMOUNT_ROOT", RDONLY | HARD),
        ("SYSCTL", "net/ipv4/ip_unprivileged_port_start", "80"),
        ("PIVOT",),
        ("HOSTNAME", "box"),
        ("LOOPBACK",),
        ("RLIMIT", 7, 128, 256),
        ("CAPABILITIES", capabilities),
        ("NO_NEW_PRIVS",),
        ("LANDLOCK", ALL_ACCESS, 0, 0),
        ("LANDLOCK_PATH", "/", EXECUTE | READ_FILE | READ_DIRECTORY),
        ("LANDLOCK_PATH", "/dev/null", ALL_ACCESS),
        ("LANDLOCK_PATH", "/tmp", ALL_ACCESS),
        ("LANDLOCK_PATH", "/no/such/path", ALL_ACCESS),
        ("LANDLOCK_APPLY",),
        ("AGENT", LISTEN_FD),
    ]


def root_steps(place: Path) -> list[Step]:
    """A sandbox with an id range, whose /usr is mapped into it."""
    id_map = f"0 {ID_BASE} {ID_COUNT}\n"
    return [
        ("CLONE", ALL_NAMESPACES),
        ("IDMAP", id_map, id_map, 0),
        ("TREE", 0, "/usr", RDONLY | HARD, 1, 1),
        ("GO",),
        ("PRIVATE",),
        ("SETID", 0, 0),
        ("ROOT_TMPFS", str(place), "size=1m,mode=755"),
        ("ATTACH", 0, "usr"),
        *furniture(),
        ("MKDIR", "home/user", 0o750, 1000, 1000),
        *walls(WANTED_CAPABILITIES),
    ]


def user_steps(place: Path, uid: int) -> list[Step]:
    """A plain user's sandbox: one id, no capability left."""
    return [
        ("CLONE", ALL_NAMESPACES),
        ("IDMAP", f"1000 {uid} 1\n", f"1000 {uid} 1\n", 1),
        ("GO",),
        ("PRIVATE",),
        ("SETID", 1000, 1000),
        ("ROOT_TMPFS", str(place), "size=1m,mode=755"),
        ("BIND", "/usr", "usr", RDONLY | HARD, 1),
        *furniture(),
        ("MKDIR", "home/user", 0o750, 1000, 1000),
        *walls(0),
    ]


def process_steps(place: Path) -> list[Step]:
    """Isolation level `process`: no namespace, Landlock alone."""
    return [
        ("CLONE", 0),
        ("GO",),
        ("NO_NEW_PRIVS",),
        ("LANDLOCK", ALL_ACCESS, 0, 0),
        ("LANDLOCK_PATH", str(place), READ_FILE),
        ("LANDLOCK_APPLY",),
        ("AGENT", LISTEN_FD),
    ]


def mounts(pid: int) -> dict[str, tuple[str, str]]:
    """Mount point -> (options, file system type) as process `pid` sees them; the topmost where there are several."""
    found = {}
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        head, tail = line.split(" - ")
        fields = head.split()
        found[fields[4]] = (" ".join(fields[5:]), tail.split()[0])
    return found


def status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def inside(pid: int, script: str, *, uid: int | None = 0) -> str:
    """Runs a shell script in the namespaces of `pid`, as this user there (None: nobody in particular, without rights); returns its output."""
    identity = ["--preserve-credentials"] if uid is None else [f"--setuid={uid}", f"--setgid={uid}"]
    argv = ["nsenter", "-t", str(pid), "-U", "-m", "-p", "-n", "-u", "-i", *identity, "/bin/sh", "-c", script]
    return subprocess.run(argv, check=True, capture_output=True, text=True, env={"PATH": "/usr/bin:/usr/sbin"}).stdout.strip()


def processes(guest: Path) -> set[int]:
    """Processes of this copy of the guest that are not zombies."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(entry / "exe").startswith(str(guest)):
                    found.add(int(entry.name))
    return found


def host_mounts(place: Path) -> list[str]:
    """The host's own mounts and those at the test's place; others come and go by other hands."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split()[4] in ("/", "/proc", "/sys", "/dev", "/dev/pts", "/dev/shm") or str(place) in line]
