from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import NotAllowed
from fedfleet_inference_api.hostnames import check_host, own_names, parse_hostnames

NAMES = st.from_regex(
    r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z][a-z0-9]{0,10}){0,3}", fullmatch=True
)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("fleet.lan", {"fleet.lan"}),
        (" Fleet.LAN. ,inference-api,", {"fleet.lan", "inference-api"}),
        ("*", {"*"}),
        ("inference_api, *", {"inference_api", "*"}),
        (",", set()),
    ],
)
def test_hostnames_are_read_as_browsers_send_them(text, names):
    assert parse_hostnames(text) == names


@pytest.mark.parametrize(
    "text", ["fleet.lan:8080", "http://fleet.lan", "*.lan", "a b", "[::1]", "k\u00fcche.lan", "-a"]
)
def test_what_is_no_host_name_is_refused(text):
    with pytest.raises(ValueError, match="without ports"):
        parse_hostnames(text)


@given(name=NAMES, own=st.sets(NAMES, max_size=3), port=st.sampled_from(["", ":", ":80", ":65535"]))
def test_name_is_answered_exactly_if_it_is_an_own_one(name, own, port):
    headers = [(b"accept", b"evil"), (b"host", f"{name}{port}".encode())]
    names = own_names("0.0.0.0", own)

    if name in names:
        check_host(headers, names)
    else:
        with pytest.raises(NotAllowed, match="FEDFLEET_HOSTNAMES"):
            check_host(headers, names)


@given(st.ip_addresses(), st.sampled_from(["", ":8080"]))
def test_address_is_always_answered(address, port):
    text = f"[{address}]" if address.version == 6 else str(address)

    check_host([(b"host", f"{text}{port}".encode())], own_names("127.0.0.1", ()))


@given(st.binary(max_size=40))
def test_nothing_but_a_name_passes_for_one(host):
    try:
        check_host([(b"host", host)], frozenset({"fleet.lan"}))
    except NotAllowed:
        return
    bare = host.decode("latin-1").lower().partition("]")[0] if host[:1] == b"[" else ""
    bare = bare or host.decode("latin-1").lower().rpartition(":")[0] or host.decode("latin-1")
    assert bare.rstrip(".").lower() == "fleet.lan" or any(char in bare for char in "0123456789:")


def test_second_host_header_is_held_to_the_same():
    headers = [(b"host", b"localhost"), (b"host", b"evil.example")]

    with pytest.raises(NotAllowed):
        check_host(headers, own_names("127.0.0.1", ()))
