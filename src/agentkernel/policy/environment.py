"""The base environment of every command in a sandbox.

Later layers win: what an image says, the sandbox's own variables, those of the filtered network, the toolchains' of the host's
system, what a profile passes of the host's, and what the user sets with -e. Of an image's only PATH counts more than our own: its
programs are found first.

Installers write to HOME, because the system's directories are read-only inside. `PIP_USER` is deliberately not among the
variables: with it pip refuses every virtual environment ("Can not perform a '--user' install"), whether that is the toolchain
itself or one made inside by `python -m venv`. pip turns to the user's directory by itself when site-packages is not writable,
which it never is here; all it needs is leave to do so on distributions that mark their Python as externally managed (PEP 668).
"""

from __future__ import annotations

from agentkernel.model.names import validate_environment_name, validate_environment_value
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import NetworkMode, RootFilesystem, RootKind, SandboxSpec, User
from agentkernel.policy.deny import filter_environment
from agentkernel.policy.inside import CERTIFICATE_VARIABLES, CERTIFICATES, variables

STANDARD_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
READ_ONLY_HOME_INSTALLS = "/tmp/home"  # noqa: S108 - inside; where installers write when HOME shows the host's, read-only


def environment(request: SandboxRequest, spec: SandboxSpec, *, passes: bool, certificates: str) -> tuple[tuple[str, str], ...]:
    """Name and value of each variable, sorted.

    `passes`: the profile's column; `certificates`: the bundle that the host trusts, see `inside.variables`.
    """
    root, user = spec.root, spec.user
    own = _own(root, user, READ_ONLY_HOME_INSTALLS if spec.home_source else user.home)
    if spec.network is NetworkMode.FILTERED:
        given = {name.upper() for name in request.environment}  # who sets http_proxy means HTTP_PROXY as well
        added = variables(spec, certificates=certificates)
        own.update({name: value for name, value in added.items() if name.upper() not in given})
    own |= _locale()
    said = dict(root.environment)
    result = {**own, **said} if root.kind is RootKind.HOST else {**said, **own}
    if passes:
        kept = (own.keys() - _locale().keys()) | said.keys()  # the host's would point to places that are not inside
        result.update({name: value for name, value in filter_environment(request.host_environment).items() if name not in kept})
    if spec.secrets:
        result.update(dict.fromkeys(CERTIFICATE_VARIABLES, CERTIFICATES))  # what vouches for their hosts is in that file alone
    for name, value in request.environment.items():
        result[validate_environment_name(name)] = validate_environment_value(name, value)
    result.update({each.name: each.placeholder for each in spec.secrets})
    return tuple(sorted(result.items()))


def _own(root: RootFilesystem, user: User, installs: str) -> dict[str, str]:
    installed = (f"{installs}/.local/bin", f"{installs}/.cargo/bin", f"{installs}/go/bin", f"{installs}/.local/share/gem/bin")
    shown = (*installed, *root.path_directories) if root.kind is RootKind.HOST else (*root.path_directories, *installed)
    path = dict.fromkeys((*shown, *STANDARD_PATH))
    return {
        "HOME": user.home,
        "USER": user.name,
        "LOGNAME": user.name,
        "SHELL": "/bin/sh",
        "PATH": ":".join(path),
        "TMPDIR": "/tmp",  # noqa: S108 - the sandbox's own
        "PIP_BREAK_SYSTEM_PACKAGES": "1",
        "PYTHONUSERBASE": f"{installs}/.local",
        "npm_config_prefix": f"{installs}/.local",
        "CARGO_HOME": f"{installs}/.cargo",
        "GOPATH": f"{installs}/go",
        "GEM_HOME": f"{installs}/.local/share/gem",
    }


def _locale() -> dict[str, str]:
    return {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
