"""Options of ``fedfleet simulate`` that are about devices."""

from __future__ import annotations

from pathlib import Path

VANISHING = '[[traces]]\nworkers = ["worker-1"]\nonline_s = [[0.0, 1e-9]]\n'


def test_simulate_takes_a_fleet_that_ships_by_its_name(cli, tiny: Path) -> None:
    slow, fast = (
        cli("simulate", str(tiny), "--devices", name, "--json").document
        for name in ("pi3", "server")
    )

    ends_s = [[one["virtual_s"] for one in run["round_results"]] for run in (slow, fast)]
    assert all(late > early > 0 for late, early in zip(*ends_s, strict=True))


def test_simulate_names_the_fleets_that_ship(cli, tiny: Path) -> None:
    result = cli("simulate", str(tiny), "--devices", "nosuch")

    assert result.status == 1
    assert "devices: nosuch: no such file, nor a fleet that ships here: jetson-nano," in result.err
    assert "pis-and-jetsons" in result.err


def test_simulate_without_anybody_blames_no_setting(cli, tiny: Path, tmp_path: Path) -> None:
    traces = tmp_path / "traces.toml"
    traces.write_text("[[traces]]\nshare = 1.0\nonline_s = []\n")

    result = cli("simulate", str(tiny), "--devices", "pi3", "--availability", str(traces))

    assert "QUORUM_NOT_MET" in result.err
    assert "no round was committed" in result.out


def test_simulate_lets_workers_leave(cli, tiny: Path, tmp_path: Path) -> None:
    traces = tmp_path / "traces.toml"
    traces.write_text(VANISHING)

    result = cli("simulate", str(tiny), "--devices", "pi3", "--availability", str(traces))

    assert result.status == 1
    assert "QUORUM_NOT_MET" in result.err
    assert "1 workers ready" in result.err


def test_simulate_with_availability_needs_devices(cli, tiny: Path, tmp_path: Path) -> None:
    traces = tmp_path / "traces.toml"
    traces.write_text(VANISHING)

    alone = cli("simulate", str(tiny), "--availability", str(traces))
    missing = cli("simulate", str(tiny), "--devices", "pi3", "--availability", "nowhere.toml")

    assert (alone.status, "needs --devices" in alone.err) == (1, True)
    assert missing.err.startswith("fedfleet: SETTING_INVALID: availability: nowhere.toml: No such")
