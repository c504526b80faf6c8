"""Flower's federated averaging; evaluates the last version, as our side does."""

import json
import time
from pathlib import Path

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from training.task import accuracy, load

app = ServerApp()


class NotedFedAvg(FedAvg):
    """FedAvg that notes when each round's aggregate was ready, and how many replies it had."""

    def __init__(self, workers: int, cohort: int) -> None:
        super().__init__(
            fraction_train=cohort / workers,
            fraction_evaluate=0.0,
            min_train_nodes=cohort,
            min_available_nodes=workers,
        )
        self.replies: list[int] = []
        self.aggregated_at_s: list[float] = []

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        result = super().aggregate_train(server_round, replies)
        self.replies.append(sum(not reply.has_error() for reply in replies))
        self.aggregated_at_s.append(time.time())
        return result


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds; the file that the configuration names gets the notes."""
    work = load(context.run_config["work"])
    strategy = NotedFedAvg(work.settings["workers"], work.settings["cohort"])
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(work.initial().state_dict()),
        num_rounds=work.settings["rounds"],
    )
    work.model.load_state_dict(result.arrays.to_torch_state_dict())
    notes = {
        "accuracy": accuracy(work.model, work),
        "replies": strategy.replies,
        "aggregated_at_s": strategy.aggregated_at_s,
    }
    Path(context.run_config["notes"]).write_text(json.dumps(notes))
