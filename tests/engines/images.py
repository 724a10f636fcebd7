"""Images for tests of container engines, made of this host's own Debian packages: no registry is needed."""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest

PACKAGES = (
    "dash", "coreutils", "sed", "grep", "findutils", "mawk", "procps", "hostname", "python3-minimal", "python3.11-minimal",
    "libpython3.11-minimal", "libpython3.11-stdlib", "media-types", "ca-certificates",
)  # fmt: skip
LEFT_OUT = re.compile(
    r"/usr/share/(doc|man|locale|lintian|bug|info|perl5|python3|applications|pixmaps)/|/(test|tests|__pycache__|idlelib)/"
)
LIBRARY = re.compile(r"=> (/\S+) \(|^\s*(/\S*ld-linux\S*) \(", re.MULTILINE)
REFERENCE = "localhost/ak-tests:python"
PASSWD = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/usr/sbin/nologin\nservice:x:4321:4322::/srv:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"


def python_image(directory: Path) -> Path:
    """A tar archive of a file system with a shell, the usual small tools and Python; skips where the host is no Debian."""
    target = directory / "python.tar"
    if target.exists():
        return target
    if shutil.which("dpkg-query") is None:
        pytest.skip("this host has no dpkg, whose packages the tests' image is made of")
    files = set(_files_of(PACKAGES))
    files |= _libraries(files)
    unfinished = target.with_suffix(".new")
    with tarfile.open(unfinished, "w", format=tarfile.GNU_FORMAT) as tar:
        for path, mode in (
            ("tmp", 0o1777),
            ("var/tmp", 0o1777),
            ("root", 0o700),
            ("srv", 0o755),
            ("etc", 0o755),
            ("proc", 0o755),
            ("dev", 0o755),
            ("sys", 0o755),
        ):
            _directory(tar, path, mode)
        for link in ("bin", "lib", "lib64", "sbin"):
            _link(tar, link, f"usr/{link}")
        _text(tar, "etc/passwd", PASSWD)
        _text(tar, "etc/group", "root:x:0:\nservice:x:4322:\n")
        _text(tar, "etc/hosts", "127.0.0.1 localhost\n")
        for path in sorted(files):
            tar.add(path, arcname=path.lstrip("/"), recursive=False, filter=_of_root)
        for path, link in (("/usr/bin/sh", "dash"), ("/usr/bin/awk", "mawk")):
            if path not in files:
                _link(tar, path.lstrip("/"), link)
    unfinished.rename(target)
    return target


def small_image(directory: Path, files: dict[str, bytes], *, name: str = "small.tar") -> Path:
    """A tar archive with these programs and nothing else."""
    target = directory / name
    with tarfile.open(target, "w") as tar:
        for path, content in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return target


def _files_of(packages: Iterable[str]) -> Iterable[str]:
    listed = subprocess.run(["dpkg-query", "--listfiles", *packages], capture_output=True, text=True, check=False).stdout
    for line in listed.splitlines():
        if line.startswith("/") and not LEFT_OUT.search(f"{line}/") and os.path.lexists(line) and not stat.S_ISDIR(os.lstat(line).st_mode):
            yield _merged(line)


def _merged(path: str) -> str:
    """Where it is on a host whose /bin, /lib, /lib64 and /sbin are links into /usr."""
    top = path.split("/")[1]
    return f"/usr{path}" if top in ("bin", "lib", "lib64", "sbin") else path


def _libraries(files: Iterable[str]) -> set[str]:
    programs = [path for path in files if os.path.isfile(path) and (os.access(path, os.X_OK) or path.endswith(".so")) and _is_elf(path)]
    said = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    found: set[str] = set()
    for match in LIBRARY.finditer(said):
        path = match[1] or match[2]
        found |= {_merged(path), os.path.realpath(path)}
    return found


def _is_elf(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _directory(tar: tarfile.TarFile, path: str, mode: int) -> None:
    member = tarfile.TarInfo(path)
    member.type, member.mode = tarfile.DIRTYPE, mode
    tar.addfile(member)


def _link(tar: tarfile.TarFile, path: str, target: str) -> None:
    member = tarfile.TarInfo(path)
    member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
    tar.addfile(member)


def _text(tar: tarfile.TarFile, path: str, text: str) -> None:
    member = tarfile.TarInfo(path)
    member.size, member.mode = len(text), 0o644
    tar.addfile(member, io.BytesIO(text.encode()))
