"""How a worker comes by its certificate, keeps it good, and what it does when it is not."""

from __future__ import annotations

import asyncio
import logging
import stat
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness import (
    PATIENCE_S,
    Running,
    digits_recipe,
    free_port,
    process,
    raises_code,
    running_coordinator,
    state_of_version,
    tiny_recipe,
)

from fedfleet.errors import SettingInvalid
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import (
    FILE,
    certificate_request,
    load_credentials,
    new_key,
)
from fedfleet.identity.files import write_private, write_public
from fedfleet.identity.names import Role
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.sim.driver import simulate
from fedfleet.store.owner import hold_folder
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet_worker import renewal, service
from fedfleet_worker.agent import DOUBT_AFTER
from fedfleet_worker.clock import clock_fault, shown_by
from fedfleet_worker.config import Secret, WorkerConfig
from fedfleet_worker.identity import enrol_once, held_credentials
from fedfleet_worker.renewal import Renewal
from fedfleet_worker.service import serve

DAY_S = 86400.0


def config_for(running: Running, folder: Path, name: str = "worker-0", **more: Any) -> WorkerConfig:
    given = {"coordinator": running.address, "enroll": running.enrol_address, "tls": "on", **more}
    return WorkerConfig(state_dir=folder / "state", worker_id=name, **given)


