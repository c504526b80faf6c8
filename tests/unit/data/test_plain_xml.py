from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.data.plain_xml import MAX_XML_BYTES, parse_xml


def test_xml_is_read_with_its_text_and_in_its_encoding():
    root = parse_xml(
        '<?xml version="1.0" encoding="UTF-16"?><a><b>é &amp; ü</b></a>'.encode("utf-16")
    )

    assert root.findtext("b") == "\u00e9 & \u00fc"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is not XML: no element found"),
        (b"\xff\xff\xff", "is not XML"),
        (b"<a>&unknown;</a>", "is not XML: undefined entity"),
        (b'<?xml version="1.0" encoding="klingon"?><a/>', "is not XML"),
        (b"<a/>" + b" " * MAX_XML_BYTES, "at most 1048576 are read"),
        (b"<!DOCTYPE a><a/>", "declares a document type"),
    ],
)
def test_xml_that_is_not_read_says_why(data, text):
    with pytest.raises(ValueError, match=text):
        parse_xml(data)


@given(st.binary(max_size=60) | st.text(alphabet="<>/a&;!?-[]'\" =x", max_size=60).map(str.encode))
def test_xml_of_any_bytes_is_an_element_or_refused(data):
    with suppress(ValueError):
        assert parse_xml(data).tag
