"""The decision: a request, the host's facts and the backends' fingerprints make a grant, or a refusal before any effect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from agentkernel import policy as late  # what only requests with secrets need
from agentkernel.errors import InvalidInput, Unsupported
from agentkernel.model.isolation import BackendKind, Feature, Fingerprint, Support
from agentkernel.model.names import random_name, validate_name
from agentkernel.model.network import NOTHING, USUAL
from agentkernel.model.request import Grant, Notice, SandboxRequest
from agentkernel.model.spec import Bind, NetworkMode, RootFilesystem, RootKind, SandboxSpec, StorageKind, User
from agentkernel.policy.choose import choose, emulations
from agentkernel.policy.deny import denied_in_home
from agentkernel.policy.environment import environment
from agentkernel.policy.exposure import mounts
from agentkernel.policy.gpus import checked_gpus
from agentkernel.policy.image import MAX_ID
from agentkernel.policy.inside import CERTIFICATES
from agentkernel.policy.needs import needs
from agentkernel.policy.network import UNAVAILABLE, Network, asks_for_network, network, ports
from agentkernel.policy.profiles import Profile, profile
from agentkernel.policy.resources import resources
from agentkernel.policy.root import Root, roots
from agentkernel.policy.runtimes import with_runtime
from agentkernel.policy.surroundings import Surroundings
from agentkernel.policy.workspace import named_file_binds, workspace


def decide(request: SandboxRequest, surroundings: Surroundings, fingerprints: Sequence[Fingerprint]) -> Grant:
    """What to build and by whom.

    An image that has a name is decided twice: what it says of its commands is in `surroundings` only once it is here (`Grant.fetches`).

    Raises:
        InvalidInput, UnknownKey: the request cannot be right.
        Refused: it would show the sandbox what it must not see.
        CommandNotFound: the host does not have the command, and no image is known for it.
        Unsupported, BackendUnavailable: no backend, or not the one asked for, can do it here.
    """
    row = profile(request.profile)
    able = with_runtime(request.runtime, request.backend, fingerprints)
    first: Unsupported | None = None
    for root in roots(request, surroundings, able):
        try:
            return _granted(request, row, root, surroundings, able)
        except Unsupported as error:
            first = first or error
    assert first is not None  # noqa: S101 - there is always a root
    raise first


def _granted(request: SandboxRequest, row: Profile, root: Root, surroundings: Surroundings, fingerprints: Sequence[Fingerprint]) -> Grant:
    spec, notices = _spec(request, row, root, surroundings)
    spec, placed, more = _placed(request, spec, root, surroundings, fingerprints)
    backend = placed.backend
    runtime = backend.runtimes[0].name if request.runtime is not None else ""
    spec = replace(spec, level=backend.level, runtime=runtime, transparent_network=_transparent(request, spec, backend))
    return Grant(
        spec=replace(spec, environment=_environment(request, row, spec, surroundings)),
        backend=backend.backend,
        chosen=placed.kind,
        notices=(*request.notices, *notices, *more, *emulations(backend, placed.needed)),
        tar_image=root.tar if surroundings.image is None else None,
    )


class _Placed(NamedTuple):
    """The backend that a sandbox gets, how it came to be chosen, and what it was chosen for."""

    backend: Fingerprint
    kind: BackendKind
    needed: tuple[Feature, ...]


def _placed(
    request: SandboxRequest, spec: SandboxSpec, root: Root, surroundings: Surroundings, fingerprints: Sequence[Fingerprint]
) -> tuple[SandboxSpec, _Placed, tuple[Notice, ...]]:
    """The backend. Where none can filter the network, and only the profile wants one, the sandbox has none, and a notice says so."""
    holders = surroundings.image_holders if spec.root.reference else frozenset[str]()
    user_asked = request.user is not None or root.user is not None

    def place(wanted: SandboxSpec) -> _Placed:
        needed = needs(wanted, from_tar=root.tar is not None and surroundings.image is None, user_asked=user_asked)
        return _Placed(*choose(request, needed, fingerprints, holders), needed)

    try:
        return spec, place(spec), ()
    except Unsupported:
        if spec.network is not NetworkMode.FILTERED or asks_for_network(request):
            raise
    without = replace(spec, network=NetworkMode.NONE, egress=NOTHING, egress_limits=USUAL)
    return without, place(without), (UNAVAILABLE,)


def _transparent(request: SandboxRequest, spec: SandboxSpec, backend: Fingerprint) -> bool:
    """Whether programs that know no proxy reach the network, too: where that is asked for, or had by the way."""
    if spec.network is not NetworkMode.FILTERED or request.transparent_network is False:
        return False
    return spec.transparent_network or backend.support(Feature.TRANSPARENT_NETWORK) is Support.NATIVE


def _environment(request: SandboxRequest, row: Profile, spec: SandboxSpec, surroundings: Surroundings) -> tuple[tuple[str, str], ...]:
    passes = _switched(request.pass_environment, row.pass_environment)
    return environment(request, spec, passes=passes, certificates=surroundings.certificates)


def _spec(request: SandboxRequest, row: Profile, root: Root, surroundings: Surroundings) -> tuple[SandboxSpec, tuple[Notice, ...]]:
    user = root.user or _user(request.user)
    view, view_notices = workspace(request, row, surroundings)
    reach = network(request, row)
    home, home_notices = _home(_switched(request.mount_home, row.mount_home), surroundings)
    shown = (*named_file_binds(request, row, view, surroundings), *mounts(request, view, user, surroundings))
    spec = SandboxSpec(
        name=validate_name(request.name) if request.name is not None else random_name(),
        root=root.filesystem,
        profile=row.name,
        workspace=view,
        mounts=(*shown, *(() if request.secrets else _certificates(root.filesystem, reach, surroundings))),
        home_source=home,
        home_denied=denied_in_home() if home else (),
        network=reach.mode,
        egress=reach.rules,
        egress_limits=reach.limits,
        transparent_network=reach.mode is NetworkMode.FILTERED and bool(request.transparent_network),
        ports=ports(request),
        secrets=late.placed(request) if request.secrets else (),
        trust=surroundings.certificates if request.secrets else "",
        resources=resources(request, row),
        storage=request.storage or StorageKind.MEMORY,
        read_only_root=_switched(request.read_only_root, row.read_only_root),
        user=user,
        seccomp=row.seccomp,
        gpus=checked_gpus(request.gpus) if request.gpus is not None else "",
    )
    return spec, (*root.notices, *view_notices, *home_notices)


def _certificates(root: RootFilesystem, reach: Network, surroundings: Surroundings) -> tuple[Bind, ...]:
    """An image is shown whom this host trusts: a company's proxy, say, which the image has never heard of."""
    if reach.mode is not NetworkMode.FILTERED or root.kind is RootKind.HOST or not surroundings.certificates:
        return ()
    return (Bind(source=surroundings.certificates, target=CERTIFICATES, executable=False),)


