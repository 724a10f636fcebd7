"""Values of secrets, in this process's memory alone, and what a sandbox must trust for them to be used.

A sandbox is known by its secrets' placeholders, which no other one has. The authority that vouches for the bound hosts is made anew for
each boot, and nothing of its key is kept.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from agentkernel.config.rawfile import read_raw
from agentkernel.engine.parts import MakeAuthority
from agentkernel.errors import Conflict, InvalidInput, Unsupported
from agentkernel.model.network import Credentials
from agentkernel.model.record import SandboxRecord
from agentkernel.model.request import SandboxRequest
from agentkernel.model.secrets import host_and_port
from agentkernel.model.spec import RootFile, SandboxSpec
from agentkernel.model.status import Status
from agentkernel.policy.inside import CERTIFICATES

_MARK: Final = b"CERTIFICATE-----"
MAX_BUNDLE_BYTES: Final = 512 * 1024  # it is part of the launch plan, which has 1 MiB


class Secrets:
    """Those of an engine."""

    def __init__(self, make_authority: MakeAuthority) -> None:
        self._make_authority = make_authority
        self._held: dict[str, Credentials] = {}  # by the first placeholder

    def keep(self, spec: SandboxSpec, request: SandboxRequest) -> None:
        """The values that came with a request, until `forget`."""
        if spec.secrets:
            self._held[_key(spec)] = replace(self.of(spec), values=_known(spec, request.secret_values))

    @contextmanager
    def keeping(self, spec: SandboxSpec, request: SandboxRequest) -> Iterator[None]:
        """`keep` for a sandbox that the block makes; if it fails there is none, and its values go."""
        self.keep(spec, request)
        try:
            yield
        except BaseException:
            self.forget(spec)
            raise

    def give(self, record: SandboxRecord, values: Mapping[str, str]) -> None:
        """Values once more, for a sandbox that is about to start.

        Raises:
            InvalidInput: it has no secret of that name.
            Conflict: it runs already, and trusts an authority that may be gone.
        """
        spec = record.spec
        unknown = values.keys() - {each.name for each in spec.secrets}
        if unknown:
            raise InvalidInput(f"sandbox {record.name!r} has no secret {min(unknown)}", hint="secrets are bound when a sandbox is made")
        if record.status is Status.RUNNING:
            raise Conflict(f"sandbox {record.name!r} runs", hint=f"`agentkernel stop {record.name}` first")
        held = self.of(spec)
        self._held[_key(spec)] = replace(held, values={**held.values, **values})

    async def built(self, spec: SandboxSpec) -> SandboxSpec:
        """What is to be built: with the file of certificates that vouches for the bound hosts. Raises Unsupported, InvalidInput."""
        if not spec.secrets:
            return spec
        held = self.of(spec)
        hosts = tuple(dict.fromkeys(host_and_port(host)[0] for each in spec.secrets for host in each.hosts))
        bundle, leaves = await asyncio.to_thread(self._vouched, hosts, spec.trust)
        self._held[_key(spec)] = replace(held, leaves=leaves)
        files = (*(file for file in spec.root.files if file.path != CERTIFICATES), RootFile(path=CERTIFICATES, content=bundle))
        return replace(spec, root=replace(spec.root, files=files))

    def of(self, spec: SandboxSpec) -> Credentials:
        """What is had for a sandbox; after a restart of the engine no values, and no certificates either."""
        return self._held.get(_key(spec)) or Credentials(secrets=spec.secrets, trust=spec.trust)

    def forget(self, spec: SandboxSpec) -> None:
        """The sandbox is gone; nothing held for it is fine."""
        if spec.secrets:
            self._held.pop(_key(spec), None)

    def _vouched(self, hosts: Sequence[str], trust: str) -> tuple[bytes, dict[str, str]]:
        try:
            certificate, leaves = self._make_authority(hosts)
        except ImportError:
            raise Unsupported("secrets take the library `cryptography`", hint="pip install cryptography") from None
        bundle = _trusted(trust) if trust else b""
        whole = bundle + b"\n" * bool(bundle) + certificate.encode("ascii")
        if len(whole) > MAX_BUNDLE_BYTES:
            raise InvalidInput(f"{trust} is longer than a sandbox with secrets can be given", hint="name a shorter one with SSL_CERT_FILE")
        return whole, leaves


def _trusted(path: str) -> bytes:
    """The certificates that the host trusts.

    The path was judged when the sandbox was made. Programs that can write there, the sandbox's among them, may have put something else in
    its place since: it must still be a file of certificates that every user may read.
    """
    try:
        found = read_raw(path)
    except InvalidInput as error:
        raise InvalidInput(error.message, hint="make the sandbox anew") from None
    if found is None or not found.mode & stat.S_IROTH or b"PRIVATE KEY" in found.content or _MARK not in (found.content or _MARK):
        raise InvalidInput(f"{path} is no file of certificates that everybody may read (any more)", hint="make the sandbox anew")
    return found.content


def _key(spec: SandboxSpec) -> str:
    return spec.secrets[0].placeholder


def _known(spec: SandboxSpec, values: Mapping[str, str]) -> dict[str, str]:
    """Those of its secrets."""
    return {each.name: values[each.name] for each in spec.secrets if each.name in values}
