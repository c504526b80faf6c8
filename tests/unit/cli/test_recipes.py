from __future__ import annotations

from pathlib import Path

import pytest

from fedfleet.cli.recipes import load_recipe, read_recipe, shipped
from fedfleet.errors import NotFound, RecipeInvalid


@pytest.mark.parametrize("name", sorted(shipped()))
def test_shipped_recipe_is_valid(name: str) -> None:
    assert load_recipe(name).source == shipped()[name].read_text()


def test_shipped_recipes_are_those_of_the_repository() -> None:
    assert {"digits", "cifar10-cnn", "cifar10-mobilenet"} <= set(shipped())


def test_read_recipe_takes_a_path(tiny: Path) -> None:
    assert read_recipe(str(tiny)) == tiny.read_text()


def test_read_recipe_names_what_there_is() -> None:
    with pytest.raises(NotFound, match=r"here: cifar10-cnn, cifar10-mobilenet, .*digits"):
        read_recipe("digit")


@pytest.mark.parametrize("data", [b"\xff\xfe", b"#" * (64 * 1024 + 1)], ids=["latin", "large"])
def test_read_recipe_refuses_what_is_none(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "odd.toml"
    path.write_bytes(data)

    with pytest.raises(RecipeInvalid):
        read_recipe(str(path))


def test_read_recipe_says_that_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_recipe(str(tmp_path))
