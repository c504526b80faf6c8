from __future__ import annotations

from dataclasses import replace
from io import StringIO

from rich.console import Console

from fedfleet.cli.report import (
    MOST_CLASSES,
    last_evaluation,
    print_result,
    print_rounds,
    print_traffic,
    round_result,
)
from fedfleet.reports.round_result import RoundResult
from fedfleet.types import Evaluation
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.evaluations import evaluation_to_message


def evaluation(correct: int, classes: int = 2) -> Evaluation:
    many = 10
    return Evaluation(
        samples=many * classes,
        loss_sum=5.0,
        correct=correct + many * (classes - 1),
        top5=many * classes,
        class_samples=(many,) * classes,
        class_correct=(correct, *(many,) * (classes - 1)),
        class_predicted=(many,) * classes,
    )


def result(
    round: int, evaluated: Evaluation | None, workers: bool = True, moved_up: int = 0
) -> RoundResult:
    return RoundResult(
        round=round,
        version=round,
        duration_s=0.5,
        updates=2,
        weight=20,
        metrics={"train_loss": 0.25},
        bytes_up=123_000,
        bytes_down=4_560_000,
        traffic={"worker-0": {"bytes_up": moved_up, "bytes_down": 4_560_000}} if moved_up else {},
        evaluation=evaluated,
        worker_evaluations={"worker-0": evaluation(9), "worker-1": evaluation(1)}
        if workers
        else {},
    )


def console(width: int = 120) -> Console:
    return Console(file=StringIO(), width=width, markup=False)


def text(out: Console) -> str:
    assert isinstance(out.file, StringIO)
    return out.file.getvalue()


def test_round_result_keeps_what_the_message_says() -> None:
    message = pb.RoundSummary(round=3, version=4, duration_s=1.5, updates=2, weight=20)
    message.metrics["train_loss"] = 0.25
    message.worker_evaluations["worker-0"].CopyFrom(evaluation_to_message(evaluation(9)))
    message.bytes_up = 100
    message.traffic["worker-1"].CopyFrom(pb.Traffic(bytes_up=60, bytes_down=7))
    message.traffic["worker-0"].CopyFrom(pb.Traffic(bytes_up=50, bytes_down=8))

    before = round_result(message)
    message.evaluation.CopyFrom(evaluation_to_message(evaluation(7)))
    after = round_result(message)

    assert before.evaluation is None
    assert after.evaluation == evaluation(7)
    assert after.worker_evaluations == {"worker-0": evaluation(9)}
    document = after.to_json()
    assert document["evaluation"]["accuracy"] == 0.85
    assert (document["bytes_up"], document["bytes_down"]) == (100, 15)
    assert list(document["traffic"].items()) == [
        ("worker-0", {"bytes_up": 50, "bytes_down": 8}),
        ("worker-1", {"bytes_up": 60, "bytes_down": 7}),
    ]


def test_last_evaluation_is_the_newest_there_is() -> None:
    rounds = [result(1, evaluation(1)), result(2, evaluation(2)), result(3, None)]

    assert last_evaluation(rounds) == (2, evaluation(2))
    assert last_evaluation([result(1, None)]) is None


def test_print_result_shows_all_three_tables() -> None:
    out = console()

    print_result(out, [result(2, evaluation(5))], ["cat", "[bold]dog"])

    lines = text(out).splitlines()
    assert any("75.0 %" in line and "0.25" in line for line in lines)
    assert any("cat" in line and "50.0 %" in line for line in lines)
    assert any("[bold]dog" in line and "100.0 %" in line for line in lines)
    assert any("worker-0" in line and "95.0 %" in line for line in lines)
    assert any("worker-1" in line and "55.0 %" in line for line in lines)


def test_print_result_says_what_was_not_evaluated() -> None:
    out = console()

    print_result(out, [result(1, None, workers=False)], ["cat", "dog"])

    assert "No version was evaluated by the coordinator." in text(out)
    assert 'No worker evaluated a version (the recipe\'s evaluation.workers is "none"' in text(out)


def test_print_result_of_no_round_blames_no_setting() -> None:
    out = console()

    print_result(out, [], ["cat", "dog"])

    assert "No worker evaluated a version (no round was committed)." in text(out)


def test_print_result_of_many_classes_shows_the_worst() -> None:
    out = console()
    classes = [f"class{number:03d}" for number in range(100)]

    print_result(out, [result(1, evaluation(0, classes=100), workers=False)], classes)

    shown = [name for name in classes if name in text(out)]
    assert len(shown) == MOST_CLASSES
    assert "class000" in shown


def test_print_rounds_has_a_line_for_each() -> None:
    out = console()

    print_rounds(out, [result(1, evaluation(5)), result(2, None)])

    assert "75.0 %" in text(out)
    for cell in ("0.50 s", "123 kB", "4.56 MB"):
        assert text(out).count(cell) == 2
    assert text(out).splitlines()[-1] == "Moved in all: 246 kB up, 9.12 MB down."


def test_print_rounds_cuts_nothing_off_on_a_narrow_terminal() -> None:
    wide, narrow = console(), console(80)

    for out in (wide, narrow):
        print_rounds(out, [result(100, evaluation(5))])

    assert "samples" in text(wide)
    assert "samples" not in text(narrow)
    for cell in ("100", "75.0 %", "123 kB", "4.56 MB", "0.50 s"):
        assert cell in text(narrow)
    assert "\u2026" not in text(narrow)
    assert max(map(len, text(narrow).splitlines())) <= 80


def test_print_traffic_tells_what_was_sent_again() -> None:
    out = console()

    print_traffic(out, [result(1, None, moved_up=123_000), result(2, None, moved_up=124_000)])

    line = "Moved in all: 246 kB up (and 1 kB sent again or in vain), 9.12 MB down.\n"
    assert text(out) == line


def test_print_result_of_a_detector_shows_average_precisions() -> None:
    out = console()
    scores = {"map50": 0.625, "map": 0.375, "ap50/cat": 0.875}
    detector = replace(evaluation(5), scores=scores)

    print_rounds(out, [result(1, detector)])
    print_result(out, [result(1, detector)], ["cat", "dog"])

    lines = text(out).splitlines()
    assert any("mAP@0.5" in line and "train loss" in line for line in lines)
    assert any("62.5 %" in line and "37.5 %" in line and "75.0 %" in line for line in lines)
    assert any("cat" in line and "87.5 %" in line for line in lines)
    assert any("dog" in line and " - " in line for line in lines)
    assert "Average precision per class" in text(out)


def test_what_workers_measured_together_stands_where_the_coordinator_measured_nothing() -> None:
    out = console()
    rounds = [result(1, None), result(2, None)]

    print_rounds(out, rounds)
    print_result(out, rounds, ["cat", "dog"])

    shown = text(out)
    assert "accuracy on workers" in shown
    assert shown.count("75.0 %") >= 3  # 19 and 11 of 20 each: in both rounds, and in all
    assert "Global model, on what each worker holds back" in shown
    assert "Accuracy per class" in shown
    assert "No version was evaluated" not in shown


def test_workers_of_a_detector_measure_its_recall() -> None:
    out = console()
    rounds = [result(1, None)]

    print_rounds(out, rounds, of_detector=True)
    print_result(out, rounds, ["cat", "dog"], of_detector=True)

    shown = text(out)
    assert "recall on workers" in shown
    assert "Recall per class" in shown
    assert "Recall per worker" in shown
    assert "ccuracy" not in shown
