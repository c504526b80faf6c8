from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from samples import state

from fedfleet.codecs.config import WireConfig
from fedfleet.errors import AssignmentClosed
from fedfleet.store.open import open_store
from fedfleet.types import Kind, ParamSpec, Schema
from fedfleet.wire.downlink import Ladder, descend
from fedfleet.wire.weights import encode_state
from fedfleet_coordinator.ways import Way, Ways, read_way

# Large enough for a delta to be worth it.
BASE = state(Schema((ParamSpec("weight", (64, 64), Kind.TRAINABLE),)))
NEXT = replace(BASE, trainable=BASE.trainable + np.float32(0.01))


def test_way_of_a_commit_is_read_from_what_the_journal_says(tmp_path: Path) -> None:
    """With a lossy downlink the way leads to a base, and the version is another blob."""
    with open_store(f"sqlite:{tmp_path}") as store:
        digests = [store.blobs.put(encode_state(one)) for one in (BASE, NEXT)]
        size_bytes = len(encode_state(NEXT))
        first = Ladder.at(BASE, digests[0], len(encode_state(BASE)))
        second = descend(first, NEXT, WireConfig(downlink="int8").downlink_chain, 1).ladder
        plain = {"digest": digests[1]}
        lossy = {"digest": digests[1], "ladder": json.loads(json.dumps(second.to_json()))}

        assert second.deltas
        assert read_way(plain, BASE, store.blobs) == Way.to(Ladder.at(NEXT, digests[1], size_bytes))
        assert read_way(lossy, BASE, store.blobs) == Way.to(second, digests[1])
        served = {"digest": "of another state", "state_digest": digests[0]}
        assert read_way(served, NEXT, store.blobs).version_digest == digests[0]


def test_ways_that_nobody_needs_are_let_go() -> None:
    one, two = (Way.to(Ladder.at(BASE, digest, 9)) for digest in ("1", "2"))
    ways = Ways()
    ways.add(1, one)
    ways.add(2, two)

    assert ways[1].start.base_digest == "1"
    assert ways.blobs == {"1", "2"}
    assert ways.keep({2, 3}) == {"1"}
    assert (1 in ways, 2 in ways) == (False, True)
    assert ways.blobs == {"2"}
    with pytest.raises(AssignmentClosed, match="round 1 is over"):
        ways[1]
