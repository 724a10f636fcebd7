"""Who a sandbox may talk to, and its ports."""

from __future__ import annotations

from collections.abc import Iterable

from agentkernel.config.options import change_of, port_of
from agentkernel.errors import Refused
from agentkernel.mcp import shapes
from agentkernel.mcp.answer import Answer, said
from agentkernel.mcp.arguments import Named, NetworkArguments, PublishArguments, UnpublishArguments
from agentkernel.mcp.desk import ALLOW_HOSTS, PUBLISH, Desk, Tell
from agentkernel.model.network import Rule


async def network(desk: Desk, arguments: NetworkArguments, tell: Tell) -> Answer:
    """The rules, after what is asked for was added; to forbid is always allowed in a sandbox of the model's own."""
    change = change_of(allow=arguments.allow, deny=arguments.deny)
    if arguments.allow:
        desk.require(ALLOW_HOSTS, "let sandboxes talk to more hosts than the setting security.domains.allow has")
        _check_names(change.allow)
    if arguments.allow or arguments.deny:
        info = await desk.manageable(arguments.name)
        if arguments.allow:
            await desk.usable(arguments.name)
        rules = await desk.kernel.change_network(desk.caller, info.sandbox_id, change)
    else:
        info = await desk.find(arguments.name)
        rules = await desk.kernel.network(desk.caller, info.sandbox_id)
    shape = shapes.network_of(info.name, rules)
    lines = [f"by default: {shape.default}", *(f"allow {rule}" for rule in shape.allow), *(f"deny {rule}" for rule in shape.deny)]
    return said(shape, "\n".join(lines))


async def ports(desk: Desk, arguments: Named, tell: Tell) -> Answer:
    """What is published."""
    info = await desk.find(arguments.name)
    return await _published(desk, info.name, info.sandbox_id)


async def publish(desk: Desk, arguments: PublishArguments, tell: Tell) -> Answer:
    """One more."""
    rule = port_of(arguments.port, arguments.host_port)
    desk.require(PUBLISH, "publish ports on its loopback (the setting network.ports does that for every sandbox)")
    info = await desk.usable(arguments.name)
    await desk.kernel.publish(desk.caller, info.sandbox_id, rule)
    return await _published(desk, info.name, info.sandbox_id)


async def unpublish(desk: Desk, arguments: UnpublishArguments, tell: Tell) -> Answer:
    """One less; one that is not published is fine."""
    info = await (desk.find(arguments.name) if PUBLISH in desk.operator.grants else desk.manageable(arguments.name))
    await desk.kernel.unpublish(desk.caller, info.sandbox_id, arguments.port)
    return await _published(desk, info.name, info.sandbox_id)


def _check_names(rules: Iterable[Rule]) -> None:
    """Raises Refused for an address: a rule for one opens also what only this host and its neighbours reach. Names lead to none of that."""
    for rule in rules:
        if "/" in rule.host:
            hint = "allow a name; the operator can set addresses as security.domains.allow"
            raise Refused(f"a model may not open addresses, such as those of the host's own networks: {rule}", hint=hint)


async def _published(desk: Desk, name: str, sandbox_id: str) -> Answer:
    found = list(map(shapes.port_of, await desk.kernel.ports(desk.caller, sandbox_id)))
    lines = [f"port {port.port} at http://{port.host_address}:{port.host_port}" for port in found]
    return said(shapes.Ports(name=name, ports=found), "\n".join(lines) if lines else "No port is published.")
