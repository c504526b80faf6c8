"""docs/configuration.md says what the code reads."""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from pathlib import Path

import pytest

from fedfleet.env import variable

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text()
_SPEC = importlib.util.spec_from_file_location(
    "write_configuration", ROOT / "docs" / "write_configuration.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
writer = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(writer)


def test_configuration_page_is_what_make_docs_writes() -> None:
    assert writer.render(PAGE) == PAGE, "stale: run `make docs`"


def test_configuration_page_has_every_table_once() -> None:
    assert sorted(writer.marks(PAGE)) == sorted(name for name, _ in writer.tables())


@pytest.mark.parametrize(("name", "table"), list(writer.tables()))
def test_configuration_table_gives_every_row_a_meaning(name: str, table: object) -> None:
    assert callable(table)
    for row in str(table()).splitlines()[2:]:
        assert not row.endswith("|  |"), f"{name}: no meaning: {row}"


@pytest.mark.parametrize("service", list(writer.SERVICES))
def test_configuration_table_names_every_variable_of_a_service(service: str) -> None:
    table = dict(writer.tables())[service]()

    for item in fields(writer.SERVICES[service]):
        assert f"| `{variable(item)}` |" in table
