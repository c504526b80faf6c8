"""Kills processes that write to a folder of keys, and prints as JSON what the kills left.

    python kills.py creation|replacement|interruption FOLDER

A program of its own: it forks, which a process with threads of grpc's must not.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import Credentials, load_credentials, save_credentials

# Of Python's own auditing (PEP 578): what a process does to files.
STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.chmod", "fcntl.flock"}
INTERRUPTIONS = 60


def survives(folder: Path, step: int, work: Callable[[], object]) -> bool:
    """Do some work in a child that gets SIGKILL before its step of that number on the folder."""
    child = os.fork()
    if child == 0:
        steps = count()

        def watch(event: str, args: tuple[Any, ...]) -> None:
            # Some steps name the file by its number.
            is_step = event in STEPS and (isinstance(args[0], int) or str(folder) in str(args[0]))
            if is_step and next(steps) == step:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(watch)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    return status == 0


def start(folder: Path) -> None:
    Authority.open(folder).local_operator()


def creation(base: Path) -> list[dict[str, Any]]:
    """For each step of a first start: what was there, and whether the next start kept it."""
    found = []
    for step in count():
        folder = base / str(step)
        survived = survives(folder, step, partial(start, folder))
        left = {path.name: path.read_bytes() for path in folder.glob("[!.]*.*")}
        first = Authority.open(folder)
        second = Authority.open(folder)
        same = (first.root, first.pin, first.signer.public_pem)
        operator = first.local_operator()
        found.append(
            {
                "left": sorted(left),
                "kept": all((folder / name).read_bytes() == left[name] for name in left),
                "is_one": same == (second.root, second.pin, second.signer.public_pem),
                "operator": second.local_operator() == operator and operator.identity.text,
                "partial": [str(path) for path in folder.rglob("*.partial")],
            }
        )
        if survived:
            return found
    raise AssertionError


def two_credentials(base: Path) -> dict[str, Credentials]:
    return {
        "old": Authority.open(base / "one").local_operator(),
        "new": Authority.open(base / "other").local_operator(),
    }


def replacement(base: Path) -> list[str]:
    """For each step of replacing credentials: which of the two were there afterwards."""
    both = two_credentials(base)
    found = []
    for step in count():
        folder = base / str(step)
        save_credentials(folder, both["old"])
        survived = survives(folder, step, partial(save_credentials, folder, both["new"]))
        found.append(which(folder, both))
        save_credentials(folder, both["new"])
        assert [path.name for path in folder.iterdir() if path.name != "lock"] == [
            "credentials.pem"
        ]
        if survived:
            return found
    raise AssertionError


def interruption(base: Path) -> list[str]:
    """As ``replacement``, killed at chance moments of a process that goes on and on."""
    both = two_credentials(base)
    folder = base / "folder"
    chance = random.Random(6)
    found = []
    for _ in range(INTERRUPTIONS):
        save_credentials(folder, both["old"])
        child = os.fork()
        if child == 0:
            while True:
                for credentials in both.values():
                    save_credentials(folder, credentials)
        time.sleep(chance.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found.append(which(folder, both))
    return found


def which(folder: Path, both: dict[str, Credentials]) -> str:
    held = load_credentials(folder)
    return next(name for name, credentials in both.items() if credentials == held)


if __name__ == "__main__":
    modes = {"creation": creation, "replacement": replacement, "interruption": interruption}
    json.dump(modes[sys.argv[1]](Path(sys.argv[2])), sys.stdout)
