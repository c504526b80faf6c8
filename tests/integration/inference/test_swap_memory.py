"""Swapping for ever takes no more memory than swapping a few times."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
from serving import CARD, PIXELS, publish

from fedfleet.models.config import MlpOptions, ModelConfig
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.signature_check import SignatureCheck

STATUS = Path("/proc/self/status")
# 0.7 MB a version: what is kept of 195 of them would be seen.
LARGE = replace(CARD, model=ModelConfig(architecture="mlp", options=MlpOptions(hidden=(512, 256))))
SWAPS, EARLY = 200, 5
# More than are kept in memory, so that each swap is a load.
VERSIONS = 4


def resident_mb() -> float:
    gc.collect()
    (line,) = (x for x in STATUS.read_text().splitlines() if x.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="no /proc here to read the memory from")
def test_memory_after_200_swaps_is_that_after_5(store):
    for seed in range(VERSIONS):
        publish(store, seed, card=LARGE)
    # It also builds each version in torch, to hold the other one to it.
    config = InferenceConfig(threads=1, backend="onnx")
    service = InferenceService(config, store, SignatureCheck("none", ""))
    try:
        service.follower.poll()
        memory_mb = []
        for swap in range(SWAPS):
            number = 1 + swap % VERSIONS
            store.registry.set_alias("digits", "latest", number)
            service.follower.poll()
            servable = service.served()
            assert servable.record.number == number
            service.predictor.submit(servable, PIXELS[None]).result()
            if swap + 1 in (EARLY, SWAPS):
                memory_mb.append(resident_mb())
    finally:
        service.pinned.close()
        service.predictor.close()

    assert memory_mb[1] <= 1.1 * memory_mb[0]
