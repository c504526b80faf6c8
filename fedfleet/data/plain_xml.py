"""Reads small XML documents from elsewhere: no document types, so no entities that could grow,
read files or ask the network.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

MAX_XML_BYTES = 1 << 20


def parse_xml(data: bytes) -> Element:
    """The root element of a document.

    Raises:
        ValueError: more than 1 MiB, a document type, or not XML; the text says which.
    """
    if len(data) > MAX_XML_BYTES:
        raise ValueError(f"has {len(data)} bytes, at most {MAX_XML_BYTES} are read")
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
        return builder.close()
    # expat knows few encodings; another one's name is looked up by Python.
    except (expat.ExpatError, LookupError) as error:
        raise ValueError(f"is not XML: {error}") from error


def _refuse_doctype(*_: object) -> None:
    raise ValueError("declares a document type, which is not read here; take the <!DOCTYPE> out")
