"""What a message may be, enforced before memory is allocated; the proto says the same."""

from __future__ import annotations

import re

from fedfleet.errors import InvalidInput, LimitExceeded
from fedfleet.types import NAME_RULE, is_name

CHUNK_BYTES = 1 << 20
# A chunk and its envelope, or a recipe, or a run with all its rounds' metrics.
MAX_MESSAGE_BYTES = 16 << 20
# Of what a server is sent: a chunk and its envelope (1.1 MiB); an evaluation of MAX_CLASSES
# (0.9 MiB for up to two million examples); the statistics of a model, 400 KB for the largest that
# is built in (mobilenet_v3_small, eight times as wide), and of its levels (1 MiB). In memory it may
# take 35 times as much.
MAX_REQUEST_BYTES = 2 << 20
# Of what somebody without a certificate sends: a token and two PEM texts.
MAX_STRANGER_BYTES = 64 << 10
MAX_PAYLOAD_BYTES = 16 << 30
MAX_ELEMENTS = 1 << 31
MAX_SECTIONS = 64
MAX_METRICS = 1024
MAX_NAME = 64
# What a worker says of its machine, its system and its software, each.
MAX_DEVICE_TEXT = 256
MAX_REASON = 1024
MAX_TAGS = 32
MAX_HELD = 64
MAX_DELTAS = 64
# Widths of a run's model, the whole one included; values of all narrower ones' statistics together.
MAX_LEVELS = 16
MAX_LEVEL_STATISTICS = 1 << 18
# Of a report of statistics beside their values: ids, names, lengths, and its envelope.
REPORT_ENVELOPE_BYTES = 4 << 10
MAX_CLASSES = 100_000
MAX_ROUND_DIGITS = 7
# Of a version that is imported: its bytes, which are checked in memory, its tensors, and each of
# its texts in JSON; together with the others they have to fit into one request.
MAX_IMPORT_BYTES = 1 << 30
MAX_TENSORS = 1 << 14
MAX_TENSOR_NAME = 512
MAX_DIMENSIONS = 16
MAX_JSON = 1 << 20
MAX_ALIASES = 16
# A transfer fails when bytes stop moving for this long, however long it takes in all.
STALL_S = 60.0

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MODEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check_worker_id(worker_id: str) -> str:
    """Raises InvalidInput: not 1 to 64 characters of A-Z a-z 0-9 . _ -."""
    if not is_name(worker_id):
        raise InvalidInput(f"worker id {worker_id[:80]!r}: must be {NAME_RULE}")
    return worker_id


def check_digest(digest: str) -> str:
    """Raises InvalidInput: not a SHA-256 in lower-case hex."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidInput(f"digest {digest[:80]!r}: must be 64 lower-case hexadecimal digits")
    return digest


def check_model_name(name: str) -> str:
    """Raises InvalidInput: no recipe could have this name."""
    if not _MODEL.fullmatch(name):
        raise InvalidInput(
            f"model {name[:80]!r}: must be 1 to 64 of a-z 0-9 . _ - and begin with a letter or "
            "digit"
        )
    return name


def check_count(what: str, count: int, most: int) -> None:
    """Raises LimitExceeded."""
    if count > most:
        raise LimitExceeded(f"{count} {what}: at most {most} are allowed")
