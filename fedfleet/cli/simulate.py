"""``fedfleet simulate``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from fedfleet.cli.output import console, number, size, write_json
from fedfleet.cli.progress import progress
from fedfleet.cli.quality import told
from fedfleet.cli.recipes import load_recipe, shipped
from fedfleet.cli.recording import options_of, recording
from fedfleet.cli.report import print_result, print_rounds, print_traffic
from fedfleet.cli.settings import DataDir, Json, RecipeArgument, config_of, naming_folder
from fedfleet.errors import FedFleetError, SettingInvalid, error_for_code
from fedfleet.reports.round_result import RoundResult
from fedfleet.sim.carried_tags import parse_tags
from fedfleet.sim.devices import DeviceProfile, parse_devices
from fedfleet.sim.engines import EngineSettings, opened_engine
from fedfleet.sim.traces import Trace, parse_traces
from fedfleet.tables import printable
from fedfleet.training.allocator import keep_freed_memory

if TYPE_CHECKING:
    from fedfleet.sim.outcome import SimulatedRound, Simulation


# Optional[...] and not "| None": Typer evaluates these, on Python 3.10 too.
EngineOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Where workers are simulated: inprocess, processes (of this machine), or ray.",
    ),
]
ProcessesOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(help="How many processes; by default one for each core."),
]
DeviceOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="NAME", help="auto, cpu or cuda, instead of the recipe's."),
]
CheckpointOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        metavar="FOLDER", help="Keep the run here after each round; go on with one that was kept."
    ),
]
BatchWorkersOption = Annotated[
    int,
    typer.Option(
        help="Train so many workers with small models as one batch (mlp only): faster, and other "
        "than a deployed run in the rounding of float32."
    ),
]
DevicesOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        metavar="FILE", help="Profiles of the devices that workers stand for, for virtual time."
    ),
]
AvailabilityOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(metavar="FILE", help="When workers are connected, in virtual time."),
]
TagsOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        metavar="FILE",
        help='What workers carry, for [rounds] tags: worker-0 = ["pi"] and so on.',
    ),
]
AddressOption = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(metavar="HOST:PORT", help="A running Ray cluster; else one starts here."),
]


def simulate(
    context: typer.Context,
    recipe: RecipeArgument,
    data_dir: DataDir = None,
    record: Annotated[
        Optional[Path],  # noqa: UP045 - Typer evaluates it, on Python 3.10 too
        typer.Option("--out", metavar="FOLDER", help="Keep a record, for fedfleet report."),
    ] = None,
    checkpoint: CheckpointOption = None,
    engine: EngineOption = "inprocess",
    processes: ProcessesOption = None,
    device: DeviceOption = None,
    devices: DevicesOption = None,
    availability: AvailabilityOption = None,
    tags: TagsOption = None,
    batch_workers: BatchWorkersOption = 1,
    address: AddressOption = None,
    as_json: Json = False,
) -> None:
    """Run a recipe on this machine, without a network."""
    settings = _engine_settings(engine, processes, device, address, batch_workers)
    parsed = load_recipe(recipe)
    folder = data_dir or config_of(context).data_dir
    out = console()
    profiles, traces, carried = read_devices(devices), read_traces(availability), read_tags(tags)
    if traces and not profiles:
        raise SettingInvalid("--availability: is in virtual time, which needs --devices")
    given = (*profiles, *traces, *sorted(carried.items()))
    options = options_of(folder, given, batch_workers)
    of_detector = parsed.kind == "detection"
    rounds: list[RoundResult] = []
    if record is not None and checkpoint is not None and record.absolute() == checkpoint.absolute():
        raise SettingInvalid("--out and --checkpoint: must be two folders")
    with progress(out, shown=not as_json) as bar:
        task = bar.add_task("rounds", total=parsed.rounds.rounds, result="starting")
        with (
            naming_folder(folder),
            recording(
                record, parsed, folder, goes_on=checkpoint is not None, options=options
            ) as kept,
            opened_engine(settings, parsed, folder) as opened,
        ):
            # Not above: it imports torch, which --help and a wrong recipe need not wait for.
            from fedfleet.sim.driver import simulate as run_simulation

            keep_freed_memory()

            def on_round(done: SimulatedRound) -> None:
                rounds.append(_result(done))
                kept.add(rounds[-1])
                bar.update(task, completed=done.round, result=_brief(done, of_detector))
                if not as_json and not out.is_terminal:
                    out.print(
                        f"round {done.round}/{parsed.rounds.rounds}  {_brief(done, of_detector)}"
                    )

            simulation = run_simulation(
                parsed,
                folder,
                on_round,
                engine=opened,
                device=settings.device,
                batch_workers=settings.batch_workers,
                checkpoint=checkpoint,
                tags=carried,
                devices=profiles,
                availability=traces,
            )
            kept.finish(
                simulation.outcome,
                simulation.code,
                simulation.reason,
                simulation.state,
                simulation.levels,
            )
    if as_json:
        write_json(
            {
                "model": parsed.name,
                "outcome": simulation.outcome,
                "code": simulation.code,
                "reason": simulation.reason,
                "classes": list(simulation.classes),
                "round_results": [item.to_json() for item in rounds],
            }
        )
    else:
        if out.is_terminal:  # where the bar has shown the last round only
            print_rounds(out, rounds, of_detector=of_detector)
        print_result(out, rounds, simulation.classes, of_detector=of_detector)
        if not out.is_terminal:
            print_traffic(out, rounds)
    _raise_if_failed(simulation)


def _engine_settings(
    engine: str,
    processes: int | None,
    device: str | None,
    address: str | None,
    batch_workers: int,
) -> EngineSettings:
    try:
        return EngineSettings(
            engine=engine,  # type: ignore[arg-type] # looked at by the class
            processes=processes,
            device=device,  # type: ignore[arg-type]
            address=address,
            batch_workers=batch_workers,
        )
    except ValueError as error:
        raise SettingInvalid(str(error)) from error


def read_devices(path: Path | None) -> tuple[DeviceProfile, ...]:
    """The profiles in a file, or of a fleet that ships; none without. Raises SettingInvalid."""
    if path is None:
        return ()
    fleets = shipped("devices")
    if not path.exists():
        if str(path) not in fleets:
            raise SettingInvalid(
                f"devices: {printable(path.name)}: no such file, nor a fleet that ships here: "
                f"{', '.join(fleets)}"
            )
        path = fleets[str(path)]
    return parse_devices(_read(path, "devices"))


def read_traces(path: Path | None) -> tuple[Trace, ...]:
    """The traces in a file; none where there is none. Raises SettingInvalid."""
    return () if path is None else parse_traces(_read(path, "availability"))


def read_tags(path: Path | None) -> dict[str, tuple[str, ...]]:
    """The tags in a file, by worker; none where there is none. Raises SettingInvalid."""
    return {} if path is None else parse_tags(_read(path, "tags"))


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise SettingInvalid(f"{option}: {path.name}: {reason}") from error


def _brief(done: SimulatedRound, of_detector: bool) -> str:
    moved = f"{size(done.bytes_up)} up  {size(done.bytes_down)} down"
    if done.virtual_s is not None:
        moved += f"  {number(done.virtual_s)} s on devices"
    if done.evaluation is None:
        return f"train loss {number(done.metrics.get('train_loss'))}  {moved}"
    return f"{told(done.evaluation, of_detector=of_detector)}  {moved}"


def _result(done: SimulatedRound) -> RoundResult:
    return RoundResult(
        round=done.round,
        version=None,
        duration_s=None,
        updates=len(done.workers),
        weight=done.weight,
        metrics=done.metrics,
        bytes_up=done.bytes_up,
        bytes_down=done.bytes_down,
        evaluation=done.evaluation,
        worker_evaluations=done.worker_evaluations,
        workers=done.workers,
        at_s=time.time(),
        virtual_s=done.virtual_s,
    )


def _raise_if_failed(simulation: Simulation) -> None:
    if simulation.outcome == "failed":
        raise error_for_code(simulation.code, f"the simulation failed: {simulation.reason}")
    if simulation.outcome != "completed":
        raise FedFleetError(f"the simulation is {simulation.outcome}: {simulation.reason}")