def _switched(switch: bool | None, column: bool) -> bool:
    return column if switch is None else switch


def _home(shown: bool, surroundings: Surroundings) -> tuple[str, tuple[Notice, ...]]:
    """HOME is shown without what the deny list names. A home that is the host's root would show the host instead."""
    if not shown:
        return "", ()
    if surroundings.home.rstrip("/") == "" or not surroundings.home.startswith("/"):
        message = f"the home directory {surroundings.home!r} is not shown: it is no directory of its own"
        return "", (Notice(code="home-left-out", message=message, hint="set HOME to a directory of your own"),)
    return surroundings.home, ()


def _user(text: str | None) -> User:
    if text is None or text == "user":
        return User()
    if text == "root":
        return User(uid=0, gid=0, name="root", home="/root")
    uid_text, colon, gid_text = text.partition(":")
    ids = [part for part in (uid_text, gid_text if colon else uid_text) if part.isascii() and part.isdigit() and len(part) <= 5]
    if len(ids) != 2 or max(int(part) for part in ids) > MAX_ID:
        raise InvalidInput(f"{text!r} is not a user", hint=f"write root, user, or UID[:GID] with numbers up to {MAX_ID}")
    uid, gid = (int(part) for part in ids)
    if uid == 0:
        return User(uid=0, gid=gid, name="root", home="/root")
    return User(uid=uid, gid=gid, name="user" if uid == User().uid else f"uid{uid}")
