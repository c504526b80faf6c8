"""Whether a Redis server keeps what it has acknowledged: what its settings must be."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

from fedfleet.errors import SettingInvalid
from fedfleet.store.redis_lanes import RedisServer

logger = logging.getLogger(__name__)

# Scripts that say what they are for (#!lua) need 7.0; Valkey says 7.2.
OLDEST = (7, 0)
WITH_WAITAOF = (7, 2)

_ASKED = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})")


def check_settings(server: RedisServer, *, relaxed: bool) -> None:
    """Make sure that an acknowledged write survives the server, and is never evicted.

    A server that has WAITAOF is asked to have each write on its disk; an older one must do it by
    itself. What an access list keeps from being read is a warning.

    Args:
        relaxed: whether what is missing is a warning too.

    Raises:
        SettingInvalid: it would not; says which settings to change.
        StoreUnavailable: the server is away.
    """
    info, config = _info(server), _config(server)
    version = _version(info)
    if version is not None and version < OLDEST:
        raise SettingInvalid(
            f"the store's Redis is release {info['redis_version'][:40]}: 7.0 or newer is needed, "
            "or Valkey"
        )
    waits = version is not None and version >= WITH_WAITAOF
    wrong = _wrong(info, config, waits)
    if wrong and not relaxed:
        raise SettingInvalid(
            "the store's Redis could lose records that it has acknowledged: set "
            f"{' and '.join(map(repr, wrong))} in its redis.conf (docs/redis.md), or accept the "
            "loss with "
            "durability=relaxed in the store's URL"
        )
    if wrong:
        logger.warning("redis_durability_relaxed", extra={"missing": wrong})
        return
    unknown = [name for name in _ASKED if name not in config]
    if unknown and not (waits and "aof_enabled" in info and "maxmemory_policy" in info):
        logger.warning("redis_settings_unchecked", extra={"settings": unknown})
    if waits and config.get("appendfsync") != "always":
        server.sync_writes()


def _wrong(info: Mapping[str, str], config: Mapping[str, str], waits: bool) -> list[str]:
    """Lines of redis.conf that are needed and not there, as far as can be seen."""
    appends = config.get("appendonly") == "yes" or info.get("aof_enabled") == "1"
    appends_unknown = "appendonly" not in config and "aof_enabled" not in info
    policy = config.get("maxmemory-policy", info.get("maxmemory_policy", "noeviction"))
    fsync = config.get("appendfsync", "always")
    wrong = []
    if not appends and not appends_unknown:
        wrong.append("appendonly yes")
    if fsync != "always" and not (waits and fsync == "everysec"):
        wrong.append("appendfsync always")
    if config.get("no-appendfsync-on-rewrite", "no") != "no":
        wrong.append("no-appendfsync-on-rewrite no")
    if policy != "noeviction":
        wrong.append("maxmemory-policy noeviction")
    return wrong


def _info(server: RedisServer) -> dict[str, str]:
    text = (server.ask("INFO") or b"").decode(errors="replace")
    lines = (line.partition(":") for line in text.splitlines())
    return {name: value for name, _, value in lines}


def _config(server: RedisServer) -> dict[str, str]:
    answer = server.ask("CONFIG", "GET", *_ASKED) or []
    words = [word.decode(errors="replace") for word in answer]
    return dict(zip(words[::2], words[1::2], strict=True))


def _version(info: Mapping[str, str]) -> tuple[int, int] | None:
    match = _VERSION.match(info.get("redis_version", ""))
    return (int(match[1]), int(match[2])) if match else None
