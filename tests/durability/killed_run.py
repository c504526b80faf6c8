"""One run of ten rounds whose coordinator is killed again and again, and what must hold of it.

    python tests/durability/killed_run.py --seed 3 --store sqlite --kills 30

prints one JSON line and ends with 0 where everything held. A seed makes the same recipe and the
same targets each time; where a timed kill finds each thread is up to the machine.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from durability.lives import POLL_S, Doomed, Lives, Operator, counted_fleet
from durability.points import STOP, Target, at_messages, targets
from durability.verdict import Verdict, judge, left_behind, surprises, without_receipt
from redis_process import RedisProcess, redis_process

ROUNDS = 10
WORKERS = 4
LEASE_S = 0.6
SIGNER = "signer.pem"
# For a run's blobs to go after its end, and for workers to hear what counted.
SETTLED_S = 20.0
# One life ends well for so many that are killed.
KILLS_A_STOP = 10
# Of Redis's own deaths: their share of the coordinator's, and most seconds after its start.
REDIS_SHARE = 0.2
REDIS_S = 0.5
# For how long it stays away; a call of the store gives up in between.
AWAY_S = (0.0, 0.0, 1.0, 3.0)
RedisKills = dict[int, tuple[float, float]]

RECIPE = """
name = "killed"
seed = {seed}
[model]
architecture = "mlp"
hidden = [512, 1000]
[data]
dataset = "digits"
partition = "iid"
workers = {workers}
[training]
epochs = 1
threads = 1
[rounds]
rounds = {rounds}
cohort = {cohort}
deadline_s = 300
{more}
"""
# Each kind of state that a restart must find again: none; workers' own evaluations; what SCAFFOLD
# keeps on both sides; an optimizer's; what lossy codecs keep on both sides; narrower models; what
# one worker hands to the next; versions that are made while workers train on; losses that were
# asked for before the draw.
UNORDERED = "buffered"  # its versions depend on who is first
GROUPED = "chains"  # asks all workers for the first round
VARIANTS = {
    "fedavg": "",
    "evaluated": '[evaluation]\nworkers = "all"',
    "scaffold": '[algorithm]\nname = "scaffold"',
    "fedadam": '[algorithm]\nname = "fedadam"',
    "lossy": '[wire]\nuplink = "topk:0.1|int8"\ndownlink = "int8"',
    "levels": '[algorithm]\nname = "heterofl"\n[levels]\nrates = [1.0, 0.5]\nshares = [0.5, 0.5]',
    GROUPED: '[algorithm]\nname = "fedseq"\nshare = 1.0\nmin_examples = 100000\nmax_workers = 2\n'
    "grouping_epochs = 1\nexemplars = 2",
    UNORDERED: '[algorithm]\nname = "fedbuff"',
    "probed": 'selection = "power-of-choice"\nloss = "full"\ncandidates = {workers}',
}


def variant_of(seed: int) -> str:
    return list(VARIANTS)[seed % len(VARIANTS)]


def recipe_of(seed: int, rounds: int) -> str:
    variant = variant_of(seed)
    # All are awaited, so that a cohort is drawn from all after a restart too.
    waits = "" if variant == UNORDERED else f"min_workers = {WORKERS}\n"
    drawn = random.Random(seed).randint(2, WORKERS)
    return RECIPE.format(
        seed=seed,
        workers=WORKERS,
        rounds=rounds,
        cohort=WORKERS if variant == GROUPED else drawn,
        more=waits + VARIANTS[variant].format(workers=WORKERS),
    )


@dataclass(frozen=True)
class Outcome:
    """What one run came to."""

    verdict: Verdict
    lives: Lives
    seconds: float = 0.0


def carry_out(
    folder: Path, store: str, recipe: str, aims: list[Target], redis_kills: RedisKills
) -> Outcome:
    """A run with these deaths; everything that it leaves is in the folder."""
    began_s = time.monotonic()
    folder.mkdir()
    port = lasting_port()
    settings = {
        "FEDFLEET_PORT": str(port),
        "FEDFLEET_OPS_PORT": "0",
        "FEDFLEET_CA_DIR": str(folder / "ca"),
        "FEDFLEET_GRACE_S": "1",
        "FEDFLEET_LEASE_S": str(LEASE_S),
        "FEDFLEET_STORE": f"sqlite:{folder / 'state'}",
    }
    redis: RedisProcess | None = None
    left: set[str] = set()
    with ExitStack() as stack:
        if store == "redis":
            redis = stack.enter_context(redis_process(folder / "redis"))
            settings["FEDFLEET_STORE"] = redis.url()
        doomed = Doomed(folder, settings, aims, redis, redis_kills)
        stack.enter_context(closing(doomed))
        address = f"127.0.0.1:{port}"
        ledger = stack.enter_context(counted_fleet(address, WORKERS, folder))
        operator = stack.enter_context(closing(Operator(address)))
        run_id = operator.submit(recipe)
        doomed.until_last()
        ended = not doomed.lives.stuck and operator.until_over(run_id)
        if ended:
            left = until_settled(settings["FEDFLEET_STORE"], run_id, ledger)
            doomed.stop()
        verdict = judge(settings["FEDFLEET_STORE"], run_id, ledger, folder / "ca" / SIGNER)
    lives = doomed.lives
    found = surprises(folder / "coordinator.log") + surprises(folder / "fleet.log")
    verdict.check(not found, f"logged: {found[:5]}")
    verdict.check(not left, f"{len(left)} blobs are left behind")
    verdict.check(ended, f"the run does not end; stuck before {lives.stuck or 'its end'}")
    verdict.check(lives.status == 0, f"the last life ended with {lives.status}")
    verdict.check(redis is not None or not lives.exits, f"{lives.exits} lives ended by themselves")
    return Outcome(verdict, lives, time.monotonic() - began_s)


def lasting_port() -> int:
    """A free port that no outgoing connection takes while nobody listens on it."""
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", random.SystemRandom().randrange(10_000, low)))
            return int(probe.getsockname()[1])


def until_settled(store_url: str, run_id: str, ledger: Path) -> set[str]:
    """Wait until a run that is over is cleaned and all workers know what counted.

    Returns:
        Digests of the blobs that are still there when patience is over.
    """
    until_s = time.monotonic() + SETTLED_S
    left, untold = {""}, {""}
    while (left or untold) and time.monotonic() < until_s:
        left = left_behind(store_url, run_id)
        untold = without_receipt(store_url, run_id, ledger)
        time.sleep(POLL_S)
    return left


def plan_redis(seed: int, kills: int) -> RedisKills:
    """In which lives Redis dies too: when, and for how long."""
    draw = random.Random(f"redis {seed}")
    lives = draw.sample(range(kills + 1), round(kills * REDIS_SHARE))
    return {life: (draw.uniform(0, REDIS_S), draw.choice(AWAY_S)) for life in lives}


def undisturbed_run(folder: Path, seed: int, rounds: int) -> Outcome:
    """A seed's run without a death. The store has no part in what its versions are."""
    return carry_out(folder, "sqlite", recipe_of(seed, rounds), [], {})


