"""Writes the report: one HTML page that needs nothing beside itself, and PNG files of its figures.

Whatever a record says is text here: everything is escaped, and the page's policy runs no script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from html import escape
from pathlib import Path

from fedfleet.reports.canvas import house_style, save_png, svg_of
from fedfleet.reports.comparison import compare
from fedfleet.reports.curves import look_of
from fedfleet.reports.groups import Group
from fedfleet.reports.plots import Plot, breakdown_plots, comparing_plots, file_prefix
from fedfleet.reports.record import Record

_STYLE = Path(__file__).with_name("page.css")
# The page may load nothing, and run nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

OnFigure = Callable[[int, int], None]


def write_report(
    groups: Sequence[Group],
    target: float,
    page: Path | None,
    pictures: Path | None,
    on_figure: OnFigure,
) -> None:
    """Write a page, a folder of PNG files, or both.

    Args:
        target: the accuracy to which the table counts rounds, bytes and seconds; 0 for none.
        page, pictures: where they go; the folders must exist.
        on_figure: called with the number of figures drawn, and of all, before each and at the end.

    Raises:
        OSError: something cannot be written.
    """
    comparing = comparing_plots(groups)
    parts = [
        breakdown_plots(group.records[0], file_prefix(number, group, len(groups)))
        for number, group in enumerate(groups)
    ]
    plots = [*comparing, *(plot for part in parts for plot in part)]
    drawn: dict[str, str] = {}
    with house_style():
        for number, plot in enumerate(plots):
            on_figure(number, len(plots))
            if page is not None:
                drawn[plot.name] = svg_of(plot.draw(False))
            if pictures is not None:
                save_png(plot.draw(True), pictures / f"{plot.name}.png")
    on_figure(len(plots), len(plots))
    if page is not None:
        lines = _page(groups, target, comparing, parts, drawn)
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _page(
    groups: Sequence[Group],
    target: float,
    comparing: Sequence[Plot],
    parts: Sequence[Sequence[Plot]],
    drawn: dict[str, str],
) -> Iterator[str]:
    names = list(dict.fromkeys(record.facts.name for group in groups for record in group.records))
    title = escape(", ".join(names[:4]) + (" and more" if len(names) > 4 else ""))
    runs = sum(len(group.records) for group in groups)
    made = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>FedFleet: {title}</title>\n<style>\n{_STYLE.read_text(encoding='utf-8')}</style>"
    yield f"</head>\n<body>\n<main>\n<h1>{title}</h1>"
    yield f'<p class="quiet">{runs} run{"s" * (runs != 1)}, reported {made}</p>'
    yield from _table(groups, target)
    if comparing:
        yield "<h2>Over rounds, bytes and time</h2>"
        yield from _legend(groups)
        yield from _figures(comparing, drawn)
    else:
        yield '<p class="warn">No round was evaluated, so there is nothing to draw over rounds.</p>'
    for number, (group, plots) in enumerate(zip(groups, parts, strict=True)):
        yield from _group(group, plots, drawn, is_alone=len(groups) == 1, is_open=number == 0)
    yield "</main>\n</body>\n</html>"


def _table(groups: Sequence[Group], target: float) -> Iterator[str]:
    table = compare(groups, target)
    yield '<div class="scroll" tabindex="0">\n<table>\n<thead><tr>'
    yield "".join(f'<th scope="col">{escape(title)}</th>' for title in table.columns)
    yield "</tr></thead>\n<tbody>"
    for name, *cells in table.rows:
        texts = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        yield f'<tr><th scope="row">{escape(name)}</th>{texts}</tr>'
    yield "</tbody>\n</table>\n</div>"
    if any(len(group.records) > 1 for group in groups):
        yield (
            '<p class="quiet">Where runs differ only in the seed: mean ± standard deviation over '
            "the seeds; in figures, the line is the mean and the band reaches from the smallest "
            "to the largest.</p>"
        )


def _legend(groups: Sequence[Group]) -> Iterator[str]:
    if len(groups) == 1:
        return
    yield '<ul class="legend">'
    for number, group in enumerate(groups):
        colour, dashes = look_of(number)
        pattern = " ".join(f"{2 * dash:g}" for dash in dashes) or "none"
        line = (
            f'<path d="M0 5H28" stroke="{colour}" stroke-width="2.5" stroke-dasharray="{pattern}"/>'
        )
        seeds = f" ({len(group.records)} seeds)" if len(group.records) > 1 else ""
        yield (
            f'<li><svg viewBox="0 0 28 10" aria-hidden="true">{line}</svg>'
            f"<span>{escape(group.label)}{seeds}</span></li>"
        )
    yield "</ul>"


def _figures(plots: Sequence[Plot], drawn: dict[str, str]) -> Iterator[str]:
    yield '<div class="grid">'
    for plot in plots:
        caption = escape(plot.caption)
        svg = drawn[plot.name].replace("<svg", f'<svg role="img" aria-label="{caption}"', 1)
        yield f"<figure>\n<figcaption>{caption}</figcaption>\n{svg}\n</figure>"
    yield "</div>"


def _group(
    group: Group, plots: Sequence[Plot], drawn: dict[str, str], *, is_alone: bool, is_open: bool
) -> Iterator[str]:
    label = escape(group.label)
    yield (
        f"<section>\n<h2>{label}</h2>"
        if is_alone
        else f'<details class="run"{" open" * is_open}>\n<summary>{label}</summary>'
    )
    if len(group.records) > 1:
        yield f'<p class="quiet">Figures of seed {group.records[0].facts.seed}.</p>'
    if plots:
        yield from _figures(plots, drawn)
    yield from _facts(group.records)
    recipe = group.records[0].recipe.strip()
    yield f"<details>\n<summary>The recipe</summary>\n<pre>{escape(recipe)}</pre>\n</details>"
    yield "</section>" if is_alone else "</details>"


def _facts(records: Sequence[Record]) -> Iterator[str]:
    """What ran where: said once where it is the same for all, else in a table."""
    rows = [_facts_of(record) for record in records]
    same = [name for name in rows[0] if len({row[name] for row in rows}) == 1]
    yield "<dl>"
    for name in same:
        if rows[0][name]:
            yield f"<dt>{name}</dt><dd>{escape(rows[0][name])}</dd>"
    yield "</dl>"
    if len(records) == 1:
        return
    other = [name for name in rows[0] if name not in same]
    yield '<div class="scroll" tabindex="0">\n<table>\n<thead><tr>'
    yield "".join(f'<th scope="col">{name}</th>' for name in other)
    yield "</tr></thead>\n<tbody>"
    for row in rows:
        first, *rest = (escape(row[name]) for name in other)
        cells = "".join(f"<td>{text}</td>" for text in rest)
        yield f'<tr><th scope="row">{first}</th>{cells}</tr>'
    yield "</tbody>\n</table>\n</div>"


def _facts_of(record: Record) -> dict[str, str]:
    facts = record.facts
    outcome = facts.outcome
    if outcome == "running":
        outcome = "running, or killed: it has not said how it ended"
    return {
        "run": facts.run_id,
        "kind": facts.source,
        "seed": str(facts.seed),
        "outcome": f"{outcome}, {len(record.rounds)} of {facts.rounds} rounds",
        "why": f"{facts.code}: {facts.reason}" if facts.code else facts.reason,
        "began": _moment(facts.started_at_s),
        "ended": _moment(facts.ended_at_s),
        "machine": ", ".join(f"{name} {text}" for name, text in facts.machine.items()),
        "versions": ", ".join(f"{name} {text}" for name, text in facts.versions.items()),
        "commit": facts.commit,
    }


def _moment(at_s: float | None) -> str:
    if at_s is None:
        return ""
    return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
