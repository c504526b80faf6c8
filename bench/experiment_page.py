"""Writes an experiment's table between its marks in docs/results.md."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from experiment_list import Experiment, Found
from record import ROOT

PAGE = ROOT / "docs" / "results.md"


def write_table(experiment: Experiment, results: Mapping[str, Any]) -> None:
    """Put the table where the page marks its place.

    Raises:
        SystemExit: the page has no such mark.
    """
    page = PAGE.read_text()
    mark = re.compile(
        rf"(<!-- experiment: {re.escape(experiment.name)} -->\n).*?(<!-- end -->)", re.DOTALL
    )
    if not mark.search(page):
        raise SystemExit(f"docs/results.md has no mark for {experiment.name}")
    table = "\n".join(lines(experiment, results)) + "\n"
    PAGE.write_text(mark.sub(lambda found: found[1] + table + found[2], page))


def found_of(experiment: Experiment, runs: Mapping[str, Any]) -> dict[str, Found]:
    """By variant, of the seeds that were run."""
    found = {}
    for label in experiment.variants:
        own = [runs[key] for seed in experiment.seeds if (key := f"{label} / seed {seed}") in runs]
        if own:
            names = own[0].get("extra", {})
            found[label] = Found(
                accuracy=tuple(_last(one["by_round"], experiment.last) for one in own),
                rounds_to=tuple(_rounds_to(one["by_round"], experiment.target) for one in own),
                extra={name: tuple(one["extra"][name] for one in own) for name in names},
            )
    return found


def _last(by_round: Mapping[str, float], count: int) -> float:
    return mean(list(by_round.values())[-count:])


def _rounds_to(by_round: Mapping[str, float], target: float | None) -> float:
    if target is None:
        return float("inf")
    return min((int(n) for n, value in by_round.items() if value >= target), default=float("inf"))


def lines(experiment: Experiment, results: Mapping[str, Any]) -> list[str]:
    """The section of the page."""
    runs = results["runs"]
    found = found_of(experiment, runs)
    extras = sorted({name for one in found.values() for name in one.extra})
    heads = ["variant", "test accuracy"]
    heads += [] if experiment.target is None else [f"rounds to {100 * experiment.target:g} %"]
    heads += extras
    table = ["", _row(heads), "|---" * len(heads) + "|"]
    for label, one in found.items():
        cells = [label, _percent(one.accuracy)]
        cells += [] if experiment.target is None else [_rounds(one.rounds_to, runs, label)]
        cells += [_plain(one.extra[name]) if name in one.extra else "" for name in extras]
        table.append(_row(cells))
    complete = len(found) == len(experiment.variants)
    checks = [
        f"- expected: {check.text}: **{'holds' if check.holds(found) else 'does not hold'}**"
        for check in experiment.checks
        if complete
    ]
    return [*table, "", *checks, *([""] if checks else []), _run(results), ""]


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _percent(values: Sequence[float]) -> str:
    each = ", ".join(f"{100 * value:.1f}" for value in values)
    return f"{each} %" if len(values) == 1 else f"{100 * mean(values):.1f} % ({each})"


def _plain(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _rounds(values: Sequence[float], runs: Mapping[str, Any], label: str) -> str:
    most = max(
        int(n) for key, one in runs.items() if key.startswith(label) for n in one["by_round"]
    )
    return ", ".join(f"over {most}" if value == float("inf") else f"{value:g}" for value in values)


def _run(results: Mapping[str, Any]) -> str:
    runs = list(results["runs"].values())
    commits = ", ".join(sorted({one["commit"] for one in runs}))
    loads = [one["load"] for one in runs]
    seeds = sorted({int(key.rpartition(" ")[2]) for key in results["runs"]})
    return (
        f"`python bench/experiments.py {results['experiment']}`; commit {commits}; "
        f"{results['machine']}; seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; "
        f"{sum(one['cpu_s'] for one in runs):.0f} s of processor time, "
        f"load {min(loads)} to {max(loads)}."
    )
