"""How this side dials: options that keep a long stream alive and notice a dead one."""

from __future__ import annotations

import grpc

from fedfleet.identity.credentials import Credentials
from fedfleet.rpc.tls import Options, channel_credentials, name_options
from fedfleet.wire.limits import MAX_MESSAGE_BYTES

# Of both sides. Of two equal options grpc takes the first: what a side adds must not be here.
SHARED: Options = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A peer that went away without a word is noticed within half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # The ping's own limit, a minute unless it is set, would come before that one.
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Without probing, a stream has 64 KiB and the message being read on its way. Probing lets that
    # grow to megabytes: lost and sent again when the connection is cut, and on a slow link a queue
    # in which heartbeats come too late.
    ("grpc.http2.bdp_probe", 0),
)
OPTIONS: Options = (
    *SHARED,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # No proxy of the environment: the address that was checked is the one that is dialled.
    ("grpc.enable_http_proxy", 0),
)


def open_channel(
    address: str, *, own_connection: bool = False, credentials: Credentials | None = None
) -> grpc.aio.Channel:
    """Open a channel to ``host:port``.

    Args:
        own_connection: share no connection with the other channels of this process. Messages wait
            behind the bytes that a connection has taken before them, on a slow link for minutes.
        credentials: who this side is and whom it trusts; without them there is no TLS. They hold
            as long as the channel does: open another one with renewed ones.
    """
    # A worker waits its own jittered backoff; grpc's own may not add minutes to it.
    reconnect = (
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Bounds one attempt to connect: a machine that is gone is left for a standby.
        ("grpc.min_reconnect_backoff_ms", 5000),
    )
    apart = (("grpc.use_local_subchannel_pool", int(own_connection)),)
    options: Options = (*OPTIONS, *reconnect, *apart)
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    options = (*options, *name_options(credentials.target_name))
    return grpc.aio.secure_channel(address, channel_credentials(credentials), options=options)
