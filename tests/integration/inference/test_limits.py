"""How often somebody may ask: per key, per address, and with wrong keys."""

from __future__ import annotations

import httpx
from serving import add_key, publish, serving, wait_served

from fedfleet.identity.tokens import new_key
from fedfleet_inference_api.guard import FAILURES_BURST
from fedfleet_inference_api.proxies import parse_networks

# So slow that no test gets a second one.
SLOW = {"rate_per_s": 0.001, "burst": 5}
PROXY = parse_networks("127.0.0.1")


def statuses(client: httpx.Client, count: int, **headers: str) -> list[int]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return [client.get("/served", headers=named).status_code for _ in range(count)]


def test_address_has_its_burst_and_is_told_when_to_come_again(store):
    with serving(store, **SLOW) as (_, client):
        passed = statuses(client, 5)
        refused = client.get("/models")
        health = [client.get(path).status_code for path in ("/livez", "/readyz") * 10]
        page = client.get("/")

    assert passed == [200] * 5
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "LIMIT_EXCEEDED")
    assert 990 <= int(refused.headers["retry-after"]) <= 1000
    assert health == [200, 503] * 10
    assert page.status_code == 429


def test_keys_have_limits_of_their_own_behind_one_address(store):
    keys = [add_key(store, "predict").text for _ in range(2)]
    with serving(store, rest_auth="on", **SLOW, trusted_proxies=PROXY) as (_, client):
        # One key from ever new addresses; the other one is not touched by it.
        greedy = [
            statuses(client, 1, x_api_key=keys[0], x_forwarded_for=f"203.0.113.{n}")[0]
            for n in range(8)
        ]
        other = statuses(client, 1, x_api_key=keys[1], x_forwarded_for="203.0.113.9")

    assert greedy == [200] * 5 + [429] * 3
    assert other == [200]


def test_forwarded_addresses_count_only_from_a_trusted_proxy(store):
    with serving(store, **SLOW) as (_, client):
        untrusted = [statuses(client, 1, x_forwarded_for=f"203.0.113.{n}")[0] for n in range(7)]
    with serving(store, **SLOW, trusted_proxies=PROXY) as (_, client):
        trusted = [statuses(client, 1, x_forwarded_for=f"203.0.113.{n}")[0] for n in range(7)]
        invented = [
            statuses(client, 1, x_forwarded_for=f"203.0.113.{n}, 198.51.100.1")[0] for n in range(7)
        ]

    assert untrusted == [200] * 5 + [429] * 2
    assert trusted == [200] * 7
    assert invented == [200] * 5 + [429] * 2


def test_wrong_keys_are_soon_not_looked_at_any_more(store):
    version = publish(store, seed=1)
    key, late = add_key(store, "predict").text, add_key(store, "predict").text
    with serving(store, rest_auth="on", rate_per_s=0.0) as (service, client):
        wait_served(service, version)
        good = statuses(client, 1, x_api_key=key)
        tried = [
            statuses(client, 1, x_api_key=new_key().text)[0] for _ in range(3 * FAILURES_BURST)
        ]
        refused = client.get("/served", headers={"x-api-key": new_key().text})
        still_good = statuses(client, 3, x_api_key=key)
        newcomer = statuses(client, 1, x_api_key=late)
        without = statuses(client, 1)

    assert good == [200]
    assert tried[:FAILURES_BURST] == [401] * FAILURES_BURST
    assert tried[-FAILURES_BURST:].count(429) >= FAILURES_BURST - 1
    assert int(refused.headers["retry-after"]) <= 2
    assert still_good == [200] * 3  # who was right from there before goes on
    assert newcomer == [429]
    assert without == [401]
