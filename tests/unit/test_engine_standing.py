"""What the host shows now, as warm pools compare it: replaced files and directories, and file systems mounted since."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from unit.pool_world import spec_of

from agentkernel.engine.standing import is_poolable, standing_of
from agentkernel.model.spec import Bind, RootFilesystem, RootKind, SandboxSpec, Workspace, WorkspaceMode
from agentkernel.policy.inside import CERTIFICATES


@pytest.fixture
def spec(tmp_path: Path) -> SandboxSpec:
    (tmp_path / "project").mkdir()
    (tmp_path / "tools").mkdir()
    (tmp_path / "cache").write_text("old")
    return spec_of(
        root=RootFilesystem(
            kind=RootKind.HOST,
            binds=tuple(Bind(source=str(tmp_path / name), target=f"/{name}") for name in ("tools", "cache", "missing")),
        ),
        workspace=Workspace(mode=WorkspaceMode.COPY_ON_WRITE, source=str(tmp_path / "project")),
    )


def test_it_stays_the_same_when_files_change_where_they_are(spec: SandboxSpec, tmp_path: Path) -> None:
    before = standing_of(spec)
    (tmp_path / "project" / "new").write_text("x")
    (tmp_path / "tools" / "new").write_text("x")
    (tmp_path / "cache").write_text("new")
    assert standing_of(spec) == before


def test_a_replaced_file_is_another(spec: SandboxSpec, tmp_path: Path) -> None:
    before = standing_of(spec)
    (tmp_path / "cache.new").write_text("new")
    (tmp_path / "cache.new").rename(tmp_path / "cache")
    assert standing_of(spec) != before


@pytest.mark.parametrize("name", ["project", "tools"])
def test_a_replaced_directory_is_another(spec: SandboxSpec, tmp_path: Path, name: str) -> None:
    before = standing_of(spec)
    (tmp_path / name).rename(tmp_path / "aside")
    (tmp_path / name).mkdir()
    assert standing_of(spec) != before


def test_what_appears_or_goes_is_noticed(spec: SandboxSpec, tmp_path: Path) -> None:
    before = standing_of(spec)
    (tmp_path / "missing").mkdir()
    between = standing_of(spec)
    (tmp_path / "cache").unlink()
    assert len({before, between, standing_of(spec)}) == 3


def test_an_image_is_looked_at_too(tmp_path: Path) -> None:
    (tmp_path / "image").mkdir()
    spec = spec_of(root=RootFilesystem(kind=RootKind.DIRECTORY, directory=str(tmp_path / "image")))
    before = standing_of(spec)
    (tmp_path / "image").rename(tmp_path / "aside")
    (tmp_path / "image").mkdir()
    assert standing_of(spec) != before


def test_whom_the_host_trusts_is_the_one_mount_that_is_looked_at(tmp_path: Path) -> None:
    bundle = tmp_path / "certificates.pem"
    bundle.write_text("old")
    spec = spec_of(mounts=(Bind(source=str(bundle), target=CERTIFICATES),))
    assert is_poolable(spec)
    before = standing_of(spec)
    (tmp_path / "new").write_text("new")
    (tmp_path / "new").rename(bundle)
    assert standing_of(spec) != before
    assert not is_poolable(spec_of(mounts=(*spec.mounts, Bind(source="/srv", target="/data"))))
    assert not is_poolable(spec_of(gpus="all"))


MOUNTING = """
import os, pickle, subprocess, sys
from agentkernel.engine.standing import is_poolable, standing_of
spec = pickle.loads(bytes.fromhex(sys.argv[1]))
def mount(path):
    subprocess.run(["mount", "-t", "tmpfs", "none", path], check=True)
before = standing_of(spec)
mount(sys.argv[3])
beside = standing_of(spec)
mount(sys.argv[2])
print(before == beside, before == standing_of(spec))
"""


def test_a_file_system_mounted_below_since_is_noticed(spec: SandboxSpec, tmp_path: Path) -> None:
    """Also where the path has to be escaped in the kernel's list."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("needs user namespaces that may mount")
    source = tmp_path / "a project\\"
    (source / "below").mkdir(parents=True)
    (tmp_path / "a project\\ beside").mkdir()
    spec = replace(spec, workspace=replace(spec.workspace, source=str(source)))
    argv = [unshare, "-rm", sys.executable, "-c", MOUNTING, pickle.dumps(spec).hex(), str(source / "below"), f"{source} beside"]
    found = subprocess.run(argv, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert found.stdout == "True False\n", found.stderr
