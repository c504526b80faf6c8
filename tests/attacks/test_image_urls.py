"""Images by URL are no way into the network of the service; with real sockets and real TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from holding import model_held
from serving import png, publish, serving, wait_served, wait_until

from fedfleet.errors import FedFleetError, ImageUrlFailed, InvalidInput
from fedfleet.identity.authority import Authority
from fedfleet.identity.files import write_private, write_public
from fedfleet.store.open import open_store
from fedfleet_inference_api.image_hosts import parse_hosts
from fedfleet_inference_api.image_url import MAX_FETCHES, ImageUrls

HOST = "images.example"
OTHER = "other.example"
PUBLIC = "93.184.216.34"
MAX_BYTES = 10_000
BODY = png()


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def leads_to(location: str) -> bytes:
    return answer(b"", f"location: {location}", status="302 Found")


NOISE = png(np.random.default_rng(1).integers(0, 256, (800, 800), dtype=np.uint8))

ANSWERS = {
    "/large.png": answer(NOISE),
    "/image.png?size=1": answer(BODY),
    "/chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n"
    % (len(BODY), BODY),
    "/until-the-end": b"HTTP/1.1 200 OK\r\n\r\n" + BODY,
    "/again": leads_to("/image.png?size=1"),
    "/3": leads_to(f"https://{OTHER}/again"),
    "/4": leads_to("/3"),
    "/5": leads_to("/4"),
    "/loop": leads_to("/loop"),
    "/plain": leads_to(f"http://{HOST}/image.png"),
    "/file": leads_to("file:///etc/passwd"),
    "/secret": leads_to(f"https://user:word@{HOST}/image.png"),
    "/port": leads_to(f"https://{HOST}:8443/image.png"),
    "/inside": leads_to("https://inside.example/image.png"),
    "/metadata": leads_to("https://169.254.169.254/latest"),
    "/nowhere": answer(b"", status="302 Found"),
    "/odd-place": leads_to("https://[::1/"),
    "/missing": answer(BODY, status="404 Not Found"),
    "/partial": answer(BODY, status="206 Partial Content"),
    "/packed": answer(BODY, "content-encoding: gzip"),
    "/announced": b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\nx",
    "/endless": b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (2 * MAX_BYTES),
    "/short": b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nx",
    "/no-http": b"220 smtp.example ESMTP\r\n",
    "/nothing": b"",
    "/headers": b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 100_000,
}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a server's certificate and the root that it is trusted by."""
    folder = tmp_path_factory.mktemp("tls")
    made = Authority.open(folder / "ca").issue_server([HOST, OTHER], time.time(), 3600.0)
    write_private(folder / "key.pem", made.key)
    write_public(folder / "certificate.pem", made.chain + made.root)
    write_public(folder / "root.pem", made.root)
    return folder


