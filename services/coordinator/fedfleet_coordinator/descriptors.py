"""How many files and sockets this process may have open."""

from __future__ import annotations

import resource

# Kept for the store, the ops port, workers' transfers and the standard library.
RESERVED = 512
# More connections than this are refused whatever the system allows.
MOST = 20_000


def raise_limit() -> int:
    """Raise the limit of this process to what it may raise it to; returns the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != hard and soft != unlimited:
        # Some systems say that there is no limit and refuse to set none.
        wanted = MOST + RESERVED if hard == unlimited else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
        soft = max(soft, wanted)
    return MOST + RESERVED if soft == unlimited else soft


def connection_limit() -> int:
    """How many connections a port may take, so that the process keeps files for itself."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = MOST if soft == resource.RLIM_INFINITY else soft - RESERVED
    return max(64, min(MOST, free))
