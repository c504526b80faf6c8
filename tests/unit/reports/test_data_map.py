from __future__ import annotations

import numpy as np
import pytest

from fedfleet.reports.canvas import HEAT
from fedfleet.reports.data_map import draw_partition


def test_partition_is_drawn_with_a_column_per_worker_and_a_row_per_class() -> None:
    figure = draw_partition([[3, 0, 1], [5, 2, 0]], ("a", "b", "c"), None, colours=HEAT)

    above, below = figure.axes[:2]
    assert [bar.get_height() for bar in above.patches] == [4, 7]
    np.testing.assert_array_equal(below.images[0].get_array(), [[3, 5], [0, 2], [1, 0]])


def test_partition_puts_classes_of_a_group_side_by_side() -> None:
    below = draw_partition([[3, 0, 1]], ("a", "b", "c"), (1, 0, 1)).axes[1]

    assert [tick.get_text() for tick in below.get_yticklabels()] == ["b", "a", "c"]


@pytest.mark.parametrize("workers", [1, 5000])
def test_partition_is_no_wider_than_it_may_be(workers: int) -> None:
    figure = draw_partition([[1, 2]] * workers, ("a", "b"), None, widest_inches=6.0)

    assert figure.get_size_inches()[0] <= 6.0
