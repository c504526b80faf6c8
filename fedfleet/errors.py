"""Every error that leaves a box: a stable code, a gRPC status by name, an HTTP status.

    FedFleetError                    INTERNAL
    |- InvalidInput                  INVALID_INPUT
    |  |- RecipeInvalid              RECIPE_INVALID
    |  |- UnknownModel               UNKNOWN_MODEL
    |  |- UnknownDataset             UNKNOWN_DATASET
    |  |- SettingInvalid             SETTING_INVALID
    |  |- DataInvalid                DATA_INVALID
    |  |- DataMissing                DATA_MISSING
    |  |- DataEmpty                  DATA_EMPTY
    |  |- ImageInvalid               IMAGE_INVALID
    |  |- ImageTooLarge              IMAGE_TOO_LARGE
    |  |- ImageUrlFailed             IMAGE_URL_FAILED
    |  |- BodyTooLarge               BODY_TOO_LARGE
    |  |- CameraInvalid              CAMERA_INVALID
    |  |- SchemaMismatch             SCHEMA_MISMATCH
    |  |- UpdateInvalid              UPDATE_INVALID
    |  |  |- UpdateNotFinite         UPDATE_NOT_FINITE
    |  |  `- UpdateOutOfRange        UPDATE_OUT_OF_RANGE
    |  |- ChecksumMismatch           CHECKSUM_MISMATCH
    |  |- TransferInvalid            TRANSFER_INVALID
    |  `- RecordInvalid              RECORD_INVALID
    |- NotFound                      NOT_FOUND
    |  `- VersionRetired             VERSION_RETIRED
    |- AlreadyExists                 ALREADY_EXISTS
    |- Conflict                      CONFLICT
    |- Unauthenticated               UNAUTHENTICATED
    |  `- TokenInvalid               TOKEN_INVALID
    |- NotAllowed                    NOT_ALLOWED
    |- CertificateInvalid            CERTIFICATE_INVALID
    |- InsecureAddress               INSECURE_ADDRESS
    |- AddressInUse                  ADDRESS_IN_USE
    |- StateInUse                    STATE_IN_USE
    |- LeaseLost                     LEASE_LOST
    |- AssignmentClosed              ASSIGNMENT_CLOSED
    |- QuorumNotMet                  QUORUM_NOT_MET
    |- TrainingFailed                TRAINING_FAILED
    |- OutOfMemory                   OUT_OF_MEMORY
    |- NoModel                       NO_MODEL
    |- VersionInvalid                VERSION_INVALID
    |  `- SignatureInvalid           SIGNATURE_INVALID
    |- AuditBroken                   AUDIT_BROKEN
    |- StoreFull                     STORE_FULL
    |- StoreUnavailable              STORE_UNAVAILABLE
    |- LimitExceeded                 LIMIT_EXCEEDED
    |- Unavailable                   UNAVAILABLE
    |- TimedOut                      TIMED_OUT
    |- ProcessDied                   PROCESS_DIED
    |- NotInstalled                  NOT_INSTALLED
    `- NotServed                     NOT_SERVED

The text given to the constructor is public: it is sent to the caller, so it names what is wrong
and what to do, and never holds a secret or a path of the server. ``detail`` is only logged.
"""

from __future__ import annotations


class FedFleetError(Exception):
    """The base of every error with a stable code."""

    code = "INTERNAL"
    status = "INTERNAL"  # the gRPC status by name, so that this file needs no grpc
    http = 500
    retryable = False

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class InvalidInput(FedFleetError):
    """The caller sent something that can never be right."""

    code = "INVALID_INPUT"
    status = "INVALID_ARGUMENT"
    http = 400


class RecipeInvalid(InvalidInput):
    """A recipe's field is unknown, of the wrong type or range, or would be ignored."""

    code = "RECIPE_INVALID"


class UnknownModel(InvalidInput):
    """No architecture of that name is built in or installed as a plug-in."""

    code = "UNKNOWN_MODEL"


class UnknownDataset(InvalidInput):
    """No dataset of that name is built in or installed as a plug-in."""

    code = "UNKNOWN_DATASET"


class SettingInvalid(InvalidInput):
    """An environment variable or a command line option has a value that cannot be used."""

    code = "SETTING_INVALID"


