from __future__ import annotations

import pytest
from quadratics import SCALAR

from fedfleet.algorithms.base import Algorithm
from fedfleet.algorithms.catalog import CATALOG, AlgorithmConfig, make_algorithm
from fedfleet.algorithms.fedprox import FedProxOptions


@pytest.mark.parametrize("name", CATALOG)
def test_make_algorithm_makes_both_halves(name: str) -> None:
    options = FedProxOptions(mu=0.1) if name == "fedprox" else CATALOG[name][0]()

    algorithm = make_algorithm(AlgorithmConfig(name=name, options=options))

    assert isinstance(algorithm, Algorithm)
    assert {section.name for section in algorithm.broadcast(SCALAR, algorithm.start(SCALAR))} <= {
        *algorithm.sections
    }


@pytest.mark.parametrize("name", CATALOG)
def test_every_constructor_takes_only_options_that_it_has(name: str) -> None:
    """A setting that would be ignored is an error: no options class says more than is used."""
    with pytest.raises(TypeError, match="nonsense"):
        CATALOG[name][0](nonsense=1)
