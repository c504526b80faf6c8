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
        "Measure this machine as a worker; shut a worker out.",
        {
            "probe": Leaf(
                "fedfleet.cli.worker_probe:probe",
                "Measure how fast this machine trains each level of a recipe's model.",
            ),
            "revoke": Leaf(
                "fedfleet.cli.revoke:worker",
                "Shut a worker out: its certificates and tokens are worthless at once.",
            ),
        },
    ),
    "operator": Branch(
        "Shut an operator or an observer out.",
        {
            "revoke": Leaf("fedfleet.cli.revoke:operator", "Shut an operator or an observer out."),
        },
    ),
    "token": Branch(
        "Make the single-use tokens by which workers and people enrol.",
        {
            "create": Leaf(
                "fedfleet.cli.tokens:create", "Make a token by which one name enrols, once."
            ),
            "list": Leaf("fedfleet.cli.tokens:list_tokens", "List the tokens not used yet."),
            "delete": Leaf("fedfleet.cli.tokens:delete", "Make an unused token worthless."),
        },
    ),
    "enroll": Leaf(
        "fedfleet.cli.enroll:enroll",
        "Trade a token for credentials, which other commands then use.",
    ),
    "key": Branch(
        "Make the keys that the inference service asks for.",
        {
            "create": Leaf("fedfleet.cli.keys:create", "Make a key for the inference service."),
            "list": Leaf("fedfleet.cli.keys:list_keys", "List the keys of the inference service."),
            "revoke": Leaf("fedfleet.cli.keys:revoke", "Make a key worthless."),
        },
    ),
    "ca": Branch(
        "Look at the fleet's certificate authority, and use it for web servers.",
        {
            "show": Leaf(
                "fedfleet.cli.ca:show",
                "Show the certificates of the fleet's authority, to compare them.",
            ),
            "server": Leaf(
                "fedfleet.cli.ca:server",
                "Issue a certificate for a web server, such as the inference service.",
            ),
        },
    ),
    "audit": Branch(
        "Look at who did what, and whether the log of it is whole.",
        {
            "show": Leaf("fedfleet.cli.audit:show", "Show who did what."),
            "verify": Leaf(
                "fedfleet.cli.audit:verify", "Check that no record was removed or altered."
            ),
        },
    ),
    "models": Branch(
        "Look at model versions, compare, name, retire, export and import them.",
        {
            "list": Leaf(
                "fedfleet.cli.models:list_versions", "List the newest versions, and aliases."
            ),
            "show": Leaf("fedfleet.cli.models:show", "Show one version."),
            "diff": Leaf("fedfleet.cli.model_diff:diff", "Compare two versions of a model."),
            "history": Leaf(
                "fedfleet.cli.model_history:history",
                "Show what happened to a model's versions and aliases, in order.",
            ),
            "promote": Leaf("fedfleet.cli.models:promote", "Point an alias at a version."),
            "rollback": Leaf(
                "fedfleet.cli.model_history:rollback",
                "Point an alias back at the version that it named before.",
            ),
            "retire": Leaf(
                "fedfleet.cli.model_history:retire",
                "Let go of old versions' weights; their records stay, and what an alias names.",
            ),
            "export": Leaf(
                "fedfleet.cli.model_transfer:export",
                "Write a version to a folder, which plain PyTorch can load.",
            ),
            "import": Leaf(
                "fedfleet.cli.model_transfer:import_version",
                "Add a version from a folder that export has written.",
            ),
        },
    ),
    "predict": Leaf("fedfleet.cli.predict:predict", "Ask the inference service about images."),
    "cameras": Branch(
        "Look at the inference service's cameras, add and remove them.",
        {
            "list": Leaf("fedfleet.cli.cameras:list_cameras", "List the cameras and how they are."),
            "add": Leaf(
                "fedfleet.cli.cameras:add",
                "Add a camera where FEDFLEET_CAMERA_NETWORKS allows one.",
            ),
            "remove": Leaf(
                "fedfleet.cli.cameras:remove", "Remove a camera; its viewers' streams end."
            ),
            "snapshot": Leaf(
                "fedfleet.cli.cameras:snapshot",
                "Write the picture of this moment, with what is seen on it.",
            ),
            "demo": Leaf(
                "fedfleet.cli.cameras:demo",
                "Write a film of moving shapes, and a cameras.toml that names it.",
            ),
        },
    ),
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
