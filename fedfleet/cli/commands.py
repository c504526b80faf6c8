"""Every command by name: where it is and what it does."""

from __future__ import annotations

from collections.abc import Mapping

from fedfleet.cli.lazy import Branch, Leaf

COMMANDS: Mapping[str, Leaf | Branch] = {
    "up": Leaf("fedfleet.cli.up:up", "Train a recipe on a fleet on this machine, and serve it."),
    "run": Branch(
        "Submit runs to a coordinator and follow them.",
        {
            "submit": Leaf("fedfleet.cli.runs:submit", "Queue a run of a recipe."),
            "list": Leaf("fedfleet.cli.runs:list_runs", "List the runs, newest first."),
            "show": Leaf("fedfleet.cli.runs:show", "Show a run, its rounds and its last result."),
            "watch": Leaf("fedfleet.cli.runs:watch", "Follow a run's events until it ends."),
            "stop": Leaf("fedfleet.cli.runs:stop", "End a run; its versions stay."),
        },
    ),
    "workers": Leaf("fedfleet.cli.workers:workers", "List the workers and what they are doing."),
    "worker": Branch(
        "Look at what this machine can do as a worker.",
        {
            "probe": Leaf(
                "fedfleet.cli.worker_probe:probe",
                "Measure how fast this machine trains each level of a recipe's model.",
            ),
        },
    ),
    "models": Branch(
        "Look at model versions and move their aliases.",
        {
            "list": Leaf("fedfleet.cli.models:list_versions", "List versions and aliases."),
            "show": Leaf("fedfleet.cli.models:show", "Show one version."),
            "promote": Leaf("fedfleet.cli.models:promote", "Point an alias at a version."),
        },
    ),
    "predict": Leaf("fedfleet.cli.predict:predict", "Ask the inference service about an image."),
    "simulate": Leaf(
        "fedfleet.cli.simulate:simulate", "Run a recipe on this machine, without a network."
    ),
    "sweep": Leaf(
        "fedfleet.cli.sweep:sweep", "Simulate every combination of settings, and compare them."
    ),
    "report": Leaf(
        "fedfleet.cli.report_command:report", "Write a page that shows and compares runs."
    ),
    "data": Branch(
        "Look at how a recipe splits its data over workers.",
        {
            "describe": Leaf("fedfleet.cli.data:describe", "Show who holds what."),
            "partition": Leaf("fedfleet.cli.data:partition", "Write each shard's index as JSON."),
        },
    ),
}
