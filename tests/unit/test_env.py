from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from fedfleet import env
from fedfleet.cli.settings import CliConfig
from fedfleet.env import read, setting
from fedfleet.errors import SettingInvalid
from fedfleet_coordinator.config import CoordinatorConfig
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_worker.config import WorkerConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    host: str = setting("address to listen on", parse=str)
    port: int = setting("port to listen on", default=7000, parse=env.parse_port)
    insecure: bool = setting("listen without TLS", default=False, parse=env.parse_bool)


def test_read_fills_fields_from_prefixed_variables() -> None:
    environ = {"FEDFLEET_HOST": "::1", "FEDFLEET_PORT": "0", "FEDFLEET_INSECURE": "yes"}

    assert read(Config, environ) == Config(host="::1", port=0, insecure=True)


def test_read_takes_an_empty_variable_for_an_unset_one() -> None:
    assert read(Config, {"FEDFLEET_HOST": "h", "FEDFLEET_PORT": ""}) == Config(host="h")


def test_read_leaves_foreign_variables_alone() -> None:
    assert read(Config, {"FEDFLEET_HOST": "h", "HOST": "x", "FEDFLEET_OTHER": "y"}).host == "h"


def test_read_names_a_missing_variable_and_its_meaning() -> None:
    with pytest.raises(SettingInvalid) as caught:
        read(Config, {})
    assert caught.value.code == "SETTING_INVALID"
    assert caught.value.message == "FEDFLEET_HOST is not set: address to listen on"


def test_read_names_variable_value_and_what_is_allowed() -> None:
    with pytest.raises(SettingInvalid, match=r"FEDFLEET_PORT='70000': .* from 0 .* to 65535"):
        read(Config, {"FEDFLEET_HOST": "h", "FEDFLEET_PORT": "70000"})


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (env.parse_bool, "ON", True),
        (env.parse_bool, "0", False),
        (env.parse_port, "65535", 65535),
        (env.parse_positive_float, "0.5", 0.5),
        (env.parse_positive_int, "1", 1),
        (env.parse_index, "0", 0),
        (env.parse_path, "/state", Path("/state")),
        (env.parse_path, "~/state", Path.home() / "state"),
        (env.parse_list, " a, b,,c ", ("a", "b", "c")),
        (env.parse_list, "", ()),
    ],
)
def test_parser_takes(parse: Callable[[str], Any], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (env.parse_bool, "maybe"),
        (env.parse_port, "-1"),
        (env.parse_port, "http"),
        (env.parse_positive_float, "0"),
        (env.parse_positive_float, "nan"),
        (env.parse_positive_float, "inf"),
        (env.parse_positive_int, "0"),
        (env.parse_positive_int, "1.5"),
        (env.parse_index, "-1"),
    ],
)
def test_parser_refuses(parse: Callable[[str], Any], text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


SERVICES = (CoordinatorConfig, WorkerConfig, InferenceConfig, CliConfig)


def test_slip_of_the_pen_is_told_with_what_was_meant() -> None:
    environ = {"FEDFLEET_CAMRAS": "x", "FEDFLEET_CAMERAS": "y", "CAMERAS": "z", "FEDFLEET_X": ""}

    assert list(env.misspelt(InferenceConfig, environ)) == [("FEDFLEET_CAMRAS", "FEDFLEET_CAMERAS")]


def test_settings_of_another_service_are_no_slip_of_the_pen() -> None:
    every = {env.variable(item): "" for one in SERVICES for item in fields(one)}

    for service in SERVICES:
        assert list(env.misspelt(service, every)) == []


@pytest.mark.parametrize(
    ("service", "config"),
    [
        ("fedfleet_coordinator", CoordinatorConfig),
        ("fedfleet_worker", WorkerConfig),
        ("fedfleet_inference_api", InferenceConfig),
    ],
)
def test_help_of_a_service_tells_its_settings_and_starts_nothing(
    service: str, config: type, tmp_path: Path
) -> None:
    shown = run_module(service, "--help", cwd=tmp_path)

    assert shown.returncode == 0, shown.stderr
    for item in fields(config):
        assert f"  {env.variable(item)} (" in shown.stdout
    assert list(tmp_path.iterdir()) == [], "nothing was started"


def test_service_refuses_an_argument_that_it_does_not_know(tmp_path: Path) -> None:
    refused = run_module("fedfleet_coordinator", "--port=1", cwd=tmp_path)

    assert refused.returncode == 2
    assert "unrecognized arguments: --port=1" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def run_module(module: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)
