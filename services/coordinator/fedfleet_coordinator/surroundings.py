"""What every run of this process shares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedfleet.rpc.supervisor import Supervisor
from fedfleet.store.protocols import Store, VersionRecord
from fedfleet_coordinator.audit_trail import Trail
from fedfleet_coordinator.executors import Executors
from fedfleet_coordinator.fleet import Fleet
from fedfleet_coordinator.holds import Holds
from fedfleet_coordinator.metrics import CoordinatorMetrics
from fedfleet_coordinator.retention import Retention
from fedfleet_coordinator.traffic import Traffic


@dataclass(frozen=True)
class Surroundings:
    """Handed down, never global.

    Args:
        changed: called after each journal entry, for those who watch runs.
        trail: the audit log.
        holds: bytes that no retirement may take; whoever deletes bytes asks here.
        retention: of old versions' bytes.
        sign: a version's record with its signature; None where nothing is signed.
    """

    store: Store
    fleet: Fleet
    executors: Executors
    metrics: CoordinatorMetrics
    traffic: Traffic
    supervisor: Supervisor
    changed: Callable[[], None]
    trail: Trail
    holds: Holds
    retention: Retention
    sign: Callable[[VersionRecord], VersionRecord] | None = None
