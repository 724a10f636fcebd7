"""ssh through the filtered network, where programs that know no proxy reach nothing by themselves: `agentkernel-guest connect`."""

from __future__ import annotations

import os

import pytest

from agentkernel.abc import Backend
from agentkernel.abc_network import Egress
from agentkernel.model.command import Command
from agentkernel.model.isolation import Feature, Fingerprint
from agentkernel.model.network import Verdict
from agentkernel.model.spec import NetworkMode
from agentkernel.policy.inside import GUEST, GUEST_DIRECTORY
from agentkernel.testing.base import need, shell
from agentkernel.testing.internet import GOOD, OTHER, PUBLIC, Internet
from agentkernel.testing.internet_servers import BANNER
from agentkernel.testing.networked import Networked, NetworkedConformance, rules

_SSH = "ssh -v -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=20"
_SERVER = BANNER.strip().removeprefix(b"SSH-2.0-")


class SshConformance(NetworkedConformance):
    """A server at port 22 that says who it is as ssh's do; whoever gets so far has reached it."""

    async def test_a_tunnel_joins_standard_input_and_output(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        async with self.networked(backend, gate, rules(f"{GOOD}:22")) as box:
            result = await box.sandbox.exec(Command(argv=shell(f"printf ping | {GUEST} connect {GOOD} 22"), timeout_s=20))
            assert (result.exit_code, result.stdout, result.stderr) == (0, BANNER + b"ping", b"")
            (decision,) = await box.decided(Verdict.ALLOWED, GOOD)
            assert (decision.protocol, decision.port, decision.address, decision.rule) == ("connect", 22, PUBLIC, f"allow {GOOD}:22")

    async def test_a_tunnel_that_is_refused_says_why(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        async with self.networked(backend, gate, rules(f"{GOOD}:22")) as box:
            for host, port in ((OTHER, 22), (GOOD, 23)):
                argv = tuple(map(os.fsencode, (GUEST, "connect", host, str(port))))
                result = await box.sandbox.exec(Command(argv=argv, timeout_s=20))
                assert (result.exit_code, result.stdout) == (1, b"")
                assert b"403 " in result.stderr and f"network allow NAME {host}:{port}".encode() in result.stderr, result.stderr
            assert internet.seen().connections == {}

    async def test_plain_ssh_goes_through_the_tunnel(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        async with self.networked(backend, gate, rules(f"{GOOD}:22")) as box:
            await _need(box, "ssh")
            result = await box.sandbox.exec(Command(argv=shell(f"{_SSH} {GOOD} true"), timeout_s=30))
            assert b"remote software version " + _SERVER in result.stderr, result.stderr
            assert internet.seen().connections == {f"{PUBLIC} 22": 1}

    async def test_git_over_ssh_goes_through_the_tunnel(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        async with self.networked(backend, gate, rules(f"{GOOD}:22")) as box:
            await _need(box, "ssh", "git")
            cwd = box.sandbox.spec.user.home
            result = await box.sandbox.exec(Command(argv=shell(f"git clone ssh://git@{GOOD}/project.git"), cwd=cwd, timeout_s=30))
            assert result.exit_code != 0, "the server is none that git could be had of"
            assert internet.seen().connections == {f"{PUBLIC} 22": 1}, result.stderr

    async def test_the_workload_cannot_change_what_it_is_shown(self, backend: Backend, gate: Egress, internet: Internet) -> None:
        script = f"for each in 'touch {GUEST_DIRECTORY}/x' 'rm {GUEST}' 'cp /bin/sh {GUEST}'; do $each && echo done; done; {GUEST} version"
        async with self.networked(backend, gate, rules(GOOD)) as box:
            result = await box.sandbox.exec(Command(argv=shell(script), timeout_s=20))
            assert (result.exit_code, result.stdout) == (0, b"protocol 1\n"), result

    async def test_without_filtered_network_there_is_no_such_program(self, backend: Backend, fingerprint: Fingerprint) -> None:
        need(fingerprint, Feature.NETWORK_NONE)
        async with self.running(backend, network=NetworkMode.NONE) as sandbox:
            assert (await sandbox.exec(Command(argv=shell(f"test -e {GUEST}")))).exit_code == 1


async def _need(box: Networked, *programs: str) -> None:
    for program in programs:
        if (await box.sandbox.exec(Command(argv=shell(f"command -v {program}")))).exit_code != 0:
            pytest.skip(f"the sandbox's root has no {program}")