@asynccontextmanager
async def worker(
    running: Running, folder: Path, name: str = "", **settings: Any
) -> AsyncIterator[asyncio.Task[None]]:
    """A whole worker in this process; its name is its certificate's, unless one is given."""
    stop = asyncio.Event()
    config = config_for(running, folder, name, shard=0, ops_port=0, grace_s=1.0, **settings)
    with ThreadPoolExecutor(1) as threads:
        task = asyncio.create_task(serve(config, stop, threads))
        try:
            yield task
            stop.set()
            await asyncio.wait_for(task, PATIENCE_S)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Log:
    """What workers of this process say."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "fedfleet_worker")
        self._caplog = caplog

    @property
    def text(self) -> str:
        return "\n".join(str(vars(record)) for record in self._caplog.records)

    def events(self, event: str) -> list[dict[str, Any]]:
        return [vars(record) for record in self._caplog.records if record.msg == event]

    async def until(self, event: str, count: int = 1) -> dict[str, Any]:
        """The count-th line of an event."""

        async def poll() -> dict[str, Any]:
            while len(found := self.events(event)) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # a log has no event to wait for
            return found[count - 1]

        try:
            return await asyncio.wait_for(poll(), PATIENCE_S)
        except asyncio.TimeoutError:
            raise AssertionError(self.text[-4000:]) from None


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    return Log(caplog)


def one_worker(rounds: int = 1) -> str:
    return tiny_recipe(workers=1, cohort=1, rounds=rounds)


async def trains(running: Running, recipe: str) -> None:
    """A run comes to the end that the simulator says."""
    run = await running.finished(await running.submit(recipe))
    assert (run.code, run.reason) == ("", "")
    name = parse_recipe(recipe).name
    trained = state_of_version(running.store, name)
    # Aside: the coordinator lives on this loop.
    expected = (await asyncio.to_thread(simulate, parse_recipe(recipe))).state
    assert trained.trainable.tobytes() == expected.trainable.tobytes()


# Enrolling


async def test_enrolment_trades_a_token_once_and_keeps_what_it_got_in_private(
    tmp_path: Path,
) -> None:
    async with running_coordinator(tmp_path / "store", tls="on") as running:
        token = await running.token("worker-0")
        config = config_for(running, tmp_path, token=Secret(token))
        made = await enrol_once(config, replace_held=False)

        assert (made.identity.role, made.identity.name) == (Role.WORKER, "worker-0")
        assert held_credentials(replace(config, token=None)) == made
        for path in (config.identity_dir, config.identity_dir / FILE):
            assert not path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), path
        kept = [path for path in config.state_dir.rglob("*") if path.is_file()]
        assert not any(token.encode() in path.read_bytes() for path in kept)
        assert token not in repr(config)

        await raises_code("ALREADY_EXISTS", enrol_once(config, replace_held=False))
        refused = await raises_code("TOKEN_INVALID", enrol_once(config, replace_held=True))
        assert "have a new one made" in refused.message
        assert "worker-0" in refused.message
        assert held_credentials(config) == made  # a failure leaves what there was

        config = replace(config, token=Secret(await running.token("worker-0")))
        again = await enrol_once(config, replace_held=True)
        assert again.identity.serial != made.identity.serial
        assert held_credentials(config) == again


async def test_enrolment_for_another_name_leaves_the_token_as_it_is(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "store", tls="on") as running:
        token = Secret(await running.token("pi-7"))
        other = config_for(running, tmp_path, "pi-8", token=token)
        refused = await raises_code("TOKEN_INVALID", enrol_once(other, replace_held=False))
        assert "pi-8" in refused.message
        made = await enrol_once(replace(other, worker_id="pi-7"), replace_held=False)

    assert made.identity.name == "pi-7"
    with pytest.raises(SettingInvalid, match=r"FEDFLEET_WORKER_ID=pi-8: .* is for pi-7"):
        held_credentials(other)


async def test_enrolment_asks_every_address_and_says_where_nobody_answers(tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    async with running_coordinator(tmp_path / "store", tls="on") as running:
        config = config_for(running, tmp_path, token=Secret(await running.token("worker-0")))
        alone = replace(config, enroll=nobody)
        refused = await raises_code("UNAVAILABLE", enrol_once(alone, replace_held=False))
        assert nobody in refused.message
        both = replace(config, enroll=f"{nobody},{running.enrol_address}")

        assert (await enrol_once(both, replace_held=False)).identity.name == "worker-0"


async def test_enrolment_never_gives_a_token_to_another_coordinator_nor_takes_an_operators_place(
    tmp_path: Path,
) -> None:
    async with (
        running_coordinator(tmp_path / "store", tls="on") as running,
        running_coordinator(tmp_path / "other", tls="on") as other,
    ):
        token = Secret(await running.token("worker-0"))
        config = config_for(running, tmp_path, token=token)
        lost = replace(config, enroll=other.enrol_address)
        refused = await raises_code("CERTIFICATE_INVALID", enrol_once(lost, replace_held=False))
        assert "not the coordinator that made this token" in refused.message
        found = replace(config, enroll=f"{other.enrol_address},{running.enrol_address}")
        made = await enrol_once(found, replace_held=False)

        operators = Secret(await running.token("ada", Role.OPERATOR))
        config = replace(config, worker_id="ada", token=operators)
        await raises_code("SETTING_INVALID", enrol_once(config, replace_held=True))
        assert load_credentials(config.identity_dir) == made


async def test_enrolment_spends_no_token_where_its_folder_cannot_be_written(
    tmp_path: Path,
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "identity").write_text("no folder")
    async with running_coordinator(tmp_path / "store", tls="on") as running:
        config = config_for(running, tmp_path, token=Secret(await running.token("worker-0")))
        await raises_code("STORE_UNAVAILABLE", enrol_once(config, replace_held=False))
        (tmp_path / "state" / "identity").unlink()

        assert (await enrol_once(config, replace_held=False)).identity.name == "worker-0"


async def test_enrolment_is_kept_out_while_the_worker_runs(tmp_path: Path) -> None:
    config = WorkerConfig(state_dir=tmp_path, token=Secret("fft_1"))
    with hold_folder(tmp_path, "the worker's state folder"):
        await raises_code("STATE_IN_USE", enrol_once(config, replace_held=False))


async def test_worker_enrols_by_itself_waits_for_its_coordinator_and_keeps_its_name(
    tmp_path: Path, log: Log
) -> None:
    ports = {"port": free_port(), "enroll_port": free_port()}
    secret = tmp_path / "token"
    async with running_coordinator(tmp_path / "store", tls="on", **ports) as running:
        secret.write_text(await running.token("worker-0") + "\n")
    async with worker(running, tmp_path, "worker-0", token_file=secret):
        await log.until("not_enrolled_yet")
        async with running_coordinator(tmp_path / "store", tls="on", **ports) as running:
            await trains(running, one_worker())
    # The token is spent, and the name is the certificate's.
    async with (
        running_coordinator(tmp_path / "store", tls="on", **ports) as running,
        worker(running, tmp_path, token_file=secret),
    ):
        await running.connected(1)
        assert running.coordinator.fleet.connected == {"worker-0"}

    assert len(log.events("enrolled")) == 1
    assert secret.read_text().strip() not in log.text


@pytest.mark.slow
async def test_enroll_command_says_who_the_worker_is_and_what_is_wrong(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "store", tls="on") as running:
        token = await running.token("pi-7")
        command = ("-m", "fedfleet_worker", "enroll", "--name", "pi-7", "--token", token)
        settings = {
            "FEDFLEET_COORDINATOR": running.address,
            "FEDFLEET_ENROLL": running.enrol_address,
            "FEDFLEET_STATE_DIR": str(tmp_path / "state"),
            "FEDFLEET_TLS": "on",
        }
        printed = tmp_path / "log"
        with process(printed, *command, **settings) as first:
            assert await asyncio.to_thread(first.wait, PATIENCE_S) == 0
        assert "worker/pi-7: enrolled" in printed.read_text()
        with (
            process(printed, *command, **settings) as second,
            process(printed, "-m", "fedfleet_worker", **settings, FEDFLEET_WORKER_ID="p8") as third,
        ):
            for one in (second, third):
                assert await asyncio.to_thread(one.wait, PATIENCE_S) == 1

    lines = printed.read_text().splitlines()
    errors = {line.split(": ")[1] for line in lines if line.startswith("fedfleet-worker: ")}
    assert errors == {"ALREADY_EXISTS", "SETTING_INVALID"}
    assert token not in printed.read_text()


# Keeping it good


@pytest.mark.slow
async def test_worker_renews_in_mid_run_and_loses_no_assignment(tmp_path: Path, log: Log) -> None:
    recipe = digits_recipe("renewing", workers=1, cohort=1, rounds=4)
    recipe = recipe.replace("threads = 1", "threads = 1\nepochs = 30")
    async with running_coordinator(
        tmp_path / "store", tls="on", certificate_days=7 / DAY_S
    ) as running:
        token = Secret(await running.token("worker-0"))
        async with worker(running, tmp_path, "worker-0", token=token):
            await trains(running, recipe)
            await log.until("certificate_renewed")
            await log.until("connected", count=2)
            await trains(running, one_worker())
        serials = {one.serial for one in running.store.access.certificates() if one.name[0] == "w"}

    assert len(serials) == 1 + len(log.events("certificate_renewed"))
    assert not log.events("certificate_refused")
    assert not log.events("stream_was_short")
    assert not log.events("assignment_failed")
    assert token.text not in log.text


async def test_worker_whose_certificate_has_ended_renews_it_by_its_key(
    tmp_path: Path, log: Log
) -> None:
    async with running_coordinator(
        tmp_path / "store", tls="on", certificate_days=1 / DAY_S
    ) as running:
        config = config_for(running, tmp_path, token=Secret(await running.token("worker-0")))
        ended = await enrol_once(config, replace_held=False)
        await asyncio.sleep(max(0.0, ended.expires_at_s - time.time()) + 0.5)
    async with (
        running_coordinator(tmp_path / "store", tls="on") as running,
        worker(running, tmp_path),
    ):
        await trains(running, one_worker())

    assert len(log.events("certificate_renewed")) == 1
    assert load_credentials(config.identity_dir).key == ended.key


async def test_worker_renews_what_ended_by_the_coordinators_clock_alone(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a device whose clock is a day behind, it has another day to live."""
    seconds = time.time
    async with running_coordinator(
        tmp_path / "store", tls="on", certificate_days=1 / DAY_S
    ) as running:
        config = config_for(running, tmp_path, token=Secret(await running.token("worker-0")))
        ended = await enrol_once(config, replace_held=False)
        await asyncio.sleep(max(0.0, ended.expires_at_s - time.time()) + 0.5)
    async with running_coordinator(tmp_path / "store", tls="on") as running:
        behind = partial(Renewal, wall=lambda: seconds() - DAY_S)
        monkeypatch.setattr(service, "Renewal", behind)
        async with worker(running, tmp_path):
            await log.until("certificate_renewed")
            await running.connected(1)

    assert len(log.events("coordinator_unreachable")) >= DOUBT_AFTER


