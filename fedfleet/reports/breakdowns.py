"""Draws one run in parts: accuracy per class and per worker, and which class is taken for which.

Legend: C = classes, R = evaluated rounds, W = workers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedfleet.reports.canvas import (
    ACCENT,
    HEAT,
    INK,
    NAMED_CLASSES,
    in_percent,
    new_figure,
    short_name,
)
from fedfleet.reports.measures import evaluation_of, hits_name
from fedfleet.reports.record import Record
from fedfleet.reports.round_result import RoundResult
from fedfleet.reports.settings import is_detector
from fedfleet.types import Evaluation

_MOST_BARS = 32
_MOST_COLUMNS = 20  # with a name below each
_MOST_COUNTS = 12  # classes of a confusion matrix with a number in each cell
_GAMMA = 0.5
_QUARTILES = (0, 25, 50, 75, 100)


def confusion_of(record: Record) -> tuple[int, Evaluation] | None:
    """The last evaluation that counted pairs of label and answer, with its round."""
    for result in reversed(record.rounds):
        if result.evaluation is not None and result.evaluation.confusion:
            return result.round, result.evaluation
    return None


def worker_rounds(record: Record) -> list[RoundResult]:
    """The rounds whose version workers evaluated on at least an example."""
    return [
        result
        for result in record.rounds
        if any(one.samples for one in result.worker_evaluations.values())
    ]


def draw_classes(record: Record) -> Figure:
    """A row per class, a column per evaluated round; on the right the last one in percent."""
    rounds = [(item.round, evaluation_of(item)) for item in record.rounds]
    evaluated = [(number, found) for number, found in rounds if found is not None]
    numbers = [number for number, _ in evaluated]
    samples_CR = np.array([one.class_samples for _, one in evaluated], np.float64).T
    correct_CR = np.array([one.class_correct for _, one in evaluated], np.float64).T
    accuracy_CR = np.divide(
        correct_CR, samples_CR, out=np.full_like(samples_CR, np.nan), where=samples_CR > 0
    )
    classes = record.facts.classes
    figure = new_figure(_class_height(len(classes)))
    axes = figure.subplots()
    image = axes.imshow(
        accuracy_CR, aspect="auto", interpolation="nearest", cmap=HEAT, vmin=0, vmax=1
    )
    _name_classes(axes, classes)
    places = np.unique(np.linspace(0, len(numbers) - 1, min(8, len(numbers))).round().astype(int))
    axes.set_xticks(places, [str(numbers[place]) for place in places])
    axes.set_xlabel("round")
    axes.grid(visible=False)
    if len(classes) <= NAMED_CLASSES:
        right = axes.secondary_yaxis("right")
        last = [_percent(value) for value in accuracy_CR[:, -1]]
        right.set_yticks(range(len(classes)), last, fontsize="small")
        right.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes, pad=0.03, aspect=30, label=_hits(record))
    in_percent(bar.ax, "y")
    return figure


def draw_confusion(record: Record) -> Figure:
    """A row per class, a column per answer; the shade is the share of the row."""
    found = confusion_of(record)
    assert found is not None, "asked for without a confusion matrix"
    counts_CC = np.array(found[1].confusion, np.float64)
    rows_C = counts_CC.sum(axis=1, keepdims=True)
    classes = record.facts.classes
    figure = new_figure(min(4.8, max(3.2, 1.4 + 0.28 * len(classes))))
    axes = figure.subplots()
    shares_CC = counts_CC / np.maximum(rows_C, 1)
    # Most answers are right: at equal steps of colour the wrong ones would look like none.
    image = axes.imshow(
        shares_CC,
        aspect="auto",
        interpolation="nearest",
        cmap=HEAT,
        norm=PowerNorm(_GAMMA, vmin=0, vmax=1),
    )
    _name_classes(axes, classes)
    axes.set_ylabel("label" if len(classes) <= NAMED_CLASSES else f"label, {len(classes)} classes")
    axes.set_xlabel("answer, in the same order")
    axes.set_xticks([])
    if len(classes) <= _MOST_COLUMNS:
        names = [short_name(name) for name in classes]
        turn = 0 if max(map(len, names)) <= 3 else 90
        axes.set_xticks(range(len(names)), names, rotation=turn, fontsize="small")
        axes.set_xlabel("answer")
    axes.grid(visible=False)
    if len(classes) <= _MOST_COUNTS:
        _count_cells(axes, counts_CC, shares_CC)
    bar = figure.colorbar(
        image, ax=axes, pad=0.02, aspect=30, label="share of the label's examples"
    )
    in_percent(bar.ax, "y")
    return figure


def draw_workers(record: Record) -> Figure:
    """The last round's accuracy of each worker: a bar each, or in falling order where many."""
    evaluations = worker_rounds(record)[-1].worker_evaluations
    having = {name: one for name, one in sorted(evaluations.items(), key=_by_number) if one.samples}
    figure = new_figure(2.9)
    axes = figure.subplots()
    accuracies_W = np.array([one.accuracy for one in having.values()])
    if len(having) <= _MOST_BARS:
        axes.bar(range(len(having)), accuracies_W, color=ACCENT, width=0.75)
        names = _without_common_start(list(having))
        turn = 0 if sum(map(len, names)) <= 40 else 90
        axes.set_xticks(range(len(having)), names, rotation=turn, fontsize="small")
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("worker")
    else:
        falling_W = np.sort(accuracies_W)[::-1]
        axes.fill_between(np.arange(1, len(having) + 1), falling_W, color=ACCENT, step="mid")
        axes.set_xlabel("workers, the best first")
        axes.set_xlim(0.5, len(having) + 0.5)
    axes.axhline(float(accuracies_W.mean()), color=INK, linewidth=1, dashes=(4, 3))
    axes.set_ylabel(_hits(record))
    axes.set_ylim(0, 1.02)
    in_percent(axes, "y")
    return figure


