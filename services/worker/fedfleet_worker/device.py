"""What a worker tells of its device."""

from __future__ import annotations

import os
import platform
import time

import psutil
import torch

from fedfleet.v1 import federation_service_pb2 as pb


def profile() -> pb.DeviceProfile:
    """What the device is."""
    return pb.DeviceProfile(
        machine=platform.machine(),
        accelerator=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        cpu_count=os.cpu_count() or 0,
        memory_bytes=psutil.virtual_memory().total,
        os=f"{platform.system()} {platform.release()}",
    )


def heartbeat() -> pb.Heartbeat:
    """How the device is."""
    beat = pb.Heartbeat(
        sent_at_s=time.time(),
        memory_used_bytes=psutil.Process().memory_info().rss,
        load_average=os.getloadavg()[0],
    )
    temperature = _temperature()
    if temperature is not None:
        beat.temperature_celsius = temperature
    return beat


def _temperature() -> float | None:
    if not hasattr(psutil, "sensors_temperatures"):  # macOS and Windows have none
        return None
    groups = psutil.sensors_temperatures().values()
    readings = [float(reading.current) for group in groups for reading in group]
    return max(readings, default=None)
