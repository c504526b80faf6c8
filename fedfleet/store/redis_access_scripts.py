"""The writes to tokens, certificates and keys in Redis (``redis_access.py``)."""

from __future__ import annotations

from fedfleet.store.redis_scripts import Script

# What is kept is "SEQUENCE JSON", the sequence being the order of making.
ADD_TOKEN = Script(
    "ids tokens token_names",
    "token_id name record",
    """
if redis.call('HEXISTS', tokens, token_id) == 1 then return done({'exists'}) end
local sequence = text(redis.call('HINCRBY', ids, 'token', 1))
redis.call('HSET', tokens, token_id, sequence .. ' ' .. record)
redis.call('ZADD', token_names, 0, name .. ' ' .. token_id)
return done({'ok'})
""",
)

DELETE_TOKEN = Script(
    "tokens token_names",
    "token_id name seen",
    """
local found = redis.call('HGET', tokens, token_id)
if not found then return done({'none'}) end
if found ~= seen then return done({'look_again'}) end
redis.call('HDEL', tokens, token_id)
redis.call('ZREM', token_names, name .. ' ' .. token_id)
return done({'ok'})
""",
    when_full=True,
)

# Needs ids, certificates, certificate_names and revoked.
_CERTIFY = """
local function certify(serial, name, record, is_revoked)
  local sequence = text(redis.call('HINCRBY', ids, 'certificate', 1))
  redis.call('HSET', certificates, serial, sequence .. ' ' .. record)
  redis.call('ZADD', certificate_names, 0, name .. ' ' .. serial)
  if is_revoked == '1' then redis.call('SADD', revoked, serial) end
end
"""

ADD_CERTIFICATE = Script(
    "ids certificates certificate_names revoked",
    "renews serial name record is_revoked",
    f"""{_CERTIFY}
if renews ~= '' then
  if redis.call('HEXISTS', certificates, renews) == 0 then return done({{'none'}}) end
  if redis.call('SISMEMBER', revoked, renews) == 1 then return done({{'revoked'}}) end
end
if redis.call('HEXISTS', certificates, serial) == 1 then return done({{'exists'}}) end
certify(serial, name, record, is_revoked)
return done({{'ok'}})
""",
)

USE_TOKEN = Script(
    "ids tokens token_names certificates certificate_names revoked",
    "token_id token_name seen serial name record is_revoked",
    f"""{_CERTIFY}
local found = redis.call('HGET', tokens, token_id)
if not found then return done({{'none'}}) end
if found ~= seen then return done({{'look_again'}}) end
if redis.call('HEXISTS', certificates, serial) == 1 then return done({{'exists'}}) end
redis.call('HDEL', tokens, token_id)
redis.call('ZREM', token_names, token_name .. ' ' .. token_id)
certify(serial, name, record, is_revoked)
return done({{'ok'}})
""",
)

# A '!' comes right after the space that ends a name.
REVOKE = Script(
    "tokens token_names certificates certificate_names revoked",
    "name",
    """
local low, high = '[' .. name .. ' ', '(' .. name .. '!'
for _, member in ipairs(redis.call('ZRANGEBYLEX', token_names, low, high)) do
  redis.call('HDEL', tokens, string.sub(member, #name + 2))
end
redis.call('ZREMRANGEBYLEX', token_names, low, high)
local reply = {'ok'}
for _, member in ipairs(redis.call('ZRANGEBYLEX', certificate_names, low, high)) do
  local serial = string.sub(member, #name + 2)
  if redis.call('SADD', revoked, serial) == 1 then
    table.insert(reply, redis.call('HGET', certificates, serial))
  end
end
return done(reply)
""",
    when_full=True,
)

FORGET = Script(
    "certificates certificate_names revoked",
    "",
    """
for i = more_args, #ARGV, 2 do
  if redis.call('SISMEMBER', revoked, ARGV[i]) == 0 then -- it may be by now
    redis.call('HDEL', certificates, ARGV[i])
    redis.call('ZREM', certificate_names, ARGV[i + 1] .. ' ' .. ARGV[i])
  end
end
return done({'ok'})
""",
    when_full=True,
)

ADD_KEY = Script(
    "ids api_keys",
    "key_id record",
    """
if redis.call('HEXISTS', api_keys, key_id) == 1 then return done({'exists'}) end
local sequence = text(redis.call('HINCRBY', ids, 'api_key', 1))
redis.call('HSET', api_keys, key_id, sequence .. ' ' .. record)
return done({'ok'})
""",
)

DELETE_KEY = Script(
    "api_keys",
    "key_id",
    "return done({redis.call('HDEL', api_keys, key_id) == 1 and 'ok' or 'none'})",
    when_full=True,
)
