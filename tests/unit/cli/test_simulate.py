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


def test_simulate_keeps_a_run_and_goes_on_with_it(cli, tmp_path: Path, tiny: Path) -> None:
    command = ("simulate", str(tiny), "--checkpoint", str(tmp_path / "kept"), "--json")

    documents = [cli(*command).document for _ in range(2)]

    assert (tmp_path / "kept" / "checkpoint.json").exists()
    for document in documents:
        for result in document["round_results"]:
            result.pop("at_s")
    assert documents[0] == documents[1]
    assert len(documents[0]["round_results"]) == 2


def test_simulate_refuses_a_folder_that_keeps_another_run(cli, tmp_path: Path, tiny: Path) -> None:
    kept = ("--checkpoint", str(tmp_path / "kept"))
    cli("simulate", str(tiny), *kept)
    other = tmp_path / "other.toml"
    other.write_text(tiny.read_text().replace("lr = 0.1", "lr = 0.2"))

    result = cli("simulate", str(other), *kept)

    assert result.status == 1
    assert "holds a run of another recipe" in result.err
