from __future__ import annotations

import pytest

from fedfleet.store.version_numbers import ranges_of


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([], ""),
        ([4], "4"),
        ([1, 2], "1-2"),
        ([1, 2, 3, 5, 7, 8], "1-3, 5, 7-8"),
        ([5, 1, 2], "1-2, 5"),
    ],
)
def test_numbers_are_told_as_ranges(numbers: list[int], text: str) -> None:
    assert ranges_of(numbers) == text
