from __future__ import annotations

import re
from pathlib import Path


def test_simulate_prints_one_document(cli, tiny: Path) -> None:
    result = cli("simulate", str(tiny), "--json")

    document = result.document
    assert result.status == 0
    assert document["outcome"] == "completed"
    assert [item["round"] for item in document["round_results"]] == [1, 2]
    first, last = document["round_results"]
    assert set(last["worker_evaluations"]) == {"worker-0", "worker-1"}
    # The first version is computed from the recipe; the next is downloaded by both.
    assert (first["bytes_down"], last["traffic"]) == (0, {})
    assert 0 < first["bytes_up"] == last["bytes_up"] < last["bytes_down"]


def test_simulate_shows_rounds_and_the_final_tables(cli, tiny: Path) -> None:
    result = cli("simulate", str(tiny))

    assert result.status == 0
    lines = result.out.splitlines()
    moved = r"\S+ k?B up  \S+ k?B down"
    assert re.fullmatch(rf"round 2/2  accuracy .+ %  loss \S+  {moved}", lines[1])
    assert re.fullmatch(r"Moved in all: \S+ k?B up, \S+ k?B down\.", lines[-1])
    for title in ("Global model", "Accuracy per class", "Accuracy per worker"):
        assert title in result.out


def test_simulate_that_fails_says_why(cli, tmp_path: Path, tiny: Path) -> None:
    recipe = tmp_path / "wild.toml"
    recipe.write_text(tiny.read_text().replace("lr = 0.1", "lr = 1e30"))

    result = cli("simulate", str(recipe))

    assert result.status == 1
    assert result.err.startswith("fedfleet: QUORUM_NOT_MET: the simulation failed: ")
    assert result.err.count("\n") == 1
