"""Real servers with settings that keep what they acknowledge, and with others."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import pytest
from contract.store.builders import a_run, an_entry, digest_of
from contract.store.writes import WRITES, everything, prepare
from redis import Redis
from redis_process import DURABLE, redis_process, redis_version

from fedfleet.errors import FedFleetError, SettingInvalid, StoreFull, StoreUnavailable
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import certificate_request
from fedfleet.identity.names import Role
from fedfleet.store.open import open_store

PASSWORD = "s3cret?pass@word"
QUOTED = "s3cret%3Fpass%40word"
DATA = bytes(range(200))
PAGE = (Path(__file__).parents[3] / "docs" / "redis.md").read_text()


def has_waitaof() -> bool:
    return redis_version() >= (7, 2)


def block(language: str) -> str:
    """What the page shows in this language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    return str(found)


def test_a_server_with_the_settings_of_the_docs_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = dict(line.split(maxsplit=1) for line in block("conf").splitlines())
    assert settings.keys() >= {*DURABLE} - {"save"}
    with (
        caplog.at_level(logging.WARNING, "fedfleet.store"),
        redis_process(tmp_path, **settings) as server,
    ):
        open_store(server.url()).close()

    assert not caplog.records


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"appendonly": "no"}, "'appendonly yes'"),
        ({"appendfsync": "no"}, "'appendfsync always'"),
        ({"no_appendfsync_on_rewrite": "yes"}, "'no-appendfsync-on-rewrite no'"),
        ({"maxmemory_policy": "allkeys-lru"}, "'maxmemory-policy noeviction'"),
        (
            {"appendonly": "no", "appendfsync": "no"},
            "'appendonly yes' and 'appendfsync always'",
        ),
    ],
)
def test_a_server_that_could_lose_records_is_refused_by_name_of_the_setting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, str], missing: str
) -> None:
    with redis_process(tmp_path, **settings) as server:
        with pytest.raises(SettingInvalid) as caught:
            open_store(server.url())
        assert f": set {missing} in its redis.conf" in caught.value.message
        assert not caplog.records

        with (
            caplog.at_level(logging.WARNING, "fedfleet.store"),
            open_store(server.url(more="&durability=relaxed")) as store,
        ):
            store.journal.create_run(a_run(), an_entry())

    assert [record.message for record in caplog.records] == ["redis_durability_relaxed"]


def test_a_server_that_writes_every_second_is_waited_for_where_that_can_be(
    tmp_path: Path,
) -> None:
    with redis_process(tmp_path, appendfsync="everysec") as server:
        if not has_waitaof():
            with pytest.raises(SettingInvalid, match="'appendfsync always'"):
                open_store(server.url())
            return
        with open_store(server.url()) as store, Redis(port=server.port) as console:
            prepare(store)
            began = console.info("commandstats")["cmdstat_waitaof"]["calls"]
            for write in WRITES.values():
                write(store)
            done = console.info("commandstats")["cmdstat_waitaof"]["calls"]
            before = everything(store)
            assert done - began >= len(WRITES)
        server.kill()
        server.start()
        with open_store(server.url()) as store:
            assert everything(store) == before


def test_a_write_that_is_not_on_the_disk_in_time_is_no_success(tmp_path: Path) -> None:
    if not has_waitaof():
        pytest.skip("this server has no WAITAOF: Redis 7.2 or Valkey has")
    with (
        redis_process(tmp_path, appendfsync="everysec") as server,
        open_store(server.url()) as store,
        Redis(port=server.port) as console,
    ):
        store.journal.create_run(a_run(), an_entry())
        console.config_set("appendfsync", "no")  # it does not tell the disk any more
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.journal.append(an_entry())

        console.config_set("appendfsync", "always")
        store.journal.append(an_entry())
        assert len(store.journal.entries("run-1")) == 3


