"""Names of the keys. All of a namespace share one hash tag, and so one slot (decision 19)."""

from __future__ import annotations

import hashlib


class Keys:
    """Makes the names; what is in parentheses in the comments is the key's type."""

    def __init__(self, namespace: str) -> None:
        self._prefix = f"fedfleet:{{{namespace}}}:"
        # (hash) schema: the version of this layout
        self.meta = self._of("meta")
        # (hash) the last id given out, by kind
        self.ids = self._of("ids")
        # (hash) token, holder, beat, lasts_s
        self.lease = self._of("lease")
        # (list) run ids in the order of creation
        self.runs = self._of("runs")
        # (hash) run id -> "ROUND MEMORY" of each run that has not ended
        self.going = self._of("going")
        # (set) names
        self.models = self._of("models")
        # (hash) digest -> JSON; versions of a model nearly always share one
        self.schemas = self._of("schemas")
        # (stream) id ID-0, field event: JSON
        self.events = self._of("events")
        # (hash) id -> "SEQUENCE JSON"
        self.tokens = self._of("tokens")
        self.certificates = self._of("certificates")
        self.api_keys = self._of("api-keys")
        # (sorted set, by name) "[ROLE, NAME] ID"
        self.token_names = self._of("token-names")
        self.certificate_names = self._of("certificate-names")
        # (set) serials
        self.revoked = self._of("revoked")
        # (sorted set) JSON by number
        self.audit = self._of("audit")

    def lane(self, name: str) -> str:
        """(hash, ends after a day) number and reply of the last write of a lane."""
        return self._of("lane", name)

    def run(self, run_id: str) -> str:
        """(hash) the record."""
        return self._of("run", run_id)

    def entries(self, run_id: str) -> str:
        """(stream) id ID-0, field entry: JSON."""
        return self._of("entries", run_id)

    def updates(self, run_id: str, round: int) -> str:
        """(hash) assignment id -> "DIGEST JSON"."""
        return self._of("updates", run_id, round)

    def rounds(self, run_id: str) -> str:
        """(hash) assignment id -> the rounds that have an update of it, with commas."""
        return self._of("rounds", run_id)

    def versions(self, model: str) -> str:
        """(hash) number -> JSON."""
        return self._of("versions", model)

    def retired(self, model: str) -> str:
        """(hash) number -> since when, of the versions whose bytes are kept no longer."""
        return self._of("retired", model)

    def aliases(self, model: str) -> str:
        """(hash) alias -> "NUMBER REVISION"."""
        return self._of("aliases", model)

    def blob(self, digest: str) -> str:
        """(string) size in bytes of a blob that is stored."""
        return self._of("blob", digest)

    def chunk(self, digest: str, index: int) -> str:
        """(string) 1 MiB of a blob, the last one less."""
        return self._of("chunk", digest, index)

    def refs(self, digest: str) -> str:
        """(hash) who needs a blob: "v VERSION" -> VERSION, "u RUN" -> newest round, "m RUN"."""
        return self._of("refs", digest)

    def partial(self, key: str) -> str:
        """(hash, ends after a day) owner, digest and offset of a blob that is coming."""
        return self._of("partial", _hash(key))

    def part(self, key: str, index: int) -> str:
        """(string, ends after two days) 1 MiB of a blob that is coming."""
        return self._of("part", _hash(key), index)

    def _of(self, *words: str | int) -> str:
        return self._prefix + ":".join(map(str, words))


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
