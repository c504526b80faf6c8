"""Which version a request gets, of a real service that is not started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from follower_bench import Bench
from serving import publish

from fedfleet.errors import NotFound
from fedfleet.store.open import open_store
from fedfleet.store.protocols import Store
from fedfleet_inference_api.asking import choose
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.follower import Follower
from fedfleet_inference_api.following import Following
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.signature_check import SignatureCheck


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with open_store(f"sqlite:{tmp_path}") as opened:
        yield opened


class Restless(Follower):
    """Another model is served each time that somebody looks."""

    moments: Iterator[Following]

    @property
    def following(self) -> Following:
        return next(self.moments)


async def test_choice_is_of_one_moment_even_while_another_model_takes_over(store):
    bench = Bench(store)
    moments = []
    for model in ("digits", "letters"):
        publish(store, 1, model=model)
        bench.serves()
        moments.append(bench.follower.following)
    config = InferenceConfig(signer="none", backend="torch", pinned_versions=0)
    service = InferenceService(config, store, SignatureCheck(config.signer, config.store))
    try:
        follower = service.follower
        vars(follower).pop("following")
        follower.__class__ = Restless
        for asked in ("digits", "letters"):
            follower.moments = iter(
                sorted(moments, key=lambda one: one.current.record.model != asked)
            )
            chosen = await choose(service, "7", model=asked)
            assert chosen.servable.record.model == asked
        follower.moments = iter(2 * moments)
        with pytest.raises(NotFound):
            await choose(service, "7", model="others")
    finally:
        follower.__class__ = Follower
        follower.following = moments[0]
        service.stop()
