"""The fast path of `run` and `exec`: sends the words to the daemon as they are, and relays bytes (docs/door-protocol.md).

A process that does this and ends costs little more than the interpreter's own start, and that is what this module is for. It imports
what every interpreter has loaded anyway, and `_socket`; not even this package's errors and settings. What only some runs need
is imported where it is used. Whatever is not plain - help, JSON, keeping, detaching, a daemon that cannot be had - is left to
`cli.main`, which can do all of it.
"""

import _socket
import os
import posix

from agentkernel.cli.link import fields
from agentkernel.cli.relay import Relay, window

_POLICY = ("--daemon", "--network", "--mount-cwd", "--mount-home", "--pass-env", "--read-only", "--only-hosts", "--transparent-network")
_TERMINAL = ("-t", "--tty", "--no-tty", "-q", "--quiet")
# Per verb, what a plain use may have: options without a value, and options with one. A test holds them against the parsers.
SWITCHES = {
    "run": frozenset((*_TERMINAL, *_POLICY, *[f"--no-{switch[2:]}" for switch in _POLICY[1:]])),
    "exec": frozenset((*_TERMINAL, "--daemon")),
}
VALUED = {
    "run": frozenset(
        ("-B", "--backend", "-i", "--image", "-e", "--env", "-c", "--config", "-w", "--workdir", "--storage", "--timeout", "--dir")
    ).union(
        (
            "--min-isolation",
            "--user",
            "--mount",
            "--name",
            "--memory",
            "--cpus",
            "--pids",
            "--disk",
            "--profile",
            "--allow-host",
            "--deny-host",
            "--max-connections",
            "--max-bytes",
            "-p",
            "--publish",
            "--pull",
            "--entrypoint",
            "--runtime",
            "--gpus",
        )
    ),
    "exec": frozenset(("-B", "--backend", "-e", "--env", "-w", "--workdir", "--timeout", "--user")),
}
# Of the environment the daemon gets what settings, colours and the search for programs and certificates need; `-e NAME` adds what it names.
SENT = b"""
    PATH HOME LANG TERM COLORTERM NO_COLOR PYENV_ROOT PYENV_VERSION RBENV_ROOT RBENV_VERSION NODENV_ROOT NODENV_VERSION GOENV_ROOT
    GOENV_VERSION PLENV_ROOT PLENV_VERSION JENV_ROOT JENV_VERSION ASDF_DATA_DIR ASDF_DIR VOLTA_HOME JAVA_HOME GOROOT GOPATH DOTNET_ROOT
    CONDA_PREFIX VIRTUAL_ENV BUN_INSTALL DENO_INSTALL HOMEBREW_PREFIX CARGO_HOME RUSTUP_HOME RUSTUP_TOOLCHAIN
    SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE NODE_EXTRA_CA_CERTS PIP_CERT GIT_SSL_CAINFO AWS_CA_BUNDLE
    NIX_SSL_CERT_FILE CARGO_HTTP_CAINFO DENO_CERT HTTPLIB2_CA_CERTS GRPC_DEFAULT_SSL_ROOTS_FILE_PATH NPM_CONFIG_CAFILE npm_config_cafile
    BUNDLE_SSL_CA_CERT HEX_CACERTS_PATH CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE
""".split()
SENT_PREFIXES = (b"XDG_", b"AGENTKERNEL_")
ON = (b"", b"on", b"true", b"yes", b"1")

MAX_PAYLOAD = 131_072
WORD, CWD, ENV, TTYS, TERMINAL = 40, 41, 42, 43, 7  # fields of START

no_daemon: Exception | None = None  # why none could be started, for the full path to say


def main(words: list[str]) -> int | None:
    """Does what the words say and returns the exit status; None, with nothing done, where the full path has to."""
    scanned = scan(words)
    environment = posix.environ
    if scanned is None or environment.get(b"AGENTKERNEL_DAEMON", b"").lower() not in ON or environment.get(b"AGENTKERNEL_HOST"):
        return None
    named, tty = scanned
    _complete_streams()
    terminals = [os.isatty(descriptor) for descriptor in (0, 1, 2)]
    has_input = _has_input()
    inside = terminals[0] and terminals[1] if tty is None else tty
    payload = start_payload(words, environment, named, terminals, has_input)
    if payload is None or len(payload) > MAX_PAYLOAD:
        return None
    connection = connect(socket_path(environment)) or _started_daemon(environment)
    if connection is None:
        return None
    relay = Relay(
        connection,
        payload,
        lasting=words[0] == "exec",
        has_input=has_input,
        raw=inside and terminals[0],
        follows_size=inside,
    )
    with relay:
        return relay.run()


