"""The filtered network as users have it: ordinary programs, servers on this host that a rule names, and what is refused."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

import pytest
from e2e.conftest import DEADLINE_S, AgentKernel
from e2e.host import wait_until
from e2e.servers import NAME, echo, files, make_authority, own_address, serving

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a test host names of its own")
DIRECT = ("-e", "NO_PROXY=", "-e", "no_proxy=")  # servers on a loopback address, too, are asked through the proxy


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(which(program) is None, reason=f"no {program} here")


@pytest.fixture(params=["in-process", "behind-a-daemon"])
def agentkernel(request: pytest.FixtureRequest) -> AgentKernel:
    """Every promise is kept both ways."""
    name = "agentkernel_in_process" if request.param == "in-process" else "behind_daemon"
    found: AgentKernel = request.getfixturevalue(name)
    return found


@pytest.fixture
def site(tmp_path: Path) -> Iterator[int]:
    """A web server on this host's loopback."""
    directory = tmp_path / "site"
    directory.mkdir()
    (directory / "index.html").write_text("hello from the host\n")
    with serving(files(directory, "127.0.0.1")) as port:
        yield port


@needs("curl")
def test_a_server_of_this_host_is_reached_by_a_rule_for_its_address_alone(agentkernel: AgentKernel, site: int) -> None:
    url = f"http://127.0.0.1:{site}/"
    done = agentkernel("run", "-q", "--allow-host", f"127.0.0.1:{site}", *DIRECT, "--", "curl", "-sS", url)
    assert (done.returncode, done.stdout) == (0, b"hello from the host\n"), done.stderr
    for rules in ((), ("--allow-host", f"127.0.0.1:{site + 1}"), ("--allow-host", f"127.0.0.1:{site}", "--deny-host", "127.0.0.0/8")):
        done = agentkernel("run", "-q", *rules, *DIRECT, "--", "curl", "-sS", "-w", "%{http_code}", url)
        body, status = done.stdout[:-3], done.stdout[-3:]
        assert status == b"403", done.stdout + done.stderr
        error = json.loads(body)["error"]
        assert error["message"] and error["rule"] and error["code"], error


SPELLINGS = [
    "127.0.0.1", "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "127.0.0.1.", "0.0.0.0", "0", "[::]", "[::1]", "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]", "localhost", "LOCALHOST.", "169.254.169.254", "2852039166", "[fd00:ec2::254]", "metadata.google.internal",
    "10.0.0.1", "192.168.1.1", "100.100.100.200", "224.0.0.1",
]  # fmt: skip
ASK_RAW = """
import socket, sys
port, *hosts = sys.argv[1:]
for host in hosts:
    proxy = socket.create_connection(("127.0.0.1", 3128), timeout=20)
    proxy.sendall(f"GET http://{host}:{port}/ HTTP/1.1\\r\\nHost: {host}:{port}\\r\\nConnection: close\\r\\n\\r\\n".encode())
    answer = b""
    while piece := proxy.recv(65536): answer += piece
    print(host, answer.split(b" ")[1].decode(), b"hello from" in answer)
"""


def test_nothing_of_the_host_or_its_cloud_is_public_in_any_spelling(agentkernel: AgentKernel, site: int) -> None:
    done = agentkernel("run", "-q", "--", "/usr/bin/python3", "-c", ASK_RAW, str(site), *SPELLINGS)
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    assert [line[0] for line in lines] == SPELLINGS, done.stderr
    assert {(line[1], line[2]) for line in lines} <= {("403", "False"), ("400", "False")}, lines


def test_without_network_there_is_no_proxy(agentkernel: AgentKernel) -> None:
    script = "import os, socket; print('HTTP_PROXY' in os.environ, socket.socket().connect_ex(('127.0.0.1', 3128)))"
    for asked in (("--no-network",), ("--profile", "restrictive"), ("--only-hosts",)):
        done = agentkernel("run", "-q", *asked, "--", "/usr/bin/python3", "-c", script)
        assert done.stdout == b"False 111\n", done.stderr


