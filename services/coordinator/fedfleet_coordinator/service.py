"""Puts the coordinator together, runs it, and takes it down in order."""

from __future__ import annotations

import asyncio
import logging
from contextlib import ExitStack

from fedfleet.obs.ops_server import OpsServer
from fedfleet.rpc.exposure import check_exposure
from fedfleet.rpc.server import RpcServer
from fedfleet.rpc.supervisor import Supervisor
from fedfleet.store.protocols import Store
from fedfleet.v1 import control_service_pb2_grpc as control_grpc
from fedfleet.v1 import enrollment_service_pb2_grpc as enrollment_grpc
from fedfleet.v1 import federation_service_pb2_grpc as federation_grpc
from fedfleet_coordinator.config import CoordinatorConfig
from fedfleet_coordinator.control import Bell, ControlServicer
from fedfleet_coordinator.enrollment import EnrollmentServicer
from fedfleet_coordinator.executors import Executors
from fedfleet_coordinator.federation import FederationServicer
from fedfleet_coordinator.fleet import Fleet
from fedfleet_coordinator.metrics import CoordinatorMetrics
from fedfleet_coordinator.runs import RunQueue
from fedfleet_coordinator.surroundings import Surroundings
from fedfleet_coordinator.traffic import Traffic

logger = logging.getLogger(__name__)

SERVICES = (
    "fedfleet.v1.FederationService",
    "fedfleet.v1.EnrollmentService",
    "fedfleet.v1.ControlService",
)


class Coordinator:
    """One coordinator process. ``port`` is known after ``start``."""

    def __init__(self, config: CoordinatorConfig, store: Store) -> None:
        self._config = config
        self._store = store
        self._owned = ExitStack()
        self._metrics = CoordinatorMetrics()
        self._executors = Executors()
        self._fleet = Fleet(self._metrics)
        self._supervisor = Supervisor()
        self._server = RpcServer(config.stall_s)
        self._ready = False
        self._bell = bell = Bell()
        around = Surroundings(
            store=store,
            fleet=self._fleet,
            executors=self._executors,
            metrics=self._metrics,
            traffic=Traffic(self._metrics),
            supervisor=self._supervisor,
            changed=bell.ring,
        )
        self._runs = RunQueue(around, config.data_dir)
        federation = FederationServicer(around, self._runs, config)
        control = ControlServicer(around, self._runs, bell)
        federation_grpc.add_FederationServiceServicer_to_server(federation, self._server.grpc)
        control_grpc.add_ControlServiceServicer_to_server(control, self._server.grpc)
        enrollment_grpc.add_EnrollmentServiceServicer_to_server(
            EnrollmentServicer(), self._server.grpc
        )
        self._ops = OpsServer(
            config.ops_host, config.ops_port, self._readiness, self._metrics.registry
        )
        self.port = 0

    @property
    def fleet(self) -> Fleet:
        """The workers, connected and known."""
        return self._fleet

    def _readiness(self) -> tuple[bool, str]:
        return self._ready, "serving" if self._ready else "starting or stopping"

    async def start(self) -> None:
        """Recover, then listen: no worker is answered before its assignments are known again.

        Raises:
            InsecureAddress, AddressInUse, StateInUse: it does not listen.
        """
        check_exposure(self._config.host, self._config.insecure, "the coordinator")
        check_exposure(self._config.ops_host, self._config.insecure, "the coordinator's ops port")
        self._owned.enter_context(self._store.own())
        self._ops.start()
        await self._runs.recover()
        self.port = await self._server.start(self._config.host, self._config.port, SERVICES)
        self._supervisor.start("runs", self._runs.serve())
        self._ready = True
        logger.info("coordinator_started", extra={"host": self._config.host, "port": self.port})

    async def run_until(self, stop: asyncio.Event) -> None:
        """Serve until asked to stop, or until a part fails (then raise its error)."""
        await self._supervisor.run_until(stop)

    async def close(self) -> None:
        """Unready, goodbye to the workers, drain the calls, end the run's task, stop."""
        self._ready = False
        self._fleet.close("the coordinator is stopping")
        self._bell.close()
        await self._server.stop(self._config.grace_s)
        await self._supervisor.close()
        await asyncio.get_running_loop().run_in_executor(None, self._executors.close)
        self._ops.stop()
        self._owned.close()
        logger.info("coordinator_stopped")
