"""Bytes of an update by level: ResNet-18 at widths 1 to 1/16, coordinator and workers as processes.

Five workers, one at each level, do everything but the optimizer's steps (exchange_worker.py); each
talks to the coordinator through a relay of its own, which counts. Figures are per round, of a
longer run less a shorter one, so that what is only once (connections, the recipe) is left out.
Networks are our default, with group normalisation, and HeteroFL's (pre-activated, 1-1-1-2 blocks).

Targets, for every level: an update, and what its worker sends in a round, has at most 0.26 times
the bytes of the level above, and what is sent is at most 3 % more than the level's parameters take
(4 bytes each, or 1 with int8). ``misses`` names what fails. What comes down is shown beside it: it
holds the recipe and the round's other news too, which are the same at every level.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import grpc
from counting_relay import counted_way
from processes import EXCHANGE_WORKER, coordinator, finish, process
from record import record

from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.training.submodels import SubModels
from fedfleet.types import Kind
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub

LEVELS = "abcde"
TARGET_NEXT = 0.26
TARGET_OVERHEAD = 0.03
SHORT, LONG = 2, 6
OF_HETEROFL = "resnet18_of_heterofl"
NETWORKS = {
    "resnet18": 'norm = "group"',
    OF_HETEROFL: 'norm = "group"\nblocks = [1, 1, 1, 2]\npreactivation = true',
}
CODECS = {"identity": 4, "int8": 1}  # bytes of a parameter
PUBLISHED = (9_622_000, 2_409_000, 604_000, 152_000, 38_000)  # of HeteroFL's, in thousands
SYNTHETIC = 'dataset = "synthetic"\nfeatures = 32\nclasses = 10\n'
RECIPE = """
name = "level-bytes"
[model]
architecture = "resnet18"
{network}
[data]
dataset = "synthetic"
features = 32
classes = 10
partition = "iid"
workers = 5
[training]
threads = 1
[algorithm]
name = "heterofl"
[rounds]
rounds = {rounds}
cohort = 5
[levels]
rates = [1.0, 0.5, 0.25, 0.125, 0.0625]
[evaluation]
coordinator = false
[wire]
uplink = "{codec}"
downlink = "{codec}"
"""


@dataclass(frozen=True)
class Moved:
    """Bytes of one worker in a round: in its update's payload, and both ways on the wire."""

    payload: float
    up: float
    down: float


def measure(network: str, codec: str) -> dict[str, Moved]:
    """By level."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(coordinator(folder))
        ways = {}
        for number, level in enumerate(LEVELS):
            way, ways[level] = stack.enter_context(counted_way(int(address.rpartition(":")[2])))
            command = (
                sys.executable,
                str(EXCHANGE_WORKER),
                way,
                str(number),
                "1",
                str(folder),
                "0",
            )
            stack.enter_context(process(command, folder / f"w{number}.log"))
        control = ControlServiceStub(stack.enter_context(grpc.insecure_channel(address)))

        def totals(rounds: int) -> dict[str, Moved]:
            before = {level: (way.up, way.down) for level, way in ways.items()}
            text = RECIPE.format(network=NETWORKS[network], codec=codec, rounds=rounds)
            done = finish(control, text).rounds
            return {
                level: Moved(
                    sum(one.traffic[f"worker-{number}"].bytes_up for one in done),
                    ways[level].up - before[level][0],
                    ways[level].down - before[level][1],
                )
                for number, level in enumerate(LEVELS)
            }

        short, long = totals(SHORT), totals(LONG)
    return {level: _per_round(short[level], long[level]) for level in LEVELS}


def _per_round(short: Moved, long: Moved) -> Moved:
    more = LONG - SHORT
    return Moved(
        (long.payload - short.payload) / more,
        (long.up - short.up) / more,
        (long.down - short.down) / more,
    )


def parameters(network: str, *, is_colour: bool = False) -> dict[str, int]:
    """By level, as the schemas have them.

    Args:
        is_colour: of images with three channels, as published; else of what is exchanged here.
    """
    text = RECIPE.format(network=NETWORKS[network], codec="identity", rounds=1)
    if is_colour:
        text = text.replace(SYNTHETIC, 'dataset = "cifar10"\n')
    recipe = parse_recipe(text)
    assert recipe.levels is not None
    models = SubModels(card_of(recipe), recipe.levels.rates)
    return {level: models.schema(level).elements(Kind.TRAINABLE) for level in LEVELS}


def report(network: str, codec: str, counts: Mapping[str, int], moved: Mapping[str, Moved]) -> None:
    """Print what one network and codec came to."""
    plain = {level: CODECS[codec] * counts[level] for level in LEVELS}
    nexts = {
        way: {
            narrow: getattr(moved[narrow], way) / getattr(moved[wide], way)
            for wide, narrow in pairwise(LEVELS)
        }
        for way in ("payload", "up", "down")
    }
    overheads = {
        way: {level: getattr(moved[level], way) / plain[level] - 1 for level in LEVELS}
        for way in ("payload", "up", "down")
    }
    misses = [
        f"{way} of level {level}: {what} {table[way][level]:.4f}"
        for what, table, target in (
            ("of level above", nexts, TARGET_NEXT),
            ("overhead", overheads, TARGET_OVERHEAD),
        )
        for way in ("payload", "up")
        for level in table[way]
        if table[way][level] > target
    ]
    record(
        f"level_bytes_{network}_{codec}",
        not misses,
        misses=misses,
        target_of_level_above=TARGET_NEXT,
        target_overhead=TARGET_OVERHEAD,
        update_bytes={level: round(moved[level].payload) for level in LEVELS},
        wire_up_bytes={level: round(moved[level].up) for level in LEVELS},
        wire_down_bytes={level: round(moved[level].down) for level in LEVELS},
        of_level_above=rounded(nexts),
        overhead=rounded(overheads),
    )


def rounded(table: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: round(value, 4) for key, value in row.items()} for name, row in table.items()
    }


def main() -> None:
    for network in NETWORKS:
        in_colour = parameters(network, is_colour=True)
        is_published = [round(count, -3) for count in in_colour.values()] == list(PUBLISHED)
        record(
            f"level_parameters_{network}",
            is_published if network == OF_HETEROFL else None,
            parameters=in_colour,
            published_of_heterofl=PUBLISHED,
            of_level_above={
                narrow: round(in_colour[narrow] / in_colour[wide], 4)
                for wide, narrow in pairwise(LEVELS)
            },
        )
        counts = parameters(network)
        for codec in CODECS:
            report(network, codec, counts, measure(network, codec))


if __name__ == "__main__":
    main()
