"""Small real values that several test folders build on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedfleet.types import (
    Array,
    Kind,
    ModelState,
    ParamSpec,
    Schema,
    Section,
    Update,
    UpdateHeader,
)

# A layer, its batch normalisation with running statistics, and a scalar counter.
SCHEMA = Schema(
    (
        ParamSpec("dense.weight", (3, 2), Kind.TRAINABLE),
        ParamSpec("norm.running_mean", (3,), Kind.STATISTIC),
        ParamSpec("norm.running_var", (3,), Kind.STATISTIC),
        ParamSpec("norm.num_batches_tracked", (), Kind.COUNTER),
        ParamSpec("dense.bias", (3,), Kind.TRAINABLE),
    )
)
BASE_DIGEST = "ab" * 32


def state(schema: Schema = SCHEMA, seed: int = 0) -> ModelState:
    """A state of random values."""
    random = np.random.default_rng(seed)
    return ModelState(
        schema,
        random.normal(size=schema.elements(Kind.TRAINABLE)).astype(np.float32),
        random.uniform(0.1, 2.0, schema.elements(Kind.STATISTIC)).astype(np.float32),
        random.integers(0, 1000, schema.elements(Kind.COUNTER), np.int64),
    )


def header(schema: Schema = SCHEMA, *, worker_id: str = "w1", **changes: object) -> UpdateHeader:
    """A header that fits the schema."""
    values: dict[str, object] = {
        "run_id": "r-1",
        "round": 1,
        "assignment_id": f"r-1/1/1/train/{worker_id}",
        "worker_id": worker_id,
        "base_digest": BASE_DIGEST,
        "schema_digest": schema.digest,
        "weight": 10.0,
        "steps": 4,
        "lr_sum": 0.4,
    }
    return UpdateHeader(**(values | changes))  # type: ignore[arg-type]  # a table of the fields


def sections(
    schema: Schema = SCHEMA, values: Mapping[Kind, Array] | None = None
) -> tuple[Section, ...]:
    """The built-in sections, zero where no values are given."""
    given = values or {}
    return tuple(
        Section(kind.value, kind, given.get(kind, np.zeros(schema.elements(kind), kind.dtype)))
        for kind in Kind
    )


def update(
    schema: Schema = SCHEMA,
    *,
    trainable: object = None,
    statistics: object = None,
    counters: object = None,
    **changes: object,
) -> Update:
    """An update of the built-in sections."""
    given = {Kind.TRAINABLE: trainable, Kind.STATISTIC: statistics, Kind.COUNTER: counters}
    arrays = {k: np.asarray(v, k.dtype) for k, v in given.items() if v is not None}
    return Update(header(schema, **changes), sections(schema, arrays))  # type: ignore[arg-type]
