"""``fedfleet up`` and the commands that talk to what it starts, with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import grpc
import pytest
from certificates import issued

from fedfleet.cli.main import main
from fedfleet.identity.credentials import load_credentials, save_credentials
from fedfleet.identity.names import TARGET_NAME, Role
from fedfleet.store.open import open_store
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

CLOUDS = """
name = "clouds"
seed = 3

[model]
architecture = "mlp"
hidden = [16]

[data]
dataset = "synthetic"
classes = 6
partition = "iid"
workers = 2

[training]
lr = 0.2
threads = 1

[rounds]
rounds = 3
cohort = 2

[evaluation]
workers = "all"
"""
PREDICTION = re.compile(r"│ (\d) │ (\S+) +│ +([\d.]+) % │")


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "clouds.toml"
    path.write_text(CLOUDS)
    return path


class Up:
    """A ``fedfleet up`` whose output is collected as it comes."""

    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fedfleet.cli.main", "up", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONUTF8": "1"},
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()

    def wait_for(self, beginning: str, timeout_s: float = 90.0) -> str:
        """The rest of the first line that begins so."""

        def found() -> str | None:
            return next((x for x in self.lines if x.startswith(beginning)), None)

        with self._changed:
            assert self._changed.wait_for(found, timeout_s), "\n".join(self.lines)
            line = found()
        assert line is not None
        return line.removeprefix(beginning).strip()

    def children(self) -> dict[int, str]:
        """Pid and module of every process that this one started and that lives."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                    if b"fedfleet.cli.launch" in words:
                        place = words.index(b"fedfleet.cli.launch")
                        if words[place + 1] == str(self.process.pid).encode():
                            found[int(entry.name)] = words[place + 2].decode()
        return found

    def end(self, number: int | None = None) -> tuple[int, str]:
        """Signal it (or not), wait for its end; returns its status and standard error."""
        if number is not None:
            self.process.send_signal(number)
        assert self.process.stderr is not None
        err = self.process.stderr.read()
        status = self.process.wait(60)
        self._reader.join(10)
        self.process.stderr.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status, err

    def children_end_within(self, seconds: float) -> bool:
        """There is nothing to wait on: they are no children of the test."""
        give_up_s = time.monotonic() + seconds
        while self.children():
            if time.monotonic() > give_up_s:
                return False
            time.sleep(0.02)
        return True


@contextlib.contextmanager
def started(*argv: str) -> Iterator[Up]:
    up = Up(*argv)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.end(signal.SIGKILL)


def test_up_once_runs_the_demo_from_nothing_to_a_prediction(tmp_path: Path) -> None:
    with started("--once", "--state-dir", str(tmp_path / "state")) as up:
        status, err = up.end()

    text = "\n".join(up.lines)
    assert (status, err) == (0, "")
    rounds = re.findall(r"round (\d+)/15  accuracy ([\d.]+) %", text)
    assert [int(number) for number, _ in rounds] == list(range(1, 16))
    assert float(rounds[-1][1]) >= 95.0
    for title in ("Global model", "Accuracy per class", "Accuracy per worker"):
        assert title in text
    assert all(f"│ worker-{number} " in text for number in range(4))
    predictions = PREDICTION.findall(text)
    assert [int(place) for place, _, _ in predictions] == [1, 2, 3, 4, 5]
    assert len({label for _, label, _ in predictions}) == 5
    assert re.search(r"^true label: \d \((right|wrong)\)$", text, re.MULTILINE)
    for asked in ("by hand", "web page", "for other commands"):
        assert asked not in text, "it stops now"
    assert up.children() == {}


