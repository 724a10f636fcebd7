"""Images as users have them: the verb, and what `run` and `create` make of images by name; with a real registry on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e.conftest import AgentKernel
from parity.image_scenarios import CONFIG, registry, root_files
from registry_world import RunningRegistry, make_image, tar_of


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRegistry]:
    with registry(tmp_path_factory.mktemp("images")) as found:
        found.push("tests/app", "1", make_image(root_files(), config=CONFIG))
        found.push("tests/bare", "1", make_image(root_files()))
        yield found


@pytest.fixture
def both(request: pytest.FixtureRequest) -> AgentKernel:
    found: AgentKernel = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("both", ["agentkernel_in_process", "behind_daemon"], indirect=True)
def test_run_starts_what_the_image_says(both: AgentKernel, running: RunningRegistry) -> None:
    name = f"{running.address}/tests/app:1"
    first = both("run", "-q", "--image", name)
    assert (first.returncode, first.stdout, first.stderr) == (0, b"hello 1\n", b"")
    for words, said in (
        (("--", "echo", "typed"), b"typed\n"),
        (("--", "id", "-u"), b"1234\n"),
        (("--", "pwd"), b"/srv/app\n"),
        (("--entrypoint", "/bin/echo -n", "--", "one", "two"), b"one two"),
        (("--entrypoint", "", "--", "sh", "-c", "echo $ENTERED"), b"\n"),
        (("-e", "GREETING=bye"), b"bye 1\n"),
        (("--user", "root", "--", "id", "-u"), b"0\n"),
        (("--json", "--", "echo", "typed"), None),
    ):
        done = both("run", "-q", "--pull", "never", "--image", name, *words)
        assert done.returncode == 0, (words, done.stderr)
        assert (json.loads(done.stdout)["stdout"] if said is None else done.stdout) == ("typed\n" if said is None else said), words
    bare = both("run", "-q", "--image", f"{running.address}/tests/bare:1")
    assert (bare.returncode, b"names none" in bare.stderr) == (2, True)


def owned(name: str, uid: int, gid: int, mode: int, *, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.uid, info.gid, info.mode, info.type, info.linkname = uid, gid, mode, kind, link
    return info


@pytest.mark.skipif(os.geteuid() != 0, reason="needs uid 0: a plain user has one id, and cannot give files to others")
@pytest.mark.parametrize("backend", ["namespaces", "gvisor"])
def test_an_images_files_belong_to_whom_it_says(agentkernel: AgentKernel, running: RunningRegistry, backend: str, tmp_path: Path) -> None:
    runsc = os.environ.get("AGENTKERNEL_TEST_RUNSC") or shutil.which("runsc") or ""
    if backend == "gvisor" and not runsc:
        pytest.skip("this host has no runsc")
    agentkernel = AgentKernel(
        agentkernel.directory, agentkernel.environment | {"AGENTKERNEL_RUNSC": runsc, "AGENTKERNEL_HOME": str(tmp_path / "ak")}
    )
    first = tar_of(
        owned("app", 1234, 4322, 0o755, kind=tarfile.DIRTYPE),
        owned("app/priv", 1234, 4322, 0o700, kind=tarfile.DIRTYPE),
        (owned("app/priv/f", 1234, 4322, 0o600), b"secret\n"),
        owned("app/hard", 0, 0, 0o600, kind=tarfile.LNKTYPE, link="app/priv/f"),
        (owned("app/key", 1234, 4322, 0o400), b"key\n"),
        (owned("app/shown", 1234, 4322, 0o444), b"x"),
        owned("app/closed", 1234, 4322, 0o555, kind=tarfile.DIRTYPE),
        (owned("app/others", 99, 98, 0o600), b"x"),
        (owned("app/far", 3_000_000, 70_000, 0o644), b"x"),
        owned("was", 1234, 1234, 0o755, kind=tarfile.DIRTYPE),
        (owned("outside", 5, 5, 0o644), b"replaced"),
    )
    second = tar_of(
        owned("was", 0, 0, 0o755, kind=tarfile.DIRTYPE), owned("outside", 0, 0, 0o777, kind=tarfile.SYMTYPE, link="/app/others")
    )
    running.push("tests/owned", "1", make_image(root_files(), first, second, config=CONFIG))
    script = (
        "cat /app/priv/f; echo more >>/app/priv/f; echo new >/app/new; cat /app/hard /app/new /app/key; chmod 600 /app/shown; cat /app/others 2>/dev/null || echo no;"
        "cd /; busybox stat -c '%n %u:%g' app app/priv app/hard app/key app/shown app/closed app/others app/far app/new was outside bin"
    )
    done = agentkernel("run", "-q", "--backend", backend, "--image", f"{running.address}/tests/owned:1", "--", "sh", "-c", script)
    told = b"""secret
