"""The facts that policy gets: paths without symlinks, files that argv names, what must stay read-only, credentials."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentkernel.engine.parts import ImageParts, Parts
from agentkernel.engine.surroundings import gather, resolve
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import Bind, RootFilesystem, RootKind
from agentkernel.policy.deny import denied_in_home, protected_paths
from agentkernel.policy.surroundings import ImageName, Surroundings
from agentkernel.store.memory import MemoryStore


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


def _parts(home: Path, root: RootFilesystem | None = RootFilesystem(kind=RootKind.HOST)) -> Parts:  # noqa: B008 - frozen
    images = ImageParts(
        host_root=lambda **_: root,
        is_project=lambda directory, _: Path(directory, "package.json").exists(),
        image_for=lambda argv, names: {b"npm": "node"}.get(argv[0]) if argv else ("node-project" if "package.json" in names else None),
        unpack_argv=lambda options, archives, destination, limit: (),
        canonical=lambda text: f"registry/{text}",
        image_of_language=lambda language: f"image-of-{language}",
        default_image=lambda: "default",
    )
    nothing: Any = None
    return Parts(
        backends=nothing,
        images=images,
        environment={},
        home=str(home),
        uid=1000,
        cache_directory="/nonexistent",
        standing=str,
        open_store=MemoryStore,
        data_directory="/nonexistent",
        runtime_directory="/nonexistent",
    )


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


def test_an_image_is_a_path_only_where_the_settings_made_it_one(home: Path, project: Path) -> None:
    """A project's file that lies elsewhere must not choose what of the working directory becomes a root file system."""
    (project / "rootfs").mkdir()
    (project / "image.tar").touch()
    for name in ("rootfs", "image.tar", "./rootfs"):
        request = _request(project, "true", image=name)
        assert resolve(request).image == name
        facts = _facts(home, request)
        assert (facts.image_directory, facts.image_is_tar) == (None, False)


def test_images_are_directories_or_archives(home: Path, project: Path) -> None:
    (project / "rootfs").mkdir()
    (project / "image.tar").touch()
    (project / "other").touch()
    found = [_facts(home, _request(project, "true", image=str(project / name))) for name in ("rootfs", "image.tar", "other")]
    assert [facts.image_directory for facts in found] == [str(project / "rootfs"), None, None]
    assert [facts.image_is_tar for facts in found] == [False, True, False]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2"])
def test_a_compressed_archive_is_an_image_too(ending: str, home: Path, project: Path) -> None:
    (project / f"image{ending}").touch()
    assert _facts(home, _request(project, "true", image=str(project / f"image{ending}"))).image_is_tar


def test_a_project_is_recognised(home: Path, project: Path) -> None:
    assert _facts(home, _request(project, "npm")).cwd_is_project
    assert not _facts(home, _request(home, "npm")).cwd_is_project


def _text(found: ImageName | None) -> str | None:
    assert found is None or found.reference == f"registry/{found.text}"
    return None if found is None else found.text


def test_images_are_thought_of_for_the_command_then_for_the_project(home: Path, project: Path) -> None:
    of_command = _facts(home, _request(project, "npm", "test"))
    assert (_text(of_command.command_image), _text(of_command.picked_image)) == ("node", "node")
    of_project = _facts(home, _request(project, "true"))
    assert (_text(of_project.command_image), _text(of_project.picked_image)) == (None, "node-project")
    said = _facts(home, _request(project, "true", language="go"))
    assert _text(said.picked_image) == "image-of-go"
    assert _text(_facts(home, _request(home, "true")).picked_image) == "default"


def test_who_names_an_image_is_shown_no_other_and_nothing_of_the_host(home: Path, project: Path) -> None:
    facts = _facts(home, _request(project, "npm", image="python:3.12"))
    assert (_text(facts.image_name), facts.command_image, facts.picked_image, facts.root) == ("python:3.12", None, None, None)
    facts = _facts(home, _request(project, "npm", image="/srv/image"))
    assert (facts.image_name, facts.picked_image, facts.root) == (None, None, None)


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


@pytest.mark.parametrize("readable", [True, False])
def test_listing_finds_what_looking_each_path_up_would_find(
    readable: bool, home: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in a directory that may be entered but not read."""
    for name in (".ssh", ".config/gh/hosts.yml", ".config/other", ".local/share/keyrings", ".git/config", ".envrc", ".azure", "id_rsa"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    (project / ".aws").symlink_to("nowhere")
    (project / ".gem").symlink_to(home)
    (home / "credentials").touch()
    if not readable:
        monkeypatch.setattr(os, "listdir", _forbidden)
    facts = _facts(home, _request(project, "true"))
    there = {name for name in denied_in_home() if os.path.lexists(project / name)}
    assert {".aws", ".config/gh", ".gem/credentials", ".local/share/keyrings"} < there
    assert {name for _, name in facts.credentials_found} == there | ({"id_rsa"} if readable else set())
    assert facts.protected_present == tuple(name for name in protected_paths() if os.path.lexists(project / name))


def _forbidden(path: str) -> list[str]:
    raise PermissionError(path)


def test_a_file_system_without_case_hides_nothing(home: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / ".ssh").mkdir()
    monkeypatch.setattr(os, "listdir", lambda path: [".SSH"])  # as it was once made
    assert (str(project), ".ssh") in _facts(home, _request(project, "true")).credentials_found


def test_a_large_directory_is_listed_not_searched(home: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    lexists = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: looked_up.append(path) or lexists(path))
    (project / ".envrc").touch()
    _facts(home, _request(project, "true"))
    assert looked_up == [f"{project}/.envrc"]


def test_a_directory_that_cannot_be_read_has_no_facts(home: Path, project: Path) -> None:
    gone = replace(_request(project, "true"), directory=str(home / "gone"))
    facts = _facts(home, gone)
    assert (facts.protected_present, facts.credentials_found) == ((), ())


def test_a_git_file_and_what_redirects_git_are_protected(home: Path, project: Path) -> None:
    (project / ".git").write_text("gitdir: ../elsewhere")
    assert ".git" in _facts(home, _request(project)).protected_present
    (project / ".git").unlink()
    (project / ".git").mkdir()
    (project / ".git" / "commondir").write_text("..")
    found = _facts(home, _request(project)).protected_present
    assert ".git/commondir" in found and ".git" not in found
