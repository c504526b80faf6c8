from __future__ import annotations

import json
from io import StringIO

from rich.console import Console

from fedfleet.cli.live import RunView
from fedfleet.v1 import control_service_pb2 as pb


def committed(round: int) -> pb.RunEvent:
    metrics = {"evaluation": {"accuracy": 0.5, "loss": 1.25}, "duration_s": 0.5}
    fields = json.dumps({"metrics": metrics})
    return pb.RunEvent(round=round, kind="round_committed", fields_json=fields)


def test_view_prints_a_line_per_round_where_there_is_no_terminal() -> None:
    out = Console(file=StringIO(), width=100)

    with RunView(out, 2, 1) as view:
        view.workers([pb.Worker(worker_id="worker-0", connected=True)])
        view.event(committed(1))
        view.event(pb.RunEvent(round=2, kind="update_accepted"))
        view.event(committed(2))

    assert out.file.getvalue().splitlines() == [
        "round 1/2  accuracy 50.0 %  loss 1.25  0.50 s",
        "round 2/2  accuracy 50.0 %  loss 1.25  0.50 s",
    ]


def test_view_of_a_detector_speaks_of_its_recall() -> None:
    out = Console(file=StringIO(), width=100)

    with RunView(out, 2, 1, of_detector=True) as view:
        view.event(committed(1))

    assert out.file.getvalue() == "round 1/2  recall 50.0 %  loss 1.25  0.50 s\n"


def test_view_shows_the_workers_on_a_terminal() -> None:
    out = Console(file=StringIO(), width=100, force_terminal=True, height=40, highlight=False)

    with RunView(out, 2, 2) as view:
        view.workers(
            [
                pb.Worker(worker_id="worker-0", connected=True),
                pb.Worker(
                    worker_id="worker-1", connected=True, assignment_id="a", progress_ratio=0.5
                ),
            ]
        )
        view.event(committed(1))
        shown = out.file.getvalue()

    assert "2 of 2 workers connected" in shown
    assert "busy 50 %" in shown
    assert "1/2" in shown
