"""Virtual time: how long each simulated worker's work would take on the device that it stands for.

Profiles are no part of a recipe, which is the same for real devices: they come from a file of
their own, a list of ``[[profiles]]`` tables.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from fedfleet.errors import OutOfMemory, RecipeInvalid, SettingInvalid
from fedfleet.rounds.chance import hashed, share_of, shuffled
from fedfleet.rounds.level_facts import Speed, Told
from fedfleet.rounds.levels import FULL
from fedfleet.sim.device_kinds import DEVICE_KINDS
from fedfleet.sim.jobs import Evaluated, Queried, Result, Trained
from fedfleet.tables import parse_table, printable, shown, suggest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# A forward and a backward pass, which is two more, in forward passes (Kaplan et al. 2020,
# arXiv:2001.08361, section 2.1).
PASSES = 3
_SUM_ERROR = 1e-6
# No work is done in no time.
_LEAST_LUCK = 1e-9


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceProfile:
    """A kind of device. Rates are sustained ones, in training.

    Args:
        count: how many workers are of this kind; or ``share``: which part of the fleet, in (0, 1].
        samples_per_s: training examples; or ``flops_per_s``: floating-point operations, for any
            model.
        down_bytes_per_s, up_bytes_per_s: of the device's link; absent means transfers take no time.
        latency_s: of each transfer, on top.
        memory_bytes: a model whose training takes more fails with OUT_OF_MEMORY; absent means that
            any fits.
        jitter: each training takes its time multiplied with the absolute value of a normal number
            of mean 0 and this standard deviation, drawn anew from the recipe's seed: half-normal,
            as the durations of FedBuff's evaluation are (Nguyen et al. 2022, arXiv:2106.06639).
            With 1.2533 (the root of pi/2) the mean is the profile's own time. Absent means none.
    """

    name: str
    count: int | None = None
    share: float | None = None
    samples_per_s: float | None = None
    flops_per_s: float | None = None
    down_bytes_per_s: float = math.inf
    up_bytes_per_s: float = math.inf
    latency_s: float = 0.0
    memory_bytes: int | None = None
    jitter: float | None = None

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
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise ValueError(f"memory_bytes = {self.memory_bytes}: must be 1 or more")
        if self.jitter is not None and not 0 < self.jitter <= 100:
            raise ValueError(f"jitter = {self.jitter}: must be above 0 and at most 100")


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
            parse_table(DeviceProfile, _with_kind(table, place), f"profiles[{place}]")
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


def _with_kind(table: Mapping[str, Any], place: int) -> Mapping[str, Any]:
    """A profile's table with what its kind brings, where it names one; its own fields win.

    Any: a TOML value, which the parser of tables checks.
    """
    if "kind" not in table:
        return table
    kind, known = table["kind"], list(DEVICE_KINDS)
    if not isinstance(kind, str) or kind not in DEVICE_KINDS:
        named = suggest(kind, known) if isinstance(kind, str) else suggest("", known)
        raise SettingInvalid(f"devices: profiles[{place}].kind = {shown(kind)}: unknown; {named}")
    brought = {"name": kind, **asdict(DEVICE_KINDS[kind])}
    if "samples_per_s" in table:
        del brought["flops_per_s"]
    return {**brought, **{name: value for name, value in table.items() if name != "kind"}}


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


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCost:
    """What one width of a model asks of a device (``model_cost.cost_of``).

    Args:
        forward_flops: floating-point operations of one forward pass of one example; 0 where nobody
            needs them.
        memory_bytes: that training takes; an estimate.
    """

    forward_flops: int
    memory_bytes: int = 0


class Pace:
    """How long assignments take.

    Args:
        devices: the profile of each worker.
        costs: of the model by level; where a level is not in it, that of the whole width holds.
            Its operations may be 0 where no profile asks for them.
        seed: of the jitter.
    """

    def __init__(
        self, devices: Mapping[str, DeviceProfile], costs: Mapping[str, ModelCost], seed: int = 0
    ) -> None:
        self._devices = devices
        self._costs = costs
        self._seed = seed

    def check_memory(self, worker_id: str, level: str = FULL) -> None:
        """Raises OutOfMemory: the worker's device cannot train the model at this level."""
        room, needed = self._devices[worker_id].memory_bytes, self._cost(level).memory_bytes
        if room is not None and needed > room:
            raise OutOfMemory(
                f"training level {level} takes {needed / 1e6:.0f} MB, the device has "
                f"{room / 1e6:.0f}; give it a narrower level or a smaller batch"
            )

    def seconds(self, worker_id: str, down_bytes: int, result: Result, level: str = FULL) -> float:
        """From an assignment's sending to its result's arrival.

        Download, work, upload, one after the other. A worker that failed says so once it has
        downloaded; an evaluation is a forward pass, a query one at each level, and their reports
        have no size worth counting.
        """
        device = self._devices[worker_id]
        answer_s = device.latency_s
        examples = 0.0
        if isinstance(result, Trained):
            examples = result.examples
            answer_s += result.upload_bytes / device.up_bytes_per_s
        elif isinstance(result, Evaluated):
            examples = result.evaluation.samples / PASSES
        work_s = examples / self._rate(device, level)
        if isinstance(result, Queried):
            rates = (self._rate(device, one) for one in (level, *result.measured.levels))
            work_s = sum(result.measured.samples / PASSES / rate for rate in rates)
        work_s *= self._luck(device, result.assignment_id)
        return self._download_s(device, down_bytes) + work_s + answer_s

    def examples_in(
        self,
        worker_id: str,
        assignment_id: str,
        seconds: float,
        *,
        down_bytes: int,
        up_bytes: int,
        level: str = FULL,
    ) -> float:
        """How many examples a worker can train on so that its update is there in time; 0 or more.

        Args:
            seconds: from the assignment's sending.
            up_bytes: what the update is thought to have.
        """
        device = self._devices[worker_id]
        rest_s = seconds - self._download_s(device, down_bytes)
        rest_s -= device.latency_s + up_bytes / device.up_bytes_per_s
        rate = self._rate(device, level) / self._luck(device, assignment_id)
        return max(0.0, rest_s * rate)

    def told(self, worker_id: str, levels: Iterable[str]) -> Told:
        """What a worker on its device would say of itself after a probe."""
        device = self._devices[worker_id]
        return Told(
            speeds={
                level: Speed(self._rate(device, level), float(self._cost(level).memory_bytes))
                for level in levels
            },
            memory_bytes=float(device.memory_bytes or 0),
            down_bytes_per_s=_finite(device.down_bytes_per_s),
            up_bytes_per_s=_finite(device.up_bytes_per_s),
        )

    def _download_s(self, device: DeviceProfile, down_bytes: int) -> float:
        return device.latency_s + down_bytes / device.down_bytes_per_s

    def _rate(self, device: DeviceProfile, level: str) -> float:
        """Training examples per second.

        A rate that was told in examples is the whole model's: a narrower one is faster by its
        operations, where they were counted.
        """
        flops = self._cost(level).forward_flops
        if device.samples_per_s is not None:
            whole = self._cost(FULL).forward_flops
            return device.samples_per_s * (whole / flops if flops and whole else 1.0)
        assert device.flops_per_s is not None, "one of them is set"
        return device.flops_per_s / (flops * PASSES)

    def _cost(self, level: str) -> ModelCost:
        return self._costs.get(level) or self._costs[FULL]

    def _luck(self, device: DeviceProfile, assignment_id: str) -> float:
        """What this assignment's work takes, in what it takes by the profile."""
        if device.jitter is None:
            return 1.0
        drawn = share_of(hashed(self._seed, assignment_id))
        return max(_LEAST_LUCK, device.jitter * NormalDist().inv_cdf((1 + drawn) / 2))


def _finite(rate: float) -> float:
    """A link's speed as workers tell it; 0 for one that takes no time."""
    return rate if rate < math.inf else 0.0


def needs_flops(profiles: Sequence[DeviceProfile]) -> bool:
    """Whether a profile is told in operations, so that the model's must be counted."""
    return any(profile.flops_per_s is not None for profile in profiles)
