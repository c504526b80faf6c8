from __future__ import annotations

import pytest

from fedfleet.cli.model_history import _passed_over, _what
from fedfleet.v1 import control_service_pb2 as pb


@pytest.mark.parametrize(
    ("named", "revision", "passed"),
    [
        ((1, 5, 1), 3, []),
        ((1, 2, 3, 5, 1), 5, [2, 3]),
        ((1, 2, 7, 2, 5, 1), 6, [2]),  # 7 was undone before
        ((1, 2, 3, 1, 9, 9), 4, [2]),  # and what came after the rollback is no part of it
    ],
)
def test_what_a_rollback_passed_over_is_told(
    named: tuple[int, ...], revision: int, passed: list[int]
) -> None:
    events = [
        pb.RegistryEvent(kind="alias", version=number, alias=alias)
        for number in named
        for alias in ("latest", "production")
    ]

    assert _passed_over(events, pb.Alias(name="production", version=1, revision=revision)) == passed


def test_event_is_told_in_words() -> None:
    made, bought = pb.Version(number=1, run_id="r-1"), pb.Version(number=2)

    assert _what(pb.RegistryEvent(kind="version", version=1), made) == "made"
    assert _what(pb.RegistryEvent(kind="version", version=2), bought) == "imported"
    assert _what(pb.RegistryEvent(kind="alias", alias="production"), made) == "production names it"
    assert _what(pb.RegistryEvent(kind="retired"), made) == "retired"
