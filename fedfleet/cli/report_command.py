"""``fedfleet report``."""

from __future__ import annotations

import math
import pkgutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from fedfleet.cli.deployed import fetch_record
from fedfleet.cli.output import console, fitting_table, write_json
from fedfleet.cli.progress import progress, working
from fedfleet.cli.session import connect
from fedfleet.cli.settings import Coordinator, DataDir, Json, config_of
from fedfleet.errors import NotFound, NotInstalled, SettingInvalid
from fedfleet.reports.comparison import compare
from fedfleet.reports.groups import Group, group_records
from fedfleet.reports.measures import first_at, measure, target_for
from fedfleet.reports.record import Record, find_records, read_record

# Resolved only when figures are drawn: they need matplotlib, which is an extra.
_WRITE = "fedfleet.reports.page:write_report"
PAGE = Path("report.html")
# What a narrow terminal does without, the first first.
_NARROW = ("outcome", "final loss", "in round", "moved", "time")

Target = Annotated[
    Optional[float],  # noqa: UP045 - Typer evaluates it, on Python 3.10 too
    typer.Option(
        metavar="ACCURACY",
        help="Count what was spent to this accuracy, such as 0.9. Else 95 % of the best.",
    ),
]


def report(
    context: typer.Context,
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Folders of records, folders that hold such folders, or ids of deployed runs.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = PAGE,
    png: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="FOLDER", help="Also write each figure as a PNG file."),
    ] = None,
    target: Target = None,
    coordinator: Coordinator = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write a page that shows and compares runs."""
    wanted = checked_target(target)
    write = find_writer()
    shown = console()
    with working(shown, "reading the runs", shown=not as_json):
        records = _records(context, runs, coordinator, data_dir or config_of(context).data_dir)
    groups = group_records(records)
    goal = target_for(records) if wanted is None else wanted
    draw(shown, write, groups, goal, page=out.expanduser(), pictures=png, quiet=as_json)
    if as_json:
        write_json({"page": str(out), "target": goal, "runs": _documents(records, goal)})
    else:
        print_comparison(shown, groups, goal)
        where = f"The report: {out}" + (f"; its figures: {png}" if png else "")
        shown.print(where, soft_wrap=True)


def find_writer() -> Any:
    """The function that writes reports. Any: it is found by name.

    Raises:
        NotInstalled: matplotlib is not.
    """
    try:
        return pkgutil.resolve_name(_WRITE)
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("matplotlib"):
            raise
        raise NotInstalled.of_extra("a report's figures: matplotlib", "report") from error


def checked_target(target: float | None) -> float | None:
    """The target; raises SettingInvalid where it is no accuracy."""
    if target is not None and not 0 < target <= 1:
        shown = "not a number" if math.isnan(target) else f"{target:g}"
        raise SettingInvalid(f"--target {shown}: must be a share above 0 and up to 1, such as 0.9")
    return target


def draw(
    shown: Console,
    write: Any,
    groups: Sequence[Group],
    target: float,
    *,
    page: Path,
    pictures: Path | None,
    quiet: bool,
) -> None:
    """Write the page and the pictures with a bar; raises SettingInvalid where they cannot be."""
    with progress(shown, shown=not quiet) as bar:
        task = bar.add_task("figures", total=None, result="")
        try:
            page.parent.mkdir(parents=True, exist_ok=True)
            if pictures is not None:
                pictures.expanduser().mkdir(parents=True, exist_ok=True)
            write(
                groups,
                target,
                page,
                pictures.expanduser() if pictures else None,
                lambda done, total: bar.update(task, completed=done, total=total),
            )
        except OSError as error:
            raise SettingInvalid(f"{error.filename or page}: {error.strerror}") from error


def print_comparison(shown: Console, groups: Sequence[Group], target: float) -> None:
    """Print what the page's table says."""
    table = compare(groups, target)
    right = table.columns[2:]
    shown.print(fitting_table(shown, "", table.columns, table.rows, right=right, leave_out=_NARROW))


def _records(
    context: typer.Context, runs: Sequence[str], coordinator: str | None, data_dir: Path | None
) -> list[Record]:
    records = []
    for name in dict.fromkeys(runs):
        folder = Path(name).expanduser()
        if folder.is_dir():
            records += [read_record(found) for found in find_records(folder)]
        elif folder.exists() or "/" in name:
            raise NotFound(f"{name}: is not a folder; name the folder of a record, or a run's id")
        else:
            with connect(context, coordinator) as client:
                records.append(fetch_record(client, name, data_dir))
    return records


def _documents(records: Sequence[Record], target: float) -> list[dict[str, Any]]:
    """What each run came to, for programs. Any: it is JSON."""
    documents = []
    for record in records:
        first = first_at(record, target) if target > 0 else None
        facts = record.facts
        documents.append(
            {
                "run_id": facts.run_id,
                "source": facts.source,
                "name": facts.name,
                "seed": facts.seed,
                "outcome": facts.outcome,
                **measures_document(record),
                "to_target": None
                if first is None
                else {
                    "round": first.round,
                    "moved_bytes": first.moved_bytes,
                    "elapsed_s": first.elapsed_s,
                    "virtual_s": first.virtual_s,
                },
            }
        )
    return documents


def measures_document(record: Record) -> dict[str, Any]:
    """A record's measures by name. Any: it is JSON."""
    return asdict(measure(record))
