"""``fedfleet workers``."""

from __future__ import annotations

import typer

from fedfleet.cli.documents import worker_document
from fedfleet.cli.output import ago, console, fitting_table, number, plain, size, write_json
from fedfleet.cli.session import connect
from fedfleet.cli.settings import Coordinator, Json
from fedfleet.v1 import control_service_pb2 as pb

# What a narrow terminal does without, the first first.
_NARROW = ("accelerator", "memory", "cores", "tags", "examples/s")


def workers(context: typer.Context, coordinator: Coordinator = None, as_json: Json = False) -> None:
    """List the workers and what they are doing."""
    with connect(context, coordinator) as client:
        found = client.list_workers()
    if as_json:
        write_json({"workers": [worker_document(worker) for worker in found]})
        return
    out = console()
    if not found:
        out.print("No worker has connected yet.")
        return
    right = ("updates", "up", "down", "cores", "memory", "examples/s")
    columns = ("worker", "state", "last seen", *right, "accelerator", "tags")
    rows = [_row(worker) for worker in found]
    out.print(fitting_table(out, "", columns, rows, right=right, leave_out=_NARROW))


def _row(worker: pb.Worker) -> tuple[str, ...]:
    device = worker.device
    return (
        plain(worker.worker_id),
        worker_state(worker),
        ago(worker.last_seen_s),
        str(worker.updates),
        size(worker.traffic.bytes_up),
        size(worker.traffic.bytes_down),
        str(device.cpu_count or "-"),
        size(device.memory_bytes) if device.memory_bytes else "-",
        number(device.samples_per_s or None),
        plain(device.accelerator or "-"),
        plain(", ".join(worker.tags)),
    )


def worker_state(worker: pb.Worker) -> str:
    """What a worker does, in a word or two."""
    if not worker.connected:
        return "away"
    if not worker.assignment_id:
        return "idle"
    return f"busy {100 * worker.progress_ratio:.0f} %"
