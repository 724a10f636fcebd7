"""Secrets as users have them: the server gets the value, and it is found nowhere else; what else is tried is refused and told."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import pytest
from e2e.conftest import AgentKernel
from e2e.secret_site import VALUE, Site, secret_site

pytestmark = pytest.mark.skipif(which("curl") is None, reason="no curl here")


@pytest.fixture(params=["in-process", "behind-a-daemon"])
def agentkernel(request: pytest.FixtureRequest) -> AgentKernel:
    """Every promise is kept both ways."""
    name = "agentkernel_in_process" if request.param == "in-process" else "behind_daemon"
    found: AgentKernel = request.getfixturevalue(name)
    return found


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    """The server, and the file of the authority that this host trusts for it."""
    with secret_site(tmp_path_factory.mktemp("site")) as made:
        yield made


@pytest.fixture
def given(agentkernel: AgentKernel, site: tuple[Site, Path]) -> AgentKernel:
    """A user who has the secret, and trusts the server's authority."""
    agentkernel.environment |= {"MY_KEY": VALUE, "SSL_CERT_FILE": str(site[1])}
    return agentkernel


def ask(site: Site, header: str = "Authorization: Bearer $API_KEY", path: str = "/v1/models") -> tuple[str, ...]:
    """A command that prints the answer's head and body."""
    return ("--", "sh", "-c", f'curl -sSi --suppress-connect-headers -H "{header}" "{site.url}{path}"')


LOOK = """
curl -sS -H "Authorization: Bearer $API_KEY" URL/
cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'
env
find / -xdev \\( -path /proc -o -path /usr -o -path /sys \\) -prune -o -type f -size -2000k -print0 2>/dev/null | xargs -0 cat 2>/dev/null
find /tmp /workspace "$HOME" -type f -print0 2>/dev/null | xargs -0 cat 2>/dev/null
"""


def test_the_server_gets_the_value_and_nothing_else_of_the_host_or_sandbox_holds_it(given: AgentKernel, site: tuple[Site, Path]) -> None:
    server, _ = site
    done = given("run", *server.options(), "--", "sh", "-c", LOOK.replace("URL", server.url))
    assert done.stdout.startswith(b"ok\n"), done.stdout[:2000] + done.stderr
    assert f"Authorization: Bearer {VALUE}" in server.heads[0]
    assert b"API_KEY=agentkernel-secret-" in done.stdout
    assert b"BEGIN CERTIFICATE" in done.stdout  # the look went as far as /etc
    assert VALUE.encode() not in done.stdout + done.stderr
    for verb in (("audit", "--json"), ("config", "show")):
        shown = given(*verb)
        assert VALUE.encode() not in shown.stdout + shown.stderr
    homes = [given.environment["HOME"], given.environment.get("AGENTKERNEL_HOME", given.environment["HOME"])]
    found = subprocess.run(["grep", "-rlaF", VALUE, *homes], capture_output=True, text=True)
    assert found.stdout == ""
    lines = [path.read_bytes() for path in map(Path, _command_lines()) if path.exists()]
    assert not any(VALUE.encode() in line for line in lines)


def _command_lines() -> list[str]:
    return [f"/proc/{name}/cmdline" for name in os.listdir("/proc") if name.isdigit()]


def test_an_answer_that_echoes_the_value_shows_the_placeholder(given: AgentKernel, site: tuple[Site, Path]) -> None:
    done = given("run", *site[0].options(), *ask(site[0]))
    assert b"X-Echo: Bearer agentkernel-secret-" in done.stdout, done.stdout + done.stderr
    assert VALUE.encode() not in done.stdout


@pytest.mark.parametrize(
    ("binding", "header", "path"),
    [
        ("", "X: y", "/?key=$API_KEY"),
        ("/v1", "Authorization: $API_KEY", "/v2"),
        ("/v1", "Authorization: $API_KEY", "/v1/%2e%2e/v2"),
        ("#x-api-key", "Authorization: $API_KEY", "/"),
    ],
)
def test_what_it_is_not_bound_to_is_refused_and_told(
    behind_daemon: AgentKernel, site: tuple[Site, Path], binding: str, header: str, path: str
) -> None:
    server, trust = site
    user = behind_daemon
    user.environment |= {"MY_KEY": VALUE, "SSL_CERT_FILE": str(trust)}
    done = user("run", *server.options(binding), *ask(server, header, path))
    assert done.stdout.startswith(b"HTTP/1.1 403 "), done.stdout + done.stderr
    assert b'"secret_refused"' in done.stdout
    assert server.heads == []
    told = user("audit", "--json").stdout
    assert b"secret API_KEY" in told
    assert VALUE.encode() not in told


def test_a_lasting_sandbox_has_the_value_until_the_daemon_ends_and_is_given_it_again(
    behind_daemon: AgentKernel, site: tuple[Site, Path]
) -> None:
    server, trust = site
    user = behind_daemon
    user.environment |= {"MY_KEY": VALUE, "SSL_CERT_FILE": str(trust)}
    assert user("create", "box", *server.options(), "--start").returncode == 0
    assert user("exec", "box", *ask(server)).stdout.startswith(b"HTTP/1.1 200 ")
    assert user("stop", "box").returncode == user("start", "box").returncode == 0
    assert user("exec", "box", *ask(server)).stdout.startswith(b"HTTP/1.1 200 ")
    assert user("daemon", "stop").returncode == 0
    lost = user("exec", "box", "--", "sh", "-c", f'curl -sS -H "Authorization: $API_KEY" {server.url}/')  # the next daemon adopts it
    assert lost.returncode == 56
    assert b"403" in lost.stderr
    asked = len(server.heads)
    assert user("start", "box", "--secret", "API_KEY=ENV:MY_KEY").returncode != 0  # it runs
    assert user("stop", "box").returncode == user("start", "box").returncode == 0
    unavailable = user("exec", "box", *ask(server)).stdout
    assert unavailable.startswith(b"HTTP/1.1 403 ")
    assert b'"secret_unavailable"' in unavailable
    assert len(server.heads) == asked
    assert user("stop", "box").returncode == 0
    assert user("start", "box", "--secret", "OTHER=ENV:MY_KEY").returncode == 2
    again = user("start", "box", "--secret", "API_KEY=ENV:MY_KEY")
    assert again.returncode == 0, again.stderr
    assert user("exec", "box", *ask(server)).stdout.startswith(b"HTTP/1.1 200 ")
    assert f"Authorization: Bearer {VALUE}" in server.heads[-1]


def test_a_secret_without_network_is_refused(given: AgentKernel, site: tuple[Site, Path]) -> None:
    done = given("run", *site[0].options(), "--no-network", "--", "true")
    assert done.returncode == 2
    assert b"without network" in done.stderr


def test_a_profile_without_network_reaches_the_bound_host_alone(given: AgentKernel, site: tuple[Site, Path]) -> None:
    server, _ = site
    done = given("run", "--profile", "restrictive", *server.options(), *ask(server))
    assert done.stdout.startswith(b"HTTP/1.1 200 "), done.stdout + done.stderr
