"""What a run came to: the tables at the end of ``up``, ``simulate`` and ``run show``.

Legend: C = classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from fedfleet.cli.documents import traffic_document
from fedfleet.cli.output import bars, fitting_table, make_table, number, percent, size
from fedfleet.cli.quality import ON_WORKERS, class_quality, quality_column
from fedfleet.reports.measures import evaluation_of, hits_name
from fedfleet.reports.round_result import RoundResult
from fedfleet.types import MAP50, Evaluation
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.evaluations import evaluation_from_message

# More classes than these are shown by their worst.
MOST_CLASSES = 20
# What a narrow terminal does without, the first first.
_NARROW = ("samples", "version", "train loss", "updates")


def round_result(summary: pb.RoundSummary) -> RoundResult:
    """A round from the coordinator's message."""
    evaluation = None
    if summary.HasField("evaluation"):
        evaluation = evaluation_from_message(summary.evaluation)
    return RoundResult(
        round=summary.round,
        version=summary.version,
        duration_s=summary.duration_s,
        updates=summary.updates,
        weight=summary.weight,
        metrics=dict(summary.metrics),
        bytes_up=summary.bytes_up,
        bytes_down=sum(moved.bytes_down for moved in summary.traffic.values()),
        traffic={name: traffic_document(moved) for name, moved in summary.traffic.items()},
        evaluation=evaluation,
        worker_evaluations={
            name: evaluation_from_message(message)
            for name, message in summary.worker_evaluations.items()
        },
        at_s=summary.committed_at_s,
    )


def last_evaluation(rounds: Sequence[RoundResult]) -> tuple[int, Evaluation] | None:
    """The newest evaluation by the coordinator, with its round."""
    for result in reversed(rounds):
        if result.evaluation is not None:
            return result.round, result.evaluation
    return None


def print_rounds(out: Console, rounds: Sequence[RoundResult], *, of_detector: bool = False) -> None:
    """Print one line per round, and what they moved in all.

    The quality is what the coordinator measured, else what the workers did together.
    """
    evaluations = _evaluations(rounds)
    quality = quality_column(evaluations, of_detector=of_detector)
    if is_on_workers(rounds):
        quality += ON_WORKERS
    columns = (
        *("round", "version", "updates", "samples", quality, "loss", "train loss"),
        *("up", "down", "took"),
    )
    rows = [_round_row(*pair) for pair in zip(rounds, evaluations, strict=True)]
    out.print(fitting_table(out, "Rounds", columns, rows, right=columns, leave_out=_NARROW))
    print_traffic(out, rounds)


def is_on_workers(rounds: Sequence[RoundResult]) -> bool:
    """Whether versions were evaluated by workers, and none by the coordinator."""
    return last_evaluation(rounds) is None and any(item.worker_evaluations for item in rounds)


def _evaluations(rounds: Sequence[RoundResult]) -> list[Evaluation | None]:
    """Of each round the coordinator's; where it has none of any, the workers' added up."""
    if is_on_workers(rounds):
        return [evaluation_of(item) for item in rounds]
    return [item.evaluation for item in rounds]


def _round_row(item: RoundResult, evaluation: Evaluation | None) -> tuple[str, ...]:
    return (
        str(item.round),
        "-" if item.version is None else str(item.version),
        str(item.updates),
        f"{item.weight:g}",
        percent(evaluation.quality if evaluation else None),
        number(evaluation.loss if evaluation else None),
        number(item.metrics.get("train_loss")),
        size(item.bytes_up),
        size(item.bytes_down),
        "-" if item.duration_s is None else f"{item.duration_s:.2f} s",
    )


def print_traffic(out: Console, rounds: Sequence[RoundResult]) -> None:
    """Print what all rounds moved, in a line."""
    counted = sum(item.bytes_up for item in rounds)
    moved = sum(one["bytes_up"] for item in rounds for one in item.traffic.values())
    more = f" (and {size(moved - counted)} sent again or in vain)" if moved > counted else ""
    down = sum(item.bytes_down for item in rounds)
    out.print(f"Moved in all: {size(counted)} up{more}, {size(down)} down.")


