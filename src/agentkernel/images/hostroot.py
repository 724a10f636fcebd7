"""The host's own system as a sandbox's root: an allow-list of read-only binds, links and small files.

/usr and what is merged into it, package stores, a short list of /etc, and toolchains elsewhere by their install prefix. Nothing of /opt,
/srv, /var, /root or any home beyond such prefixes. No program is run; it costs some hundred system calls.
"""

# (the hot path of every start: strings and system calls, no Path objects)

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentkernel.errors import CommandNotFound
from agentkernel.images import hostetc
from agentkernel.images.toolchains import Host, Toolchain, kept_variables, toolchain_of
from agentkernel.model.spec import Bind, RootFile, RootFilesystem, RootKind
from agentkernel.policy.deny import credential_in

SYSTEM = ("/usr", "/nix/store", "/gnu/store")
MERGED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MAX_LINKS = 16
MAX_SHEBANG_BYTES = 256
MEMORY_S = 1.0
MAX_REMEMBERED = 64

# Variables that name the certificates to trust. A company's proxy works inside only if they lead somewhere.
CERTIFICATE_VARIABLES = (
    "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "PIP_CERT",
    "GIT_SSL_CAINFO", "AWS_CA_BUNDLE", "NIX_SSL_CERT_FILE", "CARGO_HTTP_CAINFO", "DENO_CERT", "HTTPLIB2_CA_CERTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", "NPM_CONFIG_CAFILE", "npm_config_cafile", "BUNDLE_SSL_CA_CERT", "HEX_CACERTS_PATH",
    "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE",
)  # fmt: skip


@dataclass(slots=True)
class _Root:
    """What is shown so far: target -> source of the binds, path -> target of the links."""

    host: Host
    binds: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    files: list[RootFile] = field(default_factory=list)
    masked: list[str] = field(default_factory=list)

    def shows(self, path: str) -> bool:
        """Whether the host's `path` is the same inside; the last component may be anything."""
        return any(path == target or path.startswith(target + "/") for target in self.binds) or any(
            path.startswith(link + "/") for link in self.links if link in MERGED
        )

    def shows_all_of(self, path: str) -> bool:
        """Whether `path` can be followed to its end inside: what it is called, and what its links lead to."""
        return self.shows(path) and self.shows(os.path.realpath(path))

    def add(self, toolchain: Toolchain) -> None:
        """Shows a toolchain at its own path, and where that is a link, at the path it leads to as well."""
        for prefix in toolchain.prefixes:
            for target in (prefix, os.path.realpath(prefix)):
                if not self.shows(target):
                    self.binds[target] = os.path.realpath(prefix)
        self.environment.update(toolchain.environment)
        self.masked += (path for path in toolchain.masked if path not in self.masked)

    def add_for(self, directory: str) -> bool:
        """Shows the toolchain whose programs lie in `directory`; False if there is none that may be shown."""
        found = toolchain_of(directory, self.host)
        if found is not None:
            self.add(found)
        return found is not None

    def finish(self, path: tuple[str, ...]) -> RootFilesystem:
        """Parents come before what lies in them; what an outer bind shows already is left out."""
        targets = [target for target in sorted(self.binds) if not any(target.startswith(other + "/") for other in self.binds)]
        return RootFilesystem(
            kind=RootKind.HOST,
            binds=tuple(Bind(source=self.binds[target], target=target) for target in targets),
            masked=tuple(self.masked),
            symlinks=tuple(self.links.items()),
            files=tuple(self.files),
            path_directories=path,
            environment=tuple(sorted(self.environment.items())),
        )


# What was found a moment ago for the same question: the hundreds of system calls are a tenth of a cold start. (question) -> (when, answer)
_recent: dict[tuple[object, ...], tuple[float, RootFilesystem]] = {}


def discover(*, argv: tuple[bytes, ...], environment: Mapping[str, str], home: str, uid: int) -> RootFilesystem | None:
    """The root for a command; None when argv[0] is on none of the host's PATH directories. An answer holds for `MEMORY_S`.

    Without a command, or with one given by its path, there always is a root: what the path leads to is found out inside.

    Raises:
        CommandNotFound: the command exists, but where sandboxes do not see it (a script of `pip install --user`, say).
    """
    question = (argv[:1], tuple(environment.items()), home, uid)
    now = time.monotonic()
    asked_at, known = _recent.get(question, (-MEMORY_S, None))
    if known is not None and now - asked_at < MEMORY_S:
        return known
    found = _discover(argv, environment, home, uid)
    if found is not None:  # somebody who has just installed the command is not told that there is none
        if len(_recent) >= MAX_REMEMBERED:
            _recent.clear()
        _recent[question] = (now, found)
    return found


def _discover(argv: tuple[bytes, ...], environment: Mapping[str, str], home: str, uid: int) -> RootFilesystem | None:
    root = _Root(host=Host(home=os.path.normpath(home), environment=environment))
    _system(root)
    searched = _search_path(environment)
    for directory in searched:
        if not root.shows(directory) and os.path.isdir(directory):
            root.add_for(directory)
    if argv and not _command(root, os.fsdecode(argv[0]), searched, uid):
        return None
    _certificates(root)
    root.environment.update((name, value) for name, value in kept_variables(environment) if root.shows_all_of(value))
    return root.finish(_path_inside(root, searched))


