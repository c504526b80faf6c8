"""HTTPS with a certificate of the fleet's own authority, and what it is replaced by."""

from __future__ import annotations

import hashlib
import math
import socket
import ssl
import time
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from serving import png, publish, serving, wait_served, wait_until

from fedfleet.errors import SettingInvalid
from fedfleet.identity.authority import Authority
from fedfleet.identity.credentials import FILE, save_credentials
from fedfleet_inference_api import server
from fedfleet_inference_api.config import InferenceConfig
from fedfleet_inference_api.tls import ServerCertificate

DAY_S = 86400.0


@pytest.fixture
def authority(tmp_path) -> Authority:
    return Authority.open(tmp_path / "ca")


def issue(authority: Authority, folder: Path, host: str = "127.0.0.1") -> Path:
    """As ``fedfleet ca server``: key and chain in one file, which is named as both."""
    save_credentials(folder, authority.issue_server([host], time.time(), DAY_S))
    return folder / FILE


def both(path: Path) -> dict[str, Path]:
    return {"inference_certificate": path, "inference_key": path}


def test_https_answers_whoever_trusts_the_authority_and_nobody_in_plain_text(
    store, authority, tmp_path
):
    version = publish(store, seed=1)
    with serving(store, **both(issue(authority, tmp_path / "web"))) as (service, client):
        wait_served(service, version)
        answer = client.post("/predict", content=png())
        url = str(client.base_url)
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{url}/livez", trust_env=False)
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{url}/livez".replace("https", "http"), trust_env=False)

    assert url.startswith("https://")
    assert answer.status_code == 200


def test_https_refuses_old_versions_of_tls(store, authority, tmp_path):
    with serving(store, **both(issue(authority, tmp_path / "web"))) as (_, client):
        address = (client.base_url.host, client.base_url.port)

        def speak(version: ssl.TLSVersion) -> None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or this side would not even try
            context.minimum_version = context.maximum_version = version
            with socket.create_connection(address, timeout=30) as caller:
                context.wrap_socket(caller).close()

        speak(ssl.TLSVersion.TLSv1_2)
        with (
            pytest.warns(DeprecationWarning, match="TLSv1_1"),
            pytest.raises(ssl.SSLError, match=r"EOF|ALERT_PROTOCOL_VERSION"),
        ):
            speak(ssl.TLSVersion.TLSv1_1)


def shown(client: httpx.Client) -> str:
    """SHA-256 of the certificate that the service shows."""
    address = (client.base_url.host, client.base_url.port)
    pem = ssl.get_server_certificate(address, timeout=30)
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def test_certificate_is_replaced_while_it_is_used(authority, tmp_path, store, monkeypatch):
    monkeypatch.setattr(server, "CERTIFICATE_TICKS", 1)
    path = issue(authority, tmp_path / "web")
    with serving(store, **both(path)) as (_, client):
        first = shown(client)
        held = client.get("/livez")  # on a connection that stays open
        issue(authority, tmp_path / "web")
        wait_until(lambda: shown(client) != first)

        assert held.status_code == client.get("/livez").status_code == 200


def test_files_that_cannot_be_used_leave_the_old_certificate(authority, tmp_path, caplog):
    path = issue(authority, tmp_path / "web")
    certificate = ServerCertificate(path, path)
    good = path.read_bytes()

    path.write_bytes(good[:200])
    assert not certificate.refresh()
    path.unlink()
    assert not certificate.refresh()
    assert [record.message for record in caplog.records] == ["certificate_refused"] * 2
    path.write_bytes(good)
    assert certificate.refresh()


def test_certificate_that_ends_soon_is_warned_of_once_a_day(authority, tmp_path, caplog):
    path, now_s = issue(authority, tmp_path / "web"), time.time()
    certificate = ServerCertificate(path, path)
    assert certificate.ends_at_s == pytest.approx(now_s + DAY_S, abs=60)

    certificate.warn_of_end(certificate.ends_at_s - 14 * DAY_S)
    assert caplog.records == []
    for late_s in (1, 2, DAY_S, DAY_S + 1, 14 * DAY_S, 14 * DAY_S + 2, 16 * DAY_S):
        certificate.warn_of_end(certificate.ends_at_s - 14 * DAY_S + late_s)
    warned = [(record.message, record.left_days) for record in caplog.records]
    assert warned == [("certificate_ends_soon", days) for days in (14.0, 13.0, 0.0, -2.0)]

    save_credentials(path.parent, authority.issue_server(["127.0.0.1"], now_s, 30 * DAY_S))
    assert certificate.refresh()
    certificate.warn_of_end(now_s)
    assert len(caplog.records) == 4
    assert certificate.ends_at_s == pytest.approx(now_s + 30 * DAY_S, abs=60)


def test_end_of_the_certificate_is_a_metric(store, authority, tmp_path, caplog):
    name = "fedfleet_inference_certificate_end_timestamp_seconds"
    path = issue(authority, tmp_path / "web")
    with serving(store) as (_, client):
        assert math.isnan(_value(client, name))
    with serving(store, **both(path)) as (_, client):
        ends_at_s = ServerCertificate(path, path).ends_at_s
        wait_until(lambda: _value(client, name) == ends_at_s)
    assert "certificate_ends_soon" in [record.message for record in caplog.records]


def _value(client: httpx.Client, metric: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    (line,) = [line for line in lines if line.startswith(f"{metric} ")]
    return float(line.split()[1])


def test_bad_files_are_named_at_the_start(authority, tmp_path):
    path, other = issue(authority, tmp_path / "web"), issue(authority, tmp_path / "other")
    empty, missing = tmp_path / "empty", tmp_path / "missing"
    empty.write_bytes(b"")
    for certificate, key in ((path, other), (path, empty), (empty, path), (missing, path)):
        with pytest.raises(SettingInvalid, match="FEDFLEET_INFERENCE_CERTIFICATE and"):
            ServerCertificate(certificate, key)
    with pytest.raises(SettingInvalid, match="set both, or neither"):
        InferenceConfig(inference_certificate=path)


def test_encrypted_key_is_refused_instead_of_asked_about(tmp_path, authority):
    path = issue(authority, tmp_path / "web")
    key = tmp_path / "locked.pem"
    private = ec.generate_private_key(ec.SECP256R1())
    locked = BestAvailableEncryption(b"a password")
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))

    with pytest.raises(SettingInvalid, match="the key is encrypted"):
        ServerCertificate(path, key)


def test_connection_that_never_says_hello_is_closed(store, authority, tmp_path):
    path = issue(authority, tmp_path / "web")
    with serving(store, **both(path), stall_s=0.2, max_connections=3) as (_, client):
        address = (client.base_url.host, client.base_url.port)
        silent = [socket.create_connection(address, timeout=30) for _ in range(3)]
        for caller in silent:
            assert caller.recv(1) == b""
            caller.close()
        wait_until(lambda: _answers(client))


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/livez").status_code == 200
    except httpx.TransportError:
        return False
