from __future__ import annotations

import ipaddress

import pytest

from fedfleet_inference_api.cameras.networks import (
    PORTS,
    CameraNetworks,
    NotAllowed,
    networks_from_json,
    parse_camera_networks,
    parse_ports,
    resolve,
    unwrapped,
)


def allows(text: str, address: str, *, host: str = "", port: int = 554) -> bool:
    found = unwrapped(address)
    assert found is not None
    return parse_camera_networks(text).allows(host, found, port)


@pytest.mark.parametrize(
    ("text", "address", "is_allowed"),
    [
        ("192.168.1.0/24", "192.168.1.7", True),
        ("192.168.1.0/24", "192.168.2.7", False),
        ("192.168.1.7, fd00::/8", "fd00::1", True),
        ("192.168.1.0/24", "::ffff:192.168.1.7", True),
        ("0.0.0.0/0, ::/0", "8.8.8.8", True),
        # Special addresses, only where they are meant.
        ("0.0.0.0/0, ::/0", "127.0.0.1", False),
        ("0.0.0.0/0, ::/0", "::1", False),
        ("0.0.0.0/0, ::/0", "::ffff:127.0.0.1", False),
        ("0.0.0.0/0, ::/0", "169.254.169.254", False),
        ("0.0.0.0/0, ::/0", "100.100.100.200", False),
        ("0.0.0.0/0, ::/0", "fd00:ec2::254", False),
        ("0.0.0.0/0, ::/0", "224.0.0.1", False),
        ("0.0.0.0/0, ::/0", "0.0.0.0", False),
        ("0.0.0.0/0, ::/0", "0.1.2.3", False),
        ("0.0.0.0/0, ::/0", "255.255.255.255", False),
        ("0.0.0.0/0, ::/0", "fe80::1", False),
        ("0.0.0.0/0, ::/0", "168.63.129.16", False),
        ("0.0.0.0/0, ::/0", "fd20:ce::254", False),
        ("0.0.0.0/0, ::/0", "fec0::1", False),
        ("0.0.0.0/0, ::/0", "64:ff9b::7f00:1", False),
        ("0.0.0.0/0, ::/0", "2002:7f00:1::", False),
        ("0.0.0.0/0, ::/0", "2001:0:7f00:1::1", False),
        ("127.0.0.0/8", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("169.254.0.0/16", "169.254.7.7", True),
        ("fe80::/10", "fe80::1", True),
        ("fd00:ec2::254", "fd00:ec2::254", True),
    ],
)
def test_networks_allow_what_is_in_them_and_special_addresses_by_name(text, address, is_allowed):
    assert allows(text, address) is is_allowed


def test_host_by_name_may_have_any_ordinary_address():
    assert allows("door.lan", "10.0.0.5", host="door.lan")
    assert allows("Door.lan.", "10.0.0.5", host="door.lan"), "as the parts of a URL have it"
    assert not allows("door.lan", "10.0.0.5", host="gate.lan")
    assert not allows("door.lan", "10.0.0.5")
    assert not allows("door.lan", "127.0.0.1", host="door.lan"), "a name can be given any address"
    assert allows("door.lan, 127.0.0.1", "127.0.0.1", host="door.lan")


def test_ports_are_those_of_cameras_or_of_the_setting():
    assert [port for port in range(1, 9000) if allows("10.0.0.0/8", "10.0.0.5", port=port)] == (
        sorted(PORTS)
    )
    networks = CameraNetworks((ipaddress.ip_network("10.0.0.0/8"),), ports=parse_ports("22, 7"))
    address = ipaddress.ip_address("10.0.0.5")
    assert [port for port in range(100) if networks.allows("", address, port)] == [7, 22]


def test_without_networks_the_file_alone_says_where_cameras_are():
    networks = parse_camera_networks(" ")

    assert not networks
    assert networks.allows("", ipaddress.ip_address("127.0.0.1"), 5)


def test_networks_travel_as_json():
    networks = parse_camera_networks("10.0.0.0/8, fd00::/8, door.lan")

    assert networks_from_json(networks.to_json()) == networks


@pytest.mark.parametrize("text", ["10.0.0.1/8", "10.0.0", "http://cam", "a b", "10.0.0.0/33", "*"])
def test_networks_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="must be networks, addresses and host names"):
        parse_camera_networks(text)


@pytest.mark.parametrize("text", ["http", "0", "65536", "80-90", "-1", "²"])
def test_ports_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="must be port numbers"):
        parse_ports(text)


def test_resolve_gives_the_addresses_that_were_checked():
    assert resolve("127.0.0.1", 554, parse_camera_networks("127.0.0.0/8")) == ["127.0.0.1"]
    assert set(resolve("localhost", 5, CameraNetworks())) <= {"127.0.0.1", "::1"}
    with pytest.raises(NotAllowed):
        resolve("localhost", 554, parse_camera_networks("localhost, 10.0.0.0/8"))


def test_place_may_be_refused_before_anything_is_resolved():
    networks = parse_camera_networks("10.0.0.0/8, door.lan")

    assert networks.may_hold("10.0.0.5", 554)
    assert networks.may_hold("any.lan", 554), "its address may be one of these"
    assert not networks.may_hold("10.0.0.5", 22)
    assert not networks.may_hold("any.lan", 22)
    assert not networks.may_hold("192.168.0.5", 554)
    assert CameraNetworks().may_hold("192.168.0.5", 22)
