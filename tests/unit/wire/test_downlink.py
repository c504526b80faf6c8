from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedfleet.codecs.chain import parse_chain
from fedfleet.codecs.encoded import square_norm
from fedfleet.errors import FedFleetError
from fedfleet.types import Kind, ModelState, ParamSpec, Schema
from fedfleet.v1 import types_pb2 as pb
from fedfleet.wire.deltas import apply_delta
from fedfleet.wire.downlink import (
    Ladder,
    cheapest_route,
    check_ladder,
    descend,
    ladder_from_json,
    worth_keeping,
)
from fedfleet.wire.weights import decode_state, encode_state

SCHEMA = Schema(
    (
        ParamSpec("dense.weight", (60, 50), Kind.TRAINABLE),
        ParamSpec("norm.running_mean", (5,), Kind.STATISTIC),
    )
)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def walk(
    rounds: int, seed: int = 0, size: float = 0.1, start: ModelState | None = None
) -> list[ModelState]:
    """Versions a step apart."""
    random = np.random.default_rng(seed)
    trainable = random.standard_normal(3000) if start is None else start.trainable
    versions = []
    for i in range(rounds + 1):
        statistics = np.full(5, i, np.float32)
        versions.append(
            ModelState(SCHEMA, trainable.astype(np.float32), statistics, np.zeros(0, np.int64))
        )
        trainable = trainable + size * random.standard_t(4, 3000)
    return versions


def begin(version: ModelState) -> tuple[Ladder, bytes]:
    blob = encode_state(version)
    return Ladder.at(version, digest_of(blob), len(blob)), blob


@settings(max_examples=25)
@given(
    text=st.sampled_from(["int8", "int4", "eden:1", "topk:0.05|int8", "stc:0.3", "float16"]),
    attendance=st.lists(st.sets(st.integers(0, 3)), min_size=1, max_size=12),
    seed=st.integers(0, 99),
)
def test_whoever_takes_part_when_comes_to_the_very_base(
    text: str, attendance: list[set[int]], seed: int
) -> None:
    chain = parse_chain(text)
    versions = walk(len(attendance), seed)
    ladder, blob = begin(versions[0])
    served = {digest_of(blob): blob}
    # Worker 0 has the initial version, the others nothing.
    disks: list[dict[str, bytes]] = [dict(served), {}, {}, {}]

    for round, (present, version) in enumerate(zip(attendance, versions[1:], strict=True), 1):
        descent = descend(ladder, version, chain, round)
        ladder = descent.ladder
        served |= {digest_of(data): data for data in descent.blobs}
        # What the coordinator deletes once the round before is closed must not be asked for.
        served = {digest: data for digest, data in served.items() if digest in ladder.blobs}
        for disk in (disks[i] for i in present):
            route = cheapest_route(
                ladder.base_digest, ladder.base_bytes, ladder.deltas, disk.__contains__
            )
            check_ladder(ladder.base_digest, ladder.deltas)
            fetched = {route.start_digest, *(delta.digest for delta in route.deltas)} - set(disk)
            assert sum(len(served[digest]) for digest in fetched) == route.cost_bytes
            disk |= {digest: served[digest] for digest in fetched}
            state = decode_state(SCHEMA, disk[route.start_digest])
            for delta in route.deltas:
                disk[delta.from_digest] = encode_state(state)
                state = apply_delta(state, disk[delta.digest], chain)
            assert digest_of(encode_state(state)) == ladder.base_digest
            assert state.trainable.tobytes() == descent.base.trainable.tobytes()
            last = ladder.deltas[-1].size_bytes
            assert route.cost_bytes <= ladder.base_bytes + last
            keep = worth_keeping(ladder.base_digest, ladder.deltas)
            for digest in set(disk) - keep:
                del disk[digest]


def test_dense_chain_keeps_its_anchor_so_that_one_delta_serves_everybody() -> None:
    chain = parse_chain("int8")
    versions = walk(20)
    ladder, _ = begin(versions[0])
    first = ladder.anchor_digest

    for round, version in enumerate(versions[1:], 1):
        ladder = descend(ladder, version, chain, round).ladder
        assert len(ladder.deltas) == 1

    assert ladder.anchor_digest == first


