from __future__ import annotations

import pytest

from fedfleet.errors import FedFleetError
from fedfleet.wire import limits


@pytest.mark.parametrize("name", ["a", "edge-7.local_2", "A" * 64])
def test_worker_id_is_taken(name: str) -> None:
    assert limits.check_worker_id(name) == name


@pytest.mark.parametrize("name", ["", "a" * 65, "a/b", "a b", "../x", "wörker", "a\n", "x" * 10**6])
def test_worker_id_is_refused(name: str) -> None:
    with pytest.raises(FedFleetError) as caught:
        limits.check_worker_id(name)
    assert caught.value.code == "INVALID_INPUT"
    assert len(caught.value.message) < 300
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("digest", ["", "ab" * 31, "AB" * 32, "ab" * 33, "zz" * 32, "../" * 22])
def test_digest_is_refused(digest: str) -> None:
    with pytest.raises(FedFleetError) as caught:
        limits.check_digest(digest)
    assert caught.value.code == "INVALID_INPUT"


def test_digest_is_taken() -> None:
    assert limits.check_digest("0a" * 32) == "0a" * 32


def test_count_may_reach_its_limit_and_not_pass_it() -> None:
    limits.check_count("tags", 32, 32)
    with pytest.raises(FedFleetError, match="33 tags: at most 32") as caught:
        limits.check_count("tags", 33, 32)
    assert caught.value.code == "LIMIT_EXCEEDED"
