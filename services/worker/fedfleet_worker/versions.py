"""How a worker comes by the version that an assignment starts from, with as few bytes as it can.

Everything here blocks; run it in a thread. The downloads are in between, for they do not.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping

from fedfleet.errors import ChecksumMismatch, FedFleetError
from fedfleet.v1 import federation_service_pb2 as pb
from fedfleet.wire.downlink import Route, cheapest_route, check_ladder, worth_keeping
from fedfleet_worker.disk import Disk
from fedfleet_worker.training import Bench

logger = logging.getLogger(__name__)


class Versions:
    """What lies on the disk, what can be computed, and so what has to be downloaded."""

    def __init__(self, bench: Bench, disk: Disk) -> None:
        self._bench = bench
        self._disk = disk

    def route(self, assignment: pb.Assignment) -> Route:
        """Choose the cheapest way to an assignment's base.

        Raises:
            LimitExceeded, InvalidInput, UpdateInvalid: the assignment names no way.
        """
        check_ladder(assignment.base_digest, assignment.deltas)
        self._bench.check_sizes(assignment)
        held = self._disk.held()
        starts = {assignment.base_digest, *(delta.from_digest for delta in assignment.deltas)}
        # Past the first round the initial version is only good for climbing from it.
        if not starts & held and (assignment.deltas or assignment.round == 1):
            held |= self._keep_initial(assignment, starts)
        return cheapest_route(
            assignment.base_digest, assignment.base_bytes, assignment.deltas, held.__contains__
        )

    def _keep_initial(self, assignment: pb.Assignment, starts: set[str]) -> frozenset[str]:
        """The digest of the initial version, kept, if that is a version to start from."""
        try:
            initial = self._bench.initial(assignment)
        except FedFleetError as error:  # pretrained weights that this device cannot get, say
            logger.info("initial_not_computed", extra={"code": error.code, "reason": error.message})
            return frozenset()
        digest = hashlib.sha256(initial).hexdigest()
        if digest not in starts:
            return frozenset()
        self._disk.keep_version(digest, initial)
        return frozenset({digest})

    def missing(self, assignment: pb.Assignment, route: Route) -> list[tuple[str, int]]:
        """Digests and sizes of what a route and a broadcast need and the disk does not hold."""
        wanted = [(delta.digest, delta.size_bytes) for delta in route.deltas]
        wanted += [(sent.digest, sent.section.encoded_bytes) for sent in assignment.broadcast]
        if route.start_bytes:
            wanted.insert(0, (route.start_digest, route.start_bytes))
        held = self._disk.held()
        return [(digest, size) for digest, size in dict(wanted).items() if digest not in held]

    def keep(self, digest: str, data: bytes) -> None:
        """Keep what was downloaded, until an assignment can do without it."""
        self._disk.keep_version(digest, data)

    def assemble(
        self, assignment: pb.Assignment, route: Route, fetched: Mapping[str, bytes]
    ) -> bytes | None:
        """Walk a route; None when a file on the disk was torn.

        What was torn is gone then, so that the next route goes without it.

        Args:
            fetched: by digest, what was just downloaded and need not be read again.

        Raises:
            ChecksumMismatch: the deltas lead elsewhere on this device.
            SchemaMismatch, UpdateInvalid, UpdateNotFinite: a delta does not apply.
        """

        def read(digest: str) -> bytes | None:
            return fetched.get(digest) or self._disk.version(digest)

        version = read(route.start_digest)
        for delta in route.deltas:
            data = read(delta.digest)
            if version is None or data is None:
                return None
            if delta is route.deltas[-1] and delta.from_digest not in self._disk.held():
                self._disk.keep_version(delta.from_digest, version)
            version = self._bench.climb(assignment, version, data)
            if hashlib.sha256(version).hexdigest() != delta.to_digest:
                raise ChecksumMismatch(
                    "applying a delta gave another version than the coordinator's; install the "
                    "same release on both"
                )
        return version

    def broadcast(
        self, assignment: pb.Assignment, fetched: Mapping[str, bytes]
    ) -> list[bytes] | None:
        """The blobs of what comes along with the version; None when a file was torn."""
        blobs = [
            fetched.get(sent.digest) or self._disk.version(sent.digest)
            for sent in assignment.broadcast
        ]
        whole = [blob for blob in blobs if blob is not None]
        return whole if len(whole) == len(blobs) else None

    def forget_others(self, assignment: pb.Assignment) -> None:
        """Remove what neither this assignment nor the next will ask for."""
        keep = worth_keeping(assignment.base_digest, assignment.deltas)
        self._disk.keep_versions(keep | {sent.digest for sent in assignment.broadcast})
