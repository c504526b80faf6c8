"""Where the kill harness ends a coordinator's lives: named points of a round, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

# In the order in which a coordinator passes them after its start, each with the most passes after
# which it may die. At TIME it dies whenever the seed says, wherever it is.
TIME = "time"
# At these it ends well, by SIGTERM, whenever the seed says.
STOP = "stop"
AT_START = {
    "claiming": 1,  # the store's lease is about to be taken
    "in_claim": 6,  # before a statement of it; behind a network: sent, not answered
    "claimed": 1,
    "reading": 9,  # what the store has was read, on the way to where the run was
}
# Of the first start with TLS alone, so never drawn for a run.
AT_FIRST_START = {
    "keeping": 1,  # a file of the certificate authority is about to be written
    "kept": 1,  # it lies there, its folder is not synced
}
BEFORE_COMMIT = {
    **AT_START,
    TIME: 1,
    "replaying": 9,  # an entry of the journal was read, the machine has not been told of it
    "forgetting": 3,  # a blob is about to be deleted
    "forgot": 3,
    "chunk": 12,  # mid-upload
    "renaming": 3,  # a whole blob lies under its partial name, or Redis has not answered
    "renamed": 3,  # the blob is there, its folder is not synced; or Redis has answered
    "stored": 2,  # the payload is committed, the journal does not know of the update
    "accepting": 9,  # before a statement of it; behind a network: sent, not answered
    "journalled": 2,  # the update is in the journal, nobody has been told
    "receipt": 2,  # the machine knows too; the receipt has not left
    "folding": 2,
    "folded": 2,
    "aggregating": 1,
    "publishing": 2,  # a blob of the next version is about to be put
    "published": 2,
    "made": 1,
    "committing": 1,
}
# After these the round is over: at most one of them is drawn for a round.
AT_COMMIT = {
    "in_commit": 16,  # before a statement of it; behind a network: sent, not answered
    "committed": 1,  # nobody has been told
    "advanced": 1,  # the next round has begun, watchers have not been told
    "time_after_commit": 1,
}
AT_END = {"finishing": 1, "in_finish": 6, "finished": 1, "forgetting_run": 1}
MOST = {**BEFORE_COMMIT, **AT_COMMIT, **AT_END}
ORDER = [*AT_START, STOP, *MOST]
# Of one step that is whole or not at all: a store behind a network takes it as one message.
STEPS = ("in_claim", "accepting", "in_commit", "in_finish")
# Whoever comes by there without having died at its point dies there: so no life outlasts its round.
LATEST = {
    **dict.fromkeys([*BEFORE_COMMIT, STOP], "committing"),
    "in_commit": "committed",
    "in_finish": "finished",
}
TIMED = {TIME: 0.4, STOP: 0.4, "time_after_commit": 0.08}  # most seconds


@dataclass(frozen=True)
class Target:
    """Where a life ends.

    Args:
        round: passes count from this round on.
        passes: of the point; the last one is the end.
        delay_s: from the start, or from the point, where the point is one of TIMED.
    """

    round: int
    point: str
    passes: int = 1
    delay_s: float = 0.0


def targets(seed: int, kills: int, rounds: int, stops: int = 0) -> list[Target]:
    """Where the lives of one seed end, spread over a run's rounds.

    Args:
        stops: lives, beside the kills, that end well.
    """
    draw = random.Random(seed)
    each = [kills // rounds + (i < kills % rounds) for i in range(rounds)]
    draw.shuffle(each)
    stopped = draw.choices(range(1, rounds + 1), k=stops)
    drawn: list[Target] = []
    for round, count in enumerate(each, start=1):
        points = [*_of_round(draw, count, last=round == rounds), *[STOP] * stopped.count(round)]
        drawn += [_target(draw, round, point) for point in sorted(points, key=ORDER.index)]
    return drawn


def at_messages(target: Target) -> Target:
    """The same target for a store to which a step is one message, not many statements."""
    if target.point not in STEPS:
        return target
    return replace(target, passes=1 + target.passes % 2)


def _of_round(draw: random.Random, count: int, *, last: bool) -> list[str]:
    if not count:
        return []
    early, late = list(BEFORE_COMMIT), AT_END if last else AT_COMMIT
    points = draw.sample(early, count - 1)
    rest = [point for point in early if point not in points]
    # The step that must be whole, or not be at all, is aimed at as often as it has parts.
    return [*points, draw.choice(rest + [point for point in late for _ in range(2 + late[point])])]


def _target(draw: random.Random, number: int, point: str) -> Target:
    delay_s = draw.uniform(0, TIMED.get(point, 0.0))
    return Target(number, point, draw.randint(1, MOST.get(point, 1)), round(delay_s, 3))
