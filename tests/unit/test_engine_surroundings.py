"""The facts that policy gets: paths without symlinks, files that argv names, what must stay read-only, credentials."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkernel.engine.parts import ImageParts, Parts
from agentkernel.engine.surroundings import gather, resolve
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import Bind, RootFilesystem, RootKind
from agentkernel.policy.surroundings import Surroundings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def project(home: Path) -> Path:
    path = home / "project"
    path.mkdir()
    (path / "package.json").touch()
    return path


def _parts(home: Path) -> Parts:
    images = ImageParts(
        host_root=lambda **_: RootFilesystem(kind=RootKind.HOST),
        is_project=lambda directory, _: Path(directory, "package.json").exists(),
        image_for=lambda argv, _: f"image of {argv[0]}" if argv else "none",
        unpack_argv=lambda tar, destination, limit: (),
    )
    nothing: Any = None
    return Parts(backends=nothing, images=images, environment={}, home=str(home), uid=1000, cache_directory="/nonexistent", standing=str)


def _facts(home: Path, request: SandboxRequest) -> Surroundings:
    return gather(resolve(request), _parts(home))


def _request(cwd: Path, *words: str, **changes: Any) -> SandboxRequest:
    return SandboxRequest(argv=tuple(word.encode() for word in words), cwd=str(cwd), **changes)


def test_every_host_path_of_a_request_is_resolved(home: Path, project: Path) -> None:
    link = home / "link"
    link.symlink_to(project)
    request = resolve(_request(link, "true", directory=str(link), mounts=(Bind(source=str(link), target="/data"),), image=str(link)))
    assert (request.cwd, request.directory, request.image) == (str(project),) * 3
    assert request.mounts[0].source == str(project)


def test_an_image_that_is_nothing_on_this_host_keeps_its_name(project: Path) -> None:
    assert resolve(_request(project, "true", image="python:3.12-alpine")).image == "python:3.12-alpine"


def test_images_are_directories_or_tar_files(home: Path, project: Path) -> None:
    (project / "rootfs").mkdir()
    (project / "image.tar").touch()
    (project / "other").touch()
    found = [_facts(home, _request(project, "true", image=name)) for name in ("rootfs", "image.tar", "other")]
    assert [facts.image_directory for facts in found] == [str(project / "rootfs"), None, None]
    assert [facts.image_is_tar for facts in found] == [False, True, False]


def test_a_project_is_recognised(home: Path, project: Path) -> None:
    assert _facts(home, _request(project, "npm")).cwd_is_project
    assert not _facts(home, _request(home, "npm")).cwd_is_project
    assert _facts(home, _request(project, "npm", "test")).detected_image == "image of npm"


def test_the_files_that_the_command_line_names_are_found(home: Path, project: Path) -> None:
    (project / "src").mkdir()
    for name in ("src/job.py", "config.json", "unnamed", "own-link-target"):
        (project / name).touch()
    (project / "own-link").symlink_to("own-link-target")
    words = ("python3", "./src/job.py", "--config=config.json", str(project / "package.json"), "own-link", "missing", "src", "-x")
    assert _facts(home, _request(project, *words)).named_files == ("src/job.py", "config.json", "package.json", "own-link")


def test_files_outside_the_working_directory_are_not_named(home: Path, project: Path) -> None:
    (home / "secret").touch()
    (project / "out").symlink_to(home / "secret")
    (project / "up").symlink_to("..")
    words = ("cat", "out", "../secret", "up/secret", str(home / "secret"), "/etc/passwd", "a\0b")
    assert _facts(home, _request(project, *words)).named_files == ()


def test_a_link_to_a_key_in_the_project_is_not_named(home: Path, project: Path) -> None:
    (project / "keys").mkdir()
    (project / "keys" / "id_rsa").touch()
    (project / "notes.txt").symlink_to("keys/id_rsa")
    assert _facts(home, _request(project, "cat", "notes.txt")).named_files == ()


def test_protected_files_are_found_where_they_exist(home: Path, project: Path) -> None:
    (project / ".git" / "hooks").mkdir(parents=True)
    (project / "agentkernel.toml").touch()
    other = home / "other"
    (other / ".vscode").mkdir(parents=True)
    mounts = (Bind(source=str(other), target="/a", writable=True), Bind(source=str(project), target="/b"))
    facts = _facts(home, _request(project, "true", mounts=mounts))
    assert set(facts.protected_present) == {".git/hooks", "agentkernel.toml"}
    assert facts.protected_in_mounts == ((str(other), ".vscode"),)
    assert _facts(home, _request(project, "true", directory=str(other))).protected_present == (".vscode",)


@pytest.mark.parametrize("name", [".ssh", ".aws", ".netrc", "id_ed25519", ".config/gcloud"])
def test_credentials_in_a_shown_directory_are_found(name: str, home: Path, project: Path) -> None:
    (project / name).parent.mkdir(exist_ok=True)
    (project / name).touch()
    assert (str(project), name) in _facts(home, _request(project, "true")).credentials_found


@pytest.mark.parametrize("name", [".npmrc", ".yarnrc.yml", ".cursor", ".history", "id_rsa.pub"])
def test_what_projects_hold_for_their_own_tools_is_no_credential(name: str, home: Path, project: Path) -> None:
    (project / name).touch()
    assert _facts(home, _request(project, "true")).credentials_found == ()


def test_a_directory_that_cannot_be_read_has_no_facts(home: Path, project: Path) -> None:
    gone = replace(_request(project, "true"), directory=str(home / "gone"))
    facts = _facts(home, gone)
    assert (facts.protected_present, facts.credentials_found) == ((), ())
