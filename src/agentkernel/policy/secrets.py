"""Secrets of a request: placeholders in place of values, and what their sandbox needs to use them."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Final

from agentkernel.errors import InvalidInput
from agentkernel.model.network import Rule, Secret
from agentkernel.model.request import SandboxRequest
from agentkernel.model.secrets import checked, host_and_port

PREFIX: Final = "agentkernel-secret-"
_RANDOM_BYTES: Final = 16


def placed(request: SandboxRequest) -> tuple[Secret, ...]:
    """The secrets with a placeholder each, new for every sandbox; raises InvalidInput for what no client of ours asks for."""
    secrets = [
        replace(checked(each.name, each.hosts, path=each.path, method=each.method, header=each.header), placeholder=_placeholder())
        for each in request.secrets
    ]
    names = {each.name for each in secrets}
    if len(names) < len(secrets) or names & request.environment.keys():
        raise InvalidInput("a variable is given twice: as a secret, and once more", hint="leave one of them out")
    if request.network is False and secrets:
        raise InvalidInput("a secret is of no use without network", hint="leave --secret or --no-network out")
    return tuple(secrets)


def reached(request: SandboxRequest) -> tuple[Rule, ...]:
    """The hosts of secrets as rules: who gives a sandbox a credential for a host lets it go there."""
    places = [host_and_port(host) for each in request.secrets for host in each.hosts]
    return tuple(Rule(host=host, ports=(port,)) for host, port in dict.fromkeys(places))


def _placeholder() -> str:
    return PREFIX + os.urandom(_RANDOM_BYTES).hex()
