"""The settings of the inference service; read once, in ``__main__``."""

from __future__ import annotations

from dataclasses import dataclass

from fedfleet.env import (
    parse_bool,
    parse_index,
    parse_port,
    parse_positive_float,
    parse_positive_int,
    setting,
)

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class InferenceConfig:
    """Settings; each field is the variable FEDFLEET_<NAME>."""

    store: str = setting("where the store is: sqlite:FOLDER", default="sqlite:state", parse=str)
    host: str = setting("address to listen on", default="127.0.0.1", parse=str)
    inference_port: int = setting("HTTP port; 0 takes a free one", default=8080, parse=parse_port)
    insecure: bool = setting(
        "1 allows connections without TLS beyond loopback", default=False, parse=parse_bool
    )
    serve_model: str = setting(
        "name of the model to serve, empty: the one that changed last", default="", parse=str
    )
    serve_alias: str = setting("alias to follow", default="latest", parse=str)
    registry_poll_s: float = setting(
        "seconds between two looks at the registry", default=0.25, parse=parse_positive_float
    )
    max_body_bytes: int = setting(
        "largest request body", default=16 * MIB, parse=parse_positive_int
    )
    max_pending: int = setting(
        "predictions that may wait or run at once; more get 503",
        default=64,
        parse=parse_positive_int,
    )
    request_timeout_s: float = setting(
        "longest time for one prediction, reading its body included",
        default=30.0,
        parse=parse_positive_float,
    )
    threads: int = setting(
        "processor threads for the model, 0: torch decides", default=0, parse=parse_index
    )
    grace_s: float = setting(
        "seconds that calls in progress get when the service stops",
        default=10.0,
        parse=parse_positive_float,
    )
    log_level: str = setting("debug, info, warning or error", default="info", parse=str)
