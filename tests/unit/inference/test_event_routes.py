from __future__ import annotations

import re

import pytest
from source_tree import ROOT
from starlette.datastructures import QueryParams

from fedfleet.errors import InvalidInput
from fedfleet_inference_api.event_routes import KINDS, LARGEST_ID, read_wish


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


def test_kinds_that_a_reader_may_name_are_those_of_the_docs():
    page = (ROOT / "docs/cameras.md").read_text()
    table = page.partition("**Events** are JSON")[2].partition("\n\n")[2].partition("\n\n")[0]
    rows = table.splitlines()[2:]

    named = [kind for row in rows for kind in re.findall("`(.*?)`", row.split("|")[1])]

    assert sorted(named) == sorted(KINDS)
