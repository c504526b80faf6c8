from __future__ import annotations

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.cli.fleet import FleetPlan, free_or_any, threads_each, worker_count
from fedfleet.errors import SettingInvalid
from fedfleet.rounds.recipe import parse_recipe


def plan(recipe: str, environ: dict[str, str] | None = None) -> FleetPlan:
    return FleetPlan(
        recipe=parse_recipe(recipe),
        workers=2,
        state_dir=Path("/state"),
        data_dir=Path("/data"),
        port=0,
        enroll_port=0,
        inference_port=0,
        environ=environ or {},
    )


def test_worker_count_defaults_to_the_shards(tiny: Path) -> None:
    assert worker_count(parse_recipe(tiny.read_text()), None) == 2


def test_worker_count_without_shards_is_the_cohort(tiny: Path) -> None:
    text = tiny.read_text().replace('partition = "iid"\nworkers = 2\n', "")
    recipe = parse_recipe(text.replace("cohort = 2", "cohort = 3\nover_select = 1"))

    assert worker_count(recipe, None) == 4
    assert worker_count(recipe, 7) == 7


@pytest.mark.parametrize("wanted", [1, 3])
def test_worker_count_refuses_what_cannot_work(tiny: Path, wanted: int) -> None:
    with pytest.raises(SettingInvalid, match=f"--workers {wanted}"):
        worker_count(parse_recipe(tiny.read_text()), wanted)


def test_plan_gives_each_worker_its_shard_and_folder(tiny: Path) -> None:
    environ = plan(tiny.read_text(), {"PATH": "/bin"}).worker(
        1, "127.0.0.1:5", "127.0.0.1:6", "fft_1"
    )

    assert environ["FEDFLEET_SHARD"] == "1"
    assert environ["FEDFLEET_WORKER_ID"] == "worker-1"
    assert environ["FEDFLEET_STATE_DIR"] == "/state/workers/worker-1"
    assert environ["FEDFLEET_COORDINATOR"] == "127.0.0.1:5"
    assert environ["FEDFLEET_ENROLL"] == "127.0.0.1:6"
    assert environ["FEDFLEET_TOKEN"] == "fft_1"
    assert environ["FEDFLEET_DATA_DIR"] == "/data"
    assert environ["PATH"] == "/bin"


def test_plan_names_no_shard_where_data_are_the_workers_own(tiny: Path) -> None:
    text = tiny.read_text().replace('partition = "iid"\nworkers = 2\n', "")

    assert "FEDFLEET_SHARD" not in plan(text).worker(0, "127.0.0.1:5", "127.0.0.1:6")


def test_plan_listens_on_loopback_whatever_the_environment_says(tiny: Path) -> None:
    outside = {"FEDFLEET_HOST": "0.0.0.0", "FEDFLEET_OPS_HOST": "0.0.0.0", "FEDFLEET_PORT": "1"}
    made = plan(tiny.read_text(), outside)

    for environ in (
        made.coordinator(),
        made.inference(),
        made.worker(0, "127.0.0.1:5", "127.0.0.1:6"),
    ):
        assert environ["FEDFLEET_OPS_HOST"] == "127.0.0.1"
    assert made.coordinator()["FEDFLEET_HOST"] == "127.0.0.1"
    assert made.inference()["FEDFLEET_HOST"] == "127.0.0.1"
    assert made.coordinator()["FEDFLEET_PORT"] == "0"


def test_plan_asks_for_mutual_tls_with_an_authority_of_its_own(tiny: Path) -> None:
    outside = {
        "FEDFLEET_TLS": "off",
        "FEDFLEET_CA_DIR": "/elsewhere",
        "FEDFLEET_SERVER_KEY": "/elsewhere/key",
        "FEDFLEET_TOKEN": "fft_of_another",
        "FEDFLEET_REST_AUTH": "on",
    }
    made = plan(tiny.read_text(), outside)
    worker = made.worker(0, "127.0.0.1:5", "127.0.0.1:6")

    assert made.coordinator()["FEDFLEET_CA_DIR"] == "/state/ca"
    for environ in (made.coordinator(), worker):
        assert environ["FEDFLEET_TLS"] == "on"
        assert not environ["FEDFLEET_SERVER_KEY"]
    assert not worker["FEDFLEET_TOKEN"]
    assert not made.inference()["FEDFLEET_REST_AUTH"]


def test_plan_keeps_cameras_in_its_folder_or_where_the_environment_says(tiny: Path) -> None:
    elsewhere = {"FEDFLEET_CAMERAS_KEPT": "/elsewhere/cameras.json"}

    inside = plan(tiny.read_text()).inference()["FEDFLEET_CAMERAS_KEPT"]
    outside = plan(tiny.read_text(), elsewhere).inference()["FEDFLEET_CAMERAS_KEPT"]

    assert (inside, outside) == ("/state/cameras.json", "/elsewhere/cameras.json")


def test_plan_leaves_a_chosen_number_of_threads(tiny: Path) -> None:
    made = plan(tiny.read_text(), {"FEDFLEET_THREADS": "7"})

    assert made.worker(0, "127.0.0.1:5", "127.0.0.1:6")["FEDFLEET_THREADS"] == "7"


@given(cores=st.integers(1, 256), busy=st.integers(1, 256))
def test_threads_fit_the_cores(cores: int, busy: int) -> None:
    each = threads_each(cores, busy)

    assert each >= 1
    assert each == 1 or each * busy <= cores


def test_free_or_any_gives_way_to_who_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        assert free_or_any(port) == 0

    assert free_or_any(port) == port
