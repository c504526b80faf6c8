"""EnrollmentService: how devices and people come by their certificates."""

from __future__ import annotations

import logging

from fedfleet.errors import (
    CertificateInvalid,
    FedFleetError,
    NotServed,
    TokenInvalid,
    Unauthenticated,
)
from fedfleet.identity.names import Identity
from fedfleet.rpc.gate import caller
from fedfleet.rpc.server import Context
from fedfleet.v1 import enrollment_service_pb2 as pb
from fedfleet.v1 import enrollment_service_pb2_grpc as pb_grpc
from fedfleet.wire.limits import check_count
from fedfleet_coordinator.attempts import Attempts, Turns, host_of
from fedfleet_coordinator.issuing import Issuing

logger = logging.getLogger(__name__)

NOT_ISSUED = "certificates are not issued by this coordinator"
MAX_PEM_BYTES = 16 << 10
MAX_TOKEN = 256
# Of an address, then one in so many seconds: for the log, as guessing is hopeless.
FAILURES, FAILURE_EVERY_S = 20, 10.0
# Of one holder; with a certificate that has ended, of one holder from one address.
RENEWALS, RENEWAL_EVERY_S = 20, 60.0


class EnrollmentServicer(pb_grpc.EnrollmentServiceServicer):
    """Serves whoever holds a token, and whoever holds a certificate.

    Args:
        issuing: None where certificates are not issued here.
    """

    def __init__(self, issuing: Issuing | None) -> None:
        self._issuing = issuing
        self._failures = Attempts(FAILURES, FAILURE_EVERY_S)
        # Of an address one at a time: so each failure counts before the next guess is looked at.
        self._turns = Turns()
        self._renewals = Attempts(RENEWALS, RENEWAL_EVERY_S)

    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        issuing = self._served()
        check_count("characters in a token", len(request.token), MAX_TOKEN)
        check_count("bytes in a request", len(request.certificate_request), MAX_PEM_BYTES)
        host = host_of(context.peer())
        async with self._turns.of(host):
            # A right token passes whatever its neighbours behind one address have tried.
            try:
                issued = await issuing.enrol(
                    request.token, request.worker_id, request.certificate_request
                )
            except (TokenInvalid, CertificateInvalid) as error:
                self._failed("enrolment_refused", host, error)
                raise
        logger.info("enrolled", extra={"holder": issued.identity.text, "host": host})
        return pb.EnrollResponse(certificate_chain=issued.chain, root_certificate=issuing.root)

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:
        issuing = self._served()
        check_count("bytes in a request", len(request.certificate_request), MAX_PEM_BYTES)
        check_count("bytes in a certificate", len(request.ended_certificate), MAX_PEM_BYTES)
        holder, host = caller(), ""
        if holder is None:
            # Counted apart: who sends again what it has overheard keeps nobody else out.
            host = host_of(context.peer())
            holder = await self._holder(issuing, request, host)
        self._renewals.check(f"{holder.text} {host}")
        self._renewals.count(f"{holder.text} {host}")
        issued = await issuing.renew(holder, request.certificate_request)
        logger.info("renewed", extra={"holder": holder.text})
        return pb.RenewResponse(certificate_chain=issued.chain)

    async def _holder(self, issuing: Issuing, request: pb.RenewRequest, host: str) -> Identity:
        """Who has sent a certificate along that may have ended."""
        async with self._turns.of(host):
            try:
                return await issuing.holder_of_ended(
                    request.ended_certificate, request.certificate_request
                )
            except Unauthenticated as error:
                self._failed("renewal_refused", host, error)
                raise

    def _served(self) -> Issuing:
        if self._issuing is None:
            raise NotServed(NOT_ISSUED)
        return self._issuing

    def _failed(self, event: str, host: str, error: FedFleetError) -> None:
        """Count and log a failure; raises LimitExceeded instead where there were too many."""
        self._failures.check(host)
        self._failures.count(host)
        fields = {"host": host, "code": error.code, "reason": error.message, "detail": error.detail}
        logger.warning(event, extra=fields)