def test_a_wrong_rule_is_refused_before_anything_runs(agentkernel: AgentKernel) -> None:
    done = agentkernel("run", "--allow-host", "https://example.com/", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"https://example.com/" in done.stderr


@needs("curl")
def test_a_project_can_close_hosts_and_needs_trust_to_open_them(agentkernel: AgentKernel, site: int) -> None:
    project = agentkernel.directory / "agentkernel.toml"
    project.write_text(f'[security.domains]\nallow = ["127.0.0.1:{site}"]\n')
    done = agentkernel("run", "--", "true")
    assert done.returncode != 0 and b"security.domains.allow" in done.stderr
    project.write_text(f'[security.domains]\nblock = ["127.0.0.1:{site}"]\n')
    argv = ("run", "-q", "--allow-host", f"127.0.0.1:{site}", *DIRECT, "--", "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}")
    assert agentkernel(*argv, f"http://127.0.0.1:{site}/").stdout == b"403"


HOLD = """
import socket, sys
def asked():
    proxy = socket.create_connection(("127.0.0.1", 3128), timeout=20)
    try:
        proxy.sendall(sys.argv[1].encode())
        return proxy, proxy.recv(65536)[9:12].decode()
    except (ConnectionResetError, BrokenPipeError): return proxy, "closed"
held = [asked() for _ in range(3)]
print(*(answer or "closed" for _, answer in held))
"""


def test_connections_beyond_the_limit_are_closed_at_once(agentkernel: AgentKernel, site: int) -> None:
    head = f"CONNECT 127.0.0.1:{site} HTTP/1.1\r\nHost: 127.0.0.1:{site}\r\n\r\n"
    argv = ("run", "-q", "--max-connections", "2", "--allow-host", f"127.0.0.1:{site}", "--", "/usr/bin/python3", "-c", HOLD, head)
    done = agentkernel(*argv)
    assert done.stdout == b"200 200 closed\n", done.stderr


@needs("curl")
@pytest.mark.parametrize("profile", ["moderate", "permissive"])
def test_beyond_its_bytes_a_sandbox_reaches_nothing(agentkernel: AgentKernel, site: int, profile: str) -> None:
    ask = f"curl -sS -o /dev/null -w '%{{http_code}} ' http://127.0.0.1:{site}/"
    rules = ("--profile", profile, "--max-bytes", "400", "--allow-host", f"127.0.0.1:{site}")
    done = agentkernel("run", "-q", *rules, *DIRECT, "--", "sh", "-c", f"{ask}; {ask}; {ask}")
    answers = done.stdout.split()
    assert (answers[0], answers[2]) == (b"200", b"429"), done.stdout + done.stderr  # the second is cut off


def test_a_project_can_lower_limits_and_needs_trust_to_raise_them(agentkernel: AgentKernel) -> None:
    project = agentkernel.directory / "agentkernel.toml"
    script = "import socket\nprint([socket.getaddrinfo(f'n{each}.example.com', 80) and each for each in range(11)])"
    project.write_text("[network]\nmax_lookups = 1\n")
    done = agentkernel("run", "-q", "--allow-host", "*.example.com", "--", "/usr/bin/python3", "-c", script)
    assert done.returncode == 1 and b"gaierror" in done.stderr
    project.write_text("[network]\nmax_lookups = 101\n")
    done = agentkernel("run", "--", "true")
    assert done.returncode != 0 and b"network.max_lookups" in done.stderr


def test_a_program_that_speaks_socks_reaches_any_tcp_server_that_a_rule_names(agentkernel: AgentKernel) -> None:
    script = """
import socket, struct, sys
stream = socket.create_connection(("127.0.0.1", 3128), timeout=20)
stream.sendall(b"\\5\\1\\0"); assert stream.recv(2) == b"\\5\\0"
stream.sendall(b"\\5\\1\\0\\1\\x7f\\0\\0\\1" + struct.pack(">H", int(sys.argv[1])))
print(stream.recv(10)[1])
file = stream.makefile("rwb")
print(file.readline()); file.write(b"ping\\n"); file.flush(); print(file.readline())
"""
    with serving(echo("127.0.0.1")) as port:
        done = agentkernel("run", "-q", "--allow-host", f"127.0.0.1:{port}", "--", "/usr/bin/python3", "-c", script, str(port))
        assert done.stdout == b"0\nb'WELCOME\\n'\nb'PING\\n'\n", done.stderr


@pytest.mark.skipif(not own_address(), reason="this host has no address but loopback")
def test_a_program_that_knows_no_proxy_is_redirected(agentkernel: AgentKernel) -> None:
    script = "import socket, sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20).makefile('rb').readline())"
    with serving(echo(own_address())) as port:
        program = ("--transparent-network", "--", "/usr/bin/python3", "-c", script, own_address(), str(port))
        assert agentkernel("run", "-q", "--allow-host", f"{own_address()}:{port}", *program).stdout == b"b'WELCOME\\n'\n"
        refused = agentkernel("run", "-q", *program)
        assert b"WELCOME" not in refused.stdout


@dataclass
class Named(AgentKernel):
    """The command line on a host where `NAME` is this host's own address, and whose programs trust an authority of the test's."""

    hosts: Path = field(default_factory=Path)

    @property
    def argv(self) -> list[str]:
        script = f'mount --bind {self.hosts} /etc/hosts && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "agentkernel"]


@pytest.fixture
def named(agentkernel_in_process: AgentKernel, tmp_path: Path) -> Named:
    if not own_address() or which("openssl") is None:
        pytest.skip("this host has no address but loopback, or no openssl")
    authority = tmp_path / "authority"
    authority.mkdir()
    make_authority(authority)
    hosts = tmp_path / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{own_address()} {NAME}\n")
    trusted = {name: str(authority / "ca.pem") for name in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT")}
    return Named(directory=tmp_path, environment=agentkernel_in_process.environment | trusted, hosts=hosts)


def allow(port: int) -> tuple[str, ...]:
    """Rules for `NAME`, and for the address that it leads to, which is none of the public internet's."""
    return ("--only-hosts", "--allow-host", f"{NAME}:{port}", "--allow-host", f"{own_address()}:{port}")


@needs_root
@needs("curl")
def test_https_works_by_proxy_and_by_redirection_with_the_certificates_that_this_host_trusts(named: Named, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("hello\n")
    with serving(files(site, own_address(), tmp_path / "authority")) as port:
        url = f"https://{NAME}:{port}/"
        assert named("run", "-q", *allow(port), "--", "curl", "-sS", url).stdout == b"hello\n"
        direct = named("run", "-q", *allow(port), "--", "curl", "-sS", "--noproxy", "*", url)
        assert direct.stdout == b"hello\n", direct.stderr
        fronted = named("run", "-q", *allow(port), "--", "curl", "-sS", "-k", "--connect-to", f"other.example:{port}:{NAME}:{port}",
                        f"https://other.example:{port}/")  # fmt: skip
        assert fronted.returncode != 0 and fronted.stdout == b""  # TLS names another host than the one that was connected to
        other = named("run", "-q", "--only-hosts", "--allow-host", f"{NAME}:{port}", "--", "curl", "-sS", url)
        assert other.returncode != 0  # a name's rule opens no address that is not public


@needs_root
@needs("git")
def test_git_clones_over_https(named: Named, tmp_path: Path) -> None:
    work, bare = tmp_path / "work", tmp_path / "site" / "project.git"
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    (work / "file").write_text("content\n")
    subprocess.run(["git", "-C", str(work), "add", "file"], check=True)
    subprocess.run(["git", *identity, "-C", str(work), "commit", "-qm", "first"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", str(work), str(bare)], check=True)
    subprocess.run(["git", "-C", str(bare), "update-server-info"], check=True)
    with serving(files(tmp_path / "site", own_address(), tmp_path / "authority")) as port:
        script = f"git clone -q https://{NAME}:{port}/project.git /tmp/project && cat /tmp/project/file"
        done = named("run", "-q", *allow(port), "--", "sh", "-c", script)
        assert done.stdout == b"content\n", done.stderr


@needs_root
def test_pip_installs_from_an_index(named: Named, tmp_path: Path) -> None:
    site = tmp_path / "site" / "tiny"
    site.mkdir(parents=True)
    wheel = site / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny.py", "print('installed')\n")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    (site / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    script = (
        "python3 -m venv /tmp/v && /tmp/v/bin/pip install -q --disable-pip-version-check --index-url $1 tiny && /tmp/v/bin/python -m tiny"
    )
    with serving(files(tmp_path / "site", own_address(), tmp_path / "authority")) as port:
        done = named("run", "-q", *allow(port), "--", "sh", "-c", script, "sh", f"https://{NAME}:{port}/")
        assert done.stdout == b"installed\n", done.stderr


@needs("curl")
def test_rules_change_while_a_sandbox_runs_and_every_attempt_is_told(behind_daemon: AgentKernel, site: int) -> None:
    def visit() -> bytes:
        argv = ("exec", *DIRECT, "box", "--", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{site}/")
        return behind_daemon(*argv).stdout

    assert behind_daemon("create", "box", "--start", "-q").returncode == 0
    assert visit() == b"403"
    assert behind_daemon("network", "allow", "box", f"127.0.0.1:{site}").returncode == 0
    assert visit() == b"200"
    assert behind_daemon("network", "deny", "box", "127.0.0.1").returncode == 0
    assert visit() == b"403"

    def told() -> list[str]:
        lines = behind_daemon("network", "log", "box", "--json").stdout.splitlines()
        return [str(json.loads(line)["verdict"]) for line in lines]

    wait_until(lambda: len(told()) >= 3)
    assert told() == ["denied", "allowed", "denied"]
    assert behind_daemon("stop", "box").returncode == 0 and behind_daemon("start", "box").returncode == 0
    assert visit() == b"403"  # as they were left


@needs("curl")
def test_a_port_of_a_sandbox_without_network_is_published_on_this_hosts_loopback(behind_daemon: AgentKernel) -> None:
    server = ("/usr/bin/python3", "-m", "http.server", "80", "--bind", "127.0.0.1", "--directory", "/etc")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    assert behind_daemon("create", "box", "--start", "-q", "--no-network", "-p", f"{free}:80").returncode == 0
    assert behind_daemon("exec", "-d", "box", "--", *server).returncode == 0
    done = None

    def served() -> bool:
        nonlocal done
        done = subprocess.run(["curl", "-s", f"http://127.0.0.1:{free}/hostname"], capture_output=True, timeout=DEADLINE_S)
        return done.returncode == 0

    wait_until(served)
    assert done is not None and done.stdout == b"sandbox\n"
