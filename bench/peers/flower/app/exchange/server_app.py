"""Flower's federated averaging over arrays of a model's shapes; notes each round's time and bytes.

The bytes are the operating system's count of what came in over loopback.
"""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


class NotedFedAvg(FedAvg):
    """FedAvg that takes notes when a round's aggregate is ready: nothing moves then."""

    def __init__(self, workers: int) -> None:
        super().__init__(
            fraction_train=1.0,
            fraction_evaluate=0.0,
            min_train_nodes=workers,
            min_available_nodes=workers,
        )
        self.notes: dict[str, list[float]] = {
            "replies": [],
            "aggregated_at_s": [],
            "received_bytes": [],
        }

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        result = super().aggregate_train(server_round, replies)
        self.notes["replies"].append(sum(not reply.has_error() for reply in replies))
        self.notes["aggregated_at_s"].append(time.time())
        self.notes["received_bytes"].append(received_bytes())
        return result


def received_bytes() -> int:
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[0])
    raise SystemExit("this machine has no loopback interface called lo")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds; the file that the configuration names gets the notes."""
    config = context.run_config
    random = np.random.default_rng(0)
    tensors = json.loads(Path(config["tensors"]).read_text())
    arrays = ArrayRecord(
        {name: Array(random.standard_normal(shape).astype(dtype)) for name, shape, dtype in tensors}
    )
    strategy = NotedFedAvg(config["workers"])
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=config["rounds"])
    Path(config["notes"]).write_text(json.dumps(strategy.notes))
