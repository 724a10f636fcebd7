"""What callers elsewhere may name of this host: nothing, neither its files nor its networks, but with scope `host`.

A request names directories and files of the machine that it was made on. One that came over the network was made on another, and whoever
made it may be anybody who has a token: it is never to show him this host's files, or to tell which there are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from agentkernel import policy as late  # what only callers elsewhere need
from agentkernel.abc import Caller
from agentkernel.engine.access import may
from agentkernel.engine.parts import OwnAddresses
from agentkernel.errors import Refused
from agentkernel.model.image import ImageWork, ImageWorkKind
from agentkernel.model.isolation import Fingerprint, Provision
from agentkernel.model.network import Rule
from agentkernel.model.record import Event, SandboxRecord
from agentkernel.model.request import Grant, SandboxRequest
from agentkernel.model.rules import parse_rule
from agentkernel.model.spec import RootFilesystem, SandboxSpec

if TYPE_CHECKING:
    from agentkernel.policy.addresses import Address, Network

_HINT = "write the files into the sandbox instead; a token with the scope host may name files of that machine"
_REACH_HINT = "a token with the scope host may; names and public addresses need none"

_CALLED = {
    "mounts": "mounts",
    "directory": "a directory",
    "image": "an image that is a file",
    "mount_cwd": "the working directory",
    "mount_home": "the home directory",
    "pass_environment": "the environment",
}


def confined(caller: Caller, request: SandboxRequest, own: OwnAddresses) -> SandboxRequest:
    """The request as it may be decided on: what goes without saying on the caller's own machine is left out, and no profile adds it.

    What the operator of a server has added is not the caller's, and stays: rules for networks, and an image.

    Raises:
        Refused: it asks for something of this host.
    """
    if not caller.is_elsewhere:
        return request
    added, added_image = (request.added_hosts, request.added_image) if caller.vouched else ((), "")
    for asked in request.of_its_machine():
        if asked != "image" or request.image != added_image:
            raise Refused(f"a remote caller may not ask for {_CALLED[asked]} of the host", hint=_HINT)
    check_reach(caller, (rule for rule in request.allow_hosts if rule not in added), own)
    return replace(
        request,
        argv=_nowhere(request.argv),
        cwd="/",
        host_environment={},
        mount_cwd=False,
        mount_home=False,
        pass_environment=False,
        host_network=False,
    )


def check_reach(caller: Caller, rules: Iterable[Rule], own: OwnAddresses) -> None:
    """Raises Refused for a rule that opens what only this host and its neighbours reach: their services, and a cloud's credentials.

    `own` tells where that is, though it be public: it is asked where a rule names an address.
    """
    if not caller.is_elsewhere:
        return
    for rule in rules:
        checked = parse_rule(str(rule))
        if opened := late.opened_range(checked, _known(own) if "/" in checked.host else ()):
            raise Refused(f"a remote caller may not open the host's own networks: {opened}", hint=_REACH_HINT)


def _known(own: OwnAddresses) -> Collection[Address | Network]:
    try:
        return own()
    except OSError as error:
        raise Refused(f"which addresses are the host's own cannot be told: {error}", hint=_REACH_HINT) from error


def granted(caller: Caller, grant: Grant) -> Grant:
    """The grant as the caller may see it: without what of this host it is made of."""
    return replace(grant, spec=_without_places(grant.spec)) if caller.is_elsewhere else grant


def shown(caller: Caller, record: SandboxRecord, spec: SandboxSpec) -> SandboxSpec:
    """The spec of a sandbox, whoever made it, as the caller may see it.

    Elsewhere it says what is there inside, and not where that lies on this host. Variables, which may be secrets, are for those who may
    run commands with them.
    """
    if not may(caller, "open", record):
        spec = replace(spec, environment=(), root=replace(spec.root, environment=()))
    return _without_places(spec) if caller.is_elsewhere else replace(spec, root=replace(spec.root, binds=(), files=(), symlinks=()))


def heard(caller: Caller, event: Event) -> Event:
    """An event as the caller may hear of it: of an image that is a file elsewhere its name alone."""
    if not caller.is_elsewhere:
        return event
    details = ((key, text.rpartition("/")[2] if key == "image" and text.startswith("/") else text) for key, text in event.details)
    return replace(event, details=tuple(details))


def _without_places(spec: SandboxSpec) -> SandboxSpec:
    """Without directories and files of this host; that a home of its is shown can still be told."""
    root = spec.root
    kept = RootFilesystem(
        kind=root.kind,
        reference=root.reference,
        digest=root.digest,
        entrypoint=root.entrypoint,
        command=root.command,
        working_directory=root.working_directory,
        label=root.label,
        environment=root.environment,  # which the sandbox's own has, too
    )
    return replace(
        spec,
        root=kept,
        workspace=replace(spec.workspace, source="", files=(), protected=()),
        mounts=tuple(replace(bind, source="") for bind in spec.mounts),
        home_source=spec.user.home if spec.home_source else "",
        trust="",
    )


def told(caller: Caller, found: Fingerprint) -> Fingerprint:
    """A backend as the caller may see it: elsewhere what it can do, without what of this host is the reason."""
    if not caller.is_elsewhere:
        return found
    features = {feature: Provision(support=provision.support) for feature, provision in found.features.items()}
    return replace(found, reason="", remedy="", features=features, details={})


def _nowhere(argv: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """The words that a root is chosen for.

    A program that is given by its path here would be shown with its toolchain, wherever that lies; its name alone tells the language.
    """
    if not argv or not argv[0].startswith(b"/"):
        return argv
    return (b"./" + argv[0].rpartition(b"/")[2], *argv[1:])


def check_image_work(caller: Caller, work: ImageWork) -> None:
    """Raises Refused for work that reads files of this host."""
    if caller.is_elsewhere and work.kind is not ImageWorkKind.PULL:
        raise Refused("a remote caller may not make images of what lies on the host", hint="pull the image by its name")
