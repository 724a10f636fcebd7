"""Logins as docker and podman leave them, and the programs that keep them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from agentkernel.errors import ImageFailed, InvalidInput
from agentkernel.images.credentials import HUB_KEY, Credentials, Login
from agentkernel.images.reference import parse

HELPER = """#!/bin/sh
[ "$1" = get ] || exit 3
server=$(cat)
echo "$server $HOME" >> "$0.asked"
{body}
"""


class Logins:
    """One user's home and what is in it."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.programs = directory / "bin"
        for made in (self.home, self.programs):
            made.mkdir()
        self.environment = {"PATH": f"{self.programs}:/usr/bin:/bin"}

    def docker(self, **content: Any) -> None:
        self.write(".docker/config.json", content)

    def podman(self, **content: Any) -> None:
        self.write(".config/containers/auth.json", content)

    def write(self, name: str, content: Any) -> Path:
        file = self.home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    def helper(self, name: str, body: str) -> Path:
        program = self.programs / f"docker-credential-{name}"
        program.write_text(HELPER.replace("{body}", body))
        program.chmod(0o755)
        return program

    async def of(self, image: str) -> Login | None:
        return await Credentials(self.environment, str(self.home)).login_for(parse(image))


@pytest.fixture
def logins(tmp_path: Path) -> Logins:
    return Logins(tmp_path)


