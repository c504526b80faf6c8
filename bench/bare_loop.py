"""A round of `fedfleet simulate --engine processes` against a hand-written PyTorch loop in as many
processes, on the same training work: CIFAR-10, the `cnn`, 100 workers of 500 images, 10 per round,
batches of 32, one epoch. Target: at most 1.05 times as long (medians of the rounds).

Both take turns, round by round, so that whatever else the machine does befalls both; the ratio of
their processor times is less disturbed by it, and blind to processes that wait for each other.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from pathlib import Path

import psutil
import torch
from record import record
from torch import Tensor, multiprocessing, nn
from torch.nn import functional as F

from fedfleet.data.shard import Examples, Shards
from fedfleet.models.catalog import build
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import Recipe, parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.sim.engines import EngineSettings, opened_engine
from fedfleet.sim.jobs import Engine, TrainJob
from fedfleet.sim.outcome import SimulatedRound
from fedfleet.training.state import initial_state

TARGET = 1.05
PROCESSES = 2
WORKERS = 100
COHORT = 10
WARM = 2  # rounds before the measured ones
LR = 0.05
BATCH = 32
RECIPE = f"""
name = "bare-loop"
seed = 1
[model]
architecture = "cnn"
[data]
dataset = "cifar10"
partition = "iid"
workers = {WORKERS}
[training]
epochs = 1
batch_size = {BATCH}
lr = {LR}
validation_fraction = 0.0
threads = 1
[rounds]
rounds = {{rounds}}
cohort = {COHORT}
[evaluation]
every = 1000000
coordinator = false
[wire]
uplink = "identity"
"""


def bare_process(
    place: int, params: list[Tensor], totals: list[list[Tensor]], orders: object, answers: object
) -> None:
    """What somebody would write: one model, the shards in memory, sums in shared memory."""
    torch.set_num_threads(1)
    recipe = parse_recipe(RECIPE.format(rounds=1))
    card = card_of(recipe)
    shards = Shards(recipe.data, seed=1, data_dir=data_dir())
    model = build(card)
    own = list(model.parameters())
    mean = torch.tensor(card.inputs.mean).view(1, 3, 1, 1)
    std = torch.tensor(card.inputs.std).view(1, 3, 1, 1)
    kept = [as_tensors(shards.load("train", worker)) for worker in range(WORKERS)]
    total = totals[place]
    answers.put(place)  # type: ignore[attr-defined]
    while (workers := orders.get()) is not None:  # type: ignore[attr-defined]
        for part in total:
            part.zero_()
        for worker in workers:
            with torch.no_grad():
                for param, shared in zip(own, params, strict=True):
                    param.copy_(shared)
            images, labels = kept[worker]
            train(model, images, labels, mean, std)
            with torch.no_grad():
                for part, param, shared in zip(total, own, params, strict=True):
                    part += (param - shared) * (1 / COHORT)
        answers.put(place)  # type: ignore[attr-defined]


def shared(tensor: Tensor) -> Tensor:
    copy: Tensor = tensor.detach().clone().share_memory_()  # type: ignore[no-untyped-call]
    return copy


def as_tensors(examples: Examples) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(examples.images), torch.from_numpy(examples.labels)


def train(model: nn.Module, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    order = torch.randperm(len(labels))
    for start in range(0, len(labels), BATCH):
        index = order[start : start + BATCH]
        pixels = (images[index].float() / 255 - mean) / std
        loss = F.cross_entropy(model(pixels), labels[index])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()


class BareLoop:
    """The hand-written loop's own processes, and the averaging."""

    def __init__(self) -> None:
        spawning = multiprocessing.get_context("spawn")
        model = build(card_of(parse_recipe(RECIPE.format(rounds=1))))
        self._params = [shared(param) for param in model.parameters()]
        self._totals = [
            [shared(torch.zeros_like(param)) for param in self._params] for _ in range(PROCESSES)
        ]
        self._orders = [spawning.Queue() for _ in range(PROCESSES)]
        self._answers = spawning.Queue()
        self._processes = [
            spawning.Process(
                target=bare_process,
                args=(place, self._params, self._totals, self._orders[place], self._answers),
                daemon=True,
            )
            for place in range(PROCESSES)
        ]
        for process in self._processes:
            process.start()
        for _ in self._processes:
            self._answers.get()  # its data are there

    def processor_s(self) -> float:
        """Of its processes, since they began."""
        return sum(spent_s(process.pid) for process in self._processes)

    def round(self, workers: list[int]) -> float:
        """Train these workers and average; returns the seconds that it took."""
        start = time.perf_counter()
        for place, orders in enumerate(self._orders):
            orders.put(workers[place::PROCESSES])
        for _ in self._orders:
            self._answers.get()
        for totals in self._totals:
            for param, part in zip(self._params, totals, strict=True):
                param += part
        return time.perf_counter() - start

    def close(self) -> None:
        for orders in self._orders:
            orders.put(None)
        for process in self._processes:
            process.join()


def decode_all(recipe: Recipe, engine: Engine) -> None:
    """Have every worker trained once: a round is steady where no examples are decoded in it."""
    base = initial_state(card_of(recipe), 1)
    jobs = (
        TrainJob(
            assignment_id=str(worker),
            worker_id=f"worker-{worker}",
            round=1,
            seed=worker,
            base=base,
            base_digest="sim",
            broadcast=(),
            memory={},
        )
        for worker in range(WORKERS)
    )
    for _ in engine.carry_out(jobs):
        pass


def spent_s(pid: int | None) -> float:
    """Processor time of a process."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def simulator_s() -> float:
    """Processor time of this process and of the simulator's, which it started."""
    children = psutil.Process().children()
    own = [one.pid for one in children if "fedfleet.sim.process" in one.cmdline()]
    return spent_s(None) + sum(map(spent_s, own))


def data_dir() -> Path | None:
    folder = os.environ.get("FEDFLEET_DATA_DIR")
    return Path(folder) if folder else None


def main(rounds: int) -> None:
    if data_dir() is None:
        record("bare_loop", None, reason="FEDFLEET_DATA_DIR does not name a folder with cifar10/")
        return
    recipe = parse_recipe(RECIPE.format(rounds=WARM + rounds))
    bare = BareLoop()
    bare_s: list[float] = []
    ours_s: list[float] = []
    spent: list[tuple[float, float]] = []
    last = [0.0, 0.0]

    def on_round(done: SimulatedRound) -> None:
        ours_s.append(time.perf_counter() - last[0])
        ours_cpu_s, before_s = simulator_s() - last[1], bare.processor_s()
        bare_s.append(bare.round([int(name.rpartition("-")[2]) for name in done.workers]))
        spent.append((ours_cpu_s, bare.processor_s() - before_s))
        last[:] = [time.perf_counter(), simulator_s()]

    settings = EngineSettings(engine="processes", processes=PROCESSES)
    with opened_engine(settings, recipe, data_dir()) as engine:
        assert engine is not None
        decode_all(recipe, engine)
        last[:] = [time.perf_counter(), simulator_s()]
        simulate(recipe, data_dir(), on_round, engine=engine)
    bare.close()
    ratio = statistics.median(ours_s[WARM:]) / statistics.median(bare_s[WARM:])
    record(
        "bare_loop",
        ratio <= TARGET,
        ratio=round(ratio, 3),
        target_ratio=TARGET,
        round_s=round(statistics.median(ours_s[WARM:]), 3),
        bare_round_s=round(statistics.median(bare_s[WARM:]), 3),
        processor_ratio=round(statistics.median(ours / bare for ours, bare in spent[WARM:]), 3),
        rounds=rounds,
        processes=PROCESSES,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
