"""Finds a recipe: a file, or by its bare name one of those that ship with the package."""

from __future__ import annotations

from pathlib import Path

import fedfleet
from fedfleet.errors import NotFound, RecipeInvalid
from fedfleet.rounds.recipe import MAX_RECIPE_BYTES, Recipe, parse_recipe

_PACKAGE = Path(fedfleet.__file__).parent
# In an installed wheel, and in a checkout.
FOLDERS = (_PACKAGE / "recipes", _PACKAGE.parent / "recipes")


def shipped(kind: str = "") -> dict[str, Path]:
    """The recipes that ship here, by name.

    Args:
        kind: a folder beside them, for what is no recipe: ``devices`` are fleets.
    """
    folder = next((folder for folder in FOLDERS if folder.is_dir()), None)
    return {path.stem: path for path in sorted((folder / kind).glob("*.toml"))} if folder else {}


def read_recipe(name: str) -> str:
    """The text of the recipe that an argument names.

    Raises:
        NotFound: neither a file nor a recipe that ships here.
        RecipeInvalid: larger than a recipe may be, or not UTF-8.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        raise NotFound(f"recipe {name!r}: is a folder; name the file in it")
    if not path.is_file():
        known = shipped()
        if name not in known:
            raise NotFound(
                f"recipe {name!r}: no such file, nor one that ships here: {', '.join(known)}"
            )
        path = known[name]
    try:
        with path.open("rb") as file:
            data = file.read(MAX_RECIPE_BYTES + 1)
        if len(data) > MAX_RECIPE_BYTES:
            raise RecipeInvalid(f"recipe {name!r}: larger than {MAX_RECIPE_BYTES} bytes")
        return data.decode()
    except OSError as error:
        raise NotFound(f"recipe {name!r}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeInvalid(f"recipe {name!r}: is not UTF-8 text") from error


def load_recipe(name: str) -> Recipe:
    """Read and validate; raises what ``read_recipe`` and ``parse_recipe`` raise."""
    return parse_recipe(read_recipe(name))
