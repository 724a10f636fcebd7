"""The working directory and mounts: what comes in, and what reaches the host."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from pathlib import Path

import pytest

from agentkernel.abc import Backend
from agentkernel.errors import AgentKernelError
from agentkernel.model.command import Command
from agentkernel.model.isolation import Feature, Fingerprint
from agentkernel.model.spec import Bind, Workspace, WorkspaceMode
from agentkernel.testing.base import ConformanceBase, need, shell

ATTEMPTS_ON_PROTECTED = (
    "echo x > .git/hooks/pre-commit",
    "echo x > .git/hooks/new",
    "rm .git/hooks/pre-commit",
    "mv .git/hooks .git/gone",
    "mv .git gone",
    "rm -rf .git",
    "echo x >> .git/config",
    "mv .git/config .git/gone",
    "ln -sf /tmp/x .git/config",
    "echo x > agentkernel.toml",
    "rm agentkernel.toml",
    "mv agentkernel.toml gone",
    "chmod 777 .git/hooks/pre-commit",
    "touch agentkernel.toml",
    "ln agentkernel.toml alias && echo x >> alias",
)


def tree_digest(root: Path) -> str:
    """A digest of a tree: names, kinds, modes, owners, times of change, contents, link targets."""
    digest = hashlib.sha256()
    for path in sorted([root, *root.rglob("*")]):
        found = path.lstat()
        facts = (path.relative_to(root), found.st_mode, found.st_uid, found.st_gid, found.st_nlink, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(repr(facts).encode())
        if stat.S_ISLNK(found.st_mode):
            digest.update(os.fsencode(path.readlink()))
        elif stat.S_ISREG(found.st_mode):
            digest.update(path.read_bytes())
    return digest.hexdigest()


class WorkspaceConformance(ConformanceBase):
    """The modes of the workspace."""

    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        """A project on the host."""
        root = tmp_path / "project"
        for name, content in (
            ("README", "read me\n"),
            ("src/main.c", "int main;\n"),
            (".git/hooks/pre-commit", "#!/bin/sh\n"),
            (".git/config", "[core]\n"),
            ("private", "for the owner\n"),
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        (root / "private").chmod(0o600)
        (root / "link").symlink_to("README")
        for directory in (tmp_path, root):
            directory.chmod(0o755)
        return root

    async def test_without_a_source_the_workspace_is_empty_and_private(self, backend: Backend, fingerprint: Fingerprint) -> None:
        async with self.running(backend) as first, self.running(backend) as second:
            assert await first.files.list(first.spec.workspace.target) == []
            await first.files.write(f"{first.spec.workspace.target}/mine", b"1")
            assert await second.files.list(second.spec.workspace.target) == []

    async def test_a_copy_on_write_view_shows_the_files_and_changes_none(
        self, backend: Backend, fingerprint: Fingerprint, project: Path
    ) -> None:
        need(fingerprint, Feature.WORKSPACE_COPY_ON_WRITE)
        before = tree_digest(project)
        async with self.running(backend, workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=str(project))) as sandbox:
            script = (
                "set -e; cat README private link; echo more >> README; rm src/main.c; mkdir made; echo x > made/file; mv private renamed;"
                " chmod 700 src; rm -r .git; ln -sf /etc/passwd link; touch -d 2001-01-01 src; cat README; ls"
            )
            result = await sandbox.exec(Command(argv=shell(script)))
            assert result.stderr == b""
            assert result.stdout == b"read me\nfor the owner\nread me\nread me\nmore\nREADME\nlink\nmade\nrenamed\nsrc\n"
        assert tree_digest(project) == before

    async def test_a_copy_on_write_view_is_owned_by_the_sandboxs_user(
        self, backend: Backend, fingerprint: Fingerprint, project: Path
    ) -> None:
        need(fingerprint, Feature.WORKSPACE_COPY_ON_WRITE)
        async with self.running(backend, workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=str(project))) as sandbox:
            assert {record.uid for record in await sandbox.files.list(sandbox.spec.workspace.target)} == {sandbox.spec.user.uid}

    async def test_a_writable_workspace_is_the_hosts_directory(self, backend: Backend, fingerprint: Fingerprint, project: Path) -> None:
        need(fingerprint, Feature.MOUNTS)
        async with self.running(backend, workspace=Workspace(mode=WorkspaceMode.WRITABLE, source=str(project))) as sandbox:
            result = await sandbox.exec(
                Command(argv=shell("set -e; cat private; echo new > new; mkdir sub; rm README; echo more >> src/main.c"))
            )
            assert (result.stdout, result.stderr, result.exit_code) == (b"for the owner\n", b"", 0)
        assert (project / "new").read_text() == "new\n"
        assert (project / "new").stat().st_uid == (project / "sub").stat().st_uid == os.geteuid()
        assert not (project / "README").exists()
        assert (project / "src" / "main.c").read_text() == "int main;\nmore\n"

    async def test_protected_paths_of_a_writable_workspace_stay_as_they_are(
        self, backend: Backend, fingerprint: Fingerprint, project: Path
    ) -> None:
        need(fingerprint, Feature.MOUNTS)
        (project / "agentkernel.toml").write_text("[sandbox]\n")
        protected = (".git/hooks", ".git/config", "agentkernel.toml")
        before = {name: tree_digest(project / name) for name in protected}
        workspace = Workspace(mode=WorkspaceMode.WRITABLE, source=str(project), protected=protected)
        async with self.running(backend, workspace=workspace) as sandbox:
            for attempt in ATTEMPTS_ON_PROTECTED:
                result = await sandbox.exec(Command(argv=shell(attempt)))
                assert result.exit_code != 0, f"{attempt!r} was possible"
            assert (await sandbox.exec(Command(argv=shell("echo x > .git/index && echo free > elsewhere")))).exit_code == 0
        assert {name: tree_digest(project / name) for name in protected} == before
        assert (project / "elsewhere").read_text() == "free\n"

    async def test_a_protected_link_and_what_it_leads_to_stay_as_they_are(
        self, backend: Backend, fingerprint: Fingerprint, project: Path
    ) -> None:
        need(fingerprint, Feature.MOUNTS)
        (project / "rules").mkdir()
        (project / "rules" / "tasks.json").write_text("mine\n")
        (project / ".vscode").symlink_to("rules")
        workspace = Workspace(mode=WorkspaceMode.WRITABLE, source=str(project), protected=(".vscode",))
        async with self.running(backend, workspace=workspace) as sandbox:
            for attempt in ("rm .vscode", "mv .vscode gone", "ln -sfn src .vscode", "echo x > .vscode/tasks.json", "mv rules gone"):
                result = await sandbox.exec(Command(argv=shell(attempt)))
                assert result.exit_code != 0, f"{attempt!r} was possible"
            assert (await sandbox.exec(Command(argv=shell("cat .vscode/tasks.json")))).stdout == b"mine\n"
        assert (project / ".vscode").readlink() == Path("rules")
        assert (project / "rules" / "tasks.json").read_text() == "mine\n"

    async def test_named_files_are_all_that_is_seen_and_read_only(self, backend: Backend, fingerprint: Fingerprint, project: Path) -> None:
        need(fingerprint, Feature.MOUNTS)
        before = tree_digest(project)
        workspace = Workspace(mode=WorkspaceMode.FILES, source=str(project), files=("README", "src/main.c"))
        async with self.running(backend, workspace=workspace) as sandbox:
            seen = await sandbox.exec(Command(argv=shell("find . -type f | sort; cat README src/main.c")))
            assert seen.stdout == b"./README\n./src/main.c\nread me\nint main;\n"
            for attempt in ("echo x > README", "rm README", "mv src/main.c src/other", "chmod 777 README"):
                assert (await sandbox.exec(Command(argv=shell(attempt)))).exit_code != 0, attempt
        assert tree_digest(project) == before

    async def test_a_mount_is_read_only_unless_asked_otherwise(self, backend: Backend, fingerprint: Fingerprint, project: Path) -> None:
        need(fingerprint, Feature.MOUNTS)
        writable = project / "src"
        mounts = (Bind(source=str(project), target="/mnt/all"), Bind(source=str(writable), target="/mnt/some", writable=True))
        async with self.running(backend, mounts=mounts) as sandbox:
            assert (await sandbox.exec(Command(argv=shell("cat /mnt/all/README /mnt/some/main.c")))).stdout == b"read me\nint main;\n"
            for attempt in ("echo x > /mnt/all/README", "rm /mnt/all/README", "echo x > /mnt/all/src/main.c", "touch /mnt/all"):
                assert (await sandbox.exec(Command(argv=shell(attempt)))).exit_code != 0, attempt
            assert (await sandbox.exec(Command(argv=shell("echo made > /mnt/some/made")))).exit_code == 0
        assert (writable / "made").read_text() == "made\n"
        assert (project / "README").read_text() == "read me\n"

    async def test_a_single_file_can_be_mounted(self, backend: Backend, fingerprint: Fingerprint, project: Path) -> None:
        need(fingerprint, Feature.MOUNTS)
        async with self.running(backend, mounts=(Bind(source=str(project / "README"), target="/mnt/file"),)) as sandbox:
            assert (
                await sandbox.exec(Command(argv=shell("cat /mnt/file; echo x > /mnt/file || echo refused")))
            ).stdout == b"read me\nrefused\n"

    async def test_a_mount_can_be_without_execution(
        self, backend: Backend, fingerprint: Fingerprint, project: Path, probe_binary: Path
    ) -> None:
        need(fingerprint, Feature.MOUNTS)
        shutil.copy(probe_binary, project / "probe")
        (project / "probe").chmod(0o755)
        mounts = (Bind(source=str(project), target="/mnt/plain"), Bind(source=str(project), target="/mnt/noexec", executable=False))
        async with self.running(backend, mounts=mounts) as sandbox:
            result = await sandbox.exec(Command(argv=shell("/mnt/plain/probe exit 3; echo $?; /mnt/noexec/probe exit 3; echo $?")))
            assert result.stdout == b"3\n126\n"

    async def test_set_user_id_means_nothing_in_a_mount(
        self, backend: Backend, fingerprint: Fingerprint, project: Path, probe_binary: Path
    ) -> None:
        need(fingerprint, Feature.MOUNTS)
        shutil.copy(probe_binary, project / "probe")
        (project / "probe").chmod(0o6755)
        async with self.running(backend, mounts=(Bind(source=str(project), target="/mnt/project"),)) as sandbox:
            facts = (await sandbox.exec(Command(argv=(b"/mnt/project/probe", b"identity")))).stdout.split()
            assert facts[1] == facts[3] == str(sandbox.spec.user.uid).encode()

    async def test_a_workspace_that_is_not_there_is_an_error(self, backend: Backend, fingerprint: Fingerprint, tmp_path: Path) -> None:
        need(fingerprint, Feature.MOUNTS)
        workspace = Workspace(mode=WorkspaceMode.WRITABLE, source=str(tmp_path / "absent"))
        with pytest.raises(AgentKernelError, match="absent"):
            await (await backend.create(self.spec(workspace=workspace))).destroy()
