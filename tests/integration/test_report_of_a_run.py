"""The report of a deployed run equals that of its simulation, but for time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from harness import digits_recipe, fleet, running_coordinator

from fedfleet.cli.deployed import fetch_record
from fedfleet.cli.main import main
from fedfleet.reports.breakdowns import confusion_of
from fedfleet.reports.measures import evaluation_of
from fedfleet.reports.record import read_record
from fedfleet.rpc.control import ControlClient

RECIPE = digits_recipe("reported", rounds=2, more='[evaluation]\nworkers = "all"')


@pytest.mark.slow
async def test_report_of_a_deployed_run_has_what_its_simulation_has(tmp_path: Path) -> None:
    recipe, page = tmp_path / "recipe.toml", tmp_path / "report.html"
    recipe.write_text(RECIPE)
    async with running_coordinator(tmp_path / "state") as running:
        run_id = await running.submit(RECIPE)
        with fleet(running.address, 2, tmp_path):
            await running.finished(run_id)
        with ControlClient(running.address) as client:
            deployed = await asyncio.to_thread(fetch_record, client, run_id, None)
        simulate = ("simulate", str(recipe), "--out", str(tmp_path / "simulated"))
        assert await asyncio.to_thread(main, simulate, {}) == 0
        report = ("report", run_id, str(tmp_path / "simulated"), "--out", str(page))
        command = (*report, "--coordinator", running.address)
        assert await asyncio.to_thread(main, command, {}) == 0

    simulated = read_record(tmp_path / "simulated")
    assert deployed.facts.outcome == simulated.facts.outcome == "completed"
    assert deployed.data == simulated.data
    assert confusion_of(deployed) == confusion_of(simulated)
    for ours, theirs in zip(deployed.rounds, simulated.rounds, strict=True):
        found, expected = evaluation_of(ours), evaluation_of(theirs)
        assert found is not None
        assert expected is not None
        assert found.class_correct == expected.class_correct
        assert ours.worker_evaluations == theirs.worker_evaluations
        assert ours.at_s is not None
    text = page.read_text(encoding="utf-8")
    assert "reported, deployed" in text
    assert "reported, simulated" in text
