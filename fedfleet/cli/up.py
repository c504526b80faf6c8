"""``fedfleet up``: a whole fleet on this machine, from an empty folder to a served prediction."""

from __future__ import annotations

import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, Optional

import typer
from rich.console import Console

from fedfleet.cli.addresses import ENROLL_PORT
from fedfleet.cli.children import Children
from fedfleet.cli.fleet import HOST, Fleet, FleetPlan, free_or_any, start_fleet, worker_count
from fedfleet.cli.follow import follow, submit_or_resume
from fedfleet.cli.inference import InferenceClient
from fedfleet.cli.live import RunView
from fedfleet.cli.output import console, plain
from fedfleet.cli.predict import print_answer
from fedfleet.cli.progress import working
from fedfleet.cli.recipes import load_recipe
from fedfleet.cli.report import print_result, print_traffic, round_result
from fedfleet.cli.runs import raise_if_failed
from fedfleet.cli.sample import Sample, held_out_image
from fedfleet.cli.settings import CliConfig, DataDir, config_of, environment, naming_folder
from fedfleet.errors import AddressInUse, FedFleetError, SettingInvalid, TimedOut
from fedfleet.rpc.control import ControlClient

PORT = 7070
INFERENCE_PORT = 8080
LOOK_S = 0.1
SERVED_S = 60.0

# Optional[...]: Typer evaluates it, on Python 3.10 too.
_Port = Optional[int]  # noqa: UP045


def up(
    context: typer.Context,
    recipe: Annotated[
        str, typer.Option(metavar="RECIPE", help="A recipe's file, or a shipped one's name.")
    ] = "digits",
    workers: Annotated[
        _Port,
        typer.Option(min=1, help="How many workers. Else one per shard, else the cohort."),
    ] = None,
    data_dir: DataDir = None,
    state_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FOLDER",
            help="Where everything is kept. Else ./state, with --once a new temporary folder.",
        ),
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="Stop everything when the run has been shown.")
    ] = False,
    port: Annotated[
        _Port,
        typer.Option(min=0, max=65535, help="The coordinator's port. Else 7070 or a free one."),
    ] = None,
    inference_port: Annotated[
        _Port,
        typer.Option(min=0, max=65535, help="The web page's port. Else 8080 or a free one."),
    ] = None,
) -> None:
    """Train a recipe on a fleet on this machine, and serve it."""
    parsed = load_recipe(recipe)
    folder = data_dir or config_of(context).data_dir
    out = console()
    # Before anything is made: a port that is taken leaves nothing behind.
    coordinator_port = _port("--port", port, 0 if once else PORT)
    page_port = _port("--inference-port", inference_port, 0 if once else INFERENCE_PORT)
    with naming_folder(folder), working(out, f"opening {plain(parsed.data.dataset)}"):
        sample = held_out_image(parsed, folder)  # before anything starts: it says what is missing
    plan = FleetPlan(
        recipe=parsed,
        workers=worker_count(parsed, workers),
        state_dir=_state_folder(state_dir, once),
        data_dir=folder.absolute() if folder else None,
        port=coordinator_port,
        enroll_port=free_or_any(0 if once else ENROLL_PORT),
        inference_port=page_port,
        environ=environment(context),
    )
    try:
        with (
            _ending_on_signals(),
            _told(out, "stopped"),
            Children(plan.state_dir / "logs") as children,
            _told(out, "stopping"),  # whoever sent a signal waits: services end in order
        ):
            fleet = _run(out, children, plan, sample, stays=not once)
            if once:
                out.print("Now everything stops; without --once it keeps running.")
            else:
                out.print(f"web page: {fleet.inference}/")
                _stay(out, children)
        if not once:
            out.print("stopped")
    except FedFleetError as error:
        if error.detail:
            sys.stderr.write(f"{error.detail}\n")
        raise