def scan(words: list[str]) -> tuple[list[bytes], bool | None] | None:
    """The variables that `-e NAME` names and whether a terminal inside is asked for; None where the words are not plain."""
    if not words or words[0] not in SWITCHES:
        return None
    switches, valued = SWITCHES[words[0]], VALUED[words[0]]
    named: list[bytes] = []
    tty: bool | None = None
    at, names_left = 1, 1 if words[0] == "exec" else 0  # words that are neither options nor the command
    while at < len(words):
        word = words[at]
        at += 1
        option, equals, value = word.partition("=") if word.startswith("--") else (word[:2], word[2:], word[2:])
        if word == "--" or word == "-" or not word.startswith("-"):
            if not names_left:
                break
            if word == "--":
                return None
            names_left -= 1
        elif word in switches:
            tty = True if word in ("-t", "--tty") else False if word == "--no-tty" else tty
        elif option not in valued:
            return None
        else:
            if not equals:
                value = words[at] if at < len(words) else ""
                at += 1
            if option in ("-e", "--env") and "=" not in value:
                named.append(os.fsencode(value))
    return named, tty


def start_payload(
    words: list[str], environment: dict[bytes, bytes], named: list[bytes], terminals: list[bool], has_input: bool
) -> bytes | None:
    """The fields of START; None where there is no working directory."""
    try:
        cwd = os.getcwdb()
    except OSError:
        return None
    told = [(WORD, os.fsencode(word)) for word in words]
    told.append((CWD, cwd))
    for name, value in environment.items():
        if name in SENT or name.startswith(SENT_PREFIXES) or name in named:
            told.append((ENV, name + b"=" + value))
    bits = terminals[0] | terminals[1] << 1 | terminals[2] << 2 | has_input << 3
    told.append((TTYS, bits.to_bytes(4, "little")))
    if bits & 7:
        told.append((TERMINAL, window()))
    return fields(*told)


def socket_path(environment: dict[bytes, bytes]) -> bytes:
    """As config.directories.socket_path, of the environment in bytes."""
    get = environment.get
    uid = os.geteuid()
    home, runtime = get(b"AGENTKERNEL_HOME", b""), get(b"XDG_RUNTIME_DIR", b"")
    if given := get(b"AGENTKERNEL_SOCKET"):
        return given
    if home.startswith(b"/"):
        return home.rstrip(b"/") + b"/run/daemon.sock"
    if uid == 0:
        return b"/run/agentkernel/daemon.sock"
    if runtime.startswith(b"/") and len(runtime) <= 40:
        return runtime + b"/agentkernel/daemon.sock"
    return b"/tmp/agentkernel-%d/daemon.sock" % uid


def connect(path: bytes) -> _socket.socket | None:
    """A connection to a daemon that is ours or root's: /tmp is anyone's, and the words and variables are not for others."""
    try:
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        connection.connect(path)
        peer = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    except OSError:
        return None
    return connection if int.from_bytes(peer[4:8], "little") in (os.geteuid(), 0) else None


def _started_daemon(environment: dict[bytes, bytes]) -> _socket.socket | None:
    """Starts the daemon and connects to it; None, and `no_daemon`, when that cannot be."""
    global no_daemon
    from agentkernel.config import daemon_process  # noqa: PLC0415 - see above

    try:
        daemon_process.spawn(os.environ)
    except Exception as error:  # noqa: BLE001 - whatever it is, the full path says it or does without a daemon
        no_daemon = error
        return None
    return connect(socket_path(environment))


def _complete_streams() -> None:
    """Opens /dev/null for a closed descriptor 0-2: else the socket would become the program's stdout."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)  # the lowest free number, which is this one


def _has_input() -> bool:
    """As cli.streams.has_input(0)."""
    status = os.fstat(0)
    kind = status.st_mode & 0o170000
    return kind != 0o040000 and not (kind == 0o020000 and status.st_rdev == os.stat("/dev/null").st_rdev)
