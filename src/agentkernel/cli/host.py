"""Facts of this host that `doctor` and `setup` show; read, never changed, and never fatal."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agentkernel import assembly
from agentkernel.config.load import users_settings
from agentkernel.errors import BackendUnavailable

_COMPILERS = ("cc", "gcc", "clang")
_NO_USER_NAMESPACES = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=15000"),
)
# Package managers and what they call a C compiler with its headers.
_COMPILER_PACKAGES = (
    ("apt-get", "apt-get install gcc libc6-dev linux-libc-dev"),
    ("dnf", "dnf install gcc glibc-devel kernel-headers"),
    ("pacman", "pacman -S --needed gcc linux-api-headers"),
    ("zypper", "zypper install gcc glibc-devel linux-glibc-devel"),
    ("apk", "apk add gcc musl-dev linux-headers"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of the report: `remedy` is an exact command, empty when there is nothing to do."""

    name: str
    value: str
    good: bool = True
    remedy: str = ""


def facts() -> list[Fact]:
    """Everything, in the order in which it is shown."""
    return [
        Fact(name="system", value=f"{platform.system()} {platform.release()} {platform.machine()}"),
        Fact(name="python", value=f"{platform.python_version()} ({sys.executable})"),
        user_namespaces(),
        cgroups(),
        landlock(),
        kvm(),
        guest_binary(),
        compiler(),
        *upstream_proxy(),
    ]


def user_namespaces() -> Fact:
    """Whether a plain user may make one, as far as the switches say; the backend's probe is the proof."""
    name = "user namespaces"
    if not Path("/proc/self/ns/user").exists():
        return Fact(name=name, value="not in this kernel", good=False)
    for path, off, remedy in _NO_USER_NAMESPACES:
        if _read(path) == off and (os.geteuid() != 0 or "max_" in path):
            return Fact(name=name, value=f"forbidden by {path}", good=False, remedy=remedy)
    return Fact(name=name, value="allowed")


def cgroups() -> Fact:
    """Which hierarchies are mounted; whether this user may limit memory with them is the backend's word."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return Fact(name="cgroups", value=f"v2 ({_read(str(root / 'cgroup.controllers')) or 'no controllers'})")
    if (root / "memory").is_dir():
        return Fact(name="cgroups", value="v1 and v2 (hybrid)" if (root / "unified").is_dir() else "v1")
    return Fact(name="cgroups", value="none mounted", good=False)


def landlock() -> Fact:
    """Whether the security module is active."""
    modules = _read("/sys/kernel/security/lsm")
    if not modules:
        return Fact(name="landlock", value="unknown here (/sys/kernel/security is not mounted); see the backend's line")
    active = "landlock" in modules.split(",")
    return Fact(name="landlock", value="active" if active else f"not active (lsm={modules})", good=active)


def kvm() -> Fact:
    """An existing /dev/kvm proves nothing: in nested machines it opens and cannot run a kernel. No backend of this version uses it."""
    if not Path("/dev/kvm").exists():
        return Fact(name="kvm", value="no /dev/kvm (no backend of this version uses it)")
    usable = os.access("/dev/kvm", os.R_OK | os.W_OK)
    return Fact(
        name="kvm", value=f"/dev/kvm is there, {'untested' if usable else 'not for this user'} (no backend of this version uses it)"
    )


def guest_binary() -> Fact:
    """The program that runs inside every sandbox."""
    try:
        return Fact(name="guest binary", value=assembly.guest_path())
    except BackendUnavailable as error:
        return Fact(name="guest binary", value=error.message, good=False, remedy=_guest_remedy(error))


def _guest_remedy(error: BackendUnavailable) -> str:
    if "AGENTKERNEL_GUEST" in os.environ:
        return error.hint
    reinstall = "pip install --force-reinstall --no-deps --no-binary agentkernel agentkernel"
    needed = compiler()
    return reinstall if needed.good else f"{needed.remedy} && {reinstall}"


def compiler() -> Fact:
    """Needed to build the guest binary where the package was not installed from a wheel."""
    for name in _COMPILERS:
        path = shutil.which(name)
        if path:
            return Fact(name="c compiler", value=path)
    remedy = next((command for manager, command in _COMPILER_PACKAGES if shutil.which(manager)), "install a C compiler")
    return Fact(name="c compiler", value="none (needed to build the guest binary from source only)", good=False, remedy=remedy)


def upstream_proxy() -> list[Fact]:
    """The proxy that filtered networks go through, and what that means for their rules; nothing where none is configured."""
    url = users_settings(cwd="/", environment=os.environ, flags={}).get("network.upstream_proxy")
    if not url:
        return []
    where = urlsplit(url)._replace(netloc=urlsplit(url).netloc.rpartition("@")[2]).geturl()  # the password is nobody's business
    return [Fact(name="upstream proxy", value=f"{where}; rules by address hold only for what programs name by address")]


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
