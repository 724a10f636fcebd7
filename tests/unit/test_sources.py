"""Where the host paths of a spec really are: links are followed where nobody can turn them against the user."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agentkernel.backends._sources import (
    hidden_in_home,
    owners,
    protected_in_workspace,
    require_apart,
    resolved_sources,
)
from agentkernel.errors import Refused
from agentkernel.model.spec import Bind, RootFilesystem, RootKind, SandboxSpec, Workspace, WorkspaceMode

ROOT = RootFilesystem(kind=RootKind.HOST)


def spec(**fields: object) -> SandboxSpec:
    return SandboxSpec(**{"name": "one", "profile": "moderate", "root": ROOT, **fields})  # type: ignore[arg-type]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "project" / "sub").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "id_rsa").write_text("key")
    return tmp_path / "project"


@pytest.mark.parametrize("mode", [WorkspaceMode.WRITABLE, WorkspaceMode.COPY_ON_WRITE])
def test_a_judged_directory_that_became_a_link_is_not_followed(project: Path, mode: WorkspaceMode):
    (project / "sub").rmdir()
    (project / "sub").symlink_to(project.parent / "secret")
    workspace = Workspace(mode=mode, source=str(project / "sub"))
    mounts = (Bind(source=str(project / "sub"), target="/mnt/sub"),)
    assert resolved_sources(spec(workspace=workspace, mounts=mounts)) == {str(project / "sub"): str(project / "sub")}


def test_a_named_file_is_where_its_link_leads_but_never_out_of_its_directory(project: Path):
    (project / "real.py").write_text("")
    (project / "sub" / "inside.py").symlink_to("../real.py")
    (project / "outside.py").symlink_to(project.parent / "secret" / "id_rsa")
    names = ("sub/inside.py", "outside.py", "absent.py")
    found = resolved_sources(spec(workspace=Workspace(mode=WorkspaceMode.FILES, source=str(project), files=names)))
    assert found[f"{project}/sub/inside.py"] == str(project / "real.py")
    assert found[f"{project}/outside.py"] == f"{project}/outside.py", "the launcher follows no link, and refuses it"
    assert set(owners(spec(workspace=Workspace(mode=WorkspaceMode.FILES, source=str(project), files=names)))) == {
        f"{project}/sub/inside.py",
        f"{project}/outside.py",
    }


def test_links_of_the_system_are_followed_and_none_that_somebody_else_may_have_made(project: Path):
    (project / "ca.pem").symlink_to("sub")
    system, bundle = "/usr/bin/../bin/env", str(project / "ca.pem")
    root = RootFilesystem(kind=RootKind.HOST, binds=(Bind(source=system, target="/x"), Bind(source=bundle, target=bundle)))
    assert resolved_sources(spec(root=root)) == {system: os.path.realpath(system), bundle: bundle}


def test_credentials_are_hidden_where_they_really_are(tmp_path: Path):
    home = tmp_path / "home"
    (home / "dotfiles" / "config" / "gh").mkdir(parents=True)
    (home / "dotfiles" / "aws").mkdir()
    (home / ".ssh").mkdir()
    (home / ".aws").symlink_to("dotfiles/aws")
    (home / ".config").symlink_to("dotfiles/config")
    (home / ".kube").symlink_to(tmp_path)
    (home / "run" / "agentkernel").mkdir(parents=True)
    denied = (".ssh", ".aws", ".config/gh", ".config/op", ".kube", ".netrc")
    assert hidden_in_home(spec(home_source=str(home), home_denied=denied), (f"{home}/run/agentkernel", "/nowhere")) == (
        ".ssh", "dotfiles/aws", "dotfiles/config/gh", "run/agentkernel",
    )  # fmt: skip


def test_a_protected_link_is_protected_with_each_link_on_the_way_and_its_end(project: Path):
    (project / "gitdir").mkdir()
    (project / ".git").symlink_to("gitdir")
    (project / ".cursorrules").symlink_to("second")
    (project / "second").symlink_to("sub/../AGENTS.md")
    (project / ".vscode").symlink_to(project.parent / "secret")
    (project / ".claude").symlink_to(".claude")
    names = (".envrc", ".git/hooks", ".cursorrules", ".vscode", ".claude")
    workspace = Workspace(mode=WorkspaceMode.WRITABLE, source=str(project), protected=names)
    assert protected_in_workspace(workspace) == (
        ".envrc", ".git", "gitdir/hooks", ".cursorrules", "second", "AGENTS.md", ".vscode", ".claude",
    )  # fmt: skip


@pytest.mark.parametrize("shown", ["tmp", "tmp/agentkernel-7", "tmp/agentkernel-7/sandboxes/x"])
def test_no_sandbox_sees_what_the_next_sweep_believes(tmp_path: Path, shown: str):
    own = (str(tmp_path / "tmp" / "agentkernel-7"),)
    source = str(tmp_path / shown)
    for seen in (
        spec(workspace=Workspace(mode=WorkspaceMode.WRITABLE, source=source)),
        spec(mounts=(Bind(source=source, target="/mnt/x"),)),
    ):
        with pytest.raises(Refused, match="keeps its own state in"):
            require_apart(seen, own)
    require_apart(spec(workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=source)), own)
    require_apart(spec(workspace=Workspace(mode=WorkspaceMode.WRITABLE, source=str(tmp_path / "tmp" / "project"))), own)


def test_sockets_in_the_home_directory_are_hidden(tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    with socket.socket(socket.AF_UNIX) as inside, socket.socket(socket.AF_UNIX) as outside:
        inside.bind(str(home / "docker.sock"))
        outside.bind(str(tmp_path / "other.sock"))
        assert hidden_in_home(spec(home_source=str(home)), ()) == ("docker.sock",)
    assert hidden_in_home(spec(), ()) == ()
