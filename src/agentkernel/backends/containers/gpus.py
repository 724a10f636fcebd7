"""GPUs of a container, as `--gpus` names them: all, a number, or ids joined by commas. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CDI_KIND = "nvidia.com/gpu"  # the names that nvidia-ctk(1) gives them


def docker_request(gpus: str) -> list[dict[str, Any]]:
    """`HostConfig.DeviceRequests` of Docker, whose own runtime hook understands it; nothing where none are asked for."""
    if not gpus:
        return []
    request: dict[str, Any] = {"Driver": "", "Capabilities": [["gpu"]]}
    if gpus == "all" or gpus.isdecimal():
        return [{**request, "Count": -1 if gpus == "all" else int(gpus)}]
    return [{**request, "DeviceIDs": gpus.split(",")}]


def cdi_names(gpus: str) -> list[str]:
    """The devices' names in the Container Device Interface, which Podman understands; of a number the first so many."""
    if not gpus:
        return []
    if gpus.isdecimal():
        return [f"{_CDI_KIND}={number}" for number in range(int(gpus))]
    return [f"{_CDI_KIND}={name}" for name in gpus.split(",")]


def docker_has_gpus(information: Mapping[str, Any]) -> bool:
    """Whether `GET /info` tells of NVIDIA's runtime or of devices by CDI (Docker 28 lists those)."""
    runtimes = information.get("Runtimes")
    found = information.get("DiscoveredDevices")
    devices = [str(each.get("ID", "")) for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []
    return (isinstance(runtimes, Mapping) and "nvidia" in runtimes) or any(name.startswith(_CDI_KIND) for name in devices)