@pytest.fixture(scope="module")
def running(clouds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A fleet that has trained its recipe and stays."""
    state = tmp_path_factory.mktemp("fleet")
    ports = ("--port", "0", "--inference-port", "0")
    with started("--recipe", str(clouds), "--state-dir", str(state), *ports) as up:
        up.wait_for("Ctrl-C stops everything.")
        yield up
        modules = sorted(up.children().values())
        status, err = up.end(signal.SIGINT)
    # The ordinary end of a fleet that stays.
    assert modules == [
        "fedfleet_coordinator",
        "fedfleet_inference_api",
        "fedfleet_worker",
        "fedfleet_worker",
    ]
    assert (status, err) == (0, "")
    assert up.lines[-2:] == ["stopping", "stopped"]
    assert up.children() == {}
    line = next(line for line in up.lines if line.startswith("for other commands: export"))
    assert up.lines.index(line) < next(n for n, x in enumerate(up.lines) if x.startswith("round "))


@pytest.fixture
def ask(running: Up, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command against the running fleet; returns status, output, errors."""
    settings = shlex.split(running.wait_for("for other commands: export"))
    environ = dict(setting.split("=", 1) for setting in settings)
    assert environ.keys() >= {"FEDFLEET_COORDINATOR", "FEDFLEET_INFERENCE", "FEDFLEET_CREDENTIALS"}

    def run(*argv: str, **changed: str) -> tuple[int, str, str]:
        status = main(argv, {**environ, **changed})
        return status, *capsys.readouterr()

    return run


def document(answer: tuple[int, str, str]) -> Any:
    status, out, err = answer
    assert (status, err) == (0, "")
    return json.loads(out)


def test_commands_list_what_runs(ask: Any) -> None:
    runs = document(ask("run", "list", "--json"))["runs"]
    workers = document(ask("workers", "--json"))["workers"]
    versions = document(ask("models", "list", "--json"))["versions"]

    assert [(run["model"], run["state"], run["round"]) for run in runs] == [
        ("clouds", "completed", 3)
    ]
    assert [(w["worker_id"], w["connected"]) for w in workers] == [
        ("worker-0", True),
        ("worker-1", True),
    ]
    assert [version["version"] for version in versions] == [3, 2, 1]
    assert [alias["name"] for alias in versions[0]["aliases"]] == ["latest"]
    for argv in (("run", "list"), ("workers",), ("models", "list")):
        status, out, _ = ask(*argv)
        assert status == 0
        assert "┃" in out


def test_coordinator_of_a_fleet_talks_to_nobody_without_a_certificate(
    ask: Any, running: Up, tmp_path: Path
) -> None:
    address = running.wait_for("coordinator:").partition(" ")[0]
    authority = Path(
        running.wait_for("mutual TLS between coordinator and workers; their authority:")
    )
    root = (authority / "root.pem").read_bytes()
    # Of an authority with the same names.
    save_credentials(tmp_path / "stranger", issued(tmp_path / "ca", "local", Role.OPERATOR))
    nothing, stranger = ("", str(tmp_path / "stranger"))

    for folder in (nothing, stranger):
        status, out, err = ask("workers", FEDFLEET_CREDENTIALS=folder)
        assert (status, out) == (1, "")
        assert err.startswith(f"fedfleet: UNAVAILABLE: no coordinator answers at {address}; ")
    # A real client, but without a certificate.
    named = (("grpc.ssl_target_name_override", TARGET_NAME),)
    for channel in (
        grpc.insecure_channel(address),
        grpc.secure_channel(address, grpc.ssl_channel_credentials(root), named),
    ):
        with channel, pytest.raises(grpc.RpcError) as refusal:
            ControlServiceStub(channel).ListRuns(pb.ListRunsRequest(), timeout=10.0)
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ask("workers")[0] == 0


def test_workers_of_a_fleet_have_enrolled_each_with_its_own_token(ask: Any, running: Up) -> None:
    state = Path(running.wait_for("state and logs, kept:"))
    records = [json.loads(line) for line in ask("audit", "show", "--json")[1].splitlines()]

    for name in ("worker-0", "worker-1"):
        held = load_credentials(state / "workers" / name / "identity")
        assert held.identity.text == f"worker/{name}"
    done = [(one["actor"], one["action"], one["object"]) for one in records]
    for name in ("worker-0", "worker-1"):
        assert done.count(("operator/local", "token_create", f"worker/{name}")) == 1
        assert done.count((f"worker/{name}", "enrol", f"worker/{name}")) == 1
    assert document(ask("token", "list", "--json")) == {"tokens": []}
    status, out, _ = ask("audit", "verify")
    assert (status, out.partition(" ")[0]) == (0, str(len(records)))


def test_operator_enrols_with_what_up_has_printed(ask: Any, tmp_path: Path) -> None:
    made = document(ask("token", "create", "--operator", "anna", "--json"))
    own = {"FEDFLEET_CREDENTIALS": str(tmp_path / "anna")}

    assert ask("workers", **own)[0] == 1
    assert ask("enroll", "--name", "anna", FEDFLEET_TOKEN=made["token"], **own)[0] == 0
    assert len(document(ask("workers", "--json", **own))["workers"]) == 2


def test_fleet_shows_no_token_to_other_users_of_the_machine(running: Up) -> None:
    for pid in (running.process.pid, *running.children()):
        assert b"fft_" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    state = Path(running.wait_for("state and logs, kept:"))
    assert state.stat().st_mode & 0o077 == 0 or state.parent.stat().st_mode & 0o077 == 0
    for log in (state / "logs").iterdir():
        assert "fft_" not in log.read_text()


def test_run_show_has_the_rounds(ask: Any) -> None:
    run = document(ask("run", "show", "--json"))
    status, out, _ = ask("run", "show", run["run_id"])

    assert [item["round"] for item in run["round_results"]] == [1, 2, 3]
    assert len(run["classes"]) == 6
    assert set(run["round_results"][-1]["worker_evaluations"]) == {"worker-0", "worker-1"}
    assert status == 0
    assert "Accuracy per worker" in out


def test_run_watch_tells_the_whole_story(ask: Any) -> None:
    status, out, _ = ask("run", "watch", "--json")

    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["kind"] for event in events]
    assert status == 0
    assert kinds[0] == "run_submitted"
    assert kinds[-1] == "run_finished"
    assert kinds.count("round_committed") == 3
    assert [e["event_id"] for e in events] == sorted({e["event_id"] for e in events})


