"""The wire contract: what was released stays as it is, and names follow the house style.

``proto_contract.json`` holds every field, enum value and call. To extend the contract, edit the
.proto files, run ``make proto``, then ``python tests/unit/test_proto_contract.py``, which adds what
is new to the JSON file and refuses when something that is in it would change.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)

from fedfleet.codecs.config import CODECS
from fedfleet.rounds.actions import Work
from fedfleet.store.protocols import RunState
from fedfleet.types import Kind
from fedfleet.v1 import control_service_pb2, federation_service_pb2, types_pb2

ROOT = Path(__file__).parents[2]
SNAPSHOT = Path(__file__).with_name("proto_contract.json")
PROTOS = sorted((ROOT / "proto").rglob("*.proto"))

Contract = dict[str, dict[str, dict[str, Any]]]


def files() -> list[FileDescriptorProto]:
    """The descriptor of every .proto file, from its stub."""
    found = []
    for path in PROTOS:
        stub = path.relative_to(ROOT / "proto").with_suffix("")
        module = importlib.import_module(".".join(stub.parts) + "_pb2")
        descriptor = FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(descriptor)
        found.append(descriptor)
    return found


def messages() -> dict[str, DescriptorProto]:
    """Every message by its full name, nested ones (and the entries of maps) too."""
    found: dict[str, DescriptorProto] = {}

    def visit(message: DescriptorProto, outer: str) -> None:
        name = f"{outer}.{message.name}"
        found[name] = message
        for inner in message.nested_type:
            visit(inner, name)

    for file in files():
        for message in file.message_type:
            visit(message, file.package)
    return found


def enums() -> dict[str, EnumDescriptorProto]:
    """Every enum by its full name."""
    found = {f"{file.package}.{e.name}": e for file in files() for e in file.enum_type}
    for name, message in messages().items():
        found |= {f"{name}.{e.name}": e for e in message.enum_type}
    return found


def contract() -> Contract:
    """What the stubs say now."""
    return {
        "messages": {
            name: {str(field.number): describe(field, message) for field in message.field}
            for name, message in messages().items()
        },
        "enums": {
            name: {str(value.number): value.name for value in enum.value}
            for name, enum in enums().items()
        },
        "services": {
            f"{file.package}.{service.name}": {
                rpc.name: (
                    f"{'stream ' * rpc.client_streaming}{rpc.input_type} -> "
                    f"{'stream ' * rpc.server_streaming}{rpc.output_type}"
                )
                for rpc in service.method
            }
            for file in files()
            for service in file.service
        },
    }


def describe(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """Name, type, and what else the bytes or the readers depend on."""
    kind = field.type_name or FieldDescriptorProto.Type.Name(field.type)[5:].lower()
    words = [field.name, kind]
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        words.append("repeated")
    if field.proto3_optional:
        words.append("optional")
    elif field.HasField("oneof_index"):
        words.append(f"oneof {message.oneof_decl[field.oneof_index].name}")
    return " ".join(words)


def rows(one: Contract) -> dict[str, str]:
    """Flat: what is described, and how."""
    return {
        f"{part} {name} {key}": value
        for part, things in one.items()
        for name, entries in things.items()
        for key, value in {"exists": "yes", **entries}.items()
    }


def changes(released: Contract, now: Contract) -> list[str]:
    current = rows(now)
    return [
        f"{key}: was {value!r}, is {current.get(key, 'gone')!r}"
        for key, value in rows(released).items()
        if current.get(key) != value
    ]


def released() -> Contract:
    found: Contract = json.loads(SNAPSHOT.read_text())
    return found


# Compatibility


def test_nothing_that_was_released_has_changed() -> None:
    assert changes(released(), contract()) == []


def test_snapshot_holds_everything() -> None:
    new = sorted(rows(contract()).keys() - rows(released()).keys())

    assert new == [], "run: python tests/unit/test_proto_contract.py"


def test_a_change_would_be_noticed() -> None:
    now = contract()
    messages_then = {**now["messages"], ".Gone": {"1": "x uint64"}}
    messages_then["fedfleet.v1.Chunk"] = {
        **now["messages"]["fedfleet.v1.Chunk"],
        "3": "crc32 fixed32",
    }

    assert changes({**now, "messages": messages_then}, now) == [
        "messages fedfleet.v1.Chunk 3: was 'crc32 fixed32', is 'crc32 uint32'",
        "messages .Gone exists: was 'yes', is 'gone'",
        "messages .Gone 1: was 'x uint64', is 'gone'",
    ]


# Names (buf's STANDARD rules)


def test_package_is_the_directory_with_a_version() -> None:
    assert PROTOS
    for file, path in zip(files(), PROTOS, strict=True):
        assert file.name == path.relative_to(ROOT / "proto").as_posix()
        assert file.package == "fedfleet.v1" == ".".join(Path(file.name).parts[:-1])
        assert file.syntax == "proto3"


def test_each_service_has_a_file_of_its_name() -> None:
    for file in files():
        stem = Path(file.name).stem
        names = [service.name for service in file.service]
        expected = ["".join(word.title() for word in stem.split("_"))]
        assert names == (expected if stem.endswith("_service") else [])


def test_each_call_has_its_own_request_and_response() -> None:
    used = []
    for file in files():
        for service in file.service:
            for rpc in service.method:
                assert rpc.input_type == f".fedfleet.v1.{rpc.name}Request"
                assert rpc.output_type == f".fedfleet.v1.{rpc.name}Response"
                used += [rpc.input_type, rpc.output_type]
    assert len(set(used)) == len(used)


def test_enum_values_carry_the_enums_name_and_zero_is_unspecified() -> None:
    for enum in enums().values():
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper()
        assert (enum.value[0].number, enum.value[0].name) == (0, f"{prefix}_UNSPECIFIED")
        assert all(value.name.startswith(f"{prefix}_") for value in enum.value)


def test_names_have_the_usual_shapes() -> None:
    for name, message in messages().items():
        assert re.fullmatch(r"([A-Z][a-z0-9]*)+", message.name), name
        for field in message.field:
            assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", field.name), (name, field.name)


def test_a_worker_is_called_a_worker() -> None:
    words = {word for row in rows(contract()).values() for word in re.split(r"\W|_", row.lower())}
    assert not words & {"client", "node", "peer", "site"}


# Enums that have a twin in the code


def names_of(values: list[str], prefix: str) -> list[str]:
    return [name.removeprefix(prefix).lower() for name in values[1:]]


def test_section_kinds_are_the_kinds_of_state() -> None:
    found = names_of(types_pb2.SectionKind.keys(), "SECTION_KIND_")
    assert found == [kind.value for kind in Kind]


def test_codec_kinds_are_the_codecs() -> None:
    assert sorted(names_of(types_pb2.CodecKind.keys(), "CODEC_KIND_")) == sorted(CODECS)


def test_run_states_are_those_of_the_journal() -> None:
    found = names_of(control_service_pb2.RunState.keys(), "RUN_STATE_")
    assert found == [state.value for state in RunState]


def test_assignment_kinds_are_the_kinds_of_work() -> None:
    found = names_of(federation_service_pb2.AssignmentKind.keys(), "ASSIGNMENT_KIND_")
    assert found == [work.value for work in Work]


def extend() -> None:
    """Write the snapshot, unless that would change what was released."""
    if SNAPSHOT.exists() and (wrong := changes(released(), contract())):
        sys.exit("not written, the contract would change:\n" + "\n".join(wrong))
    SNAPSHOT.write_text(json.dumps(contract(), indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    extend()
