"""``fedfleet workers``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from fedfleet.cli.documents import worker_document
from fedfleet.cli.output import (
    ago,
    console,
    fitting_table,
    number,
    percent,
    plain,
    size,
    write_json,
)
from fedfleet.cli.session import connect
from fedfleet.cli.settings import Coordinator, Json
from fedfleet.cli.worker_view import seconds, show_worker, speed
from fedfleet.errors import NotFound
from fedfleet.v1 import control_service_pb2 as pb

NOTHING = "-"
# What a narrow terminal does without, the first first.
_NARROW = (
    *("load", "cores", "tags", "memory", "up", "down", "updates", "temperature", "battery", "why"),
    *("link up", "link down", "device", "accuracy", "examples/s", "round time"),
    *("share", "last seen", "rounds", "level"),
)
# What no worker here has is not shown; the rest is, though it be nothing.
_OPTIONAL = {"tags", "device", "battery", "temperature", "why", "link up", "link down"}
_OPTIONAL |= {"examples/s", "accuracy", "load"}
_TEXTS = {"worker", "state", "last seen", "device", "tags", "level", "why"}


def workers(
    context: typer.Context,
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(metavar="NAME", help="Show one worker, and how it did over the rounds."),
    ] = None,
    coordinator: Coordinator = None,
    as_json: Json = False,
) -> None:
    """List the workers and what they are doing."""
    with connect(context, coordinator) as client:
        found = client.list_workers()
    if name is not None:
        found = [named(found, name)]
    if as_json:
        write_json({"workers": [worker_document(worker) for worker in found]})
        return
    out = console()
    if name is not None:
        show_worker(out, found[0], worker_state(found[0]))
        return
    if not found:
        out.print("No worker has connected yet.")
        return
    out.print(worker_table(out, found))


def worker_table(out: Console, found: Sequence[pb.Worker]) -> Table:
    """A table of workers that fits the console."""
    rows = [_row(worker) for worker in found]
    columns = [c for c in rows[0] if c not in _OPTIONAL or any(r[c] != NOTHING for r in rows)]
    cells = [[row[column] for column in columns] for row in rows]
    right = [column for column in columns if column not in _TEXTS]
    table = fitting_table(out, "", columns, cells, right=right, leave_out=_NARROW)
    table.columns[0].no_wrap = True  # a name that is cut may be anybody's
    return table


def named(found: Sequence[pb.Worker], name: str) -> pb.Worker:
    """The worker of a name; raises NotFound."""
    for worker in found:
        if worker.worker_id == name:
            return worker
    known = ", ".join(worker.worker_id for worker in found[:20]) or "none has connected yet"
    raise NotFound(f"worker {name!r}: not known to the coordinator; known: {known}")


def _row(worker: pb.Worker) -> dict[str, str]:
    """The cells by column, in the order of the columns."""
    device, beat = worker.device, worker.heartbeat
    has_part = worker.of_rounds > 0
    return {
        "worker": plain(worker.worker_id),
        "state": worker_state(worker),
        "device": plain(device.accelerator or device.machine) or NOTHING,
        "level": plain(worker.level) or NOTHING,
        "last seen": ago(worker.last_seen_s),
        "rounds": f"{worker.rounds}/{worker.of_rounds}" if has_part else NOTHING,
        "share": percent(worker.weight_ratio) if has_part else NOTHING,
        "round time": seconds(worker.round_s),
        "accuracy": percent(worker.accuracies[-1].accuracy) if worker.accuracies else NOTHING,
        "examples/s": number(device.samples_per_s or None),
        "link down": speed(device.link_down_bytes_per_s),
        "link up": speed(device.link_up_bytes_per_s),
        "battery": percent(beat.battery_ratio) if beat.HasField("battery_ratio") else NOTHING,
        "temperature": (
            f"{beat.temperature_celsius:.0f} C" if beat.HasField("temperature_celsius") else NOTHING
        ),
        "why": plain(beat.pause_reason) or NOTHING,
        "updates": str(worker.updates),
        "up": size(worker.traffic.bytes_up),
        "down": size(worker.traffic.bytes_down),
        "cores": str(device.cpu_count or NOTHING),
        "memory": size(device.memory_bytes) if device.memory_bytes else NOTHING,
        "load": number(beat.load_average or None),
        "tags": plain(", ".join(worker.tags)) or NOTHING,
    }


def worker_state(worker: pb.Worker) -> str:
    """What a worker does, in a word or two."""
    if not worker.connected:
        return "away"
    if worker.heartbeat.pause_reason:
        return "paused"
    if not worker.assignment_id:
        return "idle"
    return f"busy {100 * worker.progress_ratio:.0f} %"
