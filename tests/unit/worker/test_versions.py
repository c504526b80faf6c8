"""Ways to a base, on a real disk with a real bench; what would be downloaded is handed over."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from harness import initial_of

from fedfleet.codecs.chain import parse_chain
from fedfleet.errors import ChecksumMismatch, FedFleetError, UpdateInvalid
from fedfleet.types import ModelState
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.v1 import types_pb2 as types_pb
from fedfleet.wire.downlink import Descent, Ladder, descend
from fedfleet.wire.spare import spare_small
from fedfleet.wire.weights import encode_state
from fedfleet_worker.config import WorkerConfig
from fedfleet_worker.disk import Disk
from fedfleet_worker.training import Bench
from fedfleet_worker.versions import Versions

RECIPE = """
name = "tiny"
seed = 7
[model]
architecture = "mlp"
hidden = [30]
[data]
dataset = "digits"
partition = "iid"
workers = 2
[rounds]
rounds = 3
cohort = 2
[wire]
downlink = "topk:0.2"
"""


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def moved(state: ModelState, by: float) -> ModelState:
    return ModelState(state.schema, state.trainable + by, state.statistics, state.counters)


def two_rounds() -> tuple[list[Descent], dict[str, bytes]]:
    """The ladder after each of two rounds, and every blob by its digest."""
    initial = initial_of(RECIPE)
    chain = spare_small(parse_chain("topk:0.2"), initial.schema)
    blob = encode_state(initial)
    served = {digest_of(blob): blob}
    ladder = Ladder.at(initial, digest_of(blob), len(blob))
    descents = []
    for i in (1, 2):
        descent = descend(ladder, moved(initial, 0.1 * i), chain, i)
        ladder = descent.ladder
        served |= {digest_of(data): data for data in descent.blobs}
        descents.append(descent)
    return descents, served


def assignment(descent: Descent, round: int) -> pb.Assignment:
    ladder = descent.ladder
    return pb.Assignment(
        assignment_id=f"r/{round}/1/train/w",
        round=round,
        recipe=RECIPE,
        base_digest=ladder.base_digest,
        base_bytes=ladder.base_bytes,
        schema_digest=descent.base.schema.digest,
        deltas=ladder.deltas,
    )


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@pytest.fixture
def versions(disk: Disk, tmp_path: Path) -> Versions:
    return Versions(Bench(WorkerConfig(worker_id="w", shard=0, state_dir=tmp_path)), disk)


def come_by(
    versions: Versions, asked: pb.Assignment, served: dict[str, bytes]
) -> tuple[bytes, int]:
    """The base, and the bytes that were downloaded for it."""
    moved_bytes = 0
    while True:
        route = versions.route(asked)
        fetched = {}
        for digest, size in versions.missing(asked, route):
            fetched[digest] = served[digest]
            assert len(served[digest]) == size
            moved_bytes += size
            versions.keep(digest, served[digest])
        version = versions.assemble(asked, route, fetched)
        if version is not None:
            versions.forget_others(asked)
            return version, moved_bytes


def test_new_worker_computes_the_initial_version_and_downloads_deltas_only(
    versions: Versions,
) -> None:
    descents, served = two_rounds()

    version, size = come_by(versions, assignment(descents[1], 3), served)

    assert digest_of(version) == descents[1].ladder.base_digest
    assert size == sum(delta.size_bytes for delta in descents[1].ladder.deltas)


def test_first_round_without_a_downlink_chain_needs_no_download(versions: Versions) -> None:
    blob = encode_state(initial_of(RECIPE))
    asked = pb.Assignment(
        round=1,
        recipe=RECIPE,
        base_digest=digest_of(blob),
        base_bytes=len(blob),
        schema_digest=initial_of(RECIPE).schema.digest,
    )

    assert come_by(versions, asked, {}) == (blob, 0)


def test_next_round_costs_one_delta_and_the_same_round_nothing(
    versions: Versions, disk: Disk
) -> None:
    descents, served = two_rounds()
    first, second = (assignment(descent, i) for i, descent in enumerate(descents, 2))
    come_by(versions, first, served)

    assert come_by(versions, first, served)[1] == 0
    version, size = come_by(versions, second, served)

    assert digest_of(version) == second.base_digest
    assert size == second.deltas[-1].size_bytes
    # The anchor and the deltas, and nothing older.
    assert disk.held() == {second.deltas[-1].from_digest, *(d.digest for d in second.deltas)}


def test_torn_file_is_downloaded_again(versions: Versions, tmp_path: Path) -> None:
    descents, served = two_rounds()
    first, second = (assignment(descent, i) for i, descent in enumerate(descents, 2))
    come_by(versions, first, served)
    for path in (tmp_path / "versions").iterdir():
        path.write_bytes(path.read_bytes()[:-1])

    version, size = come_by(versions, second, served)

    assert digest_of(version) == second.base_digest
    assert size <= second.base_bytes + second.deltas[-1].size_bytes


def test_worker_that_cannot_compute_the_initial_version_takes_the_anchor_whole(
    disk: Disk, tmp_path: Path
) -> None:
    class Elsewhere(Bench):
        """On a device whose torch draws other numbers."""

        def initial(self, assignment: pb.Assignment) -> bytes:
            return super().initial(assignment)[:-1] + b"x"

    descents, served = two_rounds()
    bench = Elsewhere(WorkerConfig(worker_id="w", shard=0, state_dir=tmp_path))
    asked = assignment(descents[1], 3)

    version, size = come_by(Versions(bench, disk), asked, served)

    assert digest_of(version) == asked.base_digest
    assert size == asked.base_bytes + asked.deltas[-1].size_bytes


def test_delta_that_leads_elsewhere_is_an_error(versions: Versions) -> None:
    descents, served = two_rounds()
    asked = assignment(descents[0], 2)
    asked.deltas[0].to_digest = asked.base_digest = "0" * 64

    with pytest.raises(ChecksumMismatch, match="another version"):
        come_by(versions, asked, served)


def test_assignment_whose_deltas_do_not_lead_to_its_base_is_refused(versions: Versions) -> None:
    descents, _ = two_rounds()
    asked = assignment(descents[0], 2)
    asked.base_digest = "0" * 64

    with pytest.raises(UpdateInvalid, match="do not lead to its base"):
        versions.route(asked)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"base_digest": "/etc/hostname"}, "INVALID_INPUT"),
        ({"base_bytes": 0}, "LIMIT_EXCEEDED"),
        ({"base_bytes": 1 << 40}, "LIMIT_EXCEEDED"),
        ({"delta_bytes": 1 << 62}, "LIMIT_EXCEEDED"),
        ({"broadcast_digest": "../../x"}, "INVALID_INPUT"),
        ({"broadcast_elements": 1 << 30}, "UPDATE_INVALID"),
    ],
)
def test_assignment_that_asks_for_what_cannot_be_is_refused_before_any_download(
    versions: Versions, changes: dict[str, Any], code: str
) -> None:
    descents, _ = two_rounds()
    asked = assignment(descents[0], 2)
    elements = descents[0].base.trainable.size
    section = types_pb.SectionInfo(
        name="c",
        kind=types_pb.SECTION_KIND_TRAINABLE,
        elements=changes.get("broadcast_elements", elements),
        encoded_bytes=4 * elements,
        codec=[types_pb.CodecStep(kind=types_pb.CODEC_KIND_IDENTITY)],
    )
    digest = changes.get("broadcast_digest", "0" * 64)
    asked.broadcast.append(pb.BroadcastSection(section=section, digest=digest))
    if "base_digest" in changes:
        asked.base_digest = changes["base_digest"]
        del asked.deltas[:]
    asked.base_bytes = changes.get("base_bytes", asked.base_bytes)
    if "delta_bytes" in changes:
        asked.deltas[0].size_bytes = changes["delta_bytes"]

    with pytest.raises(FedFleetError) as caught:
        versions.route(asked)

    assert caught.value.code == code
