"""What a worker tells of its device."""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

from fedfleet.v1 import federation_service_pb2 as pb

logger = logging.getLogger(__name__)

T = TypeVar("T")
# What reading a sensor may raise: the kernel, a container, or the library says that it is not
# there. No reading is worth a worker.
_NO_SENSOR = (OSError, psutil.Error, AttributeError, LookupError, RuntimeError, ValueError)


def profile() -> pb.DeviceProfile:
    """What the device is."""
    return pb.DeviceProfile(
        machine=platform.machine(),
        accelerator=_measured(_accelerator) or "",
        cpu_count=os.cpu_count() or 0,
        memory_bytes=_measured(lambda: int(psutil.virtual_memory().total)) or 0,
        os=f"{platform.system()} {platform.release()}",
    )


def heartbeat() -> pb.Heartbeat:
    """How the device is."""
    beat = pb.Heartbeat(
        sent_at_s=time.time(),
        memory_used_bytes=_measured(lambda: int(psutil.Process().memory_info().rss)) or 0,
        load_average=_measured(lambda: os.getloadavg()[0]) or 0.0,
    )
    temperature = _measured(_temperature)
    if temperature is not None:
        beat.temperature_celsius = temperature
    return beat


def _measured(read: Callable[[], T]) -> T | None:
    """What a sensor says; None, which is told as not measured, when it cannot be read."""
    try:
        return read()
    except _NO_SENSOR as error:
        logger.debug("sensor_unreadable", extra={"reason": repr(error)})
        return None


def _accelerator() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else ""


def _temperature() -> float | None:
    if not hasattr(psutil, "sensors_temperatures"):  # macOS and Windows have none
        return None
    groups = psutil.sensors_temperatures().values()
    readings = [float(reading.current) for group in groups for reading in group]
    return max(readings, default=None)
