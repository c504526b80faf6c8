from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fedfleet.data.golden import golden_batch
from fedfleet.errors import InvalidInput
from fedfleet.types import InputSpec

COLOUR = InputSpec(channels=3, height=16, width=24, mean=(0.5,) * 3, std=(0.2,) * 3)


def test_golden_batch_is_the_same_everywhere() -> None:
    images = golden_batch(COLOUR)

    assert images.shape == (8, 3, 16, 24)
    assert images.dtype == np.uint8
    # The exponential and the cosine of another numpy may differ in a last bit, which rounding to
    # grey levels swallows but for a value that lies on the edge of one.
    flat_and_noise = images[[0, 3, 4, 7]].tobytes()
    digest = hashlib.sha256(flat_and_noise).hexdigest()
    assert digest == ("ef7c894ac6f5c0c8c63aadf335b2439dd3ac9a90bf5ba1628c52814221b90162")


def test_golden_batch_holds_different_images() -> None:
    images = golden_batch(COLOUR).reshape(8, -1).astype(float)

    assert len(np.unique(images, axis=0)) == 8
    spread = images.std(axis=1)
    assert spread[3] > spread[1] > 0


@pytest.mark.parametrize("count", [0, 1, 13])
def test_golden_batch_of_fewer_is_the_beginning_of_more(count: int) -> None:
    np.testing.assert_array_equal(golden_batch(COLOUR, count), golden_batch(COLOUR, 13)[:count])


def test_golden_batch_refuses_text() -> None:
    with pytest.raises(InvalidInput, match="reads text"):
        golden_batch(InputSpec.tokens(length=8, vocabulary=90))
