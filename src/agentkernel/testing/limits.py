"""Limits: each holds, is named when it is hit, and hurts nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agentkernel.abc import Backend, Sandbox
from agentkernel.errors import SandboxFailed
from agentkernel.model.command import Command, LimitHit
from agentkernel.model.isolation import Feature, Fingerprint, Support
from agentkernel.model.spec import StorageKind
from agentkernel.testing.base import MIB, ConformanceBase, here, need, shell

TOLERANCE = 1.25
SHARED_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - names inside


class LimitsConformance(ConformanceBase):
    """Memory, processes, processor time and disk."""

    def processor_ms(self, sandbox: Sandbox) -> int | None:
        """The processor time that the host has given to a sandbox; None: what is told inside is as good.

        A kernel in user space counts the time in which it was held back as used.
        """
        return None

    async def test_more_memory_than_the_limit_ends_the_command_and_not_the_sandbox(
        self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path
    ) -> None:
        support = need(fingerprint, Feature.MEMORY_LIMIT)
        async with self.probing(backend, probe_binary, resources=self.resources(memory_bytes=64 * MIB)) as probe:
            assert (await probe.run("allocate", "24")).stdout == b"allocated\n"
            result = await probe.run("allocate", "200", "10000", timeout_s=60)
            assert b"allocated" not in result.stdout
            if support is Support.NATIVE:
                assert (result.exit_code, result.status.signal) == (137, 9)
                assert LimitHit.MEMORY in result.status.limits_hit
            assert (await probe.run("allocate", "24")).status.limits_hit == ()

    async def test_more_processes_than_the_limit_are_not_made(self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path) -> None:
        support = need(fingerprint, Feature.PIDS_LIMIT)
        async with self.probing(backend, probe_binary, resources=self.resources(pids=40)) as probe:
            result = await probe.run("forks", "200")
            made = int(result.stdout.split()[1])
            assert 10 <= made <= 40
            if support is Support.NATIVE:
                assert LimitHit.PIDS in result.status.limits_hit
            assert (await probe.run("forks", "5")).stdout == b"forked 5\n", "the limit is of processes that live, not of all that ever did"

    async def test_processor_time_is_shared_out(self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path) -> None:
        cpus = 0.5 if need(fingerprint, Feature.CPU_LIMIT) is Support.NATIVE else 1.0
        async with self.probing(backend, probe_binary, resources=self.resources(cpus=cpus)) as probe:
            before = self.processor_ms(probe.sandbox)
            facts = await probe.facts("spin", "3", "2000", timeout_s=60)
            after = self.processor_ms(probe.sandbox)
        used = facts["cpu_ms"][0] if before is None or after is None else after - before
        assert used <= 2000 * cpus * TOLERANCE

    async def test_one_file_cannot_take_more_than_the_disk_limit(
        self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path
    ) -> None:
        need(fingerprint, Feature.DISK_LIMIT)
        async with self.probing(backend, probe_binary, resources=self.resources(disk_bytes=16 * MIB)) as probe:
            await probe.run("fill", here(probe.sandbox, "big"), "64")
            size = (await probe.sandbox.files.stat(here(probe.sandbox, "big"))).size_bytes
            assert size <= 16 * MIB
            assert (await probe.sandbox.exec(Command(argv=shell("rm big; echo room > small && cat small")))).stdout == b"room\n"

    async def test_all_places_together_cannot_take_more_than_the_disk_limit(
        self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path
    ) -> None:
        if need(fingerprint, Feature.DISK_LIMIT) is Support.NATIVE:
            async with self.probing(backend, probe_binary, resources=self.resources(disk_bytes=16 * MIB)) as probe:
                total = 0
                spec = probe.sandbox.spec
                for place in (spec.workspace.target, spec.user.home, *SHARED_PLACES):
                    facts = await probe.run("fill", f"{place}/big", "64")
                    total += next((int(line.split()[1]) for line in facts.stdout.decode().splitlines() if line.startswith("written")), 0)
                assert total <= 16 * MIB * TOLERANCE

    async def test_storage_on_disk_is_limited_too(self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path) -> None:
        need(fingerprint, Feature.DISK_STORAGE)
        if fingerprint.support(Feature.DISK_LIMIT) is Support.NATIVE:
            changes = {"resources": self.resources(disk_bytes=16 * MIB), "storage": StorageKind.DISK}
            async with self.probing(backend, probe_binary, **changes) as probe:
                for number in range(40):
                    try:
                        result = await probe.run("fill", here(probe.sandbox, f"part{number}"), "4")
                    except SandboxFailed as ended:  # as a whole
                        assert "--disk" in ended.message, ended
                        return
                    if result.exit_code != 0 or f"written {4 * MIB}".encode() not in result.stdout:
                        return
                    await asyncio.sleep(0.25)
                raise AssertionError(f"160 MiB were written on a limit of {16 * MIB}")

    async def test_a_sandbox_at_its_limits_does_not_slow_another(
        self, backend: Backend, fingerprint: Fingerprint, probe_binary: Path
    ) -> None:
        need(fingerprint, Feature.CPU_LIMIT)
        async with (
            self.probing(backend, probe_binary, resources=self.resources(cpus=0.5)) as loud,
            self.running(backend) as quiet,
        ):
            noise = asyncio.create_task(loud.run("spin", "20", "2000", timeout_s=60))
            await asyncio.sleep(0.2)
            loop = asyncio.get_running_loop()
            started = loop.time()
            for _ in range(10):
                assert (await quiet.exec(Command(argv=shell("true")))).exit_code == 0
            assert loop.time() - started < 5
            assert (await noise).exit_code == 0
