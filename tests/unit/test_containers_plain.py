"""A plain user of the group that may use the host's Docker Engine: what it mounts it mounts as it is, and root makes nothing for it."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from engines.docker import DockerHost
from unit.test_containers_docker import OWNER, _guest, running, said, spec, state

from agentkernel.backends.containers.backend import DockerBackend
from agentkernel.errors import LaunchFailed
from agentkernel.model.isolation import Feature
from agentkernel.model.spec import StorageKind, Workspace, WorkspaceMode

__all__ = ["_guest", "state"]

PLAIN, GROUP = 61234, 61235


def as_plain_user(work: Callable[[], Coroutine[Any, Any, str]]) -> str:
    """What `work` says in a process of that user; modules are loaded before, for the interpreter may be out of its reach."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(ours)
            os.setgroups([GROUP])
            os.setresgid(PLAIN, PLAIN, PLAIN)
            os.setresuid(PLAIN, PLAIN, PLAIN)
            said = asyncio.run(work())
        except BaseException:
            said = traceback.format_exc()
        os.write(theirs, said.encode()[-60_000:])
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as answer:
        said = answer.read().decode()
    os.waitpid(child, 0)
    return said


@pytest.fixture
def plain(dockerd: DockerHost) -> Iterator[Path]:
    """A directory of the plain user's, who may use the engine."""
    dockerd.socket.parent.chmod(0o711)
    os.chown(dockerd.socket, 0, GROUP)
    dockerd.socket.chmod(0o660)
    guest = Path(tempfile.mkdtemp(prefix="ak-plain-", dir="/var/tmp"))
    shutil.copy(os.environ["AGENTKERNEL_GUEST"], guest / "agentkernel-guest")
    for path in (guest, guest / "agentkernel-guest"):
        path.chmod(0o755)
        os.chown(path, PLAIN, PLAIN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTKERNEL_GUEST", str(guest / "agentkernel-guest"))
        yield guest
    shutil.rmtree(guest)


def test_a_plain_users_sandboxes_are_that_users_on_its_files(dockerd: DockerHost, plain: Path, state: Path) -> None:
    asyncio.run(_once(DockerBackend(state, dockerd.environment)))  # loads what is loaded late

    async def work() -> str:
        project = plain / "project"
        (project / ".git").mkdir(parents=True)
        (project / "file").write_text("mine\n")
        (project / ".git" / "config").write_text("mine\n")
        (plain / "s").mkdir(mode=0o700)
        backend = DockerBackend(plain / "s", dockerd.environment)
        found = await backend.probe()
        lines = [f"{found.ready} {found.support(Feature.MOUNTS)} {found.support(Feature.WORKSPACE_COPY_ON_WRITE)} {found.reason}"]
        shared = Workspace(mode=WorkspaceMode.WRITABLE, source=str(project), protected=(".git/config",))
        async with running(backend, spec(workspace=shared)) as sandbox:
            lines.append(await said(sandbox, "id -u; cat file; echo new > new; echo x > .git/config || mv .git gone || echo protected"))
        lines.append(f"{(project / 'new').stat().st_uid} {(project / '.git' / 'config').read_text()}")
        private = Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=str(project))
        sandbox = await backend.boot("f" * 16, spec(workspace=private, storage=StorageKind.DISK), OWNER)
        lines.append(await said(sandbox, "echo changed > file; cat file new; stat -c %u file"))
        await sandbox.close()
        again = await backend.recover("f" * 16, spec(workspace=private, storage=StorageKind.DISK), OWNER)
        assert again is not None
        lines.append(await said(again, "cat file"))
        await again.destroy()
        async with running(backend, spec(workspace=private)) as sandbox:  # as `run` makes it: what it writes is in memory, the copy is not
            lines.append(await said(sandbox, "pwd; cat file new; echo changed > file; stat -c %u file; touch ~/own /var/tmp/own"))
        lines.append((project / "file").read_text())
        return "".join(line.rstrip("\n") + "\n" for line in lines)

    answer = as_plain_user(work)
    assert answer.startswith(f"True emulated emulated \n{PLAIN}\nmine\n"), answer
    assert "protected\n" in answer
    assert answer.endswith(f"{PLAIN} mine\nchanged\nnew\n{PLAIN}\nchanged\n/workspace\nmine\nnew\n{PLAIN}\nmine\n"), answer
    assert dockerd.run("ps", "--all", "--quiet") == ""


def test_what_must_not_be_seen_of_a_home_and_came_after_a_sandbox_was_made_keeps_it_from_starting(
    dockerd: DockerHost, plain: Path, state: Path
) -> None:
    """Its engine masks it, and masks are fixed once a container is made."""
    asyncio.run(_once(DockerBackend(state, dockerd.environment)))

    async def work() -> str:
        home = plain / "home"
        (home / ".aws").mkdir(parents=True)
        (home / ".aws" / "credentials").write_text("secret")
        (plain / "s").mkdir(mode=0o700)
        backend = DockerBackend(plain / "s", dockerd.environment)
        wanted = spec(home_source=str(home), home_denied=(".aws", ".netrc"), storage=StorageKind.DISK)
        sandbox = await backend.boot("9" * 16, wanted, OWNER)
        lines = [await said(sandbox, "cd; ls -A; ls .aws")]
        await sandbox.stop()
        sandbox = await backend.boot("9" * 16, wanted, OWNER)
        await sandbox.stop()
        (home / ".netrc").write_text("secret")
        try:
            await backend.boot("9" * 16, wanted, OWNER)
        except LaunchFailed as refused:
            lines.append(f"{refused.message}; {refused.hint}\n")
        (home / ".netrc").unlink()
        await (await backend.boot("9" * 16, wanted, OWNER)).destroy()
        return "".join(lines)

    answer = as_plain_user(work)
    said_why = "/home/user/.netrc must not be seen in the sandbox, and was not there when it was made"
    assert answer == f".aws\n{said_why}; take it away for a start, or remove the sandbox and create it again\n"
    assert dockerd.run("ps", "--all", "--quiet") == ""


async def _once(backend: DockerBackend) -> None:
    assert (await backend.probe()).ready
    async with running(backend, spec()) as sandbox:
        await said(sandbox, "true")
        await sandbox.files.stat("/")
