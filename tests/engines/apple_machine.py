"""The inside of the stand-in's machine: the first process of new namespaces builds the root and becomes the container's program.

`python apple_machine.py PLACE FD`: to that descriptor goes an empty line before the program is executed, or what went wrong.
"""

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
MEBIBYTE = 1024 * 1024
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
MASKED = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware")
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    if _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()):
        raise OSError(ctypes.get_errno(), f"mount {source} {target}: {os.strerror(ctypes.get_errno())}")


def bind(source: str, target: str, *, writable: bool = True) -> None:
    mount(source, target, flags=MS_BIND | MS_REC)
    if not writable:
        seal(target)


def seal(target: str) -> None:
    kept = sum(flag for flag in (MS_NOSUID, MS_NODEV) if os.statvfs(target).f_flag & flag)  # what a remount may not take away
    mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def build(root: str, record: dict) -> None:
    mount("", "/", flags=MS_REC | MS_PRIVATE)
    mount(root, root, flags=MS_BIND)
    bind("/usr", f"{root}/usr", writable=False)
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if os.path.isdir(f"/{name}") and not os.path.islink(f"/{name}"):
            os.makedirs(f"{root}/{name}", exist_ok=True)
            bind(f"/{name}", f"{root}/{name}", writable=False)
    mount("proc", f"{root}/proc", "proc")
    mount("sysfs", f"{root}/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV)
    devices(root, record["shm"])
    for each in sorted(record["mounts"], key=lambda found: found["target"].count("/")):
        target = root + each["target"]
        os.makedirs(target, exist_ok=True)
        if each["type"] == "tmpfs":
            data = f"size={each['size'] * MEBIBYTE},mode={each.get('mode', '755')}"
            mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV | (MS_RDONLY if each["readonly"] else 0), data)
        else:
            bind(each["source"], target, writable=not each["readonly"])
    if record["resolver"]:
        with open(f"{root}/etc/resolv.conf", "w") as file:
            file.write(f"nameserver {record['resolver']}\n")
    with open(f"{root}/etc/hosts", "w") as file:
        file.write(f"127.0.0.1 localhost {record['hostname']}\n")
    for path in MASKED:
        mask(root + path)


def devices(root: str, shm_mebibytes: int) -> None:
    mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID, "mode=755,size=1m")
    for name in DEVICES:
        with open(f"{root}/dev/{name}", "w"):
            pass
        mount(f"/dev/{name}", f"{root}/dev/{name}", flags=MS_BIND)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("ptmx", "pts/ptmx")):
        os.symlink(target, f"{root}/dev/{name}")
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{root}/dev/{name}")
    mount("devpts", f"{root}/dev/pts", "devpts", MS_NOSUID, "newinstance,gid=5,mode=0620,ptmxmode=0666")
    mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, f"mode=1777,size={shm_mebibytes * MEBIBYTE}")
    mount("mqueue", f"{root}/dev/mqueue", "mqueue", MS_NOSUID | MS_NODEV)


def mask(path: str) -> None:
    if os.path.isdir(path):
        mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=0,mode=555")
    elif os.path.exists(path):
        mount("/dev/null", path, flags=MS_BIND)


def enter(root: str, *, read_only: bool) -> None:
    os.chdir(root)
    if _libc.pivot_root(b".", b"."):
        raise OSError(ctypes.get_errno(), "pivot_root")
    if _libc.umount2(b".", MNT_DETACH):
        raise OSError(ctypes.get_errno(), "umount")
    os.chdir("/")
    if read_only:
        seal("/")


def loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh", b"lo", 0)
        flags = struct.unpack("16sh", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", flags | IFF_UP))


def main(place: str, failed: int) -> None:
    with open(f"{place}/record.json") as file:
        record = json.load(file) | {"hostname": os.path.basename(place)}
    os.set_inheritable(failed, False)
    try:
        loopback()
        socket.sethostname(os.path.basename(place)[:64])
        build(f"{place}/root", record)
        enter(f"{place}/root", read_only=record["read_only"])
        bounding = ",".join(["-all", *(f"+{name.lower()}" for name in record["capabilities"])])
        os.umask(0o022)
        os.write(failed, b"\n")
        os.execve(
            "/usr/bin/setpriv",
            ["setpriv", "--inh-caps=-all", f"--bounding-set={bounding}", "--", *record["argv"]],
            {"PATH": "/usr/bin:/bin"},
        )
    except OSError as error:
        os.write(failed, str(error).encode())
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
