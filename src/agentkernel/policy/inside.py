"""What a sandbox with filtered network needs inside, so that ordinary programs find their way: variables and small files.

The agent listens on these ports of the sandbox's loopback (docs/guest-protocol.md, section 5); what it accepts goes to the egress proxy.
"""

from __future__ import annotations

from typing import Final

from agentkernel.model.spec import NetworkMode, RootFile, RootFilesystem, RootKind, SandboxSpec

PROXY_PORT: Final = 3128
RESOLVER_PORT: Final = 53
TRANSPARENT_PORT: Final = 3129

CERTIFICATES: Final = "/etc/agentkernel/certificates.pem"  # in an image: the bundle of the host
_APT: Final = "/etc/agentkernel/apt.conf"
GUEST_DIRECTORY: Final = "/etc/agentkernel/bin"  # of the guest binary, where the workload may run it; the agent's own place is closed to it
GUEST: Final = f"{GUEST_DIRECTORY}/agentkernel-guest"
_SSH: Final = "/etc/ssh/ssh_config"
SSH_DROP_IN: Final = "/etc/ssh/ssh_config.d/agentkernel.conf"  # read first by the ssh_config of Debian, Fedora, Alpine and others
_RESOLVERS: Final = "/etc/resolv.conf"
_PROXY: Final = f"http://127.0.0.1:{PROXY_PORT}"

# ALL_PROXY is no SOCKS URL: httpx, and so the SDKs of the models' makers, would refuse to work without another package. Whoever speaks
# another protocol than HTTP through a proxy asks an HTTP proxy for a tunnel (CONNECT), as curl does.
_PROXY_VARIABLES: Final = {"HTTP_PROXY": _PROXY, "HTTPS_PROXY": _PROXY, "ALL_PROXY": _PROXY, "NO_PROXY": "localhost,127.0.0.1,::1"}
_OTHERS: Final = {
    "NODE_USE_ENV_PROXY": "1",  # Node's own fetch and http look at the variables only if they are told to
    "CARGO_HTTP_PROXY": _PROXY,  # else a proxy in git's settings counts more
}
# Java prints a line about this variable each time that it starts; where every connection is redirected it needs none.
_JAVA: Final = (
    f"-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort={PROXY_PORT} -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort={PROXY_PORT}"
    " -Dhttp.nonProxyHosts=localhost|127.*|[::1]"
)
_SSH_PROXY: Final = f"ProxyCommand {GUEST} connect %h %p"
# What somebody says in ~/.ssh/config counts more than the system's settings do, and the first that is said of these counts.
_SSH_SETTINGS: Final = f"Host * !localhost !127.0.0.1 !::1\n    {_SSH_PROXY}\nHost *\n".encode()
# Who brings certificates of their own and would not look at the system's. The others are for images, whose system's are not the host's.
_OWN_CERTIFICATES: Final = ("NODE_EXTRA_CA_CERTS", "PIP_CERT", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")
CERTIFICATE_VARIABLES: Final = (*_OWN_CERTIFICATES, "SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "CARGO_HTTP_CAINFO")


def shows_guest(spec: SandboxSpec) -> bool:
    """Whether programs may run the guest inside: ssh, as its ProxyCommand, where it would reach nothing without a proxy."""
    return spec.network is NetworkMode.FILTERED and not spec.transparent_network


def variables(spec: SandboxSpec, *, certificates: str) -> dict[str, str]:
    """The variables of a sandbox with filtered network; `certificates`: the bundle that the host trusts, a path of the host, or empty."""
    root = spec.root
    result = {**_PROXY_VARIABLES, **{name.lower(): value for name, value in _PROXY_VARIABLES.items()}, **_OTHERS}
    if not spec.transparent_network:
        result["JAVA_TOOL_OPTIONS"] = _JAVA
    if root.kind is not RootKind.HOST:
        if spec.user.uid == 0:
            result["APT_CONFIG"] = _APT
        if shows_guest(spec):  # its ssh may read no further files; this counts more than what git's own settings say
            result["GIT_SSH_COMMAND"] = f"ssh -o '{_SSH_PROXY}'"
        if certificates:
            result.update(dict.fromkeys(CERTIFICATE_VARIABLES, CERTIFICATES))
    else:
        found = _certificates_shown(root, certificates)
        result.update(dict.fromkeys(_OWN_CERTIFICATES, found) if found else {})
    return result


def _certificates_shown(root: RootFilesystem, certificates: str) -> str:
    """The bundle on the host's root: first what the caller's variables name, for requests asks no other once its own is set."""
    named = dict(root.environment)
    own = next((named[name] for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE") if name in named), "")
    is_shown = any(certificates.startswith(f"{bind.target}/") for bind in root.binds)
    return own or (certificates if is_shown else "")


def files(spec: SandboxSpec) -> tuple[RootFile, ...]:
    """The small files of the root that a backend has to make: the spec's own, and those that the filtered network adds or changes."""
    if spec.network is not NetworkMode.FILTERED:
        return spec.root.files
    kept = tuple(file for file in spec.root.files if file.path != _RESOLVERS)
    added = [RootFile(path=_RESOLVERS, content=b"nameserver 127.0.0.1\n")]
    if spec.root.kind is not RootKind.HOST:
        added.append(RootFile(path="/etc/hosts", content=f"127.0.0.1 localhost {spec.hostname}\n::1 localhost\n".encode()))
        if spec.user.uid == 0:
            added.append(RootFile(path=_APT, content=_APT_SETTINGS))
    if shows_guest(spec):
        added.append(RootFile(path=_SSH if spec.root.kind is RootKind.HOST else SSH_DROP_IN, content=_SSH_SETTINGS))
    return (*kept, *added)


# apt as root becomes its own user to fetch, which nothing in a sandbox may, and keeps what it fetches in directories of that user, where
# root without capabilities may not write: here they are root's.
_APT_SETTINGS: Final = f"""\
Acquire::http::Proxy "{_PROXY}";
Acquire::https::Proxy "{_PROXY}";
APT::Sandbox::User "root";
Dir::State::Lists "/var/lib/apt/agentkernel-lists/";
Dir::Cache::Archives "/var/cache/apt/agentkernel-archives/";
""".encode()
