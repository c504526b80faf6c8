from __future__ import annotations

import logging

import pytest

from fedfleet.errors import InsecureAddress
from fedfleet.rpc.exposure import check_exposure, is_loopback, parse_tls, uses_tls

LOOPBACK = ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"]
BEYOND = [
    "0.0.0.0",
    "::",
    "",
    "192.168.1.5",
    "example.org",
    "localhost.example.org",
    "127.1",
    "::ffff:10.0.0.1",
    "2130706433",
]


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_allowed_without_being_named(host, caplog):
    caplog.set_level(logging.INFO)

    check_exposure(host, insecure=False, what="the coordinator")

    assert is_loopback(host)
    assert [r.levelname for r in caplog.records] == ["INFO"]


@pytest.mark.parametrize("host", BEYOND)
def test_address_beyond_loopback_is_refused(host):
    with pytest.raises(InsecureAddress, match=r"the coordinator .*FEDFLEET_INSECURE=1"):
        check_exposure(host, insecure=False, what="the coordinator")


@pytest.mark.parametrize("host", BEYOND)
def test_address_beyond_loopback_warns_where_it_is_allowed(host, caplog):
    check_exposure(host, insecure=True, what="the coordinator")

    (record,) = caplog.records
    assert (record.levelname, record.message) == ("WARNING", "insecure_endpoint")
    assert (record.endpoint, record.host) == ("the coordinator", host)


@pytest.mark.parametrize("host", [*LOOPBACK, *BEYOND])
def test_tls_is_by_itself_on_beyond_loopback_alone(host):
    assert uses_tls("auto", host) is not is_loopback(host)
    assert uses_tls("on", host)
    assert not uses_tls("off", host)


def test_tls_setting_is_one_of_three_words():
    assert [parse_tls(text) for text in ("auto", " ON", "Off")] == ["auto", "on", "off"]
    with pytest.raises(ValueError, match="auto, on or off"):
        parse_tls("1")