class Internet:
    """A resolver and a way to connect, whose every public address is a server of this test."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.names = {HOST: [PUBLIC], OTHER: [PUBLIC, "2606:2800:220:1::1"]}
        self.asked: list[str] = []
        self.dialled: list[tuple[str, int]] = []
        self.requests: list[bytes] = []

    async def resolve(self, host: str) -> list[str]:
        self.asked.append(host)
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return self.names[host]

    async def dial(self, address: str, port: int) -> socket.socket:
        self.dialled.append((address, port))
        connection = socket.socket()
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", self.port))
        return connection


@pytest.fixture
async def internet(certificates: Path) -> AsyncIterator[Internet]:
    held = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            made.requests.append(head)
            path = head.split(b" ")[1].decode()
            if path == "/stall":
                await held.wait()
            writer.write(ANSWERS.get(path, b""))
            await writer.drain()
            if path == "/endless":
                await held.wait()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "certificate.pem", certificates / "key.pem")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    made = Internet(server.sockets[0].getsockname()[1])
    async with server:
        yield made
        held.set()


def urls(
    internet: Internet,
    certificates: Path,
    hosts: str = "public",
    timeout_s: float = 30.0,
    max_bytes: int = MAX_BYTES,
) -> ImageUrls:
    return ImageUrls(
        parse_hosts(hosts),
        max_bytes,
        timeout_s=timeout_s,
        context=ssl.create_default_context(cafile=str(certificates / "root.pem")),
        resolve_host=internet.resolve,
        dial_address=internet.dial,
    )


async def refusal(fetcher: ImageUrls, url: str) -> FedFleetError:
    with pytest.raises((ImageUrlFailed, InvalidInput)) as caught:
        await fetcher.fetch(url)
    return caught.value


@pytest.mark.parametrize("path", ["/image.png?size=1", "/chunked", "/until-the-end", "/again"])
async def test_image_is_fetched_from_the_address_that_was_looked_at(internet, certificates, path):
    found = await urls(internet, certificates, HOST).fetch(f"https://{HOST}{path}#part")

    assert found == BODY
    assert set(internet.dialled) == {(PUBLIC, 443)}
    assert internet.asked == [HOST] * len(internet.dialled)
    head = internet.requests[0].lower()
    assert f"host: {HOST}\r\n".encode() in head
    assert b"authorization" not in head
    assert b"cookie" not in head


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example/image.png",
        "ftp://images.example/image.png",
        "file:///etc/passwd",
        "gopher://images.example/",
        "//images.example/image.png",
        "https:///image.png",
        "https://user@images.example/image.png",
        "https://user:word@images.example/image.png",
        "https://@images.example/image.png",
        "https://images.example:8443/image.png",
        "https://images.example:99999/",
        "https://images.example:443x/",
        "https://[::1/",
        "https://images.example/a b",
        "https://images.example/\r\nhost: x",
        "https://images.example\\@inside.example/",
        "https://im\u00e4ges.example/",
        "https://images.example/" + "x" * 3000,
        "",
    ],
)
async def test_url_that_is_none_of_those_is_refused_without_a_look(internet, certificates, url):
    error = await refusal(urls(internet, certificates), url)

    assert error.code == "INVALID_INPUT"
    assert (internet.asked, internet.dialled) == ([], [])


async def test_only_named_hosts_are_asked(internet, certificates):
    fetcher = urls(internet, certificates, OTHER)

    for host in (HOST, f"{OTHER}.{HOST}", f"x{OTHER}", PUBLIC):
        assert (await refusal(fetcher, f"https://{host}/image.png")).code == "INVALID_INPUT"
    assert (internet.asked, internet.dialled) == ([], [])
    assert await fetcher.fetch(f"https://{OTHER.upper()}./image.png?size=1") == BODY


@pytest.mark.parametrize(
    "addresses",
    [
        *(["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["::1"], ["fd00::1"]),
        *(["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"], ["224.0.1.1"], ["0.0.0.0"]),
        *([PUBLIC, "127.0.0.1"], ["10.0.0.1", PUBLIC], []),
    ],
)
async def test_host_with_one_address_inside_is_never_connected_to(
    internet, certificates, addresses
):
    internet.names[HOST] = addresses

    error = await refusal(urls(internet, certificates), f"https://{HOST}/image.png")

    assert error.code == "IMAGE_URL_FAILED"
    assert internet.dialled == []


async def test_name_that_changes_its_address_is_resolved_once_for_each_connection(
    internet, certificates
):
    """DNS rebinding: what was looked at is what is connected to."""
    await urls(internet, certificates).fetch(f"https://{HOST}/image.png?size=1")

    assert (internet.asked, internet.dialled) == ([HOST], [(PUBLIC, 443)])


@pytest.mark.parametrize(
    "path",
    [
        *("/loop", "/5", "/plain", "/file", "/secret", "/port", "/inside", "/metadata"),
        *("/nowhere", "/odd-place", "/missing", "/partial", "/packed", "/announced", "/endless"),
        *("/short", "/no-http", "/nothing", "/headers"),
    ],
)
async def test_whatever_goes_wrong_reads_the_same(internet, certificates, path):
    internet.names["inside.example"] = ["10.0.0.1"]

    error = await refusal(urls(internet, certificates), f"https://{HOST}{path}")
    unknown = await refusal(urls(internet, certificates), "https://nobody.example/")

    assert (error.code, error.message) == (unknown.code, unknown.message)
    assert error.code == "IMAGE_URL_FAILED"
    assert error.http == 422
    assert {address for address, _ in internet.dialled} <= {PUBLIC}
    assert len(internet.dialled) <= 4


async def test_redirects_are_followed_so_often_and_each_is_looked_at(internet, certificates):
    found = await urls(internet, certificates).fetch(f"https://{HOST}/4")
    refused = await refusal(urls(internet, certificates, HOST), f"https://{HOST}/3")

    assert found == BODY
    assert internet.asked == [HOST, HOST, OTHER, OTHER, HOST]
    assert refused.code == "IMAGE_URL_FAILED"


async def test_certificate_has_to_be_of_the_name(internet, certificates):
    internet.names["third.example"] = [PUBLIC]

    for host in ("third.example", PUBLIC):
        internet.names[host] = [PUBLIC]
        error = await refusal(urls(internet, certificates), f"https://{host}/image.png")
        assert error.code == "IMAGE_URL_FAILED"
    assert internet.requests == []  # not a byte was said to whoever that is


async def test_host_that_is_slow_is_left_and_so_many_are_asked_at_once(internet, certificates):
    fetcher = urls(internet, certificates, timeout_s=0.5)

    found = await asyncio.gather(
        *(fetcher.fetch(f"https://{HOST}/stall") for _ in range(MAX_FETCHES + 2)),
        return_exceptions=True,
    )

    codes = sorted(error.code for error in found if isinstance(error, FedFleetError))
    assert codes == ["IMAGE_URL_FAILED"] * MAX_FETCHES + ["UNAVAILABLE"] * 2
    assert fetcher._fetches == 0


async def test_names_that_nobody_answers_for_keep_no_thread_from_others(monkeypatch):
    release, ended = threading.Event(), threading.Semaphore(0)

    def held(*_: object, **__: object) -> object:
        """A resolver whose server is silent; it cannot be ended from outside."""
        release.wait()
        ended.release()
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", held)
    fetcher = ImageUrls(parse_hosts("public"), MAX_BYTES, timeout_s=0.2)
    url = f"https://{HOST}/image.png"
    try:
        slow = await asyncio.gather(
            *(fetcher.fetch(url) for _ in range(MAX_FETCHES)), return_exceptions=True
        )
        beyond = await asyncio.gather(fetcher.fetch(url), return_exceptions=True)
        threads = [thread for thread in threading.enumerate() if thread.name == "image-url-names"]
        others = await asyncio.wait_for(
            asyncio.gather(*(asyncio.to_thread(int, number) for number in range(MAX_FETCHES))), 10
        )
    finally:
        release.set()
        for _ in range(MAX_FETCHES):
            await asyncio.to_thread(ended.acquire)
    for thread in threads:
        thread.join()
    after = await refusal(fetcher, url)

    assert [error.code for error in slow] == ["IMAGE_URL_FAILED"] * MAX_FETCHES
    assert [error.code for error in beyond] == ["UNAVAILABLE"]  # theirs have not ended
    assert len(threads) == MAX_FETCHES
    assert all(thread.daemon for thread in threads)  # the end of the process does not wait for them
    assert others == list(range(MAX_FETCHES))
    assert after.code == "IMAGE_URL_FAILED"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with open_store(f"sqlite:{tmp_path_factory.mktemp('urls')}") as store:
        version = publish(store, seed=1)
        settings = {"image_urls": parse_hosts("public")}
        with serving(store, **settings) as (service, connected):
            wait_served(service, version)
            yield connected


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("https://127.0.0.1/image.png", 422, "IMAGE_URL_FAILED"),
        ("https://[::1]/image.png", 422, "IMAGE_URL_FAILED"),
        ("https://[::ffff:127.0.0.1]/image.png", 422, "IMAGE_URL_FAILED"),
        ("https://2130706433/image.png", 422, "IMAGE_URL_FAILED"),
        ("https://0x7f.1/image.png", 422, "IMAGE_URL_FAILED"),
        ("https://localhost/image.png", 422, "IMAGE_URL_FAILED"),
        ("http://127.0.0.1/image.png", 400, "INVALID_INPUT"),
    ],
)
def test_service_with_real_names_and_sockets_stays_outside(client, url, status, code):
    response = client.post("/predict", json={"url": url})

    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert "127.0.0.1" not in response.text


def test_service_that_fetches_takes_images_as_before_and_documents_it(client):
    document = client.get("/openapi.json").json()["paths"]["/predict"]["post"]

    assert client.post("/predict", content=png()).status_code == 200
    assert client.post("/predict", json={"url": 5}).status_code == 400
    assert client.post("/predict", json={"url": "", "image": ""}).status_code == 400
    forms = document["requestBody"]["content"]["application/json"]["schema"]["oneOf"]
    assert [list(form["properties"]) for form in forms] == [["image"], ["url"]]
    assert "422" in document["responses"]


async def test_fetched_images_count_among_the_bodies_that_are_held(
    internet, certificates, tmp_path
):
    """Else callers with a few bytes each could fill the memory."""
    large = {"url": f"https://{HOST}/large.png"}

    def ask() -> tuple[int, int, int, int]:
        settings = {"bodies_mb": 1, "max_body_bytes": 1 << 20, "image_urls": parse_hosts("public")}
        with (
            open_store(f"sqlite:{tmp_path}") as store,
            serving(store, **settings) as (service, client),
        ):
            wait_served(service, publish(store, seed=1))
            service.images = urls(internet, certificates, max_bytes=1 << 20)
            first: list[int] = []

            def hold() -> None:
                first.append(client.post("/predict", json=large).status_code)

            caller = threading.Thread(target=hold)
            with model_held(service):
                caller.start()
                wait_until(lambda: len(service.predictor._batcher) == 1)
                second = client.post("/predict", json=large).status_code
            caller.join()
            after = client.post("/predict", json=large).status_code
            asked = len(internet.requests)
            unknown = client.post("/predict", params={"version": 9}, json=large).status_code
            assert len(internet.requests) == asked  # nothing is fetched for a version that is none
        return first[0], second, after, unknown

    assert await asyncio.to_thread(ask) == (200, 503, 200, 404)
