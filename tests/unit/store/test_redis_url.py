from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedfleet.errors import SettingInvalid
from fedfleet.store.redis_url import RedisAddress, parse_redis_url, without_secrets

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.from_regex("[A-Za-z0-9._-]{1,64}", fullmatch=True)
HOSTS = st.sampled_from(["redis", "my_redis.fleet", "10.0.0.7", "::1", "2001:db8::7"])
SECRET = "s3cr\u00e9t/p@ss?w:rd#%"


@given(
    username=TEXTS,
    password=TEXTS,
    host=HOSTS,
    port=st.none() | st.integers(0, 65535),
    database=st.integers(0, 999_999),
    namespace=NAMES,
    tls=st.booleans(),
)
def test_what_a_url_says_is_read(
    username: str,
    password: str,
    host: str,
    port: int | None,
    database: int,
    namespace: str,
    tls: bool,
) -> None:
    credentials = f"{quote(username, safe='')}:{quote(password, safe='')}@"
    place = (f"[{host}]" if ":" in host else host) + ("" if port is None else f":{port}")
    scheme = "rediss" if tls else "redis"

    found = parse_redis_url(f"{scheme}://{credentials}{place}/{database}?namespace={namespace}")

    assert found == RedisAddress(
        host=host,
        port=6379 if port is None else port,
        database=database,
        namespace=namespace,
        username=username,
        password=password,
        tls=tls,
    )


@given(path=TEXTS.map(lambda text: "/run/" + text.replace("\0", "") + "x"), password=TEXTS)
def test_a_socket_is_read(path: str, password: str) -> None:
    found = parse_redis_url(f"unix://:{quote(password, safe='')}@{quote(path)}?db=3")

    assert (found.path, found.host, found.database) == (path, "", 3)
    assert found.password == password


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h", "redis://h:6379/0, namespace default"),
        ("redis://h/", "redis://h:6379/0, namespace default"),
        ("rediss://[::1]:7/2?namespace=a", "rediss://[::1]:7/2, namespace a"),
        ("unix:///run/r.sock", "unix:///run/r.sock, database 0, namespace default"),
    ],
)
def test_an_address_says_where_it_is(url: str, said: str) -> None:
    assert str(parse_redis_url(url)) == said


@given(url=st.from_regex(r"(redis|rediss|unix):[^\n]{0,40}", fullmatch=True) | TEXTS)
@example("redis://[")
@example("redis://a..b")
@example("redis://" + "a" * 64)
@example("redis://h:99999")
@example("redis://h:x")
@example("redis://\u2100.com")
@example("redis://h\u0000")
@example("redis://h/0?namespace=\ud800")
def test_any_other_text_is_refused_as_a_setting(url: str) -> None:
    if url.partition(":")[0] not in ("redis", "rediss", "unix"):
        url = "redis://" + url
    with suppress(SettingInvalid):
        address = parse_redis_url(url)
        assert address.host or address.path


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://", "names no host"),
        ("redis:///0", "names no host"),
        ("redis:h", "names no host"),
        ("redis://h/x", "the database must be a number"),
        ("redis://h/1/2", "the database must be a number"),
        ("redis://h?db=1", "an option that is not known, there are durability, namespace"),
        ("redis://h?ca=/x", "an option that is not known"),
        ("redis://h?namespace=", "namespace must be"),
        ("redis://h?namespace=a:b", "namespace must be"),
        ("redis://h?namespace={a}", "namespace must be"),
        ("redis://h?namespace=a&namespace=b", "there twice"),
        ("redis://h?durability=some", "durability must be full or relaxed"),
        ("rediss://h?ca=/nowhere/ca.pem", "option ca must name a PEM file"),
        ("rediss://h?cert=a", "cert and key go together"),
        ("redis://h#x", "write it as %23"),
        ("unix://run/r.sock", "names no socket"),
        ("unix:///run/", "names no socket"),
    ],
)
def test_a_refusal_says_what_is_wrong(url: str, message: str) -> None:
    with pytest.raises(SettingInvalid, match=message.replace("?", r"\?")) as caught:
        parse_redis_url(url)

    assert url.partition("?")[0] in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        f"redis://{SECRET}@h/0",
        f"redis://u:{SECRET}@h:x/0",
        f"redis://u:{quote(SECRET, safe='')}@h/x",
        f"redis://u:{quote(SECRET, safe='')}@h?password={SECRET}",
        f"redis://h?password={SECRET}",
        f"redis://u:{SECRET}@[h",
        f"redis:u:{SECRET}@h",
        f"unix://u:{quote(SECRET, safe='')}@h/r.sock",
        f"redis://:{SECRET}\u2100@h",
    ],
)
def test_a_refusal_holds_no_secret(url: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        parse_redis_url(url)

    told = f"{caught.value!r} {caught.value.detail} {caught.value.__cause__}"
    for part in ("s3cr", "p@ss", "p%40ss", "w:rd", "w%3Ard"):
        assert part not in told
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(password=st.text(st.characters(codec="ascii"), min_size=6, max_size=30))
def test_no_password_is_shown(password: str) -> None:
    password = "pw" + password
    url = f"redis://user:{quote(password, safe='')}@h/0"

    shown = [without_secrets(url), repr(parse_redis_url(url)), str(parse_redis_url(url))]

    assert not any(password in text or quote(password, safe="") in text for text in shown)


def test_files_for_tls_are_named(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").touch()
    options = "&".join(f"{name}={tmp_path / name}.pem" for name in ("ca", "cert", "key"))

    found = parse_redis_url(f"rediss://h?{options}&durability=relaxed")

    assert (found.ca, found.cert, found.key) == tuple(
        str(tmp_path / f"{name}.pem") for name in ("ca", "cert", "key")
    )
    assert (found.tls, found.relaxed) == (True, True)
