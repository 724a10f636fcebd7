"""Sandboxes of several backends as users have them: an image of a registry on loopback, each sandbox on the backend that it was made on."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.host import wait_until
from e2e.secret_site import DIRECT, VALUE, secret_site
from e2e.servers import files, serving
from e2e.several import Several, fetch, several_backends

ENGINES = ("docker", "podman", "gvisor")  # what of namespaces is said here is tested at length elsewhere
# What does not depend on the engine is tried with one of those that make containers; AGENTKERNEL_SECURITY=all tries it with each.
SAMPLED = ENGINES if os.environ.get("AGENTKERNEL_SECURITY") == "all" else ("podman", "gvisor")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here")


@pytest.fixture(scope="module")
def world(
    request: pytest.FixtureRequest, shared_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Several]:
    with several_backends(request, shared_environment, tmp_path_factory.mktemp("several")) as made:
        yield made


@pytest.fixture
def user(world: Several, tmp_path: Path) -> Iterator[Several]:
    """In an empty directory; after the test its sandboxes are removed, and nothing is left of them."""
    directory, environment = world.directory, world.environment
    world.directory, world.environment = tmp_path, dict(environment)
    yield world
    world.directory, world.environment = directory, environment
    if names := world.ok("list", "--quiet").split():  # those of a `run` go by themselves
        world.ok("remove", "--force", *names)
    wait_until(lambda: not world.left())


@pytest.mark.parametrize("backend", ENGINES)
def test_a_pulled_image_runs_as_it_says(user: Several, backend: str) -> None:
    options = user.of(backend)
    assert user.ok("run", "-q", *options) == "hello 1\n"
    assert user.ok("run", "-q", *options, "--", "sh", "-c", "echo $ENTERED; id -u") == "1\n1000\n"
    done = user("run", "-q", *options, "--entrypoint", "", "--", "sh", "-c", "echo $GREETING $ENTERED; exit 3")
    assert (done.returncode, done.stdout) == (3, b"hello\n"), done.stderr


def test_list_mixes_backends_and_each_sandbox_remembers_its_own(user: Several) -> None:
    here = [name for name in (*ENGINES, "namespaces") if not user.ready.get(name, "no")]
    assert len(here) > 1 or pytest.skip("there is one backend here")
    for backend in here:
        user.ok("create", "-q", f"on-{backend}", *user.of(backend), "--start")
    rows = user.rows()
    assert {name: row["backend"] for name, row in rows.items()} == {f"on-{backend}": backend for backend in here}
    assert {row["status"] for row in rows.values()} == {"running"}
    for backend, other in zip(here, (*here[1:], here[0]), strict=True):
        name = f"on-{backend}"
        user.ok("exec", name, "--", "sh", "-c", f"echo of {name} > ~/file; chmod 640 ~/file")
        refused = user("exec", "--backend", other, name, "true")
        assert (refused.returncode, f"is of backend '{backend}', not '{other}'" in refused.stderr.decode()) == (125, True)
    names = [f"on-{backend}" for backend in here]
    assert user.ok("stop", *names).split() == names
    assert {row["status"] for row in user.rows().values()} == {"stopped"}
    assert user.ok("start", *names).split() == names
    for name in names:
        assert user.ok("exec", name, "--", "sh", "-c", "cat ~/file; stat -c %a ~/file") == f"of {name}\n640\n"
    assert user.ok("remove", "--force", *names).split() == names
    assert user.rows() == {}


@pytest.mark.parametrize("backend", ENGINES)
def test_the_daemon_may_be_killed_between_any_two_steps(user: Several, backend: str) -> None:
    steps: tuple[tuple[tuple[str, ...], str], ...] = (
        (("create", "-q", "box", *user.of(backend)), "box\n"),
        (("start", "box"), "box\n"),
        (("exec", "box", "sh", "-c", "echo kept > ~/file; chmod 640 ~/file; echo made"), "made\n"),
        (("stop", "box"), "box\n"),
        (("start", "box"), "box\n"),
        (("exec", "box", "sh", "-c", "cat ~/file; stat -c %a ~/file"), "kept\n640\n"),
        (("remove", "--force", "box"), "box\n"),
    )
    for words, output in steps:
        assert user.ok(*words) == output, words
        user.kill_daemon()
    assert user("info", "box").returncode == 125


@pytest.mark.parametrize("backend", SAMPLED)
def test_the_output_of_a_command_is_complete_though_the_daemon_is_killed_under_it(user: Several, backend: str) -> None:
    user.ok("create", "-q", "box", *user.of(backend), "--start")
    script = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.01; done; exit 7"
    with user.start("exec", "box", "sh", "-c", script) as process:
        assert process.stdout is not None
        seen = process.stdout.readline()
        user.kill_daemon()
        seen += process.stdout.read()
        assert process.wait(60) == 7
    assert seen == b"".join(b"line %d\n" % at for at in range(200))


@needs_curl
@pytest.mark.parametrize("backend", SAMPLED)
def test_ports_are_published_and_rules_open_one_address_also_for_the_next_daemon(user: Several, backend: str, tmp_path: Path) -> None:
    options = user.of(backend)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("hello from the host\n")
    ask = (
        "import sys, urllib.error, urllib.request\n"
        "for port in sys.argv[1:]:\n"
        "    try: print(urllib.request.urlopen(f'http://127.0.0.1:{port}/', timeout=20).read().decode().strip())\n"
        "    except urllib.error.HTTPError as refused: print(refused.code)"
    )
    with serving(files(tmp_path / "site", "127.0.0.1")) as site:
        rules = ("-p", f"{free}:8000", "--allow-host", f"127.0.0.1:{site}", *DIRECT)
        user.ok("create", "-q", "box", *options, *rules, "--start")
        user.ok("exec", "-d", "box", "--", "sh", "-c", "echo from inside > ~/page; cd; exec python3 -m http.server 8000 --bind 127.0.0.1")
        for _ in range(2):
            wait_until(lambda: fetch(f"http://127.0.0.1:{free}/page") == "from inside\n")
            assert user.ok("exec", "box", "--", "python3", "-c", ask, str(site), str(free)) == "hello from the host\n403\n"
            user.kill_daemon()
            user.ok("list")  # which starts the next


@pytest.mark.parametrize("backend", SAMPLED)
def test_a_secrets_value_is_seen_by_its_server_alone(user: Several, backend: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    options = user.of(backend)
    ask = (
        "import os, sys, urllib.request\n"
        "asked = urllib.request.Request(sys.argv[1], headers={'Authorization': 'Bearer ' + os.environ['API_KEY']})\n"
        "answer = urllib.request.urlopen(asked, timeout=20)\n"
        "print(answer.read().decode().strip(), answer.headers['X-Echo'])\n"
        "print(open('/proc/self/environ').read())"
    )
    with secret_site(tmp_path_factory.mktemp("site")) as (server, trust):
        user.environment |= {"MY_KEY": VALUE, "SSL_CERT_FILE": str(trust)}
        done = user("run", *server.options(), *options, "--", "python3", "-c", ask, f"{server.url}/v1")
    assert (done.returncode, done.stdout[:26]) == (0, b"ok Bearer agentkernel-secr"), done.stderr
    assert f"Authorization: Bearer {VALUE}" in server.heads[0]
    assert VALUE.encode() not in done.stdout + done.stderr


@pytest.mark.parametrize("backend", ["docker", "podman"])
def test_an_archive_is_taken_up_by_the_engine_and_goes_with_a_prune(user: Several, backend: str) -> None:
    busybox = shutil.which("busybox") or pytest.skip("no busybox here")
    archive = user.directory / "root.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(busybox, arcname="bin/busybox")
    options = [*user.of(backend)[:2], "--image", str(archive)]
    for _ in range(2):
        assert user.ok("run", "-q", *options, "--", "/bin/busybox", "echo", "from the archive") == "from the archive\n"
    reference = f"localhost/agentkernel-tar:{hashlib.sha256(archive.read_bytes()).hexdigest()}"
    engine = user.docker if backend == "docker" else user.podman
    assert engine is not None
    shown = ("images", "--quiet", "--filter", f"reference={reference}")
    assert len(engine.run(*shown).split()) == 1
    assert reference in user.ok("image", "prune", "--backend", backend, "--unused", "0s")
    assert engine.run(*shown).split() == []


@pytest.mark.parametrize("backend", ["docker", "podman"])
def test_sandboxes_of_an_engine_that_is_gone_are_unavailable_until_it_is_back(user: Several, backend: str) -> None:
    user.ok("create", "-q", "box", *user.of(backend), "--start")
    user.ok("create", "-q", "beside", *user.of("namespaces"), "--start")
    user.ok("exec", "box", "sh", "-c", "echo kept > ~/file")
    engine = user.docker if backend == "docker" else user.podman
    assert engine is not None
    aside = engine.socket.with_name("aside")
    os.rename(engine.socket, aside)
    try:
        user.kill_daemon()
        rows = user.rows()
        assert {name: row["status"] for name, row in rows.items()} == {"box": "unavailable", "beside": "running"}
        assert user.ok("exec", "beside", "echo", "alive") == "alive\n"
        refused = user("exec", "box", "true")
        assert (refused.returncode, backend in refused.stderr.decode().lower()) == (125, True)
    finally:
        os.rename(aside, engine.socket)
    assert user.ok("exec", "box", "sh", "-c", "cat ~/file") == "kept\n"
    assert {row["status"] for row in user.rows().values()} == {"running"}
