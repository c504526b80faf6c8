"""Signs versions, so that whoever serves one knows that this coordinator has made it."""

from __future__ import annotations

import json
from dataclasses import replace

from fedfleet.identity.signing import Signer
from fedfleet.store.protocols import VersionRecord, manifest_of


class VersionSigner:
    """Signs with the key of an authority's folder."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def sign(self, record: VersionRecord) -> VersionRecord:
        """The record as a store will give it back, with a signature over all that it says."""
        # A store keeps JSON: keys become text there, tuples lists, and the order of keys that of
        # their text. What is signed has to be what is read.
        kept = replace(
            record,
            card=json.loads(json.dumps(record.card)),
            metrics=json.loads(json.dumps(record.metrics)),
            lineage=json.loads(json.dumps(record.lineage)),
            created_at_s=float(record.created_at_s),
        )
        return replace(kept, signature=self._signer.sign(manifest_of(kept)))
