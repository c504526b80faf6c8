"""The option of ``fedfleet simulate`` that is about tags."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tagged(tiny: Path) -> Path:
    text = tiny.read_text().replace("cohort = 2", 'cohort = 1\ntags = ["pi"]')
    tiny.write_text(text.replace('workers = "all"', 'workers = "cohort"'))
    return tiny


def test_simulate_asks_only_workers_that_carry_a_tag(cli, tagged: Path, tmp_path: Path) -> None:
    tags = tmp_path / "tags.toml"
    tags.write_text('worker-0 = ["server"]\nworker-1 = ["pi", "shed"]\n')

    result = cli("simulate", str(tagged), "--tags", str(tags), "--json")

    assert result.status == 0, result.err
    trained = [set(one["worker_evaluations"]) for one in result.document["round_results"]]
    assert trained == [{"worker-1"}] * 2


def test_simulate_refuses_tags_that_would_do_nothing(
    cli, tiny: Path, tagged: Path, tmp_path: Path
) -> None:
    tags = tmp_path / "tags.toml"
    tags.write_text('worker-1 = ["pi"]\nworker-17 = ["pi"]\n')

    unknown = cli("simulate", str(tagged), "--tags", str(tags))
    assert unknown.status == 1
    assert "SETTING_INVALID: tags: worker-17: not in the fleet" in unknown.err
    tagged.write_text(tagged.read_text().replace('tags = ["pi"]\n', ""))
    unasked = cli("simulate", str(tiny), "--tags", str(tags))
    assert "SETTING_INVALID: tags: the recipe has no rounds.tags" in unasked.err


def test_simulate_says_so_where_nobody_carries_a_tag(cli, tagged: Path, tmp_path: Path) -> None:
    assert "RECIPE_INVALID" in cli("simulate", str(tagged)).err
    missing = cli("simulate", str(tagged), "--tags", str(tmp_path / "none.toml"))
    assert "SETTING_INVALID: tags: none.toml" in missing.err
