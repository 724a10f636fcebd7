"""The virtual machine: QEMU's own emulation, so that it runs on any host; what it prints, line by line, until it ends."""

from __future__ import annotations

import selectors
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from image import DISK_SIGNATURE

KERNEL_ARGUMENTS = f"root=PARTUUID={DISK_SIGNATURE:08x}-01 rootwait rw console=ttyS0 panic=-1 mitigations=off quiet systemd.show_status=false systemd.log_target=console"
UNIT = "checks.service"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a machine is made of."""

    kernel: Path
    base: Path
    source: Path
    console: Path  # what the kernel and systemd print goes here
    memory_mib: int = 1024
    processors: int = 2

    def command(self) -> list[str]:
        """QEMU's arguments: two disks on one NVMe controller, the console in a file, results on stdout."""
        wants = f"{KERNEL_ARGUMENTS} systemd.wants={UNIT}"
        return [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max",
            "-m", str(self.memory_mib), "-smp", str(self.processors),
            "-kernel", str(self.kernel), "-append", wants,
            "-drive", f"if=none,id=base,format=raw,snapshot=on,file={self.base}",
            "-drive", f"if=none,id=source,format=raw,readonly=on,file={self.source}",
            "-device", "nvme,id=nvme,serial=vm",
            "-device", "nvme-ns,drive=base,bus=nvme,nsid=1",
            "-device", "nvme-ns,drive=source,bus=nvme,nsid=2",
            "-serial", f"file:{self.console}", "-serial", "stdio",
        ]  # fmt: skip

    def lines(self, deadline_s: float) -> Iterator[str]:
        """Boots, yields each line of results, and returns when the machine is off; raises TimeoutError, and then it is ended."""
        ends_at = time.monotonic() + deadline_s
        with subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0) as qemu:
            try:
                yield from _lines(qemu, ends_at)
            finally:
                qemu.kill()


def _lines(qemu: subprocess.Popen[bytes], ends_at: float) -> Iterator[str]:
    assert qemu.stdout is not None
    pending = b""
    with selectors.DefaultSelector() as selector:
        selector.register(qemu.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, ends_at - time.monotonic())):
            chunk = qemu.stdout.read(65536)
            if not chunk:
                return
            *whole, pending = (pending + chunk).split(b"\n")
            for line in whole:
                yield line.decode(errors="replace").rstrip("\r")
    raise TimeoutError("the machine did not end in time")
