"""``fedfleet sweep``."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from fedfleet.cli.output import console, number, percent, write_json
from fedfleet.cli.progress import progress
from fedfleet.cli.recipes import read_recipe
from fedfleet.cli.recording import options_of
from fedfleet.cli.report_command import (
    Target,
    checked_target,
    draw,
    find_writer,
    measures_document,
    print_comparison,
)
from fedfleet.cli.settings import DataDir, Json, RecipeArgument, config_of, environment
from fedfleet.cli.simulate import read_devices
from fedfleet.cli.sweep_grid import grid
from fedfleet.cli.sweep_runs import LOG, Ended, Sweep
from fedfleet.errors import NotInstalled, ProcessDied, SettingInvalid
from fedfleet.reports.groups import group_records
from fedfleet.reports.measures import first_at, target_for
from fedfleet.reports.record import Record
from fedfleet.reports.settings import identity
from fedfleet.rounds.recipe import parse_recipe

RESULTS = "results.csv"
PAGE = "report.html"


def sweep(
    context: typer.Context,
    recipe: RecipeArgument,
    settings: Annotated[
        list[str],
        typer.Option("--set", metavar="NAME=VALUE,...", help="A setting and its values; repeat."),
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045 - Typer evaluates it, on Python 3.10 too
        typer.Option(metavar="FOLDER", help="Where everything goes. Else ./sweep-NAME."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="How many runs at once.")] = 1,
    devices: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FILE", help="As of fedfleet simulate: profiles for virtual time."),
    ] = None,
    target: Target = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Simulate every combination of settings, and compare them."""
    wanted = checked_target(target)
    text = read_recipe(recipe)
    name = parse_recipe(text).name
    runs = grid(text, settings)
    folder = (out or Path(f"sweep-{name}")).expanduser().absolute()
    data = data_dir or config_of(context).data_dir
    carrier = Sweep(
        folder,
        options=(
            *(("--data-dir", str(data.absolute())) if data else ()),
            *(("--devices", str(devices.absolute())) if devices else ()),
        ),
        depends=options_of(data, read_devices(devices)),
        environ=environment(context),
        jobs=jobs,
    )
    shown = console()
    with progress(shown, shown=not as_json) as bar:
        task = bar.add_task("runs", total=len(runs), result="")
        told: list[Ended] = []

        def on_change(ended: Sequence[Ended], at_work: Sequence[str]) -> None:
            bar.update(task, completed=len(ended), result="  ".join(at_work))
            for item in ended[len(told) :]:
                told.append(item)
                _write_results(folder / RESULTS, told, wanted)
                if not as_json:
                    shown.print(f"{len(told)}/{len(runs)}  {_brief(item)}")

        try:
            ended = carrier.carry_out(runs, on_change)
            _write_results(folder / RESULTS, ended, wanted)
        except OSError as error:
            raise SettingInvalid(f"--out {error.filename or folder}: {error.strerror}") from error
    records = [item.record for item in ended if item.record is not None]
    page = _report(records, wanted, folder / PAGE, quiet=as_json) if records else None
    if as_json:
        goal = _target(records, wanted)
        write_json(
            {
                "results": str(folder / RESULTS),
                "page": None if page is None else str(page),
                "target": goal,
                "runs": [_row(item, goal) for item in ended],
            }
        )
    else:
        where = f"The results: {folder / RESULTS}" + (f"; the report: {page}" if page else "")
        shown.print(where, soft_wrap=True)
    _raise_if_failed(ended, folder)


def _target(records: Sequence[Record], wanted: float | None) -> float:
    return target_for(records) if wanted is None else wanted


def _report(
    records: Sequence[Record], wanted: float | None, page: Path, *, quiet: bool
) -> Path | None:
    """Write the page and print its table; None where matplotlib is not installed."""
    shown = console()
    groups, goal = group_records(records), _target(records, wanted)
    try:
        draw(shown, find_writer(), groups, goal, page=page, pictures=None, quiet=quiet)
        written: Path | None = page
    except NotInstalled as error:
        written = None
        if not quiet:
            shown.print(f"No report: {error.message}")
    if not quiet:
        print_comparison(shown, groups, goal)
    return written


def _brief(item: Ended) -> str:
    again = " (was done)" if item.was_done else ""
    if item.record is None or item.outcome != "completed":
        return f"{item.run.name}  {item.outcome}{again}  {item.code}"
    came_to = measures_document(item.record)
    return (
        f"{item.run.name}  {item.outcome}{again}  "
        f"accuracy {percent(came_to['final_accuracy'])}  loss {number(came_to['final_loss'])}"
    )


def _row(item: Ended, target: float) -> dict[str, Any]:
    """One run as a line of the results. Any: what a recipe and JSON can hold."""
    row: dict[str, Any] = {
        **item.run.values,
        "run": item.run.name,
        "outcome": item.outcome,
        "code": item.code,
    }
    if item.record is not None:
        first = first_at(item.record, target) if target > 0 else None
        row |= measures_document(item.record)
        row |= {
            "target": target,
            "target_round": first.round if first else None,
            "target_bytes": first.moved_bytes if first else None,
            "target_elapsed_s": first.elapsed_s if first else None,
            "target_virtual_s": first.virtual_s if first else None,
        }
    return row


def _write_results(path: Path, ended: Sequence[Ended], wanted: float | None) -> None:
    """Write one line per run, whole or not at all."""
    goal = _target([item.record for item in ended if item.record is not None], wanted)
    rows = [_row(item, goal) for item in ended]
    names = list(dict.fromkeys(name for row in rows for name in row))
    file = StringIO()
    writer = csv.DictWriter(file, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(file.getvalue(), encoding="utf-8")
    os.replace(partial, path)  # noqa: PTH105 - the name says what it does


def _cell(value: Any) -> Any:
    return identity(value) if isinstance(value, (list, dict, bool)) else value


def _raise_if_failed(ended: Sequence[Ended], folder: Path) -> None:
    """Raise for the runs that did not complete; the others' results are kept."""
    failed = [item for item in ended if item.outcome != "completed"]
    if failed:
        first = failed[0]
        raise ProcessDied(
            f"{len(failed)} of {len(ended)} runs did not complete, the first is {first.run.name} "
            f"({first.code or first.outcome}); see {folder / first.run.name / LOG}"
        )
