"""The routes beside /predict: models, health, metrics, OpenAPI, the page's files."""

from __future__ import annotations

import re

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import DIGITS, png, publish, serving, wait_served

from fedfleet.errors import all_errors


def test_models_lists_versions_aliases_and_what_is_served(store):
    publish(store, seed=1, aliases=("latest", "production"))
    version = publish(store, seed=2)
    publish(store, seed=1, model="cats", aliases=())
    with serving(store) as (service, client):
        wait_served(service, version)

        cats, digits = client.get("/models").json()["models"]
        newest = client.get("/models", params={"limit": 1}).json()["models"][1]
        detail = client.get("/models/digits").json()
        served = client.get("/served").json()

    assert (cats["name"], cats["served"], cats["aliases"]) == ("cats", None, {})
    assert digits["aliases"] == {"latest": 2, "production": 1}
    assert digits["served"] == 2
    assert [v["version"] for v in digits["versions"]] == [2, 1]
    assert [v["parent"] for v in digits["versions"]] == [1, None]
    assert digits["versions"][0]["digest"] == version.digest
    assert [v["version"] for v in newest["versions"]] == [2]
    assert detail["classes"] == list(DIGITS)
    assert detail["input"] == {"channels": 1, "height": 8, "width": 8}
    assert detail["architecture"] == "mlp"
    assert detail["versions"][0]["metrics"] == {"accuracy": 0.5}
    assert served["model"]["version"] == 2
    assert served["detail"] == "serving digits version 2 (round 2)"


def test_metrics_count_requests_by_route_and_parse(client):
    client.post("/predict", content=png(), headers={"content-type": "image/png"})
    client.post("/predict", content=b"junk", headers={"content-type": "image/png"})
    for path in ("/models/a", "/models/b", "/nothing/1", "/nothing/2"):
        client.get(path)

    response = client.get("/metrics")

    families = {f.name: f for f in text_string_to_metric_families(response.text)}
    own = {name for name in families if name.startswith("fedfleet_")}
    requests = families["fedfleet_inference_requests"].samples
    counts = {
        (s.labels["route"], s.labels["status"]): s.value
        for s in requests
        if s.name.endswith("_total")
    }
    errors = {s.labels["code"] for s in families["fedfleet_inference_errors"].samples}
    assert all(name.startswith("fedfleet_inference_") for name in own)
    assert counts["/predict", "200"] >= 1
    assert counts["/predict", "415"] >= 1
    assert counts["/models/{name}", "404"] == 2
    assert counts["other", "404"] == 2
    assert {"IMAGE_INVALID", "NOT_FOUND"} <= errors
    assert errors <= {cls.code for cls in all_errors()} | {"METHOD_NOT_ALLOWED"}
    (info,) = families["fedfleet_inference_model_info"].samples
    assert (info.labels["model"], info.labels["version"], info.value) == ("digits", "1", 1.0)


def test_health_answers(client):
    assert client.get("/livez").json() == {"live": True}
    assert client.get("/readyz").json() == {
        "ready": True,
        "detail": "serving digits version 1 (round 1)",
    }


def test_openapi_describes_every_form_and_every_error(client):
    document = client.get("/openapi.json").json()

    predict = document["paths"]["/predict"]["post"]
    forms = predict["requestBody"]["content"]
    assert set(forms) == {
        "multipart/form-data",
        "application/json",
        "image/*",
        "application/octet-stream",
    }
    assert {"200", "400", "413", "415", "503", "504", "default"} == set(predict["responses"])
    for status, response in predict["responses"].items():
        name = "PredictAnswer" if status == "200" else "ErrorAnswer"
        schema = response["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{name}"}
    assert set(document["paths"]) == {
        "/predict",
        "/models",
        "/models/{name}",
        "/served",
        "/livez",
        "/readyz",
        "/metrics",
    }
    assert "HTTPValidationError" not in document["components"]["schemas"]


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html"),
        ("/page/page.js", "text/javascript"),
        ("/page/style.css", "text/css"),
        ("/page/icon.svg", "image/svg+xml"),
    ],
)
def test_page_files_come_with_a_policy_and_name_no_other_host(client, path, media_type):
    response = client.get(path)

    assert response.status_code == 200
    assert response.headers["content-type"].startswith(media_type)
    addresses = re.findall(r"""(?:\w+:|["'(=])//[^\s"')]+""", response.text)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}  # a name, not fetched
    check_headers(response)


@pytest.mark.parametrize("path", ["/models", "/nothing", "/metrics"])
def test_every_answer_carries_the_safety_headers(client, path):
    check_headers(client.get(path))


def check_headers(response: httpx.Response) -> None:
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert response.headers["referrer-policy"] == "no-referrer"
