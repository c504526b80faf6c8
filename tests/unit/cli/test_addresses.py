from __future__ import annotations

import socket
import threading

import pytest

from fedfleet.cli.addresses import (
    answering,
    enrolment_addresses,
    is_answering,
    split_addresses,
    wait_answering,
)
from fedfleet.errors import SettingInvalid


def test_addresses_stand_behind_commas() -> None:
    assert split_addresses("a:1") == ("a:1",)
    assert split_addresses("a:1, [::1]:2") == ("a:1", "[::1]:2")


@pytest.mark.parametrize("text", ["", ",", "a", "a:1,b", "a:1,b:0", "a:1 b:2"])
def test_addresses_must_be_such(text: str) -> None:
    with pytest.raises(SettingInvalid, match="HOST:PORT"):
        split_addresses(text)


@pytest.mark.parametrize(
    ("enroll", "coordinator", "expected"),
    [
        ("", "10.0.0.5:7070", ("10.0.0.5:7073",)),
        ("", "[::1]:7070", ("[::1]:7073",)),
        ("", "a:1,b:2,a:3", ("a:7073", "b:7073")),
        ("gate:99,b:1", "10.0.0.5:7070", ("gate:99", "b:1")),
    ],
)
def test_certificates_are_issued_beside_the_coordinators(
    enroll: str, coordinator: str, expected: tuple[str, ...]
) -> None:
    assert enrolment_addresses(enroll, coordinator) == expected


def test_answering_is_the_first_that_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # without listening, as a standby's machine
        listens = f"127.0.0.1:{server.getsockname()[1]}"
        refuses = f"127.0.0.1:{silent.getsockname()[1]}"

        assert answering((refuses, listens)) == listens
        assert answering((refuses,)) == refuses
        assert answering((refuses, refuses)) == refuses


def test_wait_answering_ends_when_somebody_listens_and_not_long_after_the_limit() -> None:
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))  # refuses until it listens
        address = f"127.0.0.1:{late.getsockname()[1]}"
        wait_answering((address,), 0.1)
        assert not is_answering((address,))

        starting = threading.Timer(0.3, late.listen)
        starting.start()
        wait_answering((address,), 30.0)
        starting.join()

        assert is_answering((address,))
