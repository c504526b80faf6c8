"""What must hold of a run whose coordinator was killed."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.errors import SignatureInvalid
from fedfleet.identity.signing import verify
from fedfleet.rounds.recipe import parse_recipe
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Entry, RunState, Store, VersionRecord, manifest_of

# A fault that nobody foresaw, or an end other than for want of the store.
_SURPRISE = re.compile(
    r"_crashed|_failed\"|Traceback|fedfleet-coordinator: (?!STORE_UNAVAILABLE)|lease_lost"
)


@dataclass
class Verdict:
    """Digests of the versions, updates counted by round, and what did not hold."""

    digests: list[str] = field(default_factory=list)
    updates: Counter[int] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            self.broken.append(what)


def judge(store_url: str, run_id: str, ledger: Path, signer: Path) -> Verdict:
    """Look at what a run left behind in its store and with its workers.

    Args:
        signer: the public key of whoever signed the versions.
    """
    verdict = Verdict()
    with open_store(store_url) as store:
        run = store.journal.run(run_id)
        recipe = parse_recipe(run.recipe)
        runs = len(store.journal.runs())
        entries = store.journal.entries(run_id)
        versions = sorted(store.registry.versions(recipe.name), key=lambda one: one.number)
        latest = store.registry.aliases(recipe.name)
        verdict.digests = [version.digest for version in versions]
        verdict.check(runs == 1, f"{runs} runs were journalled")
        state = f"{run.state.value} {run.code} {run.reason}"
        verdict.check(run.state is RunState.COMPLETED, f"the run is {state}")
        _check_versions(verdict, store, versions, recipe.rounds.rounds)
        _check_signatures(verdict, versions, signer.read_bytes())
        wanted = verdict.digests and latest["latest"].number == len(versions)
        verdict.check(bool(wanted), "latest is not the last version")
        _check_events(verdict, store, recipe.name, recipe.rounds.rounds)
    counted = _check_journal(verdict, entries, recipe.rounds.rounds)
    waits = make_algorithm(recipe.algorithm).asynchrony is None
    _check_ledger(verdict, ledger, counted, waits=waits)
    return verdict


def surprises(log: Path) -> list[str]:
    """Lines of a service's log that no kill of another process explains."""
    text = log.read_text(errors="replace") if log.exists() else ""
    # What grpc says of a caller that went away in the middle of a stream is no surprise here.
    ours = (line for line in text.splitlines() if '"logger": "grpc.' not in line)
    return [line[:1000] for line in ours if _SURPRISE.search(line)]


def without_receipt(store_url: str, run_id: str, ledger: Path) -> set[str]:
    """Assignments whose update counted, and whose worker has not been told."""
    with open_store(store_url) as store:
        entries = store.journal.entries(run_id)
    accepted = {one.fields["assignment_id"] for one in entries if one.kind == "update_accepted"}
    notes = (json.loads(line) for line in ledger.read_text().splitlines())
    return accepted - {note["id"] for note in notes if note["what"] == "receipt"}


def left_behind(store_url: str, run_id: str) -> set[str]:
    """Digests of blobs that only the run's workers had a use for, and that are still there."""
    with open_store(store_url) as store:
        run = store.journal.run(run_id)
        versions = store.registry.versions(parse_recipe(run.recipe).name)
        digests = {store.journal.memory_digest(run_id)} - {""}
        for round in range(run.rounds + 2):
            digests |= {update.digest for update in store.journal.updates(run_id, round)}
        for entry in store.journal.entries(run_id):
            digests.update(entry.fields.get("blobs", ()))
        digests -= {version.digest for version in versions}
        return {digest for digest in digests if store.blobs.size(digest) is not None}


def _check_versions(
    verdict: Verdict, store: Store, versions: list[VersionRecord], rounds: int
) -> None:
    numbers = [(version.number, version.round) for version in versions]
    every = [(number, number) for number in range(1, rounds + 1)]
    verdict.check(numbers == every, f"the versions and their rounds are {numbers}")
    parents = [version.parent for version in versions]
    verdict.check(parents == [None, *range(1, rounds)], f"the parents are {parents}")
    counted = [
        (version.metrics["updates"], len(store.journal.updates(version.run_id, version.round)))
        for version in versions
    ]
    wrong = [pair for pair in counted if pair[0] != pair[1]]
    verdict.check(not wrong, f"versions count other updates than were journalled: {wrong}")
    lost = [one.number for one in versions if store.blobs.size(one.digest) != one.size_bytes]
    verdict.check(not lost, f"the blobs of versions {lost} are not whole")


def _check_signatures(verdict: Verdict, versions: list[VersionRecord], signer: bytes) -> None:
    for version in versions:
        try:
            verify(signer, manifest_of(version), version.signature)
        except SignatureInvalid as error:
            verdict.broken.append(f"version {version.number}: {error.message}")


def _check_events(verdict: Verdict, store: Store, model: str, rounds: int) -> None:
    """Each version and each move of the alias was announced once, in order."""
    told = [(one.kind, one.number) for one in store.registry.events() if one.model == model]
    every = [(kind, number) for number in range(1, rounds + 1) for kind in ("version", "alias")]
    verdict.check(told == every, f"followers were told {told}")


def _check_journal(verdict: Verdict, entries: list[Entry], rounds: int) -> Counter[str]:
    """Each round was committed once, and each update counted once."""
    commits = [entry.round for entry in entries if entry.kind == "round_committed"]
    verdict.check(commits == list(range(1, rounds + 1)), f"the commits are of rounds {commits}")
    ids = [entry.event_id for entry in entries]
    verdict.check(ids == sorted(set(ids)), "the journal's ids do not grow")
    accepted = Counter(
        entry.fields["assignment_id"] for entry in entries if entry.kind == "update_accepted"
    )
    twice = [key for key, count in accepted.items() if count > 1]
    verdict.check(not twice, f"counted more than once: {twice}")
    verdict.updates = Counter(int(key.split("/")[1]) for key in accepted)
    failed = [entry.fields for entry in entries if entry.kind == "assignment_failed"]
    verdict.check(not failed, f"assignments failed: {failed}")
    return accepted


def _check_ledger(verdict: Verdict, ledger: Path, counted: Counter[str], *, waits: bool) -> None:
    """Nobody was asked again for what had a receipt; what counted was trained once.

    Args:
        waits: whether every round waits for all updates that it asks for.
    """
    received: set[str] = set()
    trained: Counter[str] = Counter()
    for line in ledger.read_text().splitlines():
        note = json.loads(line)
        what, key = note["what"], note["id"]
        if what == "trained":
            trained[key] += 1
        verdict.check(what == "receipt" or key not in received, f"{what} after its receipt: {key}")
        if what == "receipt":
            received.add(key)
    wrong = {key: trained[key] for key in counted if trained[key] != 1}
    verdict.check(not wrong, f"trainings of what counted: {wrong}")
    lies = received - set(counted)
    verdict.check(not lies, f"receipts for what is not in the journal: {sorted(lies)}")
    if waits:
        vain = {key: count for key, count in trained.items() if key not in counted}
        verdict.check(not vain, f"trained in vain: {vain}")
        missed = set(counted) - received
        verdict.check(not missed, f"without a receipt: {sorted(missed)}")
