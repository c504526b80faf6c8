"""A short version of ``bench/kills.py``: a coordinator killed at points drawn from a seed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from durability.killed_run import Outcome, killed_run, undisturbed_run
from durability.points import AT_COMMIT, AT_END, BEFORE_COMMIT, targets

KILLS = 6
ROUNDS = 3


@pytest.fixture(scope="module", params=[2, 4], ids=["scaffold", "lossy"])
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Outcome]:
    seed: int = request.param
    return seed, undisturbed_run(tmp_path_factory.mktemp("calm") / "run", seed, ROUNDS)


@pytest.mark.slow
@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_killed_coordinator_makes_the_versions_of_an_undisturbed_run(
    store: str, undisturbed: tuple[int, Outcome], tmp_path: Path
) -> None:
    if store == "redis" and shutil.which("redis-server") is None:
        pytest.skip("no redis-server on this machine; Debian: apt-get install redis-server")
    seed, calm = undisturbed

    told = killed_run(tmp_path / "run", seed, store, KILLS, ROUNDS, calm)

    assert told["broken"] == []
    assert told["kills"] >= KILLS


def test_targets_are_those_of_their_seed_and_reach_every_point() -> None:
    drawn = [targets(seed, 30, 10) for seed in range(30)]

    assert drawn == [targets(seed, 30, 10) for seed in range(30)]
    assert {len(aims) for aims in drawn} == {30}
    points = {aim.point for aims in drawn for aim in aims}
    assert points == {*BEFORE_COMMIT, *AT_COMMIT, *AT_END}
