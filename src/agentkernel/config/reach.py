"""The types of settings about the network: rules, ports, a proxy, secrets."""

from __future__ import annotations

import re

from agentkernel import config as late  # what only settings about the network need
from agentkernel.config.values import Merge, ValueType, describe, read_string, whole
from agentkernel.errors import InvalidInput
from agentkernel.model.network import MAX_CONNECTIONS, MAX_LOOKUPS_PER_S, PortRule, Rule

_CREDENTIALS = re.compile(r"(?<=://)[^@/]*(?=@)")
_PROXY = re.compile(r"http://(?:[^@/:\s]+(?::[^@/\s]*)?@)?(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})/?", re.ASCII)
MAX_PORT = 65535


def _words(value: object, example: str) -> list[str]:
    """The texts of a list, or of a variable, where they stand between blanks."""
    if isinstance(value, str):
        return value.split()
    if not isinstance(value, list | tuple):
        raise InvalidInput(f"wants a list, not {describe(value)}", hint=f"write it like {example}")
    return [read_string(item) for item in value]


def _read_hosts(value: object, _base: str) -> tuple[Rule, ...]:
    return tuple(late.parse_rule(text) for text in _words(value, '["example.com", "*.example.org:443"]'))


def _write_hosts(value: object) -> object:
    assert isinstance(value, tuple)  # noqa: S101 - what _read_hosts gave
    return [str(rule) for rule in value]


def _read_ports(value: object, _base: str) -> tuple[PortRule, ...]:
    items = [str(item) if type(item) is int else item for item in value] if isinstance(value, list) else value
    return tuple(late.parse_port(text) for text in _words(items, '["8080:80"]'))


def _write_ports(value: object) -> object:
    assert isinstance(value, tuple)  # noqa: S101 - what _read_ports gave
    return [late.port_text(rule) for rule in value]


def _read_proxy(value: object, _base: str) -> str:
    text = read_string(value)
    found = _PROXY.fullmatch(text)
    if text and (found is None or not 1 <= int(found[1]) <= MAX_PORT):
        shown = _CREDENTIALS.sub("...", text)
        raise InvalidInput(
            f"{shown!r} is no address of a proxy", hint="write it like http://proxy.example:3128, or http://USER:PASSWORD@..."
        )
    return text.rstrip("/")


def _write_proxy(value: object) -> object:
    """Without its password: what is written ends on screens and in logs."""
    return _CREDENTIALS.sub("...", str(value))


def _read_secrets(value: object, base: str) -> object:
    return late.read_references(value, base)


def _write_secrets(value: object) -> object:
    """References, no values."""
    return late.write_references(value) if value else []


HOSTS = ValueType(name="list of `HOST[:PORT,...]`", read=_read_hosts, write=_write_hosts, merge=Merge.APPEND)
CONNECTIONS = whole(MAX_CONNECTIONS)
LOOKUPS = whole(MAX_LOOKUPS_PER_S)
PORTS = ValueType(name="list of `[[ADDRESS:]HOST-PORT:]PORT`", read=_read_ports, write=_write_ports, merge=Merge.APPEND)
PROXY = ValueType(name="`http://[USER:PASSWORD@]HOST:PORT`", read=_read_proxy, write=_write_proxy)
SECRETS = ValueType(
    name="tables of `name`, `source`, `hosts`, `path`, `method`, `header`", read=_read_secrets, write=_write_secrets, merge=Merge.UPDATE
)