def test_run_submit_and_watch_until_the_end(
    ask: Any, running: Up, clouds: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "other.toml"
    text = clouds.read_text().replace('"clouds"', '"other"')
    recipe.write_text(text.replace("[evaluation]", "[evaluation]\ncoordinator = false"))

    status, out, err = ask("run", "submit", str(recipe), "--watch")

    assert (status, err) == (0, "")
    assert "3 rounds of other, queued" in out
    assert "run_finished" in out
    # Nobody but the workers has evaluated it, and that is told everywhere.
    (newest, *_) = document(ask("models", "list", "other", "--json"))["versions"]
    measured = newest["evaluation_on_workers"]
    assert newest["metrics"]["evaluation"] is None
    assert 0.5 < measured["accuracy"] <= 1
    share = f"{100 * measured['accuracy']:.1f} %"
    for argv in (
        ("models", "list", "other"),
        ("models", "show", "other"),
        ("models", "history", "other"),
        ("run", "show"),
    ):
        shown = ask(*argv)[1]
        assert "accuracy on workers" in shown
        assert share in shown
    url = running.wait_for("coordinator:").rpartition(" ")[2]
    with urlopen(f"{url}/models/other/history") as answer:
        history = json.load(answer)
    assert (history["measure"], history["measured_by"]) == ("accuracy", "workers")
    assert [point["value"] for point in history["versions"]][-1] == measured["accuracy"]


def test_run_stop_ends_a_run_that_waits(ask: Any, clouds: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "waiting.toml"
    text = clouds.read_text().replace("cohort = 2", "cohort = 2\nquorum = 2")
    text = text.replace('"clouds"', '"waiting"').replace("workers = 2", "workers = 3")
    recipe.write_text(text.replace("cohort = 2", "cohort = 3").replace("quorum = 2", "quorum = 3"))
    submitted = document(ask("run", "submit", str(recipe), "--json"))

    stopped = document(ask("run", "stop", submitted["run_id"], "--json"))
    again = ask("run", "stop", submitted["run_id"])

    assert stopped["state"] == "stopped"
    assert again[0] == 1
    assert again[2].startswith("fedfleet: CONFLICT: ")


def test_models_promote_moves_an_alias_once(ask: Any) -> None:
    first = document(ask("models", "promote", "clouds", "2", "--expect", "0", "--json"))
    second = ask("models", "promote", "clouds", "latest", "--expect", "0")
    shown = document(ask("models", "show", "clouds", "production", "--json"))

    assert first == {"model": "clouds", "name": "production", "version": 2, "revision": 1}
    assert second[0] == 1
    assert second[2].startswith("fedfleet: CONFLICT: ")
    assert shown["version"] == 2
    assert ask("models", "show", "clouds")[0] == 0


def test_predict_names_the_classes(ask: Any, running: Up) -> None:
    image = re.findall(r"file=@(\S+)", running.wait_for("by hand:"))[0]

    answer = document(ask("predict", image, "-k", "3", "--json"))
    status, out, _ = ask("predict", image)
    several = document(ask("predict", image, image, "--version", "1", "--json"))
    tables = ask("predict", image, image, "--alias", "latest")[1]

    assert [(one["image"], one["model"]["version"]) for one in several] == [(image, 1)] * 2
    assert (tables.count(image), len(PREDICTION.findall(tables))) == (2, 10)
    assert [item["index"] in range(6) for item in answer["predictions"]] == [True] * 3
    assert answer["model"]["name"] == "clouds"
    assert status == 0
    assert len(PREDICTION.findall(out)) == 5


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("run", "show", "r-none"), "NOT_FOUND"),
        (("run", "watch", "r-none"), "NOT_FOUND"),
        (("run", "stop", "r-none"), "NOT_FOUND"),
        (("models", "show", "nothing"), "NOT_FOUND"),
        (("models", "show", "clouds", "99"), "NOT_FOUND"),
        (("models", "promote", "clouds", "1", "--alias", "7"), "INVALID_INPUT"),
        (("predict", __file__), "IMAGE_INVALID"),
    ],
)
def test_errors_of_the_services_arrive_as_one_line(ask: Any, argv: Any, code: str) -> None:
    status, out, err = ask(*argv)

    assert (status, out) == (1, "")
    assert err.startswith(f"fedfleet: {code}: ")
    assert err.count("\n") == 1