def print_result(
    out: Console,
    rounds: Sequence[RoundResult],
    classes: Sequence[str],
    *,
    of_detector: bool = False,
) -> None:
    """Print the last result: in all, per class, per worker."""
    title = "Global model"
    if is_on_workers(rounds):
        title += ", on what each worker holds back"
    found = zip(reversed(rounds), reversed(_evaluations(rounds)), strict=True)
    for item, evaluation in found:
        if evaluation is not None:
            _print_global(out, title, item.round, evaluation, of_detector=of_detector)
            _print_classes(out, evaluation, classes, of_detector=of_detector)
            break
    else:
        out.print("No version was evaluated by the coordinator.")
    _print_workers(out, rounds, of_detector=of_detector)


def _print_global(
    out: Console, title: str, round: int, evaluation: Evaluation, *, of_detector: bool
) -> None:
    if of_detector or MAP50 in evaluation.scores:
        _print_detector(out, title, round, evaluation)
        return
    columns = ("round", "accuracy", "top-5", "loss", "test examples")
    table = make_table(title, columns, right=columns)
    table.add_row(
        str(round),
        percent(evaluation.accuracy),
        percent(evaluation.top5 / evaluation.samples if evaluation.samples else None),
        number(evaluation.loss),
        str(evaluation.samples),
    )
    out.print(table)


def _print_detector(out: Console, title: str, round: int, evaluation: Evaluation) -> None:
    columns = ("round", "mAP@0.5", "mAP@0.5:0.95", "recall", "precision", "loss", "boxes")
    table = make_table(title, columns, right=columns)
    answered = sum(evaluation.class_predicted)
    table.add_row(
        str(round),
        percent(evaluation.scores.get(MAP50)),
        percent(evaluation.scores.get("map")),
        percent(evaluation.accuracy),
        percent(evaluation.correct / answered if answered else None),
        number(evaluation.loss),
        str(evaluation.samples),
    )
    out.print(table)


def _print_classes(
    out: Console, evaluation: Evaluation, classes: Sequence[str], *, of_detector: bool
) -> None:
    rows = [
        (name, class_quality(evaluation, place, name), many, predicted)
        for place, (name, many, predicted) in enumerate(
            zip(classes, evaluation.class_samples, evaluation.class_predicted, strict=False)
        )
    ]
    has_precisions = MAP50 in evaluation.scores
    quality = "AP@0.5" if has_precisions else hits_name(of_detector=of_detector)
    title = f"{'Average precision' if has_precisions else quality.capitalize()} per class"
    if len(rows) > MOST_CLASSES:
        rows = sorted(rows, key=lambda row: 1.0 if row[1] is None else row[1])[:MOST_CLASSES]
        title = f"{title}, the {MOST_CLASSES} worst of {len(classes)}"
    table = make_table(
        title,
        ("class", quality, "", "examples", "predicted"),
        right=(quality, "examples", "predicted"),
    )
    for name, share, many, predicted in rows:
        table.add_row(name, percent(share), _bar(out, share or 0.0), str(many), str(predicted))
    out.print(table)


def _print_workers(out: Console, rounds: Sequence[RoundResult], *, of_detector: bool) -> None:
    last = next((item for item in reversed(rounds) if item.worker_evaluations), None)
    if last is None:
        why = 'the recipe\'s evaluation.workers is "none", or nobody was there to' if rounds else ""
        out.print(f"No worker evaluated a version ({why or 'no round was committed'}).")
        return
    hits, counted = hits_name(of_detector=of_detector), "boxes" if of_detector else "examples"
    table = make_table(
        f"{hits.capitalize()} per worker",
        ("worker", hits, "", "loss", counted),
        right=(hits, "loss", counted),
    )
    for name, evaluation in sorted(last.worker_evaluations.items()):
        table.add_row(
            name,
            percent(evaluation.accuracy),
            _bar(out, evaluation.accuracy if evaluation.samples else 0.0),
            number(evaluation.loss),
            str(evaluation.samples),
        )
    out.print(table)


def _bar(out: Console, ratio: float) -> str:
    full = bars([1.0], most=1.0, encoding=out.encoding)
    return (full * round(20 * ratio)).ljust(20)
