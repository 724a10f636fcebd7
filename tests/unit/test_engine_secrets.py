"""Values in the engine's memory, and the file that vouches for the bound hosts."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentkernel.egress.authority import make_authority
from agentkernel.engine.secrets import MAX_BUNDLE_BYTES, Secrets
from agentkernel.errors import Conflict, InvalidInput, Unsupported
from agentkernel.model.isolation import IsolationLevel
from agentkernel.model.network import Secret
from agentkernel.model.record import SandboxRecord
from agentkernel.model.request import SandboxRequest
from agentkernel.model.spec import RootFilesystem, RootKind, SandboxSpec
from agentkernel.model.status import Status
from agentkernel.policy.inside import CERTIFICATES

SECRET = Secret(name="KEY", hosts=("api.example.com", "eu.example.com:8443"), placeholder="agentkernel-secret-" + "a" * 32)
SPEC = SandboxSpec(name="box", root=RootFilesystem(kind=RootKind.HOST), profile="moderate", secrets=(SECRET,))
REQUEST = SandboxRequest(secret_values={"KEY": "the-value", "OTHER": "not its"})


def record_of(spec: SandboxSpec, status: Status = Status.STOPPED) -> SandboxRecord:
    return SandboxRecord(
        sandbox_id="0" * 16,
        name="box",
        owner="ann",
        status=status,
        backend="scripted",
        isolation=IsolationLevel.CONTAINER,
        spec=spec,
        created_at=0.0,
    )


async def test_values_are_kept_by_sandbox_until_it_is_gone() -> None:
    secrets = Secrets(make_authority)
    secrets.keep(SPEC, REQUEST)
    other = replace(SPEC, secrets=(replace(SECRET, placeholder="agentkernel-secret-" + "b" * 32),))
    assert secrets.of(SPEC).values == {"KEY": "the-value"}
    assert secrets.of(other).values == {}
    assert "the-value" not in repr(secrets.of(SPEC))
    secrets.forget(SPEC)
    secrets.forget(SPEC)
    assert secrets.of(SPEC).values == {}
    assert secrets.of(SPEC).leaves == {}


async def test_every_boot_has_an_authority_of_its_own_for_the_bound_hosts_alone(tmp_path: Path) -> None:
    trust = tmp_path / "trust.pem"
    trust.write_text(make_authority(("else.example.com",)).certificate)
    secrets = Secrets(make_authority)
    spec = replace(SPEC, trust=str(trust))
    secrets.keep(spec, REQUEST)
    one = await secrets.built(spec)
    first = secrets.of(spec)
    two = await secrets.built(spec)
    assert set(first.leaves) == {"api.example.com", "eu.example.com"}
    assert first.trust == str(trust)
    assert first.values == secrets.of(spec).values == {"KEY": "the-value"}
    bundles = [next(file.content.decode() for file in each.root.files if file.path == CERTIFICATES) for each in (one, two)]
    assert all(each.startswith(trust.read_text()) for each in bundles)
    assert bundles[0] != bundles[1]
    assert all("PRIVATE KEY" not in each for each in bundles)
    context = ssl.create_default_context(cadata=bundles[0])
    assert len(context.get_ca_certs()) == 2
    again = await secrets.built(one)
    assert [file.path for file in again.root.files] == [CERTIFICATES]


async def test_a_sandbox_without_secrets_is_built_as_it_is() -> None:
    spec = replace(SPEC, secrets=())
    assert await Secrets(make_authority).built(spec) is spec


async def test_values_are_given_again_to_what_does_not_run() -> None:
    secrets = Secrets(make_authority)
    secrets.give(record_of(SPEC), {"KEY": "another-value"})
    assert secrets.of(SPEC).values == {"KEY": "another-value"}
    with pytest.raises(InvalidInput, match="has no secret OTHER"):
        secrets.give(record_of(SPEC), {"OTHER": "x"})
    with pytest.raises(Conflict):
        secrets.give(record_of(SPEC, Status.RUNNING), {"KEY": "x"})


async def test_what_cannot_be_vouched_for_is_said(tmp_path: Path) -> None:
    def missing(hosts: object) -> tuple[str, dict[str, str]]:
        raise ImportError("cryptography")

    with pytest.raises(Unsupported) as caught:
        await Secrets(missing).built(SPEC)
    assert caught.value.hint == "pip install cryptography"
    large = tmp_path / "large.pem"
    large.write_bytes(bytes(MAX_BUNDLE_BYTES) + b"-----BEGIN CERTIFICATE-----")
    with pytest.raises(InvalidInput, match="longer than"):
        await Secrets(make_authority).built(replace(SPEC, trust=str(large)))


async def test_what_was_put_in_the_place_of_certificates_since_they_were_judged_is_not_shown(tmp_path: Path) -> None:
    trust, key = tmp_path / "trust.pem", tmp_path / "key"
    certificate = make_authority(("else.example.com",)).certificate
    key.write_text(f"{certificate}-----BEGIN PRIVATE KEY-----\n")
    spec = replace(SPEC, trust=str(trust))

    def pipe() -> None:
        os.mkfifo(trust)

    def closed() -> None:
        trust.write_text(certificate)
        trust.chmod(0o600)

    changes: tuple[Callable[[], object], ...] = (
        lambda: trust.symlink_to(key),
        lambda: trust.symlink_to("/dev/zero"),
        lambda: trust.write_text("a line of the user's"),
        lambda: trust.write_text(key.read_text()),
        pipe,
        closed,
        lambda: None,
    )
    for change in changes:
        change()
        with pytest.raises(InvalidInput) as caught:
            await Secrets(make_authority).built(spec)
        assert "line of the user" not in caught.value.message
        trust.unlink(missing_ok=True)


async def test_values_of_a_sandbox_that_could_not_be_made_are_not_kept() -> None:
    secrets = Secrets(make_authority)
    with secrets.keeping(SPEC, REQUEST):
        assert secrets.of(SPEC).values == {"KEY": "the-value"}
    assert secrets.of(SPEC).values == {"KEY": "the-value"}
    with pytest.raises(Conflict), secrets.keeping(SPEC, REQUEST):
        raise Conflict("the port is taken")
    assert secrets.of(SPEC).values == {}