class DataInvalid(InvalidInput):
    """Data exist but are not what the recipe describes (shape, label, format)."""

    code = "DATA_INVALID"


class DataMissing(InvalidInput):
    """The data folder, the file or the shard number that the recipe needs is not there."""

    code = "DATA_MISSING"
    status = "FAILED_PRECONDITION"
    http = 409


class DataEmpty(InvalidInput):
    """A data folder or a shard holds no example."""

    code = "DATA_EMPTY"
    status = "FAILED_PRECONDITION"
    http = 409


class ImageInvalid(InvalidInput):
    """The bytes are not an image of a format that is read here."""

    code = "IMAGE_INVALID"
    http = 415


class ImageTooLarge(InvalidInput):
    """The image has more pixels than are decoded here."""

    code = "IMAGE_TOO_LARGE"
    http = 413


class ImageUrlFailed(InvalidInput):
    """The image behind a URL was not fetched; why is not told, for it would map a network."""

    code = "IMAGE_URL_FAILED"
    http = 422


class BodyTooLarge(InvalidInput):
    """The request's body is larger than allowed."""

    code = "BODY_TOO_LARGE"
    http = 413


class CameraInvalid(InvalidInput):
    """A camera's configuration cannot be used, or its address is not among the allowed ones."""

    code = "CAMERA_INVALID"


class SchemaMismatch(InvalidInput):
    """Tensors are not those of the model that is being trained or served."""

    code = "SCHEMA_MISMATCH"
    http = 409


class UpdateInvalid(InvalidInput):
    """An update's header or sections do not add up."""

    code = "UPDATE_INVALID"


class UpdateNotFinite(UpdateInvalid):
    """An update holds NaN or infinity."""

    code = "UPDATE_NOT_FINITE"


class UpdateOutOfRange(UpdateInvalid):
    """An update holds a value beyond what the exact sum can represent."""

    code = "UPDATE_OUT_OF_RANGE"


class ChecksumMismatch(InvalidInput):
    """Bytes arrived that are not the bytes that were sent."""

    code = "CHECKSUM_MISMATCH"
    status = "DATA_LOSS"
    retryable = True


class TransferInvalid(InvalidInput):
    """A transfer's messages are out of order, too many or too large."""

    code = "TRANSFER_INVALID"


class RecordInvalid(InvalidInput):
    """A run's record on disk is not what was written: cut off, altered, or not a record."""

    code = "RECORD_INVALID"


class NotFound(FedFleetError):
    """The named run, version, alias, worker or blob does not exist."""

    code = "NOT_FOUND"
    status = "NOT_FOUND"
    http = 404


class VersionRetired(NotFound):
    """The version was there; its bytes are kept no longer."""

    code = "VERSION_RETIRED"
    http = 410


class AlreadyExists(FedFleetError):
    """The name is taken."""

    code = "ALREADY_EXISTS"
    status = "ALREADY_EXISTS"
    http = 409


class Conflict(FedFleetError):
    """Somebody else changed it first: read again, then decide again."""

    code = "CONFLICT"
    status = "ABORTED"
    http = 409


class Unauthenticated(FedFleetError):
    """The caller did not say who it is, or what it said proves nothing (any more)."""

    code = "UNAUTHENTICATED"
    status = "UNAUTHENTICATED"
    http = 401


class TokenInvalid(Unauthenticated):
    """A token that is unknown, used, over, or made for somebody else; which one is not told."""

    code = "TOKEN_INVALID"


class NotAllowed(FedFleetError):
    """The caller is known and may not do this."""

    code = "NOT_ALLOWED"
    status = "PERMISSION_DENIED"
    http = 403


class CertificateInvalid(FedFleetError):
    """A certificate, its key or the request for one cannot be used."""

    code = "CERTIFICATE_INVALID"
    status = "FAILED_PRECONDITION"
    http = 409


class InsecureAddress(FedFleetError):
    """A connection without TLS beyond loopback was asked for and not allowed by name."""

    code = "INSECURE_ADDRESS"
    status = "FAILED_PRECONDITION"
    http = 409


class AddressInUse(FedFleetError):
    """The port is taken by another process."""

    code = "ADDRESS_IN_USE"
    status = "FAILED_PRECONDITION"
    http = 409


