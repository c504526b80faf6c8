"""Seconds and bytes per round of ResNet-18's exchange (11.2 M float32) with 4 workers, no training.

Targets: 8 times faster than Flower in the same run (aim 15), and at most 3 % more bytes over
loopback than 8 times 44.9 MB, four states down and four updates up. Neither side evaluates. Ours is
measured before and after Flower, for the machine may not be the same all the while.

Time and bytes are those of the rounds after the first, in which processes and connections start
and our workers make the initial state themselves. Bytes are the operating system's count. Flower's
server application reads it at the end of each round, where nothing moves; ours is what a longer run
has more than a shorter one, since workers begin to download as soon as a round is committed.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from loopback import is_private, received_bytes, run_privately
from peaks import watched
from peers.environment import install
from peers.flower import deployment as flower
from processes import exchanging, finish
from record import record

from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.training.seeding import derive
from fedfleet.training.state import initial_state

WORKERS = 4
ROUNDS = 6
MORE_ROUNDS = 5  # of our second run
TARGET_RATIO = 8.0
AIM_RATIO = 15.0
TARGET_BYTES = 1.03 * 8 * 44.9e6
ROLES = {"fedfleet_coordinator": "coordinator", "exchange_worker": "worker"}
RECIPE = """
name = "exchange"
[model]
architecture = "resnet18"
[data]
dataset = "synthetic"
features = 32
partition = "iid"
workers = {workers}
[training]
threads = 1
[rounds]
rounds = {rounds}
cohort = {workers}
[evaluation]
coordinator = false
[wire]
uplink = "identity"
"""


@dataclass(frozen=True)
class Measured:
    """One run: when each round ended, bytes moved, and peak memory by role in MB.

    Args:
        moved_bytes: of our run in all; of Flower's without its first round.
    """

    ends_s: list[float]
    moved_bytes: int
    peaks_mb: dict[str, float]

    @property
    def rounds_s(self) -> list[float]:
        """Seconds of each round but the first."""
        return [later - earlier for earlier, later in itertools.pairwise(self.ends_s)]


def recipe(rounds: int) -> str:
    return RECIPE.format(workers=WORKERS, rounds=rounds)


def measure_ours(rounds: int) -> Measured:
    with (
        tempfile.TemporaryDirectory() as folder,
        exchanging(Path(folder), WORKERS, WORKERS) as control,
        watched(ROLES) as peaks,
    ):
        before = received_bytes()
        done = finish(control, recipe(rounds)).rounds
        moved = received_bytes() - before
    return Measured([round.committed_at_s for round in done], moved, peaks.megabytes())


def measure_flower() -> Measured:
    parsed = parse_recipe(recipe(ROUNDS))
    schema = initial_state(card_of(parsed), derive(parsed.seed, "initial")).schema
    tensors = [(param.name, param.shape, str(param.kind.dtype)) for param in schema.params]
    with tempfile.TemporaryDirectory() as folder, watched(flower.ROLES) as peaks:
        rounds = flower.exchange(tensors, Path(folder), ROUNDS, WORKERS)
    moved = rounds.received_bytes[-1] - rounds.received_bytes[0]
    return Measured(rounds.aggregated_at_s, moved, peaks.megabytes())


def main(missing: str) -> None:
    """Measure and print.

    Args:
        missing: why there is no Flower to compare with, or nothing.
    """
    first = measure_ours(ROUNDS)
    peer = None if missing else measure_flower()
    second = measure_ours(ROUNDS + MORE_ROUNDS)
    compare(first.rounds_s + second.rounds_s, peer, missing)
    ours_bytes = (second.moved_bytes - first.moved_bytes) / MORE_ROUNDS
    record(
        "exchange_bytes",
        ours_bytes <= TARGET_BYTES,
        mb_per_round=round(ours_bytes / 1e6, 2),
        target_mb=round(TARGET_BYTES / 1e6, 2),
        flower_mb_per_round=round(peer.moved_bytes / (ROUNDS - 1) / 1e6, 2) if peer else None,
        private_loopback=is_private(),
    )
    record(
        "exchange_memory",
        None,
        peak_mb=second.peaks_mb,
        flower_peak_mb=peer.peaks_mb if peer else None,
    )


def compare(ours_s: list[float], peer: Measured | None, missing: str) -> None:
    """Print the seconds per round; without the peer nothing is said to hold."""
    figures = {
        "median_s": round(statistics.median(ours_s), 3),
        "rounds_s": [round(seconds, 2) for seconds in ours_s],
    }
    if peer is None:
        record("exchange_time", None, **figures, not_compared=f"no Flower: {missing}")
        return
    peer_s = statistics.median(peer.rounds_s)
    ratio = peer_s / statistics.median(ours_s)
    record(
        "exchange_time",
        ratio >= TARGET_RATIO,
        **figures,
        flower_median_s=round(peer_s, 3),
        flower_rounds_s=[round(seconds, 2) for seconds in peer.rounds_s],
        ratio=round(ratio, 2),
        target_ratio=TARGET_RATIO,
        aim_ratio=AIM_RATIO,
    )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        # Installed from here, for a network of its own has no registry.
        sys.exit(run_privately([__file__, install(flower.NAME)]))
    main(sys.argv[1])