def packed(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def ali(password: str) -> Login:
    return Login(username="ali", password=password)


async def test_nobody_has_logged_in(logins: Logins) -> None:
    assert await logins.of("alpine") is None
    logins.docker()
    logins.podman(auths={"other.example": packed("ali", "x")})
    assert await logins.of("registry.example/a") is None


@pytest.mark.parametrize(
    "key",
    ["registry.example", "https://registry.example", "https://registry.example/v1/", "http://registry.example/v2/", "registry.example"],
)
async def test_docker_writes_a_registry_in_several_ways(logins: Logins, key: str) -> None:
    logins.docker(auths={key: packed("ali", "a:b")})
    assert await logins.of("registry.example/team/app") == ali("a:b")


@pytest.mark.parametrize("key", [HUB_KEY, "docker.io", "index.docker.io", "registry-1.docker.io"])
async def test_docker_hub_has_several_names(logins: Logins, key: str) -> None:
    logins.docker(auths={key: packed("ali", "x")})
    assert await logins.of("alpine") == ali("x")


async def test_a_port_is_part_of_a_registrys_name(logins: Logins) -> None:
    logins.docker(auths={"localhost:5000": packed("ali", "x")})
    assert await logins.of("localhost:5000/a") == ali("x")
    assert await logins.of("localhost:5001/a") is None
    assert await logins.of("localhost/a") is None


async def test_the_most_exact_entry_of_podman_wins(logins: Logins) -> None:
    entries = {"quay.io": packed("ali", "all"), "quay.io/team": packed("ali", "team"), "quay.io/team/app": packed("ali", "app")}
    logins.podman(auths=entries)
    assert await logins.of("quay.io/team/app") == ali("app")
    assert await logins.of("quay.io/team/other") == ali("team")
    assert await logins.of("quay.io/teams/app") == ali("all")


async def test_podmans_file_comes_before_dockers_and_the_named_one_before_both(logins: Logins) -> None:
    logins.docker(auths={"quay.io": packed("ali", "docker"), "ghcr.io": packed("ali", "docker")})
    logins.podman(auths={"quay.io": packed("ali", "podman")})
    assert await logins.of("quay.io/a") == ali("podman")
    assert await logins.of("ghcr.io/a") == ali("docker")
    logins.environment["REGISTRY_AUTH_FILE"] = str(logins.write("named.json", {"auths": {"quay.io": packed("ali", "named")}}))
    logins.environment["DOCKER_CONFIG"] = str(logins.write("elsewhere/config.json", {"auths": {"ghcr.io": packed("ali", "moved")}}).parent)
    assert await logins.of("quay.io/a") == ali("named")
    assert await logins.of("ghcr.io/a") == ali("moved")


async def test_an_identity_token_stands_for_both(logins: Logins) -> None:
    logins.docker(auths={"registry.example": {**packed("ali", ""), "identitytoken": "secret"}})
    assert await logins.of("registry.example/a") == Login(identity_token="secret")


async def test_no_secret_is_in_what_is_shown_of_a_login() -> None:
    assert "secret" not in repr(Login(username="ali", password="secret", identity_token="secret"))


async def test_a_helper_is_asked_for_its_registry(logins: Logins) -> None:
    program = logins.helper("gcloud", """echo '{"ServerURL": "x", "Username": "ali", "Secret": "kept"}'""")
    logins.docker(credHelpers={"gcr.io": "gcloud"}, auths={"gcr.io": packed("ali", "file")})
    assert await logins.of("gcr.io/a") == ali("kept")
    assert Path(f"{program}.asked").read_text() == f"gcr.io {logins.home}\n"


async def test_a_helper_for_all_is_asked_by_dockers_own_name_of_its_hub(logins: Logins) -> None:
    program = logins.helper("pass", """echo '{"Username": "<token>", "Secret": "kept"}'""")
    logins.docker(credsStore="pass", auths={HUB_KEY: {}})
    assert await logins.of("alpine") == Login(identity_token="kept")
    assert Path(f"{program}.asked").read_text() == f"{HUB_KEY} {logins.home}\n"


async def test_a_helper_that_does_not_know_leaves_it_to_the_file(logins: Logins) -> None:
    logins.helper("pass", "echo 'credentials not found in native keychain'; exit 1")
    logins.docker(credsStore="pass", auths={"quay.io": packed("ali", "file")})
    assert await logins.of("quay.io/a") == ali("file")
    assert await logins.of("ghcr.io/a") is None


@pytest.mark.parametrize(
    ("name", "body", "match"),
    [
        ("locked", "echo 'the keyring is locked'; exit 1", "failed with status 1"),
        ("silent", "true", "no login"),
        ("wrong", "echo '[1]'", "no login"),
        ("odd", """echo '{"Username": 1, "Secret": "x"}'""", "no login"),
        ("missing", "", "is not installed"),
        ("../../evil", "", "is not installed"),
    ],
)
async def test_a_helper_that_fails_is_an_error_and_not_an_anonymous_pull(logins: Logins, name: str, body: str, match: str) -> None:
    if body:
        logins.helper(name, body)
    logins.docker(credHelpers={"quay.io": name})
    with pytest.raises(ImageFailed, match=match):
        await logins.of("quay.io/a")


async def test_a_helper_that_never_answers_is_ended(logins: Logins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentkernel.images.credentials.HELPER_TIMEOUT_S", 0.2)
    logins.helper("slow", 'echo $$ > "$0.pid"; exec sleep 1000')
    logins.docker(credsStore="slow")
    with pytest.raises(ImageFailed, match="does not answer"):
        await logins.of("quay.io/a")


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "[" * 100_000, '{"auths": []}', '{"auths": {"quay.io": {"auth": "%%%"}}}', '{"credHelpers": 1}']
)
async def test_a_damaged_file_is_said_so(logins: Logins, content: str) -> None:
    logins.write(".docker/config.json", content)
    with pytest.raises(InvalidInput, match=r"config\.json"):
        await logins.of("quay.io/a")


@pytest.mark.parametrize("entry", [{}, {"auth": ""}, {"auth": base64.b64encode(b"nocolon").decode()}, {"auth": 7}, 7, None])
async def test_an_entry_without_login_is_none(logins: Logins, entry: Any) -> None:
    logins.docker(auths={"quay.io": entry})
    assert await logins.of("quay.io/a") is None


async def test_what_is_no_file_is_not_read(logins: Logins) -> None:
    (logins.home / ".docker/config.json").mkdir(parents=True)
    assert await logins.of("quay.io/a") is None
