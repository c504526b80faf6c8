"""Tags of simulated workers, from a file: what a device's owner sets as FEDFLEET_TAGS."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping

from fedfleet.algorithms.catalog import make_algorithm
from fedfleet.errors import RecipeInvalid, SettingInvalid
from fedfleet.rounds.recipe import Recipe
from fedfleet.tables import printable, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def parse_tags(text: str) -> dict[str, tuple[str, ...]]:
    """Read a TOML file of lists of texts by worker, ``worker-0 = ["pi"]``.

    Raises:
        SettingInvalid: naming the worker, its value and what is allowed.
    """
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingInvalid(f"tags: not TOML: {printable(str(error))}") from error
    for worker_id, tags in found.items():
        is_list = isinstance(tags, list)
        if not is_list or not all(isinstance(tag, str) and tag for tag in tags):
            raise SettingInvalid(
                f"tags: {printable(worker_id)} = {shown(tags)}: must be a list of names"
            )
    return {worker_id: tuple(tags) for worker_id, tags in found.items()}


def fleet_of(recipe: Recipe, tags: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """Who takes part in a simulation.

    Args:
        tags: what each worker carries; who is not named carries none.

    Raises:
        SettingInvalid: tags that no round looks at, or of a worker that there is not.
        RecipeInvalid: too few workers carry a tag that the recipe names.
    """
    rounds = recipe.rounds
    names = [f"worker-{i}" for i in range(recipe.data.workers or rounds.cohort)]
    if tags and not rounds.tags:
        raise SettingInvalid("tags: the recipe has no rounds.tags; set them, or leave tags out")
    for name in sorted(tags.keys() - set(names)):
        raise SettingInvalid(
            f"tags: {printable(name)}: not in the fleet, which is {names[0]} to {names[-1]}"
        )
    fleet = tuple(name for name in names if rounds.admits(tags.get(name, ())))
    waits = make_algorithm(recipe.algorithm).asynchrony is None
    needed = rounds.needed if waits else 1  # all updates of a version may be of one
    if len(fleet) < needed:
        raise RecipeInvalid(
            f"rounds.tags = {', '.join(rounds.tags)}: of the {len(names)} simulated workers "
            f"{len(fleet)} carry one of them, a round needs {needed}; leave rounds.tags out "
            "to simulate the recipe with all of them"
        )
    return fleet