def test_a_user_with_the_rights_of_the_docs_can_do_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_process(tmp_path) as server:
        words = block("redis").replace("PASSWORD", PASSWORD).replace("NAME", "tests").split()
        if not has_waitaof():
            words.remove("+waitaof")
        with Redis(port=server.port) as console:
            console.execute_command(*words)
        url = server.url("tests", credentials=f"fedfleet:{QUOTED}@")
        with caplog.at_level(logging.WARNING, "fedfleet.store"), open_store(url) as store:
            prepare(store)
            for write in WRITES.values():
                write(store)
            data = bytes(3_000_000)
            digest = store.blobs.put(data)
            assert store.blobs.read(digest) == data
            store.blobs.delete(digest)
            with store.own():
                store.journal.append(an_entry())
            everything(store)
            assert not caplog.records

        with pytest.raises(StoreUnavailable, match="does not allow its user this") as caught:
            open_store(server.url("others", credentials=f"fedfleet:{QUOTED}@"))
        assert_no_secret(caught.value)


def test_settings_that_may_not_be_read_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        redis_process(tmp_path, rename_command="CONFIG hidden") as server,
        caplog.at_level(logging.WARNING, "fedfleet.store"),
        open_store(server.url()) as store,
    ):
        store.journal.create_run(a_run(), an_entry())

    # One that can be asked to write is asked each time: nothing is left to know.
    wanted = [] if has_waitaof() else ["redis_settings_unchecked"]
    assert [record.message for record in caplog.records] == wanted


def test_a_server_without_its_log_is_refused_also_where_settings_may_not_be_read(
    tmp_path: Path,
) -> None:
    with (
        redis_process(tmp_path, rename_command="CONFIG hidden", appendonly="no") as server,
        pytest.raises(SettingInvalid, match="appendonly yes"),
    ):
        open_store(server.url())


def test_a_wrong_password_is_told_without_it(tmp_path: Path) -> None:
    with redis_process(tmp_path, requirepass="another") as server:
        for credentials in ("", f":{QUOTED}@", f"fedfleet:{QUOTED}@"):
            began_s = time.monotonic()
            with pytest.raises(StoreUnavailable, match="refuses the user or the password") as one:
                open_store(server.url(credentials=credentials))
            assert time.monotonic() - began_s < 1.0  # trying again would not help
            assert_no_secret(one.value)
            assert server.host in one.value.message
        with open_store(server.url(credentials=":another@")) as store:
            assert store.journal.runs() == []


def test_a_server_that_is_not_there_is_told_with_its_address(tmp_path: Path) -> None:
    with redis_process(tmp_path) as server:
        url = server.url(credentials=f"fedfleet:{QUOTED}@")
    with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
        open_store(url)
    assert_no_secret(caught.value)
    assert server.host in caught.value.message


def test_a_database_that_is_not_there_is_told(tmp_path: Path) -> None:
    with redis_process(tmp_path) as server:
        with pytest.raises(StoreUnavailable) as caught:
            open_store(f"redis://{server.host}/999")
        assert "DB index is out of range" in caught.value.detail


def test_a_full_server_takes_nothing_and_lets_room_be_made(tmp_path: Path) -> None:
    with (
        redis_process(tmp_path) as server,
        open_store(server.url()) as store,
        Redis(port=server.port) as console,
    ):
        prepare(store)
        digests = [store.blobs.put(bytes([n]) * 2_000_000) for n in range(4)]
        writer = store.blobs.writer(digest_of(DATA), len(DATA), "key")
        writer.write(DATA[:100])
        last = store.blobs.writer(digest_of(b"last"), 4, "another")
        last.write(b"last")
        before = everything(store)
        console.config_set("maxmemory", "6mb")

        with store.own("me"):  # a beat takes no room
            for name in ("append", "accept_update", "commit_round", "add_token", "append_deed"):
                with pytest.raises(StoreFull, match="maxmemory") as caught:
                    WRITES[name](store)
                assert caught.value.code == "STORE_FULL"
        for call in (lambda: store.blobs.put(b"small"), lambda: writer.write(DATA[100:])):
            with pytest.raises(StoreFull):
                call()
        assert writer.offset_bytes == 100
        assert everything(store) == before
        last.commit()  # takes none either

        for digest in digests:
            store.blobs.delete(digest)
        WRITES["append"](store)
        writer.write(DATA[100:])
        writer.commit()
        assert store.blobs.read(digest_of(DATA)) == DATA


