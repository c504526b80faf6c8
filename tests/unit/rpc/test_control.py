from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import InsecureAddress, SettingInvalid
from fedfleet.rpc.address import split_address
from fedfleet.rpc.control import ControlClient


@given(
    host=st.sampled_from(["localhost", "10.0.0.1", "host-1.example"]), port=st.integers(1, 65535)
)
def test_split_address_reads_host_and_port(host: str, port: int) -> None:
    assert split_address(f"{host}:{port}") == (host, port)


def test_split_address_reads_ipv6_in_brackets() -> None:
    assert split_address("[::1]:7070") == ("::1", 7070)


@pytest.mark.parametrize(
    "address", ["", "host", ":7070", "host:", "host:x", "host:0", "host:65536", "::1:7070", "[]:1"]
)
def test_split_address_refuses_anything_else(address: str) -> None:
    with pytest.raises(SettingInvalid, match="HOST:PORT"):
        split_address(address)


def test_client_dials_beyond_loopback_only_when_told_to() -> None:
    with pytest.raises(InsecureAddress):
        ControlClient("192.0.2.1:7070")

    ControlClient("192.0.2.1:7070", insecure=True).close()
    ControlClient("[::1]:7070").close()
