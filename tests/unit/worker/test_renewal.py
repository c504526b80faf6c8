from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import (
    Credentials,
    certificate_request,
    new_key,
)
from fedfleet.identity.files import write_private, write_public
from fedfleet.identity.names import Role
from fedfleet_worker.lines import Lines
from fedfleet_worker.renewal import Files, Renewal

NOW_S, DAY_S = 1_750_000_000.0, 86400.0
WEEK_S = 7 * DAY_S
# Two thirds, and a tenth of that either way.
DUE_S, JITTER_S = WEEK_S * 2 / 3, WEEK_S * 2 / 30


class Clocks:
    """A device's two clocks: one that is set, and one that only goes on."""

    def __init__(self) -> None:
        self.wall_s, self.since_boot_s = NOW_S, 100.0

    def pass_by(self, seconds: float) -> None:
        self.wall_s += seconds
        self.since_boot_s += seconds


def renewal(folder: Path, clocks: Clocks) -> Renewal:
    held = Authority.open(folder / "authority", NOW_S).server_credentials(NOW_S, WEEK_S)
    lines = Lines(("127.0.0.1:1",), held)
    return Renewal(
        lines,
        held,
        folder,
        ("127.0.0.1:1",),
        wall=lambda: clocks.wall_s,
        clock=lambda: clocks.since_boot_s,
    )


def test_certificate_is_due_at_two_thirds_of_its_life_with_jitter(tmp_path: Path) -> None:
    dues = {renewal(tmp_path, Clocks()).due_in_s for _ in range(50)}

    assert len(dues) > 40
    assert DUE_S - JITTER_S - 2 <= min(dues) < DUE_S < max(dues) <= DUE_S + JITTER_S + 2


def test_certificate_is_due_whatever_becomes_of_the_clock(tmp_path: Path) -> None:
    clocks = Clocks()
    one = renewal(tmp_path, clocks)
    due_s = one.due_in_s

    clocks.wall_s -= DAY_S  # set back: the other clock knows better
    assert one.due_in_s == pytest.approx(due_s)
    clocks.pass_by(due_s)
    assert one.due_in_s <= 0
    # A day ahead is a day early.
    ahead = Clocks()
    ahead.wall_s += DAY_S
    assert renewal(tmp_path, ahead).due_in_s <= DUE_S + JITTER_S + 2 - DAY_S
    # A device that began with a clock of a day before renews a day later, within the last third.
    behind = Clocks()
    behind.wall_s -= DAY_S
    assert renewal(tmp_path, behind).due_in_s <= DUE_S + JITTER_S + 2 < WEEK_S - DAY_S


async def test_files_that_change_are_used_and_others_are_left_alone(tmp_path: Path) -> None:
    authority, key = Authority.open(tmp_path / "authority"), new_key()
    paths = (tmp_path / "certificate", tmp_path / "key", tmp_path / "root")
    write_public(paths[2], authority.root)

    def put(name: str) -> Credentials:
        issued = authority.issue(certificate_request(key), Role.WORKER, name, time.time(), DAY_S)
        write_private(paths[1], key)
        write_public(paths[0], issued.chain)
        return Credentials(key, issued.chain, authority.root, "")

    def checked(found: Credentials) -> Credentials:
        seen.put_nowait(found)
        return found

    seen: asyncio.Queue[Credentials] = asyncio.Queue()
    held = put("pi-7")
    lines = Lines(("127.0.0.1:1",), held)
    files = Files(lines, held, paths, checked)
    task = asyncio.create_task(files.watch())
    try:
        files.doubt()
        assert await asyncio.wait_for(seen.get(), 20) == held
        write_public(paths[0], b"half a certif")
        files.doubt()
        await asyncio.sleep(0)
        assert lines.credentials == held
        fresh = put("pi-7")
        files.doubt()
        await asyncio.wait_for(lines.changed.wait(), 20)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    assert lines.credentials == fresh
