from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedfleet_inference_api.cameras.urls import parse_place, with_credentials

PRINTABLE = st.characters(categories=["L", "N", "P", "S"])


@pytest.mark.parametrize(
    ("url", "shown", "path"),
    [
        ("rtsp://cam.lan", "rtsp://cam.lan:554", "/"),
        ("RTSPS://Cam.LAN./a/b?x=1#y", "rtsps://cam.lan:322", "/a/b?x=1"),
        ("http://10.0.0.5:8080/mjpg?q=a b", "http://10.0.0.5:8080", "/mjpg?q=a%20b"),
        ("https://[fd00::5]/x", "https://[fd00::5]:443", "/x"),
        ("rtsp://cam?channel=1", "rtsp://cam:554", "?channel=1"),
        ("rtsp://u:p@cam:8554/%40x", "rtsp://cam:8554", "/%40x"),
        ("file:/videos/a b.mp4", "file", "/videos/a b.mp4"),
        ("file:///videos/a@b.mp4", "file", "/videos/a@b.mp4"),
    ],
)
def test_place_has_host_port_and_path(url, shown, path):
    place = parse_place(url)

    assert (place.shown, place.path.reveal()) == (shown, path)


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("rtsp://admin:p@ss:w%rd@cam/x", "admin", "p@ss:w%rd"),
        ("rtsp://admin:p%40%2Fss@cam/x", "admin", "p@/ss"),
        ("rtsp://admin@cam/x", "admin", ""),
        ("rtsp://:only@cam/x", "", "only"),
    ],
)
def test_last_at_before_the_path_ends_the_password(url, user, password):
    place = parse_place(url)

    assert (place.user, place.password.reveal(), place.host) == (user, password, "cam")


@given(st.text(PRINTABLE, max_size=8), st.text(PRINTABLE, min_size=1, max_size=8))
def test_user_and_password_of_their_own_fields_come_out_as_they_went_in(user, password):
    assume(":" not in user)
    if len(quote(user, safe="") + quote(password, safe="")) > 110:
        return

    place = parse_place(with_credentials("rtsp://cam:8554/live", user, password))

    assert (place.user, place.password.reveal()) == (user, password)
    assert (place.host, place.port, place.path.reveal()) == ("cam", 8554, "/live")
    assert place.userinfo == parse_place(f"rtsp://{place.userinfo}cam/").userinfo
    assert password in place.secrets()


@given(st.text(PRINTABLE, min_size=1, max_size=20), st.text(PRINTABLE, max_size=20))
def test_place_shows_neither_user_nor_password_nor_path(password, path):
    url = with_credentials(f"rtsp://cam.lan/{quote(path)}?pwd=x", "operator", password)
    place = parse_place(url)

    assert place.shown == "rtsp://cam.lan:554"
    assert repr(place) == (
        "Place(scheme='rtsp', host='cam.lan', port=554, path=Secret(***), password=Secret(***))"
    )


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("", "must begin with one of rtsp:"),
        ("cam.lan/live", "must begin"),
        ("ftp://cam/", "must begin"),
        ("rtsp:cam", "must have // behind rtsp:"),
        ("rtsp:///live", "must name a host"),
        ("rtsp://cam:0/", "a port from 1"),
        ("rtsp://cam:65536/", "a port from 1"),
        ("rtsp://cam:port/", "HOST or HOST:PORT"),
        ("rtsp://[::1/", "HOST or HOST:PORT"),
        ("rtsp://[cam]/", "must hold an IPv6 address"),
        ("rtsp://fd00::5/", "HOST or HOST:PORT"),
        ("rtsp://c am/", "must name a host"),
        ("rtsp://cam/x\r\ny", "printable"),
        ("rtsp://cam/" + "x" * 1000, "at most 1000"),
        ("rtsp://user:pa/ss@cam/", "fields of their own"),
        ("rtsp://cam/live@main", "%40"),
        ("rtsp://user:" + "p" * 200 + "@cam/", "too long together"),
        ("rtsp://us%3Aer:p@cam/", "no colon"),
        ("rtsp://user:p%0Ap@cam/", "must be printable"),
        ("file:", "must name a file"),
    ],
)
def test_url_that_cannot_be_used_says_why(url, error):
    with pytest.raises(ValueError, match=error):
        parse_place(url)


def test_credentials_are_given_once():
    with pytest.raises(ValueError, match="already"):
        with_credentials("rtsp://a:b@cam/", "a", "b")
    with pytest.raises(ValueError, match="already"):
        with_credentials("file:x", "a", "b")