secret
new
key
no
app 1234:4322
app/priv 1234:4322
app/hard 1234:4322
app/key 1234:4322
app/shown 1234:4322
app/closed 1234:4322
app/others 99:98
app/far 65534:65534
app/new 1234:1234
was 0:0
outside 0:0
bin 0:0
"""
    assert (done.returncode, done.stdout, done.stderr) == (0, told, b"")
    again = agentkernel("run", "-q", "--backend", backend, "--image", f"{running.address}/tests/owned:1", "--", "cat", "/app/priv/f")
    assert again.stdout == b"secret\n", "what one sandbox writes is its own"
    trees = list((tmp_path / "ak").rglob("rootfs/app/priv"))
    assert trees and all(tree.stat().st_uid == 0x7FFF0000 + 1234 for tree in trees), "to nobody of the host"
    assert all(os.listxattr(tree) == [] for tree in trees)


def test_what_cannot_be_had_says_why(agentkernel: AgentKernel, running: RunningRegistry) -> None:
    for name, status, text in (
        (f"{running.address}/tests/absent:1", 125, b"absent"),
        ("127.0.0.1:1/tests/app:1", 125, b"cannot be reached"),
        ("Not A Name", 2, b"is not an image"),
    ):
        done = agentkernel("run", "-q", "--image", name, "true")
        assert (done.returncode, text in done.stderr, done.stderr.count(b"error:")) == (status, True, 1), done.stderr
    never = agentkernel("run", "--pull", "never", "--image", f"{running.address}/tests/absent:2", "true")
    assert b"agentkernel image pull" in never.stderr


def test_the_verb(behind_daemon: AgentKernel, running: RunningRegistry) -> None:
    name = f"{running.address}/tests/bare:1"
    pulled = behind_daemon("image", "pull", name)
    assert (pulled.returncode, pulled.stdout.decode(), pulled.stderr.decode()) == (0, f"{name}\n", f"fetching {name} ...\n")
    (behind_daemon.directory / "root.tar").write_bytes(root_files())
    assert behind_daemon("image", "import", "root.tar", "mine:1", "-q").stderr == b""
    listed = json.loads(behind_daemon("images", "list", "--json").stdout)
    assert {each["reference"] for each in listed} >= {name, "docker.io/library/mine:1"}
    assert b"KEPT BY" in behind_daemon("image", "list").stdout
    assert "mine:1" in behind_daemon("image", "list", "-q").stdout.decode().split()
    made = behind_daemon("create", "box", "--image", "mine:1", "--start", "-q")
    assert (made.returncode, made.stdout) == (0, b"box\n"), made.stderr
    assert behind_daemon("exec", "box", "cat", "/etc/passwd").stdout.startswith(b"root:")
    refused = behind_daemon("image", "remove", "mine:1")
    assert (refused.returncode, b"sandboxes use" in refused.stderr) == (125, True)
    behind_daemon("remove", "--force", "box")
    assert behind_daemon("image", "remove", "mine:1").stdout == b"mine:1\n"
    pruned = behind_daemon("image", "prune", "--unused", "0", "--json")
    assert name in json.loads(pruned.stdout)
    told = [json.loads(line) for line in behind_daemon("audit", "--kind", "image.").stdout.splitlines()]
    assert [each["kind"] for each in told if each["outcome"] == "ok"][-4:] == [
        "image.pulled",
        "image.imported",
        "image.removed",
        "image.pruned",
    ]


def test_a_sandbox_keeps_its_image_when_its_daemon_is_killed(behind_daemon: AgentKernel) -> None:
    """Neither the next daemon, which adopts the sandbox, nor anybody without one removes what the sandbox runs on."""
    (behind_daemon.directory / "root.tar").write_bytes(root_files())
    assert behind_daemon("image", "import", "root.tar", "kept:1", "-q").returncode == 0
    made = behind_daemon("create", "box", "--image", "kept:1", "--start", "-q")
    assert made.returncode == 0, made.stderr
    alone = AgentKernel(behind_daemon.directory, behind_daemon.environment | {"AGENTKERNEL_DAEMON": "off"})

    def prune(by: AgentKernel) -> None:
        pruned = by("image", "prune", "--unused", "0", "--json")
        assert (pruned.returncode, "kept:1" in pruned.stdout.decode()) == (0, False), pruned.stderr
        refused = by("image", "remove", "kept:1")
        assert (refused.returncode, b"sandboxes" in refused.stderr) == (125, True), (refused.stdout, refused.stderr)

    behind_daemon.kill_daemon()
    prune(alone)
    assert behind_daemon("exec", "box", "cat", "/etc/passwd").stdout.startswith(b"root:"), "the next daemon has adopted it"
    prune(alone)
    prune(behind_daemon)
    behind_daemon.kill_daemon()
    assert behind_daemon("exec", "box", "echo", "there").stdout == b"there\n"
    behind_daemon("remove", "--force", "box")
    assert behind_daemon("image", "remove", "kept:1").stdout == b"kept:1\n"


def test_an_image_that_create_needs_is_fetched_and_told(behind_daemon: AgentKernel, running: RunningRegistry) -> None:
    running.push("tests/created", "1", make_image(root_files()))
    name = f"{running.address}/tests/created:1"
    made = behind_daemon("create", "box", "--image", name)
    assert (made.returncode, made.stdout) == (0, b"box\n")
    assert f"fetching the image {name} ..." in made.stderr.decode()
    assert json.loads(behind_daemon("info", "box", "--json").stdout)["image"] == name


def test_who_is_interrupted_while_an_image_comes_leaves_no_sandbox(behind_daemon: AgentKernel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # nobody ever answers there
        process = behind_daemon.start("run", "--image", f"127.0.0.1:{silent.getsockname()[1]}/tests/slow:1", "true")
        assert process.stderr is not None
        assert b"fetching" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 130
    assert behind_daemon("list", "--all", "-q").stdout == b""


def test_a_builder_that_is_not_here_says_what_to_install(agentkernel: AgentKernel) -> None:
    (agentkernel.directory / "Dockerfile").write_text("FROM scratch\n")
    nowhere = agentkernel.directory / "bin"
    nowhere.mkdir()
    environment = agentkernel.environment | {"PATH": str(nowhere)}
    done = subprocess.run(
        [*agentkernel.argv, "image", "build", "-t", "app"], cwd=agentkernel.directory, env=environment, capture_output=True
    )
    assert (done.returncode, b"install buildah" in done.stderr) == (125, True), done.stderr


def test_a_project_may_name_an_image(agentkernel: AgentKernel, running: RunningRegistry) -> None:
    (agentkernel.directory / "agentkernel.toml").write_text(f'[sandbox]\nimage = "{running.address}/tests/app:1"\nentrypoint = []\n')
    assert agentkernel("run", "-q", "sh", "-c", "echo $GREETING").stdout == b"hello\n"
    Path(agentkernel.directory / "agentkernel.toml").write_text('[sandbox]\nimage = "/etc"\n')
    assert b"agentkernel trust" in agentkernel("run", "-q", "true").stderr
