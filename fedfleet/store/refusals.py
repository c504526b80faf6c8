"""Why the registry refuses, in the same words in every store."""

from __future__ import annotations

from fedfleet.errors import Conflict, NotFound
from fedfleet.store.protocols import VersionRecord


def no_version(model: str, number: int) -> NotFound:
    """There is no such version."""
    return NotFound(f"model {model!r} has no version {number}")


def no_blob(digest: str, before: str) -> NotFound:
    """Bytes are missing that have to be stored before what names them."""
    return NotFound(f"there is no blob {digest!r}: store it before the {before}")


def not_next(version: VersionRecord, newest: int) -> Conflict:
    """Numbers have no gaps."""
    return Conflict(
        f"version {version.number} of model {version.model!r} cannot be committed: "
        f"the newest is {newest}"
    )


def alias_moved(model: str, alias: str, revision: int, expected: int | None) -> Conflict:
    """The alias is at another revision than expected."""
    state = "somebody else has set it" if revision else "it does not exist yet"
    return Conflict(
        f"alias {alias!r} of model {model!r} is at revision {revision}, not {expected}: "
        f"{state}, look again"
    )


def is_retired(model: str, number: int) -> Conflict:
    """No alias may name what has no bytes."""
    return Conflict(
        f"version {number} of model {model!r} is retired: its bytes are no longer kept, "
        "choose another version"
    )


def is_needed(model: str, number: int, why: str) -> Conflict:
    """The bytes of a version have to stay."""
    return Conflict(f"version {number} of model {model!r} cannot be retired: {why}")
