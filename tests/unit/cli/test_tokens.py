from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.cli.tokens import enrol_command
from fedfleet.types import is_name
from fedfleet.v1 import control_service_pb2 as pb

TOKEN = "fft_0123456789abcdef_" + 40 * "a" + "_" + 32 * "b"


def test_command_of_a_worker_names_coordinator_and_worker() -> None:
    command = enrol_command(pb.ROLE_WORKER, "pi-7", TOKEN, "10.0.0.5:7070", "")

    assert command == (
        f"FEDFLEET_COORDINATOR=10.0.0.5:7070 FEDFLEET_WORKER_ID=pi-7 FEDFLEET_TOKEN={TOKEN} "
        "fedfleet-worker enroll"
    )


def test_command_names_where_to_enrol_if_it_is_not_the_usual_place() -> None:
    command = enrol_command(pb.ROLE_OPERATOR, "anna", TOKEN, "10.0.0.5:7070", "gate:99")

    assert "FEDFLEET_ENROLL=gate:99 " in command


@pytest.mark.parametrize("role", [pb.ROLE_OPERATOR, pb.ROLE_OBSERVER])
def test_command_of_a_person_keeps_the_token_out_of_the_arguments(role: pb.Role.ValueType) -> None:
    command = enrol_command(role, "anna", TOKEN, "[::1]:7070", "")

    assert command.endswith("fedfleet enroll --name anna")
    assert command.index(TOKEN) < command.index("fedfleet enroll")


@given(name=st.text(min_size=1))
def test_command_is_one_word_per_value_whatever_the_name(name: str) -> None:
    words = shlex.split(enrol_command(pb.ROLE_OPERATOR, name, TOKEN, "a:1", ""))

    assert words[-1] == name
    if is_name(name):
        worker = enrol_command(pb.ROLE_WORKER, name, TOKEN, "a:1", "")
        assert f"FEDFLEET_WORKER_ID={name}" in shlex.split(worker)