def _run(
    out: Console, children: Children, plan: FleetPlan, sample: Sample | None, *, stays: bool
) -> Fleet:
    """From the start of the processes to the answer to one image.

    Args:
        stays: the fleet goes on after that.
    """
    out.print(f"state and logs, kept: {plan.state_dir}")
    with working(out, "starting the services"):
        fleet = start_fleet(children, plan)
    out.print(f"coordinator: {fleet.coordinator}   inference: {fleet.inference}")
    out.print(f"mutual TLS between coordinator and workers; their authority: {plan.authority}")
    if stays:
        _print_settings(out, fleet, plan)
    with ControlClient(fleet.coordinator, credentials=fleet.operator) as client:
        run_id = submit_or_resume(client, plan.recipe.source)
        out.print(f"run {run_id}: {plan.recipe.name} on {plan.workers} workers")
        of_detector = plan.recipe.kind == "detection"
        total = plan.recipe.rounds.rounds
        with RunView(out, total, plan.workers, of_detector=of_detector) as view:
            follow(client, run_id, children, view)
        response = client.get_run(run_id)
    raise_if_failed(response.run)
    rounds = [round_result(summary) for summary in response.rounds]
    print_result(out, rounds, response.classes, of_detector=of_detector)
    print_traffic(out, rounds)
    if sample is not None:
        _ask(out, children, fleet, plan, sample, response.rounds[-1].version)
        if stays:
            path = shlex.quote(str(_image_path(plan)))
            out.print(f"by hand: curl -F file=@{path} {fleet.inference}/predict", soft_wrap=True)
    return fleet


def _ask(
    out: Console,
    children: Children,
    fleet: Fleet,
    plan: FleetPlan,
    sample: Sample,
    version: int,
) -> None:
    """Send the image to the service once it serves the run's last version."""
    _image_path(plan).write_bytes(sample.png)
    client = InferenceClient(fleet.inference)
    with working(out, f"waiting until version {version} is served"):
        _wait_served(client, children, version)
    answer = client.predict(sample.png)
    print_answer(out, answer)
    out.print(sample.verdict(answer))


def _image_path(plan: FleetPlan) -> Path:
    return plan.state_dir / "held-out.png"


def _wait_served(client: InferenceClient, children: Children, version: int) -> None:
    give_up_s = time.monotonic() + SERVED_S
    while True:
        children.check()
        served: dict[str, Any] = client.served()
        if (served.get("model") or {}).get("version") == version:
            return
        if time.monotonic() > give_up_s:
            raise TimedOut(
                f"version {version} is not served after {SERVED_S:g} s: {served.get('detail')}"
            )
        time.sleep(LOOK_S)


def _print_settings(out: Console, fleet: Fleet, plan: FleetPlan) -> None:
    """Print by which variables other commands find this fleet, also while it trains."""
    defaults = CliConfig()
    settings = [f"FEDFLEET_CREDENTIALS={shlex.quote(str(plan.operator))}"]
    if fleet.coordinator != defaults.coordinator:
        settings.append(f"FEDFLEET_COORDINATOR={fleet.coordinator}")
    if fleet.enrolment != f"{HOST}:{ENROLL_PORT}":
        settings.append(f"FEDFLEET_ENROLL={fleet.enrolment}")
    if fleet.inference != defaults.inference:
        settings.append(f"FEDFLEET_INFERENCE={fleet.inference}")
    out.print(f"for other commands: export {' '.join(settings)}", soft_wrap=True)


def _stay(out: Console, children: Children) -> None:
    """Keep everything running until Ctrl-C, which is the ordinary end."""
    out.print("Ctrl-C stops everything.")
    try:
        while True:
            children.check()
            time.sleep(LOOK_S)
    except KeyboardInterrupt:
        out.print("stopping")


@contextmanager
def _told(out: Console, word: str) -> Iterator[None]:
    """Print a word when what is within was interrupted."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        out.print(word)
        raise


def _state_folder(wanted: Path | None, once: bool) -> Path:
    """Make the folder and return its absolute path; raises SettingInvalid."""
    try:
        if wanted is None and once:
            folder = Path(tempfile.mkdtemp(prefix="fedfleet-"))
        else:
            folder = (wanted or Path("state")).expanduser().absolute()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / "logs").mkdir(exist_ok=True)
        return folder
    except OSError as error:
        raise SettingInvalid(f"--state-dir {wanted or 'state'}: {error.strerror}") from error


def _port(option: str, wanted: int | None, usual: int) -> int:
    """The port that was asked for, else the usual one or 0; raises AddressInUse."""
    if wanted is None:
        return free_or_any(usual)
    if wanted and not free_or_any(wanted):
        raise AddressInUse(
            f"{option} {wanted}: {HOST}:{wanted} is taken by another process; choose another one, "
            "or leave the option out"
        )
    return wanted


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack, so that the children are stopped in order."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
