"""Records of runs for the tests of reports, with numbers that are easy to see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from fedfleet.reports.facts import DataMap, RunFacts
from fedfleet.reports.record import Record
from fedfleet.reports.round_result import RoundResult
from fedfleet.reports.writer import RecordWriter
from fedfleet.types import Evaluation

RECIPE = 'name = "{name}"\nseed = {seed}\n[training]\nlr = {lr}\n'
HOSTILE = ("<script>alert(1)</script>", "$a_1^{x}$ & \"q\" 'p'", "--><b>\x07", "cafe \u4e2d\u6587")


def evaluation(
    rows: Sequence[Sequence[int]], *, loss: float = 1.0, confusion: bool = True
) -> Evaluation:
    """The evaluation that a confusion matrix and a mean loss make."""
    counts = np.array(rows)
    samples = int(counts.sum())
    return Evaluation(
        samples=samples,
        loss_sum=loss * samples,
        correct=int(counts.trace()),
        top5=samples,
        class_samples=tuple(map(int, counts.sum(axis=1))),
        class_correct=tuple(map(int, counts.diagonal())),
        class_predicted=tuple(map(int, counts.sum(axis=0))),
        confusion=tuple(tuple(map(int, row)) for row in counts) if confusion else (),
    )


def of_accuracy(percent: int, *, classes: int = 2, loss: float = 1.0) -> Evaluation:
    """100 examples, all of the first class; the wrong answers are the second."""
    rows = np.zeros((classes, classes), int)
    rows[0, 0], rows[0, 1] = percent, 100 - percent
    return evaluation(rows.tolist(), loss=loss)


def round_result(
    number: int,
    percent: int | None = None,
    *,
    classes: int = 2,
    workers: Sequence[int] = (),
    virtual_s: float | None = None,
) -> RoundResult:
    """Round ``number`` moves 100 bytes up and 50 down, and closes 10 s after the one before."""
    found = None if percent is None else of_accuracy(percent, classes=classes, loss=2.0 / number)
    return RoundResult(
        round=number,
        version=None,
        duration_s=None,
        updates=2,
        weight=20.0,
        metrics={"train_loss": 1.0},
        bytes_up=100,
        bytes_down=50,
        evaluation=found,
        worker_evaluations={
            f"worker-{i}": of_accuracy(share, classes=classes) for i, share in enumerate(workers)
        },
        workers=("worker-0", "worker-1"),
        at_s=1000.0 + 10 * number,
        virtual_s=virtual_s,
    )


def record(
    percents: Sequence[int | None] = (40, 60, 80),
    *,
    name: str = "tiny",
    seed: int = 1,
    lr: float = 0.1,
    classes: Sequence[str] = ("cat", "dog"),
    source: str = "simulated",
    outcome: str = "completed",
    run_id: str = "a-run",
    workers: Sequence[int] = (30, 90),
    virtual: bool = False,
    with_data: bool = True,
    options: Mapping[str, str] = MappingProxyType({}),
) -> Record:
    """A record whose coordinator found these accuracies in rounds 1, 2 and so on."""
    count = len(classes)
    return Record(
        facts=RunFacts(
            source=source,
            run_id=run_id,
            name=name,
            seed=seed,
            rounds=len(percents),
            classes=tuple(classes),
            started_at_s=1000.0,
            ended_at_s=2000.0,
            outcome=outcome,
            versions={"python": "3.11"},
            machine={"cores": "2"},
            commit="abc1234",
            options=dict(options),
        ),
        recipe=RECIPE.format(name=name, seed=seed, lr=lr),
        rounds=[
            round_result(
                number,
                percent,
                classes=count,
                workers=workers,
                virtual_s=100.0 * number if virtual else None,
            )
            for number, percent in enumerate(percents, 1)
        ],
        data=DataMap(title="tiny data", groups=None, per_class=((3,) * count, (0,) * count))
        if with_data
        else None,
    )


def write_record(folder: Path, record: Record) -> None:
    """Write a whole record; raises what ``RecordWriter`` raises."""
    writer = RecordWriter(folder, record.facts, record.recipe, record.data)
    for result in record.rounds:
        writer.add(result)
