"""The record of a deployed run, asked of its coordinator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fedfleet.cli.documents import is_over, state_name
from fedfleet.cli.recording import data_map
from fedfleet.cli.report import round_result
from fedfleet.errors import FedFleetError, NotFound
from fedfleet.reports.facts import DataMap, RunFacts
from fedfleet.reports.record import Record
from fedfleet.reports.round_result import RoundResult
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.rpc.control import ControlClient
from fedfleet.types import Evaluation
from fedfleet.v1 import control_service_pb2 as pb


def fetch_record(client: ControlClient, run_id: str, data_dir: Path | None) -> Record:
    """Ask for a run and make its record; who holds what is computed here, where the data are.

    Raises:
        NotFound: the coordinator has no such run.
    """
    response = client.get_run(run_id)
    run = response.run
    rounds = [round_result(summary) for summary in response.rounds]
    recipe = parse_recipe(run.recipe)
    first = response.rounds[0] if response.rounds else None
    facts = RunFacts(
        source="deployed",
        run_id=run.run_id,
        name=run.model,
        seed=recipe.seed,
        rounds=run.rounds,
        classes=tuple(response.classes),
        started_at_s=first.committed_at_s - first.duration_s if first else None,
        ended_at_s=run.updated_at_s if is_over(run.state) else None,
        outcome=_outcome(run),
        code=run.code,
        reason=run.reason,
    )
    rounds = _with_confusion(client, run, rounds)
    return Record(facts=facts, recipe=run.recipe, rounds=rounds, data=_data(run, data_dir))


def _outcome(run: pb.Run) -> str:
    return state_name(run.state) if is_over(run.state) else "running"


def _with_confusion(
    client: ControlClient, run: pb.Run, rounds: Sequence[RoundResult]
) -> list[RoundResult]:
    """The rounds; the last with what only its version's metrics say, if there is such a version."""
    if not rounds or rounds[-1].evaluation is None or rounds[-1].version is None:
        return list(rounds)
    try:
        version = client.get_version(run.model, str(rounds[-1].version)).version
    except NotFound:
        return list(rounds)
    evaluation = json.loads(version.metrics_json or "{}").get("evaluation")
    if evaluation is None:
        return list(rounds)
    return [*rounds[:-1], replace(rounds[-1], evaluation=Evaluation.from_json(evaluation))]


def _data(run: pb.Run, data_dir: Path | None) -> DataMap | None:
    """Who holds what; None where the data set is not here, which is no fault of the run."""
    try:
        return data_map(parse_recipe(run.recipe), data_dir)
    except FedFleetError:
        return None
