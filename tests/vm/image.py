"""The disks of the virtual machine: a Debian with systemd, made once and kept, and the source tree, made for each run.

Debian's cloud kernel has NVMe and ext4 built in, so it boots from such a disk without an initial RAM file system.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
RELEASE = "bookworm"
PACKAGES = ("dbus", "dbus-user-session", "kmod", "libpam-systemd", "procps", "python3", "strace", "systemd", "systemd-sysv", "util-linux")
MODULES = ("overlay", "autofs4")  # what the backend and systemd load; the rest of the kernel's modules would only fill the disk
IMAGE_BYTES = 2048 * 1024 * 1024  # mostly holes; storage on disk leaves 512 MiB of it free
SOURCE_BYTES = 24 * 1024 * 1024
DISK_SIGNATURE = 0x416B_566D  # names the partition with the Debian to the kernel, which may find the disks in any order
PARTITION_OFFSET = 1024 * 1024
COMMANDS = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "depmod": "kmod", "cc": "gcc"}

# Runs what the source disk holds, with the second serial line for its results; the machine ends with it.
UNIT = """\
[Unit]
Description=What this machine is for
After=multi-user.target systemd-user-sessions.service user@1000.service
Wants=user@1000.service

[Service]
Type=oneshot
StandardInput=null
StandardOutput=tty
StandardError=inherit
TTYPath=/dev/ttyS1
TimeoutStartSec=infinity
ExecStartPre=/bin/mount -t ext4 -o ro LABEL=source /opt/agentkernel
ExecStart=/bin/sh /opt/agentkernel/start
ExecStopPost=/sbin/poweroff -f -f
"""
HOOKS = (
    'chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash dev',
    'mkdir -p "$1/var/lib/systemd/linger" "$1/opt/agentkernel" && touch "$1/var/lib/systemd/linger/dev"',
    'echo vm >"$1/etc/hostname" && : >"$1/etc/fstab" && passwd --root "$1" --delete root',
    # Without udev nothing would ever announce the console: no login prompt there, and no timers that compete for the emulated processors.
    'systemctl --root "$1" mask getty@tty1.service serial-getty@.service getty.target timers.target systemd-pcrphase.service',
    'systemctl --root "$1" set-default multi-user.target',
)


def cache_directory() -> Path:
    """Where the images are kept: $XDG_CACHE_HOME/agentkernel-vm, else below /var/tmp, which outlives a reboot."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base if base.startswith("/") else "/var/tmp") / "agentkernel-vm"


def find_kernel() -> Path | None:
    """The newest of Debian's cloud kernels on this host."""
    found = sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"), key=_version)
    return found[-1] if found else None


def _version(kernel: Path) -> list[int]:
    return [int(part) for part in kernel.name.replace("-", ".").split(".") if part.isdigit()]


def obstacle(kernel: Path | None) -> str:
    """What is missing here for building the images and starting the machine; empty when nothing is."""
    missing = [package for command, package in {**COMMANDS, "qemu-system-x86_64": "qemu-system-x86"}.items() if not shutil.which(command)]
    if kernel is None:
        missing.append("linux-image-cloud-amd64")
    if missing:
        return f"these Debian packages are missing: {' '.join(missing)}"
    return "" if os.geteuid() == 0 else "the image's files belong to root and others, so only root can build it"


def base_image(kernel: Path) -> Path:
    """Returns the Debian's disk, built when it is not in the cache; raises CalledProcessError."""
    recipe = "\n".join((RELEASE, *PACKAGES, *MODULES, UNIT, *HOOKS, str(IMAGE_BYTES), f"{DISK_SIGNATURE:x}", kernel.name))
    cache = cache_directory()
    image = cache / f"{RELEASE}-{hashlib.sha256(recipe.encode()).hexdigest()[:16]}.ext4"
    if image.exists():
        return image
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        tree, disk, unit = Path(work, "tree"), Path(work, "disk"), Path(work, "checks.service")
        unit.write_text(UNIT)
        command = ["mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        command += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*"]
        command += [f"--customize-hook={hook}" for hook in HOOKS]
        command += [f"--customize-hook=copy-in {unit} /etc/systemd/system"]
        _run([*command, RELEASE, str(tree)])
        _modules(kernel, tree)
        _partition(disk)
        _file_system(tree, disk, "debian", IMAGE_BYTES, PARTITION_OFFSET)
        disk.rename(image)
    return image


def _modules(kernel: Path, tree: Path) -> None:
    release = kernel.name.removeprefix("vmlinuz-")
    source, target = kernel.resolve().parent.parent / "usr/lib/modules" / release, tree / "usr/lib/modules" / release
    target.mkdir(parents=True)
    for name in MODULES:
        for path in source.glob(f"kernel/**/{name}.ko*"):
            (target / path.relative_to(source).parent).mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target / path.relative_to(source))
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy2(source / name, target)
    _run(["depmod", "-b", str(tree), release])


def source_image(directory: Path, start: str) -> Path:
    """Makes the disk with the source tree, the guest binary and `start`, the shell commands that the machine runs as root."""
    tree, disk = directory / "source", directory / "source.ext4"
    bare = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "src", tree / "src", ignore=bare)
    shutil.copytree(Path(__file__).parent / "checks", tree / "checks", ignore=bare)
    _run([sys.executable, str(REPOSITORY / "guest/build.py"), "--output", str(tree / "guest")])
    (tree / "start").write_text(start)
    _run([sys.executable, "-m", "compileall", "-q", str(tree / "src")])  # the disk is read-only, and compiling takes long in emulation
    _file_system(tree, disk, "source", SOURCE_BYTES)
    return disk


def _partition(disk: Path) -> None:
    """Writes a partition table of the oldest kind, with one partition."""
    entry = struct.pack("<B3xB3xII", 0, 0x83, PARTITION_OFFSET // 512, IMAGE_BYTES // 512)
    disk.write_bytes(struct.pack("<440xIH", DISK_SIGNATURE, 0) + entry.ljust(64, b"\0") + b"\x55\xaa")


def _file_system(tree: Path, disk: Path, label: str, size: int, offset: int = 0) -> None:
    with disk.open("ab") as file:
        file.truncate(offset + size)
    options = ["-t", "ext4", "-O", "^has_journal", "-L", label, "-E", f"root_owner=0:0,offset={offset}"]
    _run(["mke2fs", "-q", *options, "-d", str(tree), str(disk), f"{size // 1024}k"])


def _run(command: list[str]) -> None:
    """Runs a command with its output on our stderr, so that a failure can be read."""
    subprocess.run(command, check=True, stdout=sys.stderr)
