"""One worker as ``fedfleet workers NAME`` shows it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from fedfleet.cli.output import ago, bars, local_time, make_table, number, percent, plain, size
from fedfleet.v1 import control_service_pb2 as pb

# Rounds whose accuracies are listed below the plot of all.
LISTED = 10


def show_worker(out: Console, worker: pb.Worker, state: str) -> None:
    """Print all that is known of a worker."""
    grid = Table.grid(padding=(0, 2))
    for label, value in _facts(worker, state):
        grid.add_row(label, value)
    out.print(grid)
    if worker.device.levels:
        out.print()
        out.print(_levels(worker))
    if worker.accuracies:
        out.print()
        _accuracies(out, worker)


def seconds(value: float) -> str:
    """A time as it stands in a table; zero is none."""
    return f"{number(value)} s" if value else "-"


def speed(bytes_per_s: float) -> str:
    """A link's speed as it stands in a table; zero, and what is no number, is none."""
    is_known = bytes_per_s and math.isfinite(bytes_per_s)
    return f"{size(round(bytes_per_s))}/s" if is_known else "-"


def _facts(worker: pb.Worker, state: str) -> Iterator[tuple[str, str]]:
    """What there is to say, each with its label."""
    device, beat = worker.device, worker.heartbeat
    yield "worker", plain(worker.worker_id)
    why = f": {plain(beat.pause_reason)}" if beat.pause_reason else ""
    yield "state", f"{state}{why}"
    yield "connected", local_time(worker.connected_at_s)
    yield "last seen", ago(worker.last_seen_s)
    yield "software", plain(worker.software_version) or "-"
    yield "device", plain(" ".join(filter(None, (device.machine, device.os)))) or "-"
    if device.accelerator:
        yield "accelerator", plain(device.accelerator)
    yield "cores", str(device.cpu_count or "-")
    yield "memory", _memory(worker)
    if beat.load_average:
        yield "load", number(beat.load_average)
    if beat.HasField("temperature_celsius"):
        yield "temperature", f"{beat.temperature_celsius:.1f} C"
    if beat.HasField("battery_ratio"):
        yield "battery", percent(beat.battery_ratio)
    yield "link", f"{speed(device.link_down_bytes_per_s)} down, {_up(worker)} up"
    if worker.tags:
        yield "tags", plain(", ".join(worker.tags))
    yield "level", plain(worker.level) or "-"
    if worker.of_rounds:
        yield "rounds", f"{worker.rounds} of {worker.of_rounds}"
        yield "share of the weight", percent(worker.weight_ratio)
    yield "median round", seconds(worker.round_s)
    moved = worker.traffic
    yield "moved", f"{size(moved.bytes_down)} down, {size(moved.bytes_up)} up"


def _memory(worker: pb.Worker) -> str:
    total, used = worker.device.memory_bytes, worker.heartbeat.memory_used_bytes
    words = [size(total)] if total else []
    words += [f"{size(used)} used by the worker"] if used else []
    return ", ".join(words) or "-"


def _up(worker: pb.Worker) -> str:
    return speed(worker.device.link_up_bytes_per_s)


def _levels(worker: pb.Worker) -> Table:
    """What its probe measured."""
    table = make_table("", ("level", "examples/s", "memory"), right=("examples/s", "memory"))
    for one in worker.device.levels:
        fits = one.samples_per_s > 0
        memory = size(one.memory_bytes) if one.memory_bytes else "-"
        table.add_row(
            plain(one.level), number(one.samples_per_s) if fits else "out of memory", memory
        )
    return table


def _accuracies(out: Console, worker: pb.Worker) -> None:
    """How it did on its own data: a bar per round, and the last rounds in numbers."""
    found = list(worker.accuracies)[-max(1, out.width) :]
    first, last = found[0].round, found[-1].round
    best = max(found, key=lambda one: one.accuracy)
    told = f"rounds {first} to {last}, best {percent(best.accuracy)} in round {best.round}"
    out.print(f"accuracy on its own data, {told}")
    out.print(bars([one.accuracy for one in found], most=1.0, encoding=out.encoding))
    table = make_table("", ("round", "accuracy"), right=("round", "accuracy"))
    for one in found[-LISTED:]:
        table.add_row(str(one.round), percent(one.accuracy))
    out.print(table)
