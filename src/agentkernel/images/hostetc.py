"""The sandbox's /etc on the host's root: what programs need to run, and synthetic files for what names the host or its users.

Everything here must be readable by every user of the host: what only root may read is not for a sandbox, even when root starts it. Files
that often hold tokens (pip.conf, npmrc, gitconfig, gemrc, maven's settings.xml, ...) are not on the list.
"""

# (the hot path of every start: strings and system calls, no Path objects)

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from agentkernel.model.spec import Bind, RootFile, User

# Shown by a read-only bind; a directory with all beneath it. `*` at the end stands for any rest of the name.
BOUND = (
    "ld.so.cache",  # without it the loader misses libraries outside its standard directories
    "ld.so.conf.d",
    "alternatives",  # /usr/bin/java -> /etc/alternatives/java -> /usr/lib/jvm/...
    "ssl/certs",
    "pki/tls/certs",
    "pki/ca-trust",
    "ca-certificates/extracted",
    "crypto-policies",
    "mime.types",
    "fonts",
    "perl",
    "php",
    "java*",
    "python3*",
    "maven/logging",
)
# Small files, copied: cheaper than a mount each. Links are kept as links.
COPIED = (
    "ld.so.conf",
    "ld-musl-x86_64.path",
    "ld-musl-aarch64.path",
    "ssl/openssl.cnf",
    "ssl/cert.pem",
    "pki/tls/cert.pem",
    "pki/tls/openssl.cnf",
    "ca-certificates.conf",
    "localtime",
    "timezone",
    "os-release",
    "debian_version",
    "alpine-release",
    "redhat-release",
    "fedora-release",
    "protocols",
    "services",
    "inputrc",
    "locale.alias",
    "magic",
    "maven/m2.conf",
    "dotnet/install_location",
    "static",  # NixOS: a link into the store
)
MAX_COPY_BYTES = 64 * 1024
# Where a link out of /etc may lead for its target to be shown in its place.
LINKED_FROM = ("/etc/", "/usr/", "/nix/store/", "/gnu/store/", "/var/lib/ca-certificates")

# The system's file of the certificates that it trusts: Debian, Alpine and Arch; Fedora; SUSE.
CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")  # whole bundles, not additions to one
MAX_BUNDLE_BYTES = 4 * 1024 * 1024

NSSWITCH = b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\n"
HOSTS = b"127.0.0.1 localhost sandbox\n::1 localhost ip6-localhost ip6-loopback\n"
SHELLS = b"/bin/sh\n/bin/bash\n"


def bound(root: str = "/etc") -> tuple[Bind, ...]:
    """Read-only binds for what of `BOUND` this host has."""
    found = []
    for name in _expand(root):
        path = f"{root}/{name}"
        try:
            status = os.stat(path)
        except OSError:
            continue
        source = os.path.realpath(path) if os.path.islink(path) else path
        if _is_public(status) and (source == path or source.startswith((*LINKED_FROM, f"{root}/"))):
            found.append(Bind(source=source, target=f"/etc/{name}"))
    return tuple(found)


def links_and_copies(root: str = "/etc") -> tuple[tuple[tuple[str, str], ...], tuple[RootFile, ...]]:
    """Links as (path, target), and copies, of what of `COPIED` this host has; a link is kept as it is, if it stays in what is shown."""
    links, copies = [("/etc/mtab", "/proc/self/mounts")], []
    for name in COPIED:
        path = f"{root}/{name}"
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                target = os.readlink(path)
                if os.path.normpath(os.path.join(os.path.dirname(path), target)).startswith((*LINKED_FROM, f"{root}/")):
                    links.append((f"/etc/{name}", target))
            elif stat.S_ISREG(status.st_mode) and _is_public(status) and status.st_size <= MAX_COPY_BYTES:
                copies.append(RootFile(path=f"/etc/{name}", content=_read(path)))
        except OSError:
            continue
    return tuple(links), tuple(copies)


def synthetic(resolv_conf: str = "/etc/resolv.conf") -> tuple[RootFile, ...]:
    """The files that would name the host's users, addresses and domains."""
    user = User()
    lines = (
        "root:x:0:0:root:/root:/bin/sh",
        f"{user.name}:x:{user.uid}:{user.gid}:{user.name}:{user.home}:/bin/sh",
        "nobody:x:65534:65534:nobody:/:/bin/false",
    )
    group = f"root:x:0:\n{user.name}:x:{user.gid}:\nnogroup:x:65534:\n"
    return (
        RootFile(path="/etc/passwd", content="".join(f"{line}\n" for line in lines).encode()),
        RootFile(path="/etc/group", content=group.encode()),
        RootFile(path="/etc/hosts", content=HOSTS),
        RootFile(path="/etc/hostname", content=b"sandbox\n"),
        RootFile(path="/etc/nsswitch.conf", content=NSSWITCH),
        RootFile(path="/etc/resolv.conf", content=_resolvers(resolv_conf)),
        RootFile(path="/etc/shells", content=SHELLS),
    )


def certificates(environment: Mapping[str, str]) -> str:
    """The file of certificates that the caller's programs trust, without links: its own, by the usual variables, or the system's.

    Empty where there is none that everybody may read, and that holds certificates alone.
    """
    named = [os.path.normpath(environment[name]) for name in CERTIFICATE_VARIABLES if environment.get(name, "").startswith("/")]
    for path in dict.fromkeys((*named, *CERTIFICATES)):
        try:
            if _is_public(os.stat(path)) and (path in CERTIFICATES or holds_certificates(path)):
                return os.path.realpath(path)
        except OSError:
            continue
    return ""


def holds_certificates(path: str) -> bool:
    """Whether a file holds certificates in PEM form, of a size that bundles have, and no key."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BUNDLE_BYTES + 1)
    except OSError:
        return False
    if b"BEGIN CERTIFICATE" not in content and b"BEGIN TRUSTED CERTIFICATE" not in content:
        return False
    return len(content) <= MAX_BUNDLE_BYTES and b"PRIVATE KEY" not in content


def _resolvers(path: str) -> bytes:
    """The host's name servers, for profiles that have its network; not its search list, which names its organisation."""
    try:
        lines = _read(path).splitlines(keepends=True)
    except OSError:
        return b""
    return b"".join(line for line in lines if line.startswith((b"nameserver", b"options")))


def _expand(root: str) -> list[str]:
    """The names of `BOUND`; those with a `*` by what is there."""
    present: list[str] | None = None
    names = []
    for name in BOUND:
        if not name.endswith("*"):
            names.append(name)
            continue
        if present is None:
            try:
                present = sorted(os.listdir(root))
            except OSError:
                present = []
        names.extend(other for other in present if other.startswith(name[:-1]))
    return names


def _is_public(status: os.stat_result) -> bool:
    wanted = stat.S_IROTH | (stat.S_IXOTH if stat.S_ISDIR(status.st_mode) else 0)
    return status.st_mode & wanted == wanted and not stat.S_ISLNK(status.st_mode)


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(descriptor, MAX_COPY_BYTES + 1)[:MAX_COPY_BYTES]
    finally:
        os.close(descriptor)
