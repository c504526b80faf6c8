"""EnrollmentService: part of the contract, not served before mutual TLS is."""

from __future__ import annotations

from fedfleet.errors import NotServed
from fedfleet.rpc.server import Context
from fedfleet.v1 import enrollment_service_pb2 as pb
from fedfleet.v1 import enrollment_service_pb2_grpc as pb_grpc

_TEXT = "enrolment needs mutual TLS, which this release does not serve; use loopback"


class EnrollmentServicer(pb_grpc.EnrollmentServiceServicer):
    """Answers UNIMPLEMENTED with the reason."""

    async def Enroll(self, request: pb.EnrollRequest, context: Context) -> pb.EnrollResponse:
        raise NotServed(_TEXT)

    async def Renew(self, request: pb.RenewRequest, context: Context) -> pb.RenewResponse:
        raise NotServed(_TEXT)
