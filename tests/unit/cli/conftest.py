from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fedfleet.cli.main import main

TINY = """
name = "tiny"
seed = 3

[model]
architecture = "mlp"
hidden = [8]

[data]
dataset = "synthetic"
partition = "iid"
workers = 2

[training]
lr = 0.1
threads = 1

[rounds]
rounds = 2
cohort = 2

[evaluation]
workers = "all"
"""


class Result(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs one command in this process with an environment of its own."""

    def run(*argv: str, environ: Mapping[str, str] | None = None) -> Result:
        status = main(argv, environ or {})
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path
