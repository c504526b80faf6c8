"""Puts the coordinator together, runs it, and takes it down in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from fedfleet.obs.ops_server import OpsServer
from fedfleet.rpc.access import AccessInterceptor, Door
from fedfleet.rpc.exposure import check_exposure
from fedfleet.rpc.gate import Gate
from fedfleet.rpc.patience import within
from fedfleet.rpc.retry import backoff_s
from fedfleet.rpc.server import RpcServer
from fedfleet.rpc.supervisor import Supervisor
from fedfleet.store.protocols import Store
from fedfleet.v1 import control_service_pb2_grpc as control_grpc
from fedfleet.v1 import enrollment_service_pb2_grpc as enrollment_grpc
from fedfleet.v1 import federation_service_pb2_grpc as federation_grpc
from fedfleet_coordinator.audit_trail import Trail
from fedfleet_coordinator.config import DAY_S, CoordinatorConfig
from fedfleet_coordinator.control import Bell, ControlServicer
from fedfleet_coordinator.descriptors import connection_limit
from fedfleet_coordinator.driver import STORE_FAULTS
from fedfleet_coordinator.enrollment import EnrollmentServicer
from fedfleet_coordinator.executors import Executors
from fedfleet_coordinator.federation import FederationServicer
from fedfleet_coordinator.fleet import Fleet
from fedfleet_coordinator.holds import Holds
from fedfleet_coordinator.importing import forget_cut_imports
from fedfleet_coordinator.issuing import Issuing, Terms
from fedfleet_coordinator.metrics import CoordinatorMetrics
from fedfleet_coordinator.ownership import Ownership
from fedfleet_coordinator.retention import Retention
from fedfleet_coordinator.runs import RunQueue
from fedfleet_coordinator.signing import VersionSigner
from fedfleet_coordinator.surroundings import Surroundings
from fedfleet_coordinator.traffic import Traffic
from fedfleet_coordinator.trust import Trust, open_trust
from fedfleet_coordinator.upkeep import Upkeep

logger = logging.getLogger(__name__)

T = TypeVar("T")

ENROLLMENT = "fedfleet.v1.EnrollmentService"
SERVICES = ("fedfleet.v1.FederationService", ENROLLMENT, "fedfleet.v1.ControlService")
# Strangers come one by one, and do not stay.
ENROLLING = 256
ENROLLING_STALL_S = 20.0


class Coordinator:
    """One coordinator process. ``port`` and ``enroll_port`` are known after ``start``."""

    def __init__(self, config: CoordinatorConfig, store: Store) -> None:
        self._config = config
        self._store = store
        self._ownership = Ownership(store, config.lease_s, waits=config.standby)
        self._metrics = CoordinatorMetrics()
        self._executors = Executors()
        self._fleet = Fleet(self._metrics)
        self._supervisor = Supervisor()
        self._servers: list[RpcServer] = []
        self._gate = Gate()
        self._bell = Bell()
        self._ops = OpsServer(
            config.ops_host, config.ops_port, self._readiness, self._metrics.registry
        )
        self._state = "starting"
        self._given_up = asyncio.Event()
        self.port = 0
        self.enroll_port = 0

    @property
    def fleet(self) -> Fleet:
        """The workers, connected and known."""
        return self._fleet

    def _readiness(self) -> tuple[bool, str]:
        return self._state == "serving", self._state

    async def start(self) -> None:
        """Own the store, recover, then listen: no worker is answered before its assignments are
        known again.

        Raises:
            InsecureAddress, AddressInUse, SettingInvalid: it does not listen.
            StateInUse: another process owns the store; or ``give_up`` ended the wait for it.
            StoreFull, StoreUnavailable: the store cannot be claimed; or ``give_up`` ended the wait.
            LeaseLost: another process took the store over meanwhile.
            CertificateInvalid: its own certificates cannot be used.
        """
        config = self._config
        if not config.uses_tls:
            check_exposure(config.host, config.insecure, "the coordinator")
        check_exposure(config.ops_host, config.insecure, "the coordinator's ops port")
        self._ops.start()
        if config.standby:
            self._state = "standby: another coordinator owns the store"
        await self._ownership.take()
        self._state = "starting"
        self._supervisor.start("lease", self._ownership.watch())
        trust = await self._executors.io(lambda: open_trust(config))
        around = self._surroundings(trust)
        issuing = await self._through_faults(lambda: self._open_issuing(trust, around))
        runs = await self._through_faults(lambda: self._recovered(around))
        await self._listen(trust, around, issuing, runs)
        self._supervisor.start("runs", runs.serve())
        self._state = "serving"
        fields = {"host": config.host, "port": self.port, "enroll_port": self.enroll_port}
        logger.info("coordinator_started", extra={**fields, "tls": config.uses_tls})

    async def _through_faults(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do what a fault of the store may only delay; again from the beginning after each.

        Raises:
            LeaseLost: another coordinator has taken the store over.
            StoreFull, StoreUnavailable: ``give_up`` was called.
        """
        waits = backoff_s(0.5, 10.0)
        while True:
            try:
                return await work()
            except STORE_FAULTS as error:
                self._state = f"starting: {error.message}"
                fields = {"code": error.code, "reason": error.message}
                logger.warning("start_delayed", extra=fields)
                with suppress(asyncio.TimeoutError):
                    await within(next(waits), self._supervisor.run_until(self._given_up))
                    raise

    async def _recovered(self, around: Surroundings) -> RunQueue:
        await self._executors.io(lambda: forget_cut_imports(self._store))
        runs = RunQueue(around, self._config.data_dir)
        await runs.recover()
        return runs

    def _surroundings(self, trust: Trust) -> Surroundings:
        holds = Holds()
        return Surroundings(
            store=self._store,
            fleet=self._fleet,
            executors=self._executors,
            metrics=self._metrics,
            traffic=Traffic(self._metrics),
            supervisor=self._supervisor,
            changed=self._bell.ring,
            trail=Trail(self._store.audit, self._executors, self._supervisor),
            holds=holds,
            retention=Retention(self._store, self._config.keep_versions, holds),
            sign=VersionSigner(trust.signer).sign if trust.signer else None,
        )

    async def _open_issuing(self, trust: Trust, around: Surroundings) -> Issuing | None:
        """What issues certificates here, if anybody does."""
        if trust.authority is None:
            return None
        terms = Terms(self._config.certificate_days * DAY_S, self._config.renew_grace_days * DAY_S)
        access = self._store.access
        upkeep = Upkeep(
            trust.authority, access, self._executors, around.trail, self._gate, terms.grace_s
        )
        await upkeep.begin()
        self._supervisor.start("upkeep", upkeep.keep())
        return Issuing(trust.authority, access, self._executors, around.trail, self._gate, terms)

    async def _listen(
        self, trust: Trust, around: Surroundings, issuing: Issuing | None, runs: RunQueue
    ) -> None:
        config = self._config
        enrollment = EnrollmentServicer(issuing)
        door = Door.MUTUAL if trust.shown else Door.PLAIN
        main = RpcServer(
            config.stall_s,
            access=AccessInterceptor(self._gate, door, config.stall_s),
            credentials=trust.shown,
            max_connections=connection_limit(),
        )
        federation = FederationServicer(around, runs, config)
        control = ControlServicer(around, runs, self._bell, issuing, config.stall_s)
        federation_grpc.add_FederationServiceServicer_to_server(federation, main.grpc)
        control_grpc.add_ControlServiceServicer_to_server(control, main.grpc)
        enrollment_grpc.add_EnrollmentServiceServicer_to_server(enrollment, main.grpc)
        self._servers.append(main)
        strangers = trust.shown_to_strangers()
        if strangers is not None:
            other = RpcServer(
                ENROLLING_STALL_S,
                access=AccessInterceptor(self._gate, Door.OPEN, ENROLLING_STALL_S),
                credentials=strangers,
                max_connections=ENROLLING,
            )
            enrollment_grpc.add_EnrollmentServiceServicer_to_server(enrollment, other.grpc)
            self._servers.append(other)
            self.enroll_port = await other.start(config.host, config.enroll_port, (ENROLLMENT,))
        self.port = await main.start(config.host, config.port, SERVICES)

    async def run_until(self, stop: asyncio.Event) -> None:
        """Serve until asked to stop, or until a part fails (then raise its error)."""
        await self._supervisor.run_until(stop)

    def give_up(self) -> None:
        """Wait no longer for a store that another process owns, or that is away."""
        self._given_up.set()
        self._ownership.give_up()

    async def close(self) -> None:
        """Unready, goodbye to the workers, drain the calls, end the run's task, give the store
        back, stop: a standby takes over at once.
        """
        self._state = "stopping"
        self._fleet.close("the coordinator is stopping")
        self._bell.close()
        await asyncio.gather(*(server.stop(self._config.grace_s) for server in self._servers))
        await self._supervisor.close()
        await asyncio.get_running_loop().run_in_executor(None, self._executors.close)
        await self._ownership.give_back()
        self._ops.stop()
        logger.info("coordinator_stopped")
