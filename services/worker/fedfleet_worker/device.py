"""What a worker tells of its device."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import psutil
import torch

from fedfleet.training.trainers import FULL
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet_worker.sensors import battery, measured, temperature

# What a container may have, by both versions of the kernel's groups.
_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def profile(limit_bytes: int = 0, levels: Sequence[pb.LevelSpeed] = ()) -> pb.DeviceProfile:
    """What the device is.

    Args:
        limit_bytes: of memory, that its owner sets; 0 for none.
        levels: what a probe measured.
    """
    return pb.DeviceProfile(
        machine=platform.machine(),
        accelerator=accelerator(),
        cpu_count=os.cpu_count() or 0,
        memory_bytes=training_memory_bytes(limit_bytes),
        samples_per_s=next((one.samples_per_s for one in levels if one.level == FULL), 0.0),
        os=f"{platform.system()} {platform.release()}",
        levels=levels,
    )


def heartbeat() -> pb.Heartbeat:
    """How the device is."""
    beat = pb.Heartbeat(
        sent_at_s=time.time(),
        memory_used_bytes=measured(lambda: int(psutil.Process().memory_info().rss)) or 0,
        load_average=measured(lambda: os.getloadavg()[0]) or 0.0,
    )
    celsius, charge = measured(temperature), measured(battery)
    if celsius is not None:
        beat.temperature_celsius = celsius
    if charge is not None:
        beat.battery_ratio = charge[0]
    return beat


def accelerator() -> str:
    """What trains by ``device = "auto"``; empty where that is the processor."""
    return measured(_accelerator) or ""


def training_memory_bytes(limit_bytes: int) -> int:
    """Of the accelerator where there is one, as a probe's peaks are; 0 when not measured.

    Else the least of what the device has, what its container may have, and what its owner allows.
    """
    return measured(_accelerator_bytes) or _host_bytes(limit_bytes)


def _host_bytes(limit_bytes: int) -> int:
    total = measured(lambda: int(psutil.virtual_memory().total)) or 0
    if not total:
        return limit_bytes
    limits = [limit_bytes, *(measured(partial(_group_limit, path)) or 0 for path in _GROUP_LIMITS)]
    return min(total, *(limit or total for limit in limits))


def _group_limit(path: Path) -> int:
    """Raises an error where there is no such file, or no limit in it."""
    return int(path.read_text())


def _accelerator() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def _accelerator_bytes() -> int:
    if not torch.cuda.is_available():
        return 0
    return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