def killed_run(
    folder: Path, seed: int, store: str, kills: int, rounds: int, undisturbed: Outcome
) -> dict[str, Any]:
    """A seed's run with its deaths; what came of it as one flat record."""
    redis_kills = plan_redis(seed, kills) if store == "redis" else {}
    aims = targets(seed, kills, rounds, stops=kills // KILLS_A_STOP)
    if store == "redis":
        aims = [at_messages(aim) for aim in aims]
    killed = carry_out(folder, store, recipe_of(seed, rounds), aims, redis_kills)
    verdict, deaths = killed.verdict, killed.lives.deaths
    calm = undisturbed.verdict
    verdict.check(not calm.broken, f"undisturbed: {calm.broken}")
    if variant_of(seed) != UNORDERED:
        same = bool(calm.digests) and verdict.digests == calm.digests
        verdict.check(same, "the versions are not those of the undisturbed run")
        same = verdict.updates == calm.updates
        verdict.check(same, f"updates by round: {verdict.updates}, undisturbed: {calm.updates}")
    verdict.check(len(deaths) == len(aims), f"{len(deaths)} deaths instead of {len(aims)}")
    return {
        "seed": seed,
        "store": store,
        "variant": variant_of(seed),
        "holds": not verdict.broken,
        "kills": len(deaths) - deaths.count(STOP),
        "stops": deaths.count(STOP),
        "redis_kills": killed.lives.redis_deaths,
        "exits": killed.lives.exits,
        "points": dict(sorted(Counter(deaths).items())),
        "seconds": round(killed.seconds, 1),
        "undisturbed_s": round(undisturbed.seconds, 1),
        "digest": verdict.digests[-1] if verdict.digests else "",
        "broken": verdict.broken,
    }


def main() -> int:
    """Print what came of one seed, a line for each store."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--store", choices=("sqlite", "redis"), nargs="+", default=["sqlite"])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--keep", type=Path, help="a new folder that is kept")
    given = parser.parse_args()
    holds = True
    with ExitStack() as stack:
        if given.keep:
            given.keep.mkdir(parents=True)
        folder = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        calm = undisturbed_run(folder / "undisturbed", given.seed, given.rounds)
        for store in given.store:
            told = killed_run(folder / store, given.seed, store, given.kills, given.rounds, calm)
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()
            holds &= told["holds"]
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
