"""Virtual time: how long each simulated worker's work would take on the device that it stands for.

Profiles are no part of a recipe, which is the same for real devices: they come from a file of
their own, a list of ``[[profiles]]`` tables.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedfleet.errors import RecipeInvalid, SettingInvalid
from fedfleet.rounds.chance import shuffled
from fedfleet.sim.jobs import Evaluated, Result, Trained
from fedfleet.tables import parse_table, printable, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# A forward and a backward pass, which is two more, in forward passes (Kaplan et al. 2020,
# arXiv:2001.08361, section 2.1).
PASSES = 3
_SUM_ERROR = 1e-6


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceProfile:
    """A kind of device. Rates are sustained ones, in training.

    Args:
        count: how many workers are of this kind; or ``share``: which part of the fleet, in (0, 1].
        samples_per_s: training examples; or ``flops_per_s``: floating-point operations, for any
            model.
        down_bytes_per_s, up_bytes_per_s: of the device's link; absent means transfers take no time.
        latency_s: of each transfer, on top.
    """

    name: str
    count: int | None = None
    share: float | None = None
    samples_per_s: float | None = None
    flops_per_s: float | None = None
    down_bytes_per_s: float = math.inf
    up_bytes_per_s: float = math.inf
    latency_s: float = 0.0

    def __post_init__(self) -> None:
        for one, other in (("count", "share"), ("samples_per_s", "flops_per_s")):
            if (getattr(self, one) is None) == (getattr(self, other) is None):
                raise ValueError(f"{one}: set either it or {other}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count = {self.count}: must be 1 or more")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"share = {self.share}: must be above 0 and at most 1")
        for name in ("samples_per_s", "flops_per_s", "down_bytes_per_s", "up_bytes_per_s"):
            rate = getattr(self, name)
            if rate is not None and not rate > 0:
                raise ValueError(f"{name} = {rate}: must be above 0")
        if not 0 <= self.latency_s < math.inf:
            raise ValueError(f"latency_s = {self.latency_s}: must be 0 or more")


def parse_devices(text: str) -> tuple[DeviceProfile, ...]:
    """Read a file of profiles.

    Raises:
        SettingInvalid: naming the field, its value and what is allowed.
    """
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingInvalid(f"devices: not TOML: {printable(str(error))}") from error
    tables = found.get("profiles")
    if set(found) != {"profiles"} or not isinstance(tables, list) or not tables:
        raise SettingInvalid("devices: must hold a list of [[profiles]] tables and nothing else")
    for place, table in enumerate(tables):
        if not isinstance(table, dict):
            raise SettingInvalid(f"devices: profiles[{place}] = {shown(table)}: must be a table")
    try:
        profiles = tuple(
            parse_table(DeviceProfile, table, f"profiles[{place}]")
            for place, table in enumerate(tables)
        )
    except RecipeInvalid as error:  # what reads tables knows recipes only
        raise SettingInvalid(f"devices: {error.message}") from error
    if len({profile.count is None for profile in profiles}) > 1:
        raise SettingInvalid("devices: give every profile a count, or every one a share")
    shares = math.fsum(profile.share or 0.0 for profile in profiles)
    if profiles[0].count is None and abs(shares - 1) > _SUM_ERROR:
        raise SettingInvalid(f"devices: the shares add up to {shares:g}; they must to 1")
    return profiles


def assign(
    profiles: Sequence[DeviceProfile], fleet: Sequence[str], seed: int
) -> dict[str, DeviceProfile]:
    """Say of which kind each worker is: chance decides, by the seed alone.

    Raises:
        SettingInvalid: the counts do not add up to the fleet.
    """
    counts = _counts(profiles, len(fleet))
    kinds = [profile for profile, count in zip(profiles, counts, strict=True) for _ in range(count)]
    return dict(zip(shuffled(fleet, seed), kinds, strict=True))


def _counts(profiles: Sequence[DeviceProfile], workers: int) -> list[int]:
    counts = [profile.count for profile in profiles if profile.count is not None]
    if counts:
        if sum(counts) != workers:
            raise SettingInvalid(
                f"devices: the counts add up to {sum(counts)}, the fleet has {workers} workers"
            )
        return counts
    quotas = [(profile.share or 0.0) * workers for profile in profiles]
    shares = [math.floor(quota + _SUM_ERROR) for quota in quotas]
    # What rounding down left over goes where most was cut off.
    order = sorted(range(len(quotas)), key=lambda place: shares[place] - quotas[place])
    for place in order[: workers - sum(shares)]:
        shares[place] += 1
    return shares


class Pace:
    """How long assignments take.

    Args:
        devices: the profile of each worker.
        sample_flops: floating-point operations of one forward pass of one example; may be 0 where
            no profile asks for it.
    """

    def __init__(self, devices: Mapping[str, DeviceProfile], sample_flops: int) -> None:
        self._devices = devices
        self._flops = sample_flops * PASSES

    def seconds(self, worker_id: str, down_bytes: int, result: Result) -> float:
        """From an assignment's sending to its result's arrival.

        Download, work, upload, one after the other. A worker that failed says so once it has
        downloaded; an evaluation is a forward pass, and its report has no size worth counting.
        """
        device = self._devices[worker_id]
        begun_s = device.latency_s + down_bytes / device.down_bytes_per_s
        answer_s = device.latency_s
        examples = 0.0
        if isinstance(result, Trained):
            examples = result.examples
            answer_s += result.upload_bytes / device.up_bytes_per_s
        elif isinstance(result, Evaluated):
            examples = result.evaluation.samples / PASSES
        return begun_s + examples / self._rate(device) + answer_s

    def _rate(self, device: DeviceProfile) -> float:
        """Training examples per second."""
        if device.samples_per_s is not None:
            return device.samples_per_s
        assert device.flops_per_s is not None, "one of them is set"
        return device.flops_per_s / self._flops


def needs_flops(profiles: Sequence[DeviceProfile]) -> bool:
    """Whether a profile is told in operations, so that the model's must be counted."""
    return any(profile.flops_per_s is not None for profile in profiles)