def draw_worker_rounds(record: Record) -> Figure:
    """Over rounds: the median of the workers' accuracies, the middle half, the whole span."""
    rounds = worker_rounds(record)
    numbers = [item.round for item in rounds]
    spans = np.array(
        [
            np.percentile(
                [one.accuracy for one in item.worker_evaluations.values() if one.samples],
                _QUARTILES,
            )
            for item in rounds
        ]
    )
    figure = new_figure(2.9)
    axes = figure.subplots()
    whole = axes.fill_between(numbers, spans[:, 0], spans[:, 4], color=ACCENT, label="all workers")
    whole.set(alpha=0.15, linewidth=0)
    half = axes.fill_between(numbers, spans[:, 1], spans[:, 3], color=ACCENT, label="middle half")
    half.set(alpha=0.3, linewidth=0)
    axes.plot(numbers, spans[:, 2], color=ACCENT, label="median")
    axes.set_xlabel("round")
    axes.set_ylabel(_hits(record))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    in_percent(axes, "y")
    axes.legend(loc="lower right")
    return figure


def _count_cells(
    axes: Axes, counts_CC: npt.NDArray[np.float64], shares_CC: npt.NDArray[np.float64]
) -> None:
    for (row, column), count in np.ndenumerate(counts_CC):
        if count:
            axes.text(
                column,
                row,
                f"{count:.0f}",
                ha="center",
                va="center",
                fontsize=7.5,
                color="white" if shares_CC[row, column] ** _GAMMA > 0.55 else INK,
            )


def _name_classes(axes: Axes, classes: Sequence[str]) -> None:
    if len(classes) > NAMED_CLASSES:
        axes.set_yticks([])  # places in this order are no labels
        axes.set_ylabel(f"the {len(classes)} classes")
        return
    axes.set_yticks(range(len(classes)), [short_name(name) for name in classes], fontsize="small")


def _class_height(classes: int) -> float:
    return min(7.0, max(2.4, 1.1 + 0.2 * classes)) if classes <= NAMED_CLASSES else 4.5


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.0f} %"


def _by_number(item: tuple[str, Evaluation]) -> tuple[str, int, str]:
    """worker-10 after worker-9."""
    name = item[0]
    start, _, last = name.rpartition("-")
    return (start, int(last), name) if last.isdecimal() else (name, -1, name)


def _without_common_start(names: Sequence[str]) -> list[str]:
    """worker-0, worker-1 as 0, 1; names that do not begin alike are cut only."""
    starts = {name.rpartition("-")[0] for name in names}
    if len(names) > 1 and len(starts) == 1 and starts != {""}:
        return [short_name(name.rpartition("-")[2]) for name in names]
    return [short_name(name) for name in names]


def _hits(record: Record) -> str:
    return hits_name(of_detector=is_detector(record.recipe))
