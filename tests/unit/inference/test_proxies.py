from __future__ import annotations

import pytest

from fedfleet_inference_api.proxies import UNKNOWN, caller_of, connection_group, parse_networks

TRUSTED = parse_networks("10.0.0.0/8, fd00::1")


def scope(peer: str | None, *forwarded: str) -> dict[str, object]:
    headers = [(b"x-forwarded-for", text.encode("latin-1")) for text in forwarded]
    return {"client": (peer, 4711) if peer else None, "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("198.51.100.7", [], "198.51.100.7"),
        ("198.51.100.7", ["203.0.113.9"], "198.51.100.7"),  # anybody can write a header
        ("127.0.0.1", ["203.0.113.9"], "127.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["1.2.3.4, 203.0.113.9"], "203.0.113.9"),  # the first one is the caller's own
        ("10.0.0.1", ["203.0.113.9, 10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9", "10.0.0.2"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9, unknown"], "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9:1234"], "10.0.0.1"),
        ("fd00::1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:198.51.100.7", [], "198.51.100.7"),
        ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
        ("10.0.0.1", ["2001:db8:1:2:9::1"], "2001:db8:1:2::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        (None, [], UNKNOWN),
        ("10.0.0.1", ["\xff\n\x1b[31m"], "10.0.0.1"),
    ],
)
def test_caller_is_the_last_address_that_is_no_trusted_proxy(peer, forwarded, expected):
    assert caller_of(scope(peer, *forwarded), TRUSTED) == expected


def test_nobody_is_trusted_unless_named():
    assert caller_of(scope("127.0.0.1", "203.0.113.9"), ()) == "127.0.0.1"


def test_connections_of_a_trusted_proxy_are_no_group():
    assert connection_group("10.1.2.3", TRUSTED) == ""
    assert connection_group("198.51.100.7", TRUSTED) == "198.51.100.7"
    assert connection_group("/run/socket", TRUSTED) == UNKNOWN


@pytest.mark.parametrize("text", ["10.0.0.1/8", "proxy.example", "10.0.0.0/33", "*"])
def test_what_is_no_network_is_refused(text):
    with pytest.raises(ValueError, match="must be addresses or networks"):
        parse_networks(text)
