from __future__ import annotations

import time
from pathlib import Path

import pytest
from certificates import issued

from fedfleet.errors import SettingInvalid, StoreUnavailable
from fedfleet.identity.credentials import Credentials
from fedfleet_coordinator.config import CoordinatorConfig
from fedfleet_coordinator.trust import Renewed, open_trust


def test_tls_with_a_cluster_store_needs_a_folder_by_name(tmp_path: Path) -> None:
    store = "redis://127.0.0.1:1/0"
    with pytest.raises(SettingInvalid, match="FEDFLEET_CA_DIR"):
        open_trust(CoordinatorConfig(store=store, tls="on"))

    trust = open_trust(CoordinatorConfig(store=store, tls="on", ca_dir=tmp_path))
    assert trust.authority is not None
    assert trust.shown_to_strangers() is not None


def test_without_tls_versions_are_signed_and_nothing_is_issued(tmp_path: Path) -> None:
    trust = open_trust(CoordinatorConfig(store=f"sqlite:{tmp_path}"))

    assert trust.signer is not None
    assert trust.authority is trust.shown is trust.shown_to_strangers() is None
    assert open_trust(CoordinatorConfig(store="redis://127.0.0.1:1/0")).signer is None


def test_credentials_are_made_again_when_two_thirds_of_their_life_are_over(tmp_path: Path) -> None:
    lives = [
        issued(tmp_path, "a", life_s=300.0, ago_s=100.0),
        issued(tmp_path, "b", life_s=300.0, ago_s=210.0),
        issued(tmp_path, "c", life_s=300.0),
    ]
    made: list[Credentials] = []

    def make() -> Credentials:
        made.append(lives[len(made)])
        return made[-1]

    renewed = Renewed(make)
    assert renewed.current() is renewed.current() is lives[0]

    renewed = Renewed(make)  # over already
    assert renewed.current() is lives[2]
    assert renewed.current().identity.expires_at_s > time.time()


def test_credentials_that_cannot_be_made_again_stay(tmp_path: Path) -> None:
    old = issued(tmp_path, "a", life_s=300.0, ago_s=210.0)
    made = [old]
    renewed = Renewed(lambda: made.pop() if made else _fail())

    with pytest.raises(StoreUnavailable):
        renewed.current()
    made.append(issued(tmp_path, "a"))
    assert renewed.current() is not old


def _fail() -> Credentials:
    raise StoreUnavailable("away")
