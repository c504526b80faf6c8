from __future__ import annotations

import pytest

from fedfleet_inference_api.image_hosts import NO_HOSTS, is_public, parse_hosts


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34",
        "2606:2800:220:1:248:1893:25c8:1946",
        "64:ff9b::5db8:d822",  # NAT64 of the first one
        "::ffff:93.184.216.34",
    ],
)
def test_address_of_the_internet_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "198.18.0.1", "192.0.2.1", "203.0.113.7"),
        *("224.0.1.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "192.88.99.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff0e::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "::7f00:1"),
        *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:db8::1"),
        *("2002:7f00:1::", "2002:a00:1::1", "2001:0:5db8:d822::f5ff:fffe"),  # 6to4, Teredo
        *("", "localhost", "1", "0x7f.1", "93.184.216.34:443"),
    ],
)
def test_any_other_address_is_not(address):
    assert not is_public(address)


def test_hosts_are_names_or_public_or_nothing():
    named = parse_hosts("Images.example, cdn.example.org")

    assert named.allows("images.example")
    assert not named.allows("evil.images.example")
    assert parse_hosts("public").allows("anything.example")
    assert parse_hosts(" ") == NO_HOSTS
    assert not NO_HOSTS


@pytest.mark.parametrize(
    "text",
    ["public,images.example", "*.example", "https://images.example", "a b", "10.0.0.1", "-a.b"],
)
def test_what_is_no_host_is_refused(text):
    with pytest.raises(ValueError, match="must be host names"):
        parse_hosts(text)
