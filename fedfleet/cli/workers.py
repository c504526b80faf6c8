"""``fedfleet workers``."""

from __future__ import annotations

import typer

from fedfleet.cli.documents import worker_document
from fedfleet.cli.output import ago, console, make_table, number, plain, size, write_json
from fedfleet.cli.session import connect
from fedfleet.cli.settings import Coordinator, Json
from fedfleet.v1 import control_service_pb2 as pb


def workers(context: typer.Context, coordinator: Coordinator = None, as_json: Json = False) -> None:
    """List the workers and what they are doing."""
    with connect(context, coordinator) as client:
        found = client.list_workers()
    if as_json:
        write_json({"workers": [worker_document(worker) for worker in found]})
        return
    right = ("updates", "cores", "memory", "examples/s")
    columns = ("worker", "state", "last seen", *right, "accelerator", "tags")
    table = make_table("", columns, right=right)
    for worker in found:
        table.add_row(
            plain(worker.worker_id),
            worker_state(worker),
            ago(worker.last_seen_s),
            str(worker.updates),
            str(worker.device.cpu_count or "-"),
            size(worker.device.memory_bytes) if worker.device.memory_bytes else "-",
            number(worker.device.samples_per_s or None),
            plain(worker.device.accelerator or "-"),
            plain(", ".join(worker.tags)),
        )
    console().print(table if found else "No worker has connected yet.")


def worker_state(worker: pb.Worker) -> str:
    """What a worker does, in a word or two."""
    if not worker.connected:
        return "away"
    if not worker.assignment_id:
        return "idle"
    return f"busy {100 * worker.progress_ratio:.0f} %"