async def test_worker_that_is_revoked_says_so_and_does_not_hammer(tmp_path: Path, log: Log) -> None:
    async with running_coordinator(tmp_path / "store", tls="on") as running:
        token = Secret(await running.token("worker-0"))
        async with worker(running, tmp_path, "worker-0", token=token) as work:
            await trains(running, one_worker())
            request = pb.RevokeWorkerRequest(worker_id="worker-0")
            await running.control.RevokeWorker(request, timeout=PATIENCE_S)
            refused = await log.until("certificate_refused")
            await log.until("certificate_not_renewed")
            await asyncio.sleep(1.5)  # in which a worker that only lost its stream dials often

            assert len(log.events("certificate_refused")) == 1
            assert len(log.events("certificate_not_renewed")) == 1
            assert not work.done()
            assert not running.coordinator.fleet.connected
            assert (tmp_path / "state" / "identity" / FILE).exists()

    assert "revoked" in refused["detail"]
    assert "enroll --replace" in refused["hint"]


async def test_worker_follows_the_files_of_another_authority(
    tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "FILES_S", 0.1)
    authority = Authority.open(tmp_path / "authority")
    server = authority.issue_server(["127.0.0.1"], time.time(), DAY_S)
    write_private(tmp_path / "server.key", server.key)
    write_public(tmp_path / "server.pem", server.chain)
    write_public(tmp_path / "root.pem", authority.root)
    write_private(tmp_path / "worker.key", key := new_key())

    def issue(name: str) -> None:
        issued = authority.issue(certificate_request(key), Role.WORKER, name, time.time(), DAY_S)
        write_public(tmp_path / "worker.pem", issued.chain)

    issue("worker-0")
    async with running_coordinator(
        tmp_path / "store",
        tls="on",
        server_certificate=tmp_path / "server.pem",
        server_key=tmp_path / "server.key",
        client_root=tmp_path / "root.pem",
    ) as running:
        files = {
            "worker_certificate": tmp_path / "worker.pem",
            "worker_key": tmp_path / "worker.key",
            "server_root": tmp_path / "root.pem",
        }
        async with worker(running, tmp_path, **files):
            await log.until("connected")
            assert running.coordinator.fleet.connected == {"worker-0"}
            issue("worker-1")
            refused = await log.until("certificate_not_renewed")
            issue("worker-0")
            await log.until("certificate_renewed")
            await log.until("connected", count=2)

    assert (refused["code"], "for worker-1" in refused["reason"]) == ("SETTING_INVALID", True)


