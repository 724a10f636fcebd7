"""Language toolchains outside /usr: which directory holds all of one, what it must not be, and which variables it needs.

A toolchain is shown read-only by its install prefix, at the path that it has on the host, because scripts and links in it hold that path.
"""

# (the hot path of every start: strings and system calls, no Path objects)

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agentkernel.policy.deny import credential_in, holds_credentials

# Version managers with a directory of shims: directory of the manager -> its variable, and what else it reads.
MANAGERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "pyenv": ("PYENV_ROOT", ("PYENV_VERSION",)),
    "rbenv": ("RBENV_ROOT", ("RBENV_VERSION",)),
    "nodenv": ("NODENV_ROOT", ("NODENV_VERSION",)),
    "goenv": ("GOENV_ROOT", ("GOENV_VERSION",)),
    "plenv": ("PLENV_ROOT", ("PLENV_VERSION",)),
    "jenv": ("JENV_ROOT", ("JENV_VERSION",)),
    "asdf": ("ASDF_DATA_DIR", ("ASDF_DIR",)),
    "volta": ("VOLTA_HOME", ()),
}
# Hooks that want to write to the manager's own directory after an installation, and fail it because they cannot: pyenv's for pip.
_HOOKS: Mapping[str, str] = {"pyenv": "pyenv.d/exec/pip-rehash"}
# Variables that name a part of a toolchain; kept when what they name is visible inside.
HOME_VARIABLES = ("JAVA_HOME", "GOROOT", "DOTNET_ROOT", "CONDA_PREFIX", "VIRTUAL_ENV", "BUN_INSTALL", "DENO_INSTALL", "HOMEBREW_PREFIX")
# Directories of a home that are never a toolchain's, though they have a `bin`.
SHARED = (".local", ".config", ".cache", ".local/share", ".local/state")
PROGRAM_DIRECTORIES = frozenset({"bin", "sbin", "condabin"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """Directories to show, and variables to set."""

    prefixes: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    masked: tuple[str, ...] = ()  # directories in them that must not be seen


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The caller's side: where home is and what the environment says."""

    home: str
    environment: Mapping[str, str]

    def refuses(self, prefix: str) -> bool:
        """Whether `prefix` is too much to show: a top-level directory, a home or what shares one, or a place of credentials."""
        for path in {prefix, os.path.realpath(prefix)}:
            if path.count("/") < 2 or path == self.home or self.home.startswith(path + "/"):
                return True
            if path in {os.path.join(self.home, name) for name in SHARED} or credential_in(path, self.home) is not None:
                return True
        try:
            return bool(holds_credentials(name for name in os.listdir(prefix) if name.startswith((".", "_", "id_"))))
        except OSError:
            return True


def toolchain_of(directory: str, host: Host) -> Toolchain | None:
    """The toolchain whose programs lie in `directory` (absolute, normalised); None when it is none, or must not be shown."""
    name, parent = os.path.basename(directory), os.path.dirname(directory)
    if name == "shims":
        found = _manager(parent.split("/plugins/", 1)[0], host)
    elif name not in PROGRAM_DIRECTORIES:
        return None
    elif _is_cargo(directory, host):
        found = _cargo(directory, host)
    elif _is_gopath(parent, host):
        found = Toolchain(prefixes=(directory,))  # the rest of GOPATH is sources, maybe private ones
    elif os.path.exists(f"{parent}/pyvenv.cfg"):
        found = _virtual_environment(parent)
    else:
        found = _manager(parent, host)
    shown = tuple(prefix for prefix in found.prefixes if not host.refuses(prefix))
    return replace(found, prefixes=shown) if shown[:1] == found.prefixes[:1] else None


def _manager(root: str, host: Host) -> Toolchain:
    """A version manager, or any other install prefix; the manager is known by its directory or its own program."""
    for name, (variable, others) in MANAGERS.items():
        if os.path.basename(root).lstrip(".") == name or os.path.exists(f"{root}/libexec/{name}"):
            kept = tuple((other, host.environment[other]) for other in others if other in host.environment)
            masked = (f"{root}/{_HOOKS[name]}",) if name in _HOOKS else ()
            return Toolchain(prefixes=(root,), environment=((variable, root), *kept), masked=masked)
    return Toolchain(prefixes=(root,))


def _is_cargo(directory: str, host: Host) -> bool:
    homes = {host.environment.get("CARGO_HOME", ""), os.path.join(host.home, ".cargo")}
    return os.path.dirname(directory) in homes or os.path.exists(f"{directory}/rustup")


def _cargo(directory: str, host: Host) -> Toolchain:
    """rustup's proxies: the programs alone, for their parent holds cargo's credentials, and rustup's toolchains."""
    rustup = host.environment.get("RUSTUP_HOME", "") or os.path.join(host.home, ".rustup")
    if not os.path.isdir(rustup):
        return Toolchain(prefixes=(directory,))
    kept = [("RUSTUP_TOOLCHAIN", host.environment["RUSTUP_TOOLCHAIN"])] if "RUSTUP_TOOLCHAIN" in host.environment else []
    return Toolchain(prefixes=(directory, rustup), environment=(("RUSTUP_HOME", rustup), *kept))


def _is_gopath(parent: str, host: Host) -> bool:
    paths = host.environment.get("GOPATH", "").split(":")
    return parent in paths or (parent == os.path.join(host.home, "go") and not os.path.exists(f"{parent}/VERSION"))


def _virtual_environment(prefix: str) -> Toolchain:
    """A virtual environment and the interpreter that it was made from (PEP 405: `home` in pyvenv.cfg)."""
    base = ""
    try:
        with open(f"{prefix}/pyvenv.cfg", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                key, _, value = line.partition("=")
                if key.strip() == "home":
                    base = value.strip()
    except OSError:
        base = ""
    prefixes = [prefix]
    if base.startswith("/"):
        prefixes += [os.path.dirname(base)] if os.path.basename(base) in PROGRAM_DIRECTORIES else [base]
    return Toolchain(prefixes=tuple(prefixes))


def kept_variables(environment: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Those of the caller's variables that name a toolchain's directory, for the caller to check against what is shown."""
    return tuple((name, os.path.normpath(environment[name])) for name in HOME_VARIABLES if environment.get(name, "").startswith("/"))
