"""A version as a folder of two files: its weights, which plain PyTorch loads, and its record."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedfleet.errors import AlreadyExists, InvalidInput, NotFound
from fedfleet.types import ALIAS_RULE, Schema, is_alias
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.wire.limits import (
    CHUNK_BYTES,
    MAX_IMPORT_BYTES,
    MAX_MESSAGE_BYTES,
    check_count,
    check_digest,
    check_model_name,
)
from fedfleet.wire.offers import check_size, check_weights, check_whole
from fedfleet.wire.strict_json import read_json, read_object, read_schema

WEIGHTS = "model.safetensors"
RECORD = "version.json"
FORMAT = "fedfleet.version/1"

# What a record's fields are, beside its schema.
_TYPES: Mapping[str, tuple[type, ...]] = {
    "model": (str,),
    "version": (int,),
    "digest": (str,),
    "size_bytes": (int,),
    "run_id": (str,),
    "round": (int,),
    "parent": (int, type(None)),
    "created_at_s": (float, int),
    "card": (dict,),
    "metrics": (dict,),
    "lineage": (dict,),
    "signature": (str,),
}


@dataclass(frozen=True, kw_only=True)
class ExportedVersion:
    """What the registry of its fleet says of a version.

    Args:
        fields: ``model``, ``version``, ``digest``, ``card`` and so on, as in ``version.json``.
    """

    fields: Mapping[str, Any]
    schema: Schema

    @property
    def digest(self) -> str:
        digest: str = self.fields["digest"]
        return digest

    @property
    def size_bytes(self) -> int:
        size_bytes: int = self.fields["size_bytes"]
        return size_bytes


def exported_from_message(header: pb.ExportHeader) -> ExportedVersion:
    """Read what a coordinator says of a version; raises as ``exported_from_json``."""
    version, most = header.version, MAX_MESSAGE_BYTES
    return exported_from_json(
        {
            "format": FORMAT,
            "model": version.model,
            "version": version.number,
            "digest": version.digest,
            "size_bytes": version.size_bytes,
            "run_id": version.run_id,
            "round": version.round,
            "parent": version.parent or None,
            "created_at_s": version.created_at_s,
            "card": read_object("card", version.card_json or "{}", most),
            "metrics": read_object("metrics", version.metrics_json or "{}", most),
            "lineage": read_object("lineage", version.lineage_json or "{}", most),
            "signature": version.signature,
            "schema": read_json("schema", header.schema_json, most),
        }
    )


def exported_from_json(value: Mapping[str, Any]) -> ExportedVersion:
    """Read a record, which anybody may have written.

    Raises:
        InvalidInput, LimitExceeded: it is none of ours.
    """
    if value.get("format") != FORMAT:
        raise InvalidInput(f"{RECORD}: format is {value.get('format')!r:.80}, must be {FORMAT!r}")
    for name, types in _TYPES.items():
        if name not in value or type(value[name]) not in types:
            raise InvalidInput(f"{RECORD}: {name} is missing, or of another type")
    schema = read_schema(value.get("schema"))
    check_digest(value["digest"])
    check_count("bytes", value["size_bytes"], MAX_IMPORT_BYTES)
    check_size(schema, value["size_bytes"])
    return ExportedVersion(fields={name: value[name] for name in _TYPES}, schema=schema)


def write_folder(folder: Path, exported: ExportedVersion, pieces: Iterable[bytes]) -> None:
    """Write both files; the folder appears whole, or not at all.

    Raises:
        AlreadyExists: there is something at this path that is no empty folder.
        ChecksumMismatch, SchemaMismatch, InvalidInput: the bytes are not those of the record.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise AlreadyExists(f"{folder}: is there already; name a folder that is not")
    folder.parent.mkdir(parents=True, exist_ok=True)
    coming = folder.with_name(f".{folder.name}.{os.getpid()}")
    coming.mkdir()
    try:
        with (coming / WEIGHTS).open("wb") as file:
            left = exported.size_bytes
            for piece in pieces:
                left -= len(piece)
                if left < 0:
                    raise InvalidInput(f"more than the announced {exported.size_bytes} bytes")
                file.write(piece)
        _check_bytes(coming / WEIGHTS, exported)
        document = {"format": FORMAT, **exported.fields, "schema": exported.schema.to_json()}
        text = json.dumps(document, indent=2, allow_nan=False)
        (coming / RECORD).write_text(text + "\n")
        coming.replace(folder)  # over an empty one too
    finally:
        shutil.rmtree(coming, ignore_errors=True)


def read_folder(folder: Path) -> ExportedVersion:
    """Read a folder that ``write_folder`` has written, and check all of it.

    Raises:
        NotFound: a file is missing.
        InvalidInput, LimitExceeded, ChecksumMismatch, SchemaMismatch: it is damaged, too large, or
            none of ours.
    """
    for name in (RECORD, WEIGHTS):
        if not (folder / name).is_file():
            raise NotFound(f"{folder / name}: there is no such file; name an exported folder")
    check_count(f"bytes of {RECORD}", (folder / RECORD).stat().st_size, MAX_MESSAGE_BYTES)
    text = (folder / RECORD).read_bytes()
    exported = exported_from_json(read_object(RECORD, text, MAX_MESSAGE_BYTES))
    _check_bytes(folder / WEIGHTS, exported)
    return exported


def read_pieces(folder: Path) -> Iterator[bytes]:
    """Yield the weights in pieces that fit into a message."""
    with (folder / WEIGHTS).open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece


def import_header(exported: ExportedVersion, model: str, aliases: Iterable[str]) -> pb.ImportHeader:
    """What a coordinator is told of a version that comes from a folder.

    Raises:
        InvalidInput: the model's name, or an alias, is none.
    """
    names = list(aliases)
    for name in names:
        if not is_alias(name):
            raise InvalidInput(f"alias {name[:80]!r}: must be {ALIAS_RULE}")
    fields = exported.fields
    lineage = dict(fields["lineage"])
    kept = ("model", "version", "run_id", "round", "parent", "created_at_s", "signature")
    came_from = {name: fields[name] for name in kept}
    if "imported" in lineage:  # more than once
        came_from["imported"] = lineage["imported"]
    return pb.ImportHeader(
        model=check_model_name(model),
        digest=exported.digest,
        size_bytes=exported.size_bytes,
        schema_json=json.dumps(exported.schema.to_json()),
        card_json=json.dumps(fields["card"]),
        metrics_json=json.dumps(fields["metrics"]),
        lineage_json=json.dumps({**lineage, "imported": came_from}),
        aliases=names,
    )


def _check_bytes(path: Path, exported: ExportedVersion) -> None:
    size_bytes = path.stat().st_size
    if size_bytes != exported.size_bytes:
        raise InvalidInput(f"{path.name} has {size_bytes} bytes, not {exported.size_bytes}")
    data = path.read_bytes()
    check_whole(exported.digest, hashlib.sha256(data).hexdigest())
    check_weights(exported.schema, data)