class StateInUse(FedFleetError):
    """Another process owns the state folder."""

    code = "STATE_IN_USE"
    status = "FAILED_PRECONDITION"
    http = 409


class LeaseLost(FedFleetError):
    """Another coordinator owns the store now; this one may not write to it any more."""

    code = "LEASE_LOST"
    status = "UNAVAILABLE"
    http = 503
    retryable = True


class AssignmentClosed(FedFleetError):
    """The assignment is unknown, expired, or its round has closed; the work is not needed."""

    code = "ASSIGNMENT_CLOSED"
    status = "FAILED_PRECONDITION"
    http = 409


class QuorumNotMet(FedFleetError):
    """Too few workers took part before the deadline, for every attempt allowed."""

    code = "QUORUM_NOT_MET"
    status = "FAILED_PRECONDITION"
    http = 409


class TrainingFailed(FedFleetError):
    """Local training could not be carried through on this device."""

    code = "TRAINING_FAILED"
    status = "ABORTED"


class OutOfMemory(FedFleetError):
    """The device's memory is too small for the model at this level."""

    code = "OUT_OF_MEMORY"
    status = "RESOURCE_EXHAUSTED"
    http = 507


class NoModel(FedFleetError):
    """No version is there to be served yet."""

    code = "NO_MODEL"
    status = "UNAVAILABLE"
    http = 503
    retryable = True


class VersionInvalid(FedFleetError):
    """A version's file, card or answers are not fit to be served."""

    code = "VERSION_INVALID"
    status = "FAILED_PRECONDITION"
    http = 409


class SignatureInvalid(VersionInvalid):
    """A version is unsigned, or is not what the coordinator has signed."""

    code = "SIGNATURE_INVALID"


class AuditBroken(FedFleetError):
    """A record of the audit log was removed or altered."""

    code = "AUDIT_BROKEN"
    status = "FAILED_PRECONDITION"


class StoreFull(FedFleetError):
    """The disk or the store's quota is full; nothing was written."""

    code = "STORE_FULL"
    status = "RESOURCE_EXHAUSTED"
    http = 507
    retryable = True


class StoreUnavailable(FedFleetError):
    """The store cannot be reached or read."""

    code = "STORE_UNAVAILABLE"
    status = "UNAVAILABLE"
    http = 503
    retryable = True


class LimitExceeded(FedFleetError):
    """A stated limit (size, number, rate) was passed."""

    code = "LIMIT_EXCEEDED"
    status = "RESOURCE_EXHAUSTED"
    http = 429


class Unavailable(FedFleetError):
    """The other side cannot be reached, or is shutting down."""

    code = "UNAVAILABLE"
    status = "UNAVAILABLE"
    http = 503
    retryable = True


class TimedOut(FedFleetError):
    """The deadline passed before an answer came."""

    code = "TIMED_OUT"
    status = "DEADLINE_EXCEEDED"
    http = 504
    retryable = True


class ProcessDied(FedFleetError):
    """A process that was started here ended before it was asked to."""

    code = "PROCESS_DIED"
    status = "ABORTED"


class NotInstalled(FedFleetError):
    """A package that this needs is not installed here."""

    code = "NOT_INSTALLED"
    status = "FAILED_PRECONDITION"

    @classmethod
    def of_extra(cls, what: str, extra: str) -> NotInstalled:
        """Say that something is missing, and which of FedFleet's extras brings it."""
        return cls(
            f"{what} is not installed here; the extra {extra!r} brings it: "
            f"pip install '.[{extra}]' in FedFleet's source folder"
        )


class NotServed(FedFleetError):
    """The call is part of the contract and not served by this release."""

    code = "NOT_SERVED"
    status = "UNIMPLEMENTED"
    http = 501


def all_errors() -> tuple[type[FedFleetError], ...]:
    """Every error class, the base included, each once."""
    found: list[type[FedFleetError]] = []

    def visit(cls: type[FedFleetError]) -> None:
        found.append(cls)
        for sub in cls.__subclasses__():
            visit(sub)

    visit(FedFleetError)
    return tuple(found)


def error_for_code(code: str, message: str) -> FedFleetError:
    """The error of a code that came over a wire; the base class where the code is unknown."""
    for cls in all_errors():
        if cls.code == code:
            return cls(message)
    return FedFleetError(message)
