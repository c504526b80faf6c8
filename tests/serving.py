"""Real versions in a real store, and the inference service in a thread of this process."""

from __future__ import annotations

import asyncio
import io
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpx
import numpy as np
from PIL import Image

from fedfleet.identity.tokens import NewSecret, new_key
from fedfleet.models.card import ModelCard
from fedfleet.models.config import MlpOptions, ModelConfig
from fedfleet.store.access import KeyRecord
from fedfleet.store.protocols import (
    Entry,
    RoundCommit,
    RunRecord,
    RunState,
    Store,
    VersionRecord,
)
from fedfleet.training.state import initial_state
from fedfleet.types import InputSpec, ModelState
from fedfleet.wire.weights import encode_state
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.door import listen
from fedfleet_inference_api.server import HttpServer
from fedfleet_inference_api.service import InferenceService
from fedfleet_inference_api.signature_check import SignatureCheck
from fedfleet_inference_api.tls import certificate_of

PATIENCE_S = 30.0
DIGITS = tuple(f"digit {number}" for number in range(10))
CARD = ModelCard(
    model=ModelConfig(architecture="mlp", options=MlpOptions(hidden=(16,))),
    inputs=InputSpec(channels=1, height=8, width=8, mean=(0.3,), std=(0.4,)),
    classes=DIGITS,
)
PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


def png(pixels: np.ndarray = PIXELS) -> bytes:
    """A PNG of uint8 pixels, shape (H, W) or (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def publish(
    store: Store,
    seed: int,
    *,
    model: str = "digits",
    card: ModelCard = CARD,
    state: ModelState | None = None,
    data: bytes | None = None,
    aliases: tuple[str, ...] = ("latest",),
    metrics: Mapping[str, object] | None = None,
    lineage: Mapping[str, object] | None = None,
    sign: Callable[[VersionRecord], VersionRecord] = lambda version: version,
) -> VersionRecord:
    """Commit the next version: random weights of a seed, or a given state, or any bytes."""
    state = state or initial_state(card, seed)
    data = encode_state(state) if data is None else data
    run_id = f"run-{model}"
    known = store.registry.versions(model)
    number = len(known) + 1
    at_s = time.time()
    if not known:
        run = RunRecord(
            run_id=run_id,
            model=model,
            recipe="",
            state=RunState.RUNNING,
            rounds=1000,
            created_at_s=at_s,
            updated_at_s=at_s,
        )
        store.journal.create_run(run, entry(run_id, 0, "submitted"))
    version = VersionRecord(
        model=model,
        number=number,
        digest=store.blobs.put(data),
        size_bytes=len(data),
        schema=state.schema,
        run_id=run_id,
        round=number,
        parent=number - 1 or None,
        created_at_s=at_s,
        card=card.to_json(),
        metrics={"accuracy": 0.5} if metrics is None else metrics,
        lineage=lineage or {},
    )
    return store.commit_round(
        RoundCommit(
            run_id=run_id,
            round=number,
            version=sign(version),
            memory_digest="",
            aliases=aliases,
            entry=entry(run_id, number, "committed"),
        )
    )


def add_key(store: Store, *scopes: str) -> NewSecret:
    """A key for the REST interface, as the coordinator makes one."""
    made = new_key()
    store.access.add_key(
        KeyRecord(
            key_id=made.id,
            secret_hash=made.secret_hash,
            name="test",
            scopes=scopes,
            created_at_s=time.time(),
        )
    )
    return made


def entry(run_id: str, round: int, kind: str) -> Entry:
    return Entry(run_id=run_id, round=round, at_s=time.time(), kind=kind, fields={})


@contextmanager
def serving(store: Store, /, **settings: object) -> Iterator[tuple[InferenceService, httpx.Client]]:
    """Run the service on a free loopback port; yields it and a client that is bound to it.

    The client trusts the certificate of the settings, where they name one, and no other.
    """
    values: dict[str, object] = {"registry_poll_s": 0.01, "threads": 1, "grace_s": 5.0}
    values["backend"] = "torch"  # bit for bit what the training side computes, and quick to load
    if "store" not in settings:  # no test of signatures, so ``publish`` has signed nothing
        values["signer"] = "none"
    config = InferenceConfig(**(values | settings))  # type: ignore[arg-type]  # a table of fields
    service = InferenceService(config, store, SignatureCheck(config.signer, config.store))
    certificate = certificate_of(config)
    server = HttpServer(service, certificate)
    trusted: bool | ssl.SSLContext = True
    if certificate is not None:
        trusted = ssl.create_default_context(cafile=str(config.inference_certificate))
    with listen("127.0.0.1", 0) as listener:
        scheme = "https" if certificate else "http"
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            with httpx.Client(
                base_url=url, timeout=PATIENCE_S, trust_env=False, verify=trusted
            ) as client:
                yield service, client
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once something holds that another thread brings about without an event."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come about in time"
        threading.Event().wait(0.005)


def wait_served(service: InferenceService, version: VersionRecord) -> None:
    """Return once a version is served."""

    def is_served() -> bool:
        current = service.follower.following.current
        return current is not None and current.record == version

    wait_until(is_served)
