"""One of the processes that carry out jobs: ``python -m fedfleet.sim.process``, started by the
engine (``processes.py``), which says on standard input what is to be done.

A job is a file ``job-N`` in the shared folder. Whoever renames it to ``taken-N.PROCESS`` has it:
processes help themselves, so none waits for the engine, and the engine knows what each one holds.
A taken job whose file is gone is not wanted any more.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import torch

from fedfleet.data.shard import Shards
from fedfleet.errors import FedFleetError
from fedfleet.rounds.card import card_of
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.example_files import ExampleFiles
from fedfleet.sim.parcels import JobReader, write_result
from fedfleet.sim.workplace import Workplace
from fedfleet.training.allocator import keep_freed_memory
from fedfleet.training.trainers import Trainers


def main() -> None:
    """Carry out jobs until standard input ends, which it does with the engine's process too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the engine decides
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    torch.set_num_threads(1)
    keep_freed_memory()
    order = json.loads(sys.stdin.readline())
    folder = Path(order["folder"])
    try:
        bench = _Bench(order, folder, answers)
    except FedFleetError as error:
        _answer(answers, {"code": error.code, "reason": error.message})
        return
    with suppress(BrokenPipeError):
        for line in sys.stdin:
            for number in json.loads(line):
                bench.carry_out(number)
    # Where the engine was killed, nobody else is left to do it.
    shutil.rmtree(folder, ignore_errors=True)


class _Bench:
    # Any: the engine's JSON.
    def __init__(self, order: dict[str, Any], folder: Path, answers: TextIO) -> None:
        self._process = order["process"]
        self._engine = os.getppid()
        self._folder = folder
        self._answers = answers
        recipe = parse_recipe(order["recipe"])
        data_dir = Path(order["data_dir"]) if order["data_dir"] else None
        trainers = Trainers(
            card_of(recipe),
            recipe.training,
            recipe.evaluation,
            recipe.levels,
            device=order["device"],
        )
        shards = Shards(recipe.data, seed=recipe.seed, data_dir=data_dir)
        examples = ExampleFiles(shards, folder)
        self._workplace = Workplace(recipe, trainers, examples, data_dir=data_dir)
        self._reader = JobReader(folder, trainers.schema)

    def carry_out(self, number: int) -> None:
        """Do a job unless another process has taken it, or nobody wants it any more."""
        taken = self._folder / f"taken-{number}.{self._process}"
        try:
            (self._folder / f"job-{number}").rename(taken)
            job = self._reader.read(json.loads(taken.read_text()))
        except FileNotFoundError:
            if taken.exists():
                raise
            return  # taken by another, or withdrawn while it was read

        def is_unwanted() -> bool:
            return os.getppid() != self._engine or not taken.exists()

        result = self._workplace.carry_out(job, cancelled=is_unwanted)
        answer = write_result(result, self._folder / f"result-{number}")
        _answer(self._answers, {**answer, "number": number})


def _answer(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
