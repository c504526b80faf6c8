"""A blocking connection to a coordinator, whose errors are ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from fedfleet.errors import FedFleetError, Unavailable
from fedfleet.identity.credentials import Credentials
from fedfleet.rpc.address import split_address
from fedfleet.rpc.channel import OPTIONS
from fedfleet.rpc.exposure import check_exposure
from fedfleet.rpc.status import error_of
from fedfleet.rpc.tls import Options, channel_credentials, name_options
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub


class Connection:
    """Dials a coordinator at the first call.

    Args:
        timeout_s: for each call.

    Raises:
        SettingInvalid: not an address.
        InsecureAddress: beyond loopback, without credentials and not allowed by name.
    """

    def __init__(
        self, address: str, insecure: bool, credentials: Credentials | None, timeout_s: float
    ) -> None:
        host, _ = split_address(address)
        options: Options = OPTIONS
        if credentials is None:
            check_exposure(host, insecure, "the call to the coordinator")
            self._channel = grpc.insecure_channel(address, options=options)
        else:
            options = (*options, *name_options(credentials.target_name))
            shown = channel_credentials(credentials)
            self._channel = grpc.secure_channel(address, shown, options=options)
        self._address = address
        # What TLS tells of a side that it does not like is only in the detail.
        self._question = (
            "is it running? One with TLS answers only to credentials (FEDFLEET_CREDENTIALS)"
            if credentials is None
            else "is it running, with TLS, and are these credentials of its authority?"
        )
        self.timeout_s = timeout_s
        self.is_closed = False
        self.control = ControlServiceStub(self._channel)

    def close(self) -> None:
        """End every call in progress, also those of other threads."""
        self.is_closed = True
        self._channel.close()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn the transport's errors into ours, the address named where nobody answered."""
        try:
            yield
        except grpc.RpcError as error:
            raise self._named(error_of(error)) from error
        except ValueError as error:  # what grpc raises on a closed channel
            if not self.is_closed:
                raise
            raise Unavailable(f"the call to {self._address} was given up") from error

    def _named(self, known: FedFleetError) -> FedFleetError:
        if isinstance(known, Unavailable) and known.detail:  # from the transport
            return Unavailable(
                f"no coordinator answers at {self._address}; {self._question}", detail=known.detail
            )
        return known
