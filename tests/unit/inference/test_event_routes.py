from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from fedfleet.errors import InvalidInput
from fedfleet_inference_api.event_routes import LARGEST_ID, read_wish


@pytest.mark.parametrize("text", ["0", "7", str(LARGEST_ID)])
def test_id_of_an_event_is_a_number(text):
    assert read_wish(QueryParams({"after": text})).after == int(text)


@pytest.mark.parametrize(
    "text",
    ["", "x", "-1", "\u0661", str(LARGEST_ID + 1), "0" * 20 + "9" * 4400, "0" * 5000],
    ids=["empty", "x", "negative", "arabic", "large", "long", "zeros"],
)
@pytest.mark.parametrize("name", ["after", "last"])
def test_what_is_no_id_is_refused_however_long_it_is(name, text):
    with pytest.raises(InvalidInput, match=f"^{name} = "):
        read_wish(QueryParams({name: text}))
