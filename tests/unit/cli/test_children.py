from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedfleet.cli.children import Child, Children
from fedfleet.errors import AddressInUse, NotInstalled, ProcessDied, TimedOut

# Modules of their own, since what is started is a module.
READY = """
import json, signal, sys, threading
print(json.dumps({"event": "ready", "port": 7}), file=sys.stderr, flush=True)
"""
MODULES = {
    "calm": READY + "signal.sigwait([signal.SIGINT])\n",
    "stubborn": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    + READY
    + "signal.sigwait([signal.SIGINT])\n",
    "broken": "raise RuntimeError('no luck')\n",
    "refused": "import sys\n"
    "sys.exit('fedfleet-coordinator: ADDRESS_IN_USE: 127.0.0.1:7070 is taken')\n",
    "mute": "import signal\nsignal.sigwait([signal.SIGINT])\n",
}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    for name, source in MODULES.items():
        (tmp_path / f"{name}.py").write_text(source)
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    with Children(tmp_path, grace_s=0.3) as made:
        yield made


def started(children: Children, environ: dict[str, str], module: str, stage: int = 0) -> Child:
    child = children.start(module, module, environ, stage=stage)
    children.wait_for(child, "ready", 30.0)
    return child


def test_wait_for_returns_the_events_fields(children: Children, environ: dict[str, str]) -> None:
    child = children.start("calm", "calm", environ, stage=0)

    assert children.wait_for(child, "ready", 30.0)["port"] == 7


def test_wait_for_reads_what_this_process_wrote_only(
    children: Children, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "mute.log").write_text('{"event": "ready", "port": 1}\n')
    child = children.start("mute", "mute", environ, stage=0)

    with pytest.raises(TimedOut, match=r"mute did not start in 0\.1 s"):
        children.wait_for(child, "ready", 0.1)


def test_check_passes_while_all_live(children: Children, environ: dict[str, str]) -> None:
    started(children, environ, "calm")

    children.check()


def test_a_child_that_dies_is_named_with_the_end_of_its_log(
    children: Children, environ: dict[str, str]
) -> None:
    child = children.start("worker-2", "broken", environ, stage=0)

    with pytest.raises(ProcessDied, match=r"^worker-2 ended unasked \(status 1\)") as caught:
        children.wait_for(child, "ready", 30.0)

    assert "RuntimeError: no luck" in caught.value.detail


def test_a_child_that_is_killed_is_named_with_the_signal(
    children: Children, environ: dict[str, str]
) -> None:
    child = started(children, environ, "calm")
    child.process.kill()
    child.process.wait()

    with pytest.raises(ProcessDied, match="SIGKILL"):
        children.check()


def test_a_childs_own_error_keeps_its_code(children: Children, environ: dict[str, str]) -> None:
    child = children.start("coordinator", "refused", environ, stage=0)

    with pytest.raises(AddressInUse, match=r"^coordinator: 127.0.0.1:7070 is taken$"):
        children.wait_for(child, "ready", 30.0)


def test_stop_ends_the_stubborn_too(children: Children, environ: dict[str, str]) -> None:
    calm = started(children, environ, "calm", stage=0)
    stubborn = started(children, environ, "stubborn", stage=1)

    children.stop()

    assert calm.process.returncode == -signal.SIGTERM
    assert stubborn.process.returncode == -signal.SIGKILL


def test_stop_comes_to_an_end_when_interrupted(
    children: Children, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn = started(children, environ, "stubborn")

    def interrupted(stopping: list[Child]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(children, "_stop_stage", interrupted)
    with pytest.raises(KeyboardInterrupt):
        children.stop()

    assert stubborn.process.returncode == -signal.SIGKILL


def test_children_are_not_in_our_process_group(children: Children, environ: dict[str, str]) -> None:
    child = started(children, environ, "calm")

    assert os.getpgid(child.process.pid) == child.process.pid


PARENT = """
import sys
from pathlib import Path
from fedfleet.cli.children import Children
children = Children(Path(sys.argv[1]))
import os
child = children.start("stubborn", "stubborn", os.environ, stage=0)
children.wait_for(child, "ready", 30.0)
print(child.process.pid, flush=True)
sys.stdin.read()
"""


def test_a_child_does_not_outlive_a_parent_that_is_killed(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()

    assert ended_within(pid, 5.0)


def ended_within(pid: int, seconds: float) -> bool:
    """Whether a process that is not our child ends; there is nothing to wait on but its state."""
    give_up_s = time.monotonic() + seconds
    while time.monotonic() < give_up_s:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_launch_does_not_start_under_another_parent(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fedfleet.cli.launch", "1", "calm"],
        env=environ,
        capture_output=True,
        check=False,
    )

    assert done.returncode == -signal.SIGKILL
    assert done.stderr == b""


def test_service_whose_extra_is_missing_names_the_extra(
    children: Children, environ: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "fedfleet_inference_api.py").write_text("import no_such_server.app\n")
    child = children.start("inference-api", "fedfleet_inference_api", environ, stage=0)

    with pytest.raises(NotInstalled, match=r"no_such_server is not .*'\.\[inference\]'") as raised:
        children.wait_for(child, "ready", 30.0)

    assert raised.value.detail == ""
