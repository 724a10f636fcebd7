"""The other verbs on this host."""

from __future__ import annotations

import json

from e2e.conftest import AgentKernel

from agentkernel.model.isolation import Feature


def test_doctor_says_that_this_host_is_ready(agentkernel: AgentKernel) -> None:
    done = agentkernel("doctor", "--json")
    record = json.loads(done.stdout)
    assert (done.returncode, record["ready"]) == (0, True)
    (found,) = [one for one in record["backends"] if one["name"] == "namespaces"]
    assert set(found["features"]) == {feature.value for feature in Feature}
    assert all(one["reason"] for one in found["features"].values() if one["support"] != "native")


def test_backends_lists_the_one_that_run_uses(agentkernel: AgentKernel) -> None:
    lines = agentkernel("backends").stdout.decode().splitlines()
    assert any(line.split()[:3] == ["namespaces", "yes", "container"] for line in lines)
    used = json.loads(agentkernel("run", "--json", "true").stdout)["backend"]
    assert used == "namespaces"


def test_setup_has_nothing_to_do_here(agentkernel: AgentKernel) -> None:
    assert agentkernel("setup", "--check").returncode == 0
    assert b"nothing to install" in agentkernel("setup").stdout
