"""What the scripts that store a version are given, and the text that is kept of it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from fedfleet.store.protocols import VersionRecord
from fedfleet.store.records import schema_to_text
from fedfleet.store.redis_connection import Argument
from fedfleet.store.redis_keys import Keys

VERSION_KEYS = "ids versions aliases models schemas events blob refs"
VERSION_ARGS = "model number version version_run digest needed_by schema_digest schema event"


def version_keys(keys: Keys, version: VersionRecord) -> list[str]:
    """Those of ``VERSION_KEYS``."""
    return [
        keys.ids,
        keys.versions(version.model),
        keys.aliases(version.model),
        keys.models,
        keys.schemas,
        keys.events,
        keys.blob(version.digest),
        keys.refs(version.digest),
    ]


def version_arguments(version: VersionRecord) -> list[Argument]:
    """Those of ``VERSION_ARGS``."""
    return [
        version.model,
        version.number,
        version_text(version),
        version.run_id,
        version.digest,
        named(version),
        version.schema.digest,
        schema_to_text(version.schema),
        event_text("version", version.model, version.number),
    ]


def alias_arguments(version: VersionRecord, aliases: Sequence[str]) -> list[Argument]:
    """Name and event of each alias, for the loop over ARGV from ``more_args`` on."""
    return [
        argument
        for alias in aliases
        for argument in (alias, event_text("alias", version.model, version.number, alias))
    ]


def named(version: VersionRecord) -> str:
    """The version in words: what ``refs`` of its blob says that needs it."""
    return f"version {version.number} of model {version.model}"


def version_text(version: VersionRecord) -> str:
    """What the registry keeps of a version, beside its model, its number and its schema."""
    apart = {"model", "number", "schema", "retired_at_s"}
    fields = {name: value for name, value in vars(version).items() if name not in apart}
    fields["schema_digest"] = version.schema.digest
    return json.dumps(fields, separators=(",", ":"))


def event_text(kind: str, model: str, number: int, alias: str = "") -> str:
    """What the registry keeps of an event, beside its id."""
    fields = {"kind": kind, "model": model, "number": number, "alias": alias, "at_s": time.time()}
    return json.dumps(fields, separators=(",", ":"))
