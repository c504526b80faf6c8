from __future__ import annotations

import pytest

from fedfleet.cli.model_history import _ranges, _what
from fedfleet.v1 import control_service_pb2 as pb


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([4], "4"),
        ([1, 2], "1-2"),
        ([1, 2, 3, 5, 7, 8], "1-3, 5, 7-8"),
    ],
)
def test_numbers_are_told_as_ranges(numbers: list[int], text: str) -> None:
    assert _ranges(numbers) == text


def test_event_is_told_in_words() -> None:
    made, bought = pb.Version(number=1, run_id="r-1"), pb.Version(number=2)

    assert _what(pb.RegistryEvent(kind="version", version=1), made) == "made"
    assert _what(pb.RegistryEvent(kind="version", version=2), bought) == "imported"
    assert _what(pb.RegistryEvent(kind="alias", alias="production"), made) == "production names it"
    assert _what(pb.RegistryEvent(kind="retired"), made) == "retired"
