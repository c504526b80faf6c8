"""Kinds of devices by name, with where each figure comes from.

How ``flops_per_s`` (single precision, sustained in training) is derived:

- GPU: ``_IN_TRAINING`` times the peak. 0.4 is what Sevilla et al. 2022 ("Estimating training
  compute of deep learning models") recommend for models that are no language models.
- CPU: twice the measured result of High-Performance Linpack, which is a matrix product in double
  precision: a vector register holds twice as many single-precision numbers. On a Pi 4 that is 0.41
  of the peak (4 cores * 1.8 GHz * 8), so that both kinds are told alike.

These are estimates for comparing fleets; for a fleet of your own, measure (``fedfleet worker
probe``) and set ``samples_per_s``.

Links are those of the device itself, as on a network of one's own; give a profile its own
``down_bytes_per_s`` and ``up_bytes_per_s`` for what is behind a slower line. No latency has a
source that would hold for a kind, so none is set. Memory is the vendor's figure, in decimal
gigabytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_IN_TRAINING = 0.4
_DOUBLE_TO_SINGLE = 2.0
# Measured with iperf3 between a computer and a Pi on gigabit Ethernet: 941 Mbit/s
# (mpr-projects.com, "RPi NAS: Part 3 Network Connections", 2023); taken for all.
_GIGABIT = 941e6 / 8
_HPL = 1e9 * _DOUBLE_TO_SINGLE  # per GFLOP/s of Linpack
_PEAK = 1e9 * _IN_TRAINING  # per GFLOP/s of the vendor's peak


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceKind:
    """What a kind of device brings into a profile; fields as in ``DeviceProfile``."""

    flops_per_s: float
    memory_bytes: int
    down_bytes_per_s: float
    up_bytes_per_s: float


DEVICE_KINDS: Mapping[str, DeviceKind] = {
    # Pi 3 Model B+, 4 Cortex-A53 at 1.4 GHz, 1 GB.
    "raspberry-pi-3": DeviceKind(
        # Derived: the Pi 4's Linpack below times the ratio of the two in sysbench with 4 threads,
        # 2459.22 / 5900.85 (leoncode.co.uk, "Raspberry Pi CPU Benchmarks"): 4.95. Four A55, the
        # A53's successor, at 1.8 GHz bring 5.6 (Orange Pi CM4, same list as the Pi 4's).
        flops_per_s=11.889 * 2459.22 / 5900.85 * _HPL,
        memory_bytes=1_000_000_000,
        # "Gigabit Ethernet over USB 2.0 (maximum throughput 300 Mbps)": the product brief of the
        # Raspberry Pi 3 Model B+.
        down_bytes_per_s=300e6 / 8,
        up_bytes_per_s=300e6 / 8,
    ),
    # Pi 4 Model B, 4 Cortex-A72 at 1.8 GHz, in its version with 4 GB.
    "raspberry-pi-4": DeviceKind(
        # Linpack: 11.889 (github.com/geerlingguy/top500-benchmark, README and issue 13).
        flops_per_s=11.889 * _HPL,
        memory_bytes=4_000_000_000,
        down_bytes_per_s=_GIGABIT,
        up_bytes_per_s=_GIGABIT,
    ),
    # Pi 5, 4 Cortex-A76 at 2.4 GHz, in its version with 8 GB.
    "raspberry-pi-5": DeviceKind(
        # Linpack: 30.249 (github.com/geerlingguy/top500-benchmark, README and issue 18).
        flops_per_s=30.249 * _HPL,
        memory_bytes=8_000_000_000,
        down_bytes_per_s=_GIGABIT,
        up_bytes_per_s=_GIGABIT,
    ),
    # Jetson Nano, 128 Maxwell cores, 4 GB shared with the CPU.
    "jetson-nano": DeviceKind(
        # NVIDIA names 472 in half precision; single precision is half of it: 128 cores * 2 * 921
        # MHz = 235.8.
        flops_per_s=235.8 * _PEAK,
        memory_bytes=4_000_000_000,
        down_bytes_per_s=_GIGABIT,
        up_bytes_per_s=_GIGABIT,
    ),
    # Jetson Orin Nano, 1024 Ampere cores, 8 GB shared with the CPU.
    "jetson-orin-nano": DeviceKind(
        # NVIDIA Jetson Orin Nano Series data sheet: 1024 cores, at most 625 MHz: times 2, 1280.
        flops_per_s=1280.0 * _PEAK,
        memory_bytes=8_000_000_000,
        down_bytes_per_s=_GIGABIT,
        up_bytes_per_s=_GIGABIT,
    ),
    # A laptop of 2022 (MacBook Air with M2 and 8 GB), on its processor, at home.
    "laptop": DeviceKind(
        # Linpack: 104.68 (github.com/geerlingguy/top500-benchmark, README).
        flops_per_s=104.68 * _HPL,
        memory_bytes=8_000_000_000,
        # What the FCC calls broadband since 2024: 100 Mbit/s down, 20 up (Section 706 Report).
        down_bytes_per_s=100e6 / 8,
        up_bytes_per_s=20e6 / 8,
    ),
    # A server with one NVIDIA T4 of 16 GB.
    "server": DeviceKind(
        # NVIDIA names 8.1 TFLOP/s in single precision.
        flops_per_s=8100.0 * _PEAK,
        memory_bytes=16_000_000_000,
        down_bytes_per_s=_GIGABIT,
        up_bytes_per_s=_GIGABIT,
    ),
}
