"""A coordinator is killed at every file of the certificate authority that it makes."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from durability.killed_run import lasting_port
from durability.lives import PATIENCE_S, POLL_S, Doomed
from durability.points import Target
from durability.verdict import surprises

from fedfleet.identity.authority import OPERATOR_FOLDER
from fedfleet.identity.credentials import load_credentials
from fedfleet.rpc.tls import channel_credentials, name_options
from fedfleet.v1 import control_service_pb2 as pb
from fedfleet.v1.control_service_pb2_grpc import ControlServiceStub

# Keys and certificates of root, issuer and enrolment port, the signer's two, the operator's.
FILES = 9


@pytest.mark.slow
def test_coordinator_killed_at_each_file_of_its_authority_serves_in_the_end(
    tmp_path: Path,
) -> None:
    port = lasting_port()
    settings = {
        "FEDFLEET_PORT": str(port),
        "FEDFLEET_OPS_PORT": "0",
        "FEDFLEET_ENROLL_PORT": "0",
        "FEDFLEET_TLS": "on",
        "FEDFLEET_STORE": f"sqlite:{tmp_path / 'state'}",
    }
    points = ["keeping", "kept"] * FILES

    with closing(Doomed(tmp_path, settings, [Target(1, point) for point in points])) as doomed:
        doomed.until_last()
        folder = tmp_path / "state" / "ca" / OPERATOR_FOLDER
        with closing(operators_channel(port, folder)) as channel:
            asked = ControlServiceStub(channel).ListRuns(pb.ListRunsRequest(), timeout=PATIENCE_S)
        doomed.stop()

    assert list(asked.runs) == []
    assert doomed.lives.deaths == points
    assert (doomed.lives.exits, doomed.lives.status) == (0, 0)
    assert surprises(tmp_path / "coordinator.log") == []


def operators_channel(port: int, operator: Path) -> grpc.Channel:
    """A connection of the local operator, once the coordinator listens."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert time.monotonic() < until_s, "nobody listens"
            time.sleep(POLL_S)
    credentials = load_credentials(operator)
    options = name_options(credentials.target_name)
    return grpc.secure_channel(f"127.0.0.1:{port}", channel_credentials(credentials), options)
