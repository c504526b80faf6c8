from __future__ import annotations

import re

import grpc
import pytest

from fedfleet import errors
from fedfleet.errors import FedFleetError, NotFound, all_errors, error_for_code

CLASSES = all_errors()


def documented_tree() -> dict[str, tuple[str | None, str]]:
    """Name -> (parent, code), read from the picture in the module's docstring."""
    tree: dict[str, tuple[str | None, str]] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.fullmatch(r"    ([ |`-]*)(\w+) +([A-Z_]+)", line)
        if match:
            depth = len(match[1]) // 3
            path = [*path[:depth], match[2]]
            tree[match[2]] = (path[-2] if depth else None, match[3])
    return tree


def test_errors_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    classes = {
        cls.__name__: (None if cls is FedFleetError else cls.__bases__[0].__name__, cls.code)
        for cls in CLASSES
    }

    assert documented_tree() == classes


def test_errors_module_holds_every_class() -> None:
    assert {cls.__module__ for cls in CLASSES} == {"fedfleet.errors"}


def test_error_codes_are_unique_and_are_the_class_names_in_capitals() -> None:
    codes = [cls.code for cls in CLASSES]

    assert len(set(codes)) == len(codes)
    for cls in CLASSES:
        words = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).upper()
        assert cls.code == ("INTERNAL" if cls is FedFleetError else words)


@pytest.mark.parametrize("cls", CLASSES)
def test_error_has_a_code_of_its_own_and_real_statuses(cls: type[FedFleetError]) -> None:
    assert "code" in vars(cls)
    assert isinstance(getattr(grpc.StatusCode, cls.status), grpc.StatusCode)
    assert cls.status != "OK"
    assert 400 <= cls.http <= 599
    assert cls.__doc__


@pytest.mark.parametrize("cls", CLASSES)
def test_error_is_found_by_its_code(cls: type[FedFleetError]) -> None:
    error = error_for_code(cls.code, "what is wrong")

    assert type(error) is cls
    assert error.message == str(error) == "what is wrong"
    assert error.detail == ""


def test_error_of_an_unknown_code_is_the_base_class() -> None:
    assert type(error_for_code("FROM_A_NEWER_RELEASE", "text")) is FedFleetError


def test_error_detail_is_not_part_of_the_text() -> None:
    error = NotFound("no run r-1", detail="SELECT * FROM runs")

    assert "SELECT" not in f"{error} {error!r} {error.args}"
    assert error.detail == "SELECT * FROM runs"


@pytest.mark.parametrize("cls", CLASSES)
def test_error_that_may_be_retried_is_not_the_callers_mistake(cls: type[FedFleetError]) -> None:
    if cls.retryable:
        assert cls.status in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "DATA_LOSS"}
    else:
        assert cls.status not in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS"}