def test_a_store_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    with redis_process(tmp_path) as server:
        open_store(server.url("a")).close()
        with Redis(port=server.port) as console:
            console.hset("fedfleet:{a}:meta", "schema", 99)
        with pytest.raises(StoreUnavailable, match="written by a newer release"):
            open_store(server.url("a"))
        open_store(server.url("b")).close()


def test_a_replica_is_told_from_the_primary(tmp_path: Path) -> None:
    with (
        redis_process(tmp_path / "a") as primary,
        redis_process(tmp_path / "b", replicaof=f"127.0.0.1 {primary.port}") as replica,
        pytest.raises(StoreUnavailable, match="is a replica"),
    ):
        open_store(replica.url())


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    with redis_process(tmp_path) as server:
        store = open_store(server.url())
        store.close()
        store.close()
        for call in (store.journal.runs, lambda: store.blobs.put(b"x")):
            with pytest.raises(StoreUnavailable, match="the store is closed"):
                call()


def test_a_socket_and_a_database_of_its_own(tmp_path: Path) -> None:
    with redis_process(tmp_path, unixsocket=str(tmp_path / "r.sock")) as server:
        url = f"unix://{tmp_path / 'r.sock'}?db=3&namespace=a"
        with open_store(url) as store:
            store.journal.create_run(a_run(), an_entry())
        with Redis(port=server.port, db=3) as console:
            names = console.keys()
        with open_store(url.replace("db=3", "db=2")) as other:
            assert other.journal.runs() == []

    assert names
    assert all(name.startswith(b"fedfleet:{a}:") for name in names)


def test_tls_needs_a_certificate_of_a_known_authority_for_the_host(tmp_path: Path) -> None:
    authority = Authority.open(tmp_path / "ca")
    shown = authority.issue_server(["127.0.0.1"], time.time(), 3600.0)
    request = certificate_request(shown.key)
    own = authority.issue(request, Role.OPERATOR, "one", time.time(), 3600.0)
    for name, pem in (
        ("shown", shown.chain),
        ("own", own.chain),
        ("key", shown.key),
        ("root", authority.root),
    ):
        (tmp_path / name).write_bytes(pem)
    settings = {
        "tls_cert_file": str(tmp_path / "shown"),
        "tls_key_file": str(tmp_path / "key"),
        "tls_ca_cert_file": str(tmp_path / "root"),
        "tls_auth_clients": "yes",
    }
    root = f"&ca={tmp_path / 'root'}"
    mine = f"&cert={tmp_path / 'own'}&key={tmp_path / 'key'}"
    with redis_process(tmp_path / "redis", tls=True, **settings) as server:
        url = f"rediss://{server.host}/0?namespace=a"
        with open_store(url + root + mine) as store:
            store.journal.create_run(a_run(), an_entry())
            assert store.journal.runs() == [a_run()]

        for wrong in (
            url + mine,  # the system's authorities have not issued what Redis shows
            url + root,  # Redis asks for a certificate too
            url.replace("127.0.0.1", "localhost") + root + mine,
        ):
            with pytest.raises(StoreUnavailable, match=r"certificates|cannot be reached"):
                open_store(wrong)


def assert_no_secret(error: FedFleetError) -> None:
    told = f"{error!r} {error.message} {error.detail} {error.__cause__!r}"
    assert PASSWORD not in told
    assert QUOTED not in told
    assert error.__suppress_context__