def test_anchor_moves_once_the_error_is_a_share_of_the_step() -> None:
    chain = parse_chain("int8")
    versions = [*walk(1, size=10.0), *walk(40, size=0.01, start=walk(1, size=10.0)[1])[1:]]
    ladder, _ = begin(versions[0])
    anchors = set()
    for round, version in enumerate(versions[1:], 1):
        ladder = descend(ladder, version, chain, round).ladder
        anchors.add(ladder.anchor_digest)

    # A large drift leaves an error that small steps notice; from the next anchor there is none.
    assert len(anchors) == 2


def test_what_a_sparse_chain_leaves_out_comes_with_the_next_rounds() -> None:
    chain = parse_chain("topk:0.2")
    start, *_, end = walk(5)
    ladder, _ = begin(start)
    distances = []
    for round in range(1, 6):  # the version stands still
        descent = descend(ladder, end, chain, round)
        ladder = descent.ladder
        distances.append(square_norm(end.trainable - descent.base.trainable))

    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.1
    assert distances[-1] == pytest.approx(0.0, abs=1e-9)


def test_base_stays_near_versions_that_drift_away() -> None:
    chain = parse_chain("topk:0.1|int8")
    versions = walk(60)
    ladder, _ = begin(versions[0])
    errors = []
    for round, version in enumerate(versions[1:], 1):
        descent = descend(ladder, version, chain, round)
        ladder = descent.ladder
        errors.append(square_norm(version.trainable - descent.base.trainable))

    assert max(errors[40:]) < 1.5 * max(errors[20:40])
    assert errors[-1] < 0.5 * square_norm(versions[-1].trainable - versions[0].trainable)


def test_model_so_small_that_a_delta_saves_nothing_travels_whole() -> None:
    schema = Schema((ParamSpec("w", (3,), Kind.TRAINABLE),))
    none = np.zeros(0, np.float32), np.zeros(0, np.int64)
    first = ModelState(schema, np.zeros(3, np.float32), *none)
    second = ModelState(schema, np.ones(3, np.float32), *none)
    blob = encode_state(first)

    descent = descend(Ladder.at(first, digest_of(blob), len(blob)), second, parse_chain("int8"), 0)

    assert descent.ladder.deltas == ()
    assert descent.base is second
    assert descent.blobs == (encode_state(second),)


def test_ladder_survives_the_journal() -> None:
    chain = parse_chain("stc:0.1")
    versions = walk(4)
    ladder, _ = begin(versions[0])
    for round, version in enumerate(versions[1:4], 1):
        ladder = descend(ladder, version, chain, round).ladder

    again = ladder_from_json(ladder.to_json(), versions[3], ladder.anchor)

    assert len(ladder.deltas) == 3
    one, two = (descend(which, versions[4], chain, 4).ladder for which in (ladder, again))
    assert one.to_json() == two.to_json()


@given(
    sizes=st.lists(st.integers(1, 1000), min_size=1, max_size=6),
    held=st.sets(st.integers(0, 20)),
    whole=st.integers(1, 2000),
)
def test_cheapest_route_is_the_cheapest(sizes: list[int], held: set[int], whole: int) -> None:
    deltas = [
        pb.VersionDelta(from_digest=f"v{i}", to_digest=f"v{i + 1}", digest=f"d{i}", size_bytes=size)
        for i, size in enumerate(sizes)
    ]
    last = len(sizes)
    disk = {f"v{i}" if i < 10 else f"d{i - 10}" for i in held}

    route = cheapest_route(f"v{last}", whole, deltas, disk.__contains__)

    def cost(first: int) -> int:
        return sum(size for i, size in enumerate(sizes) if i >= first and f"d{i}" not in disk)

    costs = [cost(i) for i in range(last) if f"v{i}" in disk] + [whole + cost(last - 1)]
    assert route.cost_bytes == (0 if f"v{last}" in disk else min(costs))


A, B, C, D = ("abcd"[i] * 64 for i in range(4))


@pytest.mark.parametrize(
    "deltas",
    [
        [pb.VersionDelta(from_digest=A, to_digest=C, digest=D)],  # does not end at the base
        [
            pb.VersionDelta(from_digest=A, to_digest=C, digest=D),
            pb.VersionDelta(from_digest=A, to_digest=B, digest=D),
        ],
        [pb.VersionDelta(from_digest="../x", to_digest=B, digest=D)],
        [pb.VersionDelta(from_digest=A, to_digest=B, digest="")],
        [pb.VersionDelta(from_digest=A, to_digest=B, digest=D)] * 65,
    ],
)
def test_way_that_leads_nowhere_is_refused(deltas: list[pb.VersionDelta]) -> None:
    with pytest.raises(FedFleetError):
        check_ladder(B, deltas)