async def test_clock_that_is_off_shows_by_the_certificate_of_either_port(tmp_path: Path) -> None:
    async with running_coordinator(tmp_path / "store", tls="on") as running:
        shown = [await shown_by(place) for place in (running.address, running.enrol_address)]

    for certificate in shown:
        assert clock_fault(certificate, time.time()) == ""
        assert "begins at" in clock_fault(certificate, time.time() - 2 * DAY_S)


# Several addresses


async def test_worker_goes_to_the_address_that_serves(tmp_path: Path, log: Log) -> None:
    first, second = free_port(), free_port()
    recipe = digits_recipe("moved", workers=1, cohort=1, rounds=6)
    addresses = f"127.0.0.1:{first},127.0.0.1:{second}"
    async with running_coordinator(tmp_path / "store", tls="on", port=first) as running:
        token = Secret(await running.token("worker-0"))
        async with worker(running, tmp_path, "worker-0", token=token, coordinator=addresses):
            run_id = await running.submit(recipe)
            await running.until(run_id, "round_committed", 1)
            await running.coordinator.close()
            async with running_coordinator(tmp_path / "store", tls="on", port=second) as other:
                run = await other.finished(run_id)
                state = state_of_version(other.store, "moved")

    assert run.code == ""
    expected = simulate(parse_recipe(recipe)).state
    assert state.trainable.tobytes() == expected.trainable.tobytes()
    assert [line["coordinator"] for line in log.events("connected")] == addresses.split(",")
