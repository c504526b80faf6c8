"""Tags of simulated workers, from a file: what a device's owner sets as FEDFLEET_TAGS."""

from __future__ import annotations

import sys

from fedfleet.errors import SettingInvalid
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