def _system(root: _Root) -> None:
    root.binds.update((path, path) for path in SYSTEM if os.path.isdir(path))
    for path in MERGED:
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode):
                if root.shows(os.path.realpath(path)):
                    root.links[path] = os.readlink(path)
            else:
                root.binds[path] = path
        except OSError:
            continue
    links, copies = hostetc.links_and_copies()
    root.binds.update((bind.target, bind.source) for bind in hostetc.bound())
    root.links.update(links)
    root.files += [*hostetc.synthetic(), *copies]


def _search_path(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The host's PATH, absolute directories only, then the interpreter that runs agentkernel."""
    given = environment.get("PATH") or STANDARD_PATH
    own = os.path.dirname(sys.executable or "")
    return tuple(dict.fromkeys(os.path.normpath(path) for path in (*given.split(":"), own) if path.startswith("/") and "\0" not in path))


def _path_inside(root: _Root, searched: tuple[str, ...]) -> tuple[str, ...]:
    """The directories of the host's PATH that exist inside, in its order; a link out of sight is replaced by what it leads to."""
    inside: list[str] = []
    for directory in searched:
        resolved = os.path.realpath(directory)
        if not os.path.isdir(resolved):
            continue
        if root.shows(directory) or any(os.path.dirname(path) == directory for path in (*root.links, *root.binds)):
            inside.append(directory)
        elif root.shows(resolved):
            inside.append(resolved)
    return tuple(dict.fromkeys(inside))


def _command(root: _Root, name: str, searched: tuple[str, ...], uid: int) -> bool:
    """Makes the command visible; False when PATH does not have it."""
    if "/" in name:
        if name.startswith("/") and _is_program(name, uid):
            _reveal(root, os.path.normpath(name), searched)
        return True
    hidden = ""
    for directory in searched:
        path = f"{directory}/{name}"
        if not _is_program(path, uid):
            continue
        if _reveal(root, path, searched):
            return True
        hidden = hidden or path
    if hidden:
        raise CommandNotFound(
            f"{hidden} is not visible in a sandbox: {os.path.dirname(hidden)} is no toolchain's own directory, or holds private files",
            hint="install it in a virtual environment, with pipx or system-wide; or give a root file system with --image",
        )
    return False


def _reveal(root: _Root, path: str, searched: tuple[str, ...]) -> bool:
    """Makes a program visible with all that starting it needs: each link on the way, and the interpreter of a script."""
    for _ in range(MAX_LINKS):
        if not root.shows(path) and not root.add_for(os.path.dirname(path)) and not _reveal_alone(root, path):
            return False
        try:
            target = os.readlink(path)
        except OSError:
            break
        path = os.path.normpath(os.path.join(os.path.realpath(os.path.dirname(path)), target))
    resolved = os.path.realpath(path)
    if not root.shows(resolved) and not root.add_for(os.path.dirname(resolved)) and not _reveal_alone(root, resolved):
        return False
    interpreter = _interpreter(resolved, searched)
    return interpreter is None or interpreter == resolved or _reveal(root, interpreter, searched)


def _reveal_alone(root: _Root, path: str) -> bool:
    """Shows one link or one binary out of a directory that must not be shown. A script's libraries would be missing."""
    if credential_in(path, root.host.home) is not None:
        return False
    if os.path.islink(path):
        root.links[path] = os.readlink(path)
        return True
    if _head(path).startswith(b"\x7fELF"):
        root.binds[path] = path
        return True
    return False


def _interpreter(path: str, searched: tuple[str, ...]) -> str | None:
    """What a `#!` line names; through env(1) by PATH."""
    head = _head(path)
    if not head.startswith(b"#!"):
        return None
    words = os.fsdecode(head[2:].split(b"\n", 1)[0]).split()
    if not words:
        return None
    if os.path.basename(words[0]) != "env":
        return os.path.normpath(words[0]) if os.path.exists(words[0]) else None
    names = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    candidates = (f"{directory}/{names[0]}" for directory in searched) if names else iter(())
    return next((candidate for candidate in candidates if os.access(candidate, os.X_OK)), None)


def _head(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        return os.read(descriptor, MAX_SHEBANG_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _is_program(path: str, uid: int) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and (bool(mode & 0o111) if uid == 0 else os.access(path, os.X_OK))


def _certificates(root: _Root) -> None:
    for name in CERTIFICATE_VARIABLES:
        path = root.host.environment.get(name, "")
        if not path.startswith("/"):
            continue
        path = os.path.normpath(path)
        if root.shows_all_of(path) or _reveal_bundle(root, path):
            root.environment[name] = path


def _reveal_bundle(root: _Root, path: str) -> bool:
    """Shows a bundle of certificates out of sight, at the path its variable names; never a file with a key in it."""
    source = os.path.realpath(path)
    if credential_in(path, root.host.home) is not None or credential_in(source, root.host.home) is not None or not os.path.isfile(source):
        return False
    if not hostetc.holds_certificates(source):
        return False
    root.binds[path] = source
    return True