def test_a_wrong_recipe_is_refused_by_the_coordinator(ask: Any, tmp_path: Path) -> None:
    recipe = tmp_path / "wrong.toml"
    recipe.write_text(CLOUDS.replace("rounds = 3", "round = 3"))

    status, _, err = ask("run", "submit", str(recipe))

    assert status == 1
    assert err.startswith("fedfleet: RECIPE_INVALID: rounds.round: unknown field")


@pytest.mark.parametrize("option", ["--port", "--inference-port"])
def test_up_on_a_taken_port_says_so_and_stops(clouds: Path, tmp_path: Path, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with started(
            "--once", "--recipe", str(clouds), "--state-dir", str(tmp_path / "new"), option, port
        ) as up:
            status, err = up.end()

    assert status == 1
    assert not (tmp_path / "new").exists(), "it looked before it made anything"
    assert err.startswith(f"fedfleet: ADDRESS_IN_USE: {option} {port}: ")
    assert err.count("\n") == 1
    assert up.children() == {}


def test_up_whose_worker_dies_says_which_and_stops(clouds: Path, tmp_path: Path) -> None:
    endless = tmp_path / "endless.toml"
    endless.write_text(clouds.read_text().replace("rounds = 3", "rounds = 100000"))
    with started("--recipe", str(endless), "--state-dir", str(tmp_path / "state"), "--once") as up:
        up.wait_for("round 2/")
        victim = min(pid for pid, module in up.children().items() if module == "fedfleet_worker")
        os.kill(victim, signal.SIGKILL)
        status, err = up.end()

    assert status == 1
    assert re.search(
        r"^fedfleet: PROCESS_DIED: worker-\d ended unasked \(SIGKILL\)", err, re.MULTILINE
    )
    assert '"event": "connected"' in err  # the end of its log
    assert up.children() == {}


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_up_that_is_interrupted_stops_everything(
    clouds: Path, tmp_path: Path, number: int, expected: int
) -> None:
    endless = tmp_path / "endless.toml"
    endless.write_text(clouds.read_text().replace("rounds = 3", "rounds = 100000"))
    with started("--recipe", str(endless), "--state-dir", str(tmp_path / "state"), "--once") as up:
        up.wait_for("round 2/")
        status, err = up.end(number)

    assert (status, err) == (expected, "")
    assert up.lines[-2:] == ["stopping", "stopped"]
    assert up.children() == {}


def test_up_that_is_killed_leaves_no_orphan_and_its_run_is_taken_up_again(
    clouds: Path, tmp_path: Path
) -> None:
    longer = tmp_path / "longer.toml"
    longer.write_text(clouds.read_text().replace("rounds = 3", "rounds = 60"))
    argv = ("--recipe", str(longer), "--state-dir", str(tmp_path / "state"), "--once")
    with started(*argv) as killed:
        killed.wait_for("round 5/")
        run = killed.wait_for("run ")
        killed.end(signal.SIGKILL)
        assert killed.children_end_within(10.0)
    with started(*argv) as again:
        status, err = again.end()

    assert (status, err) == (0, "")
    assert again.wait_for("run ") == run
    assert any(line.startswith("round 60/60") for line in again.lines)


def test_up_again_on_the_same_state_uses_the_certificates_that_are_there(
    clouds: Path, tmp_path: Path
) -> None:
    short, state = tmp_path / "short.toml", tmp_path / "state"
    short.write_text(clouds.read_text().replace("rounds = 3", "rounds = 1"))
    argv = ("--recipe", str(short), "--state-dir", str(state), "--once")
    held = []
    for lost in ("", "worker-1"):
        # One that lost its credentials, or has those of another authority, enrols again.
        if lost:
            stranger = issued(tmp_path / "ca", lost)
            save_credentials(state / "workers" / lost / "identity", stranger)
        with started(*argv) as up:
            assert up.end() == (0, "")
        folders = [state / "workers" / f"worker-{number}" / "identity" for number in range(2)]
        held.append([load_credentials(folder).identity for folder in folders])

    (first, second), (first_again, second_again) = held
    assert first == first_again
    assert second.text == second_again.text
    assert second != second_again
    with open_store(f"sqlite:{state}") as store:
        enrolled = [deed.object for deed in store.audit.records() if deed.action == "enrol"]
    assert sorted(enrolled) == ["worker/worker-0", "worker/worker-1", "worker/worker-1"]
