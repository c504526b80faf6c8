"""Which coordinates of a wide model a narrower one holds.

HeteroFL (Diao et al. 2021, arXiv:2010.01264, section 3.1): the sub-model of a level is the first
channels of every layer, so the parameters of a narrow model are a part of those of a wide one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedfleet.errors import SchemaMismatch
from fedfleet.types import Kind, ModelState, Schema


@dataclass(frozen=True, eq=False)
class Slice:
    """A narrow model's place in a wide one.

    Args:
        places: per kind, for each element of the part's flat vector its position in the full one;
            int64, strictly increasing. Not to be mutated. Empty for all of the model.

    Raises:
        SchemaMismatch: the places are not what the schemas ask for.
    """

    full: Schema
    part: Schema
    places: Mapping[Kind, npt.NDArray[np.int64]]

    @classmethod
    def whole(cls, schema: Schema) -> Slice:
        """All of a model, which needs no places."""
        return cls(schema, schema, {})

    def __post_init__(self) -> None:
        if not self.places and self.part == self.full:
            return
        for kind in Kind:
            places, wide = self.places[kind], self.full.elements(kind)
            fits = places.shape == (self.part.elements(kind),) and places.dtype == np.int64
            if fits and places.size:
                fits = bool(0 <= places[0] <= places[-1] < wide and (np.diff(places) > 0).all())
            if not fits:
                raise SchemaMismatch(
                    f"the {kind.value} places of a slice must be {self.part.elements(kind)} "
                    f"increasing positions below {wide}"
                )

    def span(self, kind: Kind) -> slice | npt.NDArray[np.int64]:
        """The places of a kind, as an index; all of them without looking each up."""
        return self.places[kind] if self.places else slice(None)

    def cut(self, state: ModelState) -> ModelState:
        """The part of a full state; not copied where that is all of it.

        Raises:
            SchemaMismatch: the state is of another model.
        """
        if state.schema != self.full:
            raise SchemaMismatch(
                f"the state is of model schema {state.schema.digest[:12]}, "
                f"the slice is of {self.full.digest[:12]}"
            )
        return ModelState(
            self.part,
            state.trainable[self.span(Kind.TRAINABLE)],
            state.statistics[self.span(Kind.STATISTIC)],
            state.counters[self.span(Kind.COUNTER)],
        )
