"""The routes beside /predict: models, health, metrics, OpenAPI, the page's files."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serving import DIGITS, png, publish, serving, wait_served

from fedfleet.errors import all_errors
from fedfleet.store.protocols import VersionRecord
from fedfleet.types import Evaluation
from fedfleet_inference_api.page_routes import FILES


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


def test_model_shows_lineage_and_how_each_class_is_told(store):
    right = (9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    evaluation = Evaluation(
        samples=90,
        loss_sum=1.0,
        correct=45,
        top5=80,
        class_samples=(10,) * 9 + (0,),
        class_correct=right,
        class_predicted=(9,) * 10,
    )
    lineage = {"algorithm": "fedavg", "recipe_digest": "ab" * 32}

    def evaluated(version: VersionRecord) -> VersionRecord:
        metrics = {"evaluation": evaluation.to_json(), "train": {"loss": 0.5}}
        return replace(version, metrics=metrics, lineage=lineage)

    publish(store, seed=1)
    version = publish(store, seed=2, sign=evaluated)
    store.registry.retire("digits", 1, 1_700_000_000.0)
    with serving(store) as (service, client):
        wait_served(service, version)
        newest, oldest = client.get("/models/digits").json()["versions"]
        summary = client.get("/models").json()["models"][0]["versions"]

    assert (newest["accuracy"], newest["lineage"]) == (0.5, lineage)
    assert [one["label"] for one in newest["classes"]] == list(DIGITS)
    assert [one["accuracy"] for one in newest["classes"]] == [n / 10 for n in right[:9]] + [None]
    assert (oldest["accuracy"], oldest["classes"], oldest["lineage"]) == (None, None, {})
    assert (newest["retired_at"], oldest["retired_at"]) == (None, "2023-11-14T22:13:20.000+00:00")
    assert [one["accuracy"] for one in summary] == [0.5, None]


def test_versions_come_in_parts_that_say_how_many_are_older(store):
    scores = {"samples": 10, "correct": 5, "scores": {"map50": 0.5}}
    for number in range(1, 8):
        publish(store, seed=number, metrics={"evaluation": {**scores}} if number > 5 else {})
    publish(store, seed=1, model="cats")
    with serving(store) as (_, client):

        def ask(path: str, **query: int) -> dict[str, Any]:
            return client.get(path, params=query).json()

        cats, digits = ask("/models", limit=2)["models"]
        details = [ask("/models/digits", limit=3)]
        histories = [ask("/models/digits/history", limit=3)]
        for parts, path in ((details, "/models/digits"), (histories, "/models/digits/history")):
            while parts[-1]["older"]:
                parts.append(ask(path, limit=3, before=parts[-1]["older"] + 1))
        whole = ask("/models/digits/history")
        nothing = ask("/models/digits/history", before=1)
        unknown = [client.get(f"/models/{name}?before=2") for name in ("no", "no/history")]
        refused = client.get("/models/digits?before=0")

    assert (len(cats["versions"]), cats["older"]) == (1, 0)
    assert (len(digits["versions"]), digits["older"]) == (2, 5)
    told = [[one["version"] for one in part["versions"]] for part in details]
    assert told == [[7, 6, 5], [4, 3, 2], [1]]
    drawn = [[one["version"] for one in part["versions"]] for part in histories]
    assert drawn == [[5, 6, 7], [2, 3, 4], [1]]
    # Of versions that nobody evaluated, too: a chart has one measure.
    assert [part["measure"] for part in histories] == ["map50"] * 3
    assert [one for part in reversed(histories) for one in part["versions"]] == whole["versions"]
    assert (whole["older"], nothing["versions"], nothing["older"]) == (0, [], 0)
    assert [one.status_code for one in unknown] == [404, 404]
    assert refused.json()["error"]["code"] == "INVALID_INPUT"


@pytest.mark.parametrize(
    "evaluation", [5, [], "x", {"samples": 1}, {"samples": None}, {"class_samples": 3}]
)
def test_model_outlives_metrics_that_are_none_of_ours(store, evaluation):
    metrics = {"evaluation": evaluation, "deep": [{"x": 1.5}]}
    version = publish(store, seed=1, sign=lambda v: replace(v, metrics=metrics))
    with serving(store) as (service, client):
        wait_served(service, version)
        (shown,) = client.get("/models/digits").json()["versions"]
        listed = client.get("/models").status_code

    assert (shown["metrics"], shown["accuracy"], listed) == (metrics, None, 200)


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
    refused = {"400", "404", "409", "410", "413", "415", "503", "504", "default"}
    assert {"200", *refused} == set(predict["responses"])
    for status, response in predict["responses"].items():
        name = "PredictAnswer" if status == "200" else "ErrorAnswer"
        schema = response["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{name}"}
    assert set(document["paths"]) >= {
        "/predict",
        "/predict/batch",
        "/models",
        "/models/{name}",
        "/served",
        "/served/rollback",
        "/served/follow",
        "/v2",
        "/v2/models/{name}/versions/{version}/infer",
        "/livez",
        "/readyz",
        "/metrics",
    }
    assert "HTTPValidationError" not in document["components"]["schemas"]


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html"),
        ("/live", "text/html"),
        ("/history", "text/html"),
        *((f"/page/{name}", "text/javascript") for name in FILES if name.endswith(".js")),
        ("/page/style.css", "text/css"),
        ("/page/icon.svg", "image/svg+xml"),
    ],
)
def test_page_files_come_with_a_policy_and_name_no_other_host(client, path, media_type):
    response = client.get(path)

    assert response.status_code == 200
    assert response.headers["content-type"].startswith(media_type)
    addresses = re.findall(r"""(?:\w+:|["'(=])//[^\s"')]+""", response.text)
    # A name, and an example of what to type in: neither is fetched.
    assert set(addresses) <= {"http://www.w3.org/2000/svg", "rtsp://192.168.1.20/stream"}
    check_headers(response)


@pytest.mark.parametrize("path", ["/models", "/nothing", "/metrics"])
def test_every_answer_carries_the_safety_headers(client, path):
    check_headers(client.get(path))


def check_headers(response: httpx.Response) -> None:
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-security-policy"].startswith("default-src 'self';")
    assert response.headers["referrer-policy"] == "no-referrer"
