"""Every code and state is explained to whoever looks: on the page and in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedfleet_inference_api import cameras
from fedfleet_inference_api.cameras.seen import CameraCode, CameraState

PAGE = Path(cameras.__path__[0]).parent / "page" / "live.js"
DOCUMENT = Path(__file__).parents[4] / "docs" / "cameras.md"


@pytest.mark.parametrize(("table", "names"), [("CODES", CameraCode), ("STATES", CameraState)])
def test_codes_and_states_are_those_that_the_page_explains(table, names):
    (body,) = re.findall(rf"^const {table} = {{\n(.*?)^}};", PAGE.read_text(), re.S | re.M)

    assert re.findall(r"^  (\w+): ", body, re.M) == [one.value for one in names if one.value]


@pytest.mark.parametrize("name", [*CameraCode, *CameraState])
def test_codes_and_states_are_documented(name):
    assert not name.value or f"`{name.value}`" in DOCUMENT.read_text()
