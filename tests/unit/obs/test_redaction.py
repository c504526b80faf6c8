from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.obs.logs import JsonFormatter
from fedfleet.obs.redaction import forget_secrets, hide_secrets, redact


@pytest.fixture
def hidden() -> Iterator[None]:
    secrets = ["hush-hush", "hush", 'q"uo\\te', "ab", "level"]
    hide_secrets(secrets)
    yield
    forget_secrets(secrets)


def line(message: str, **extra: object) -> dict[str, object]:
    record = logging.makeLogRecord({"name": "here", "levelname": "INFO", "msg": message, **extra})
    found: dict[str, object] = json.loads(JsonFormatter("worker").format(record))
    return found


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("open rtsp://u:p@cam/x now", "open rtsp://***@cam/x now"),
        ("rtsp://u:p@s:s@cam/x", "rtsp://***@cam/x"),
        ("rtsp://u:p/a@s?s@cam/x", "rtsp://***@cam/x"),
        ('Did you mean "file:rtsp://u:p@cam/x"', 'Did you mean "file:rtsp://***@cam/x"'),
        ("rtsp://cam/x and mail me@home", "rtsp://cam/x and mail me@home"),
        ("a http://u:p@a/ b https://u:p@b/ c", "a http://***@a/ b https://***@b/ c"),
        ("rtsp://cam/x", "rtsp://cam/x"),
        ("", ""),
    ],
)
def test_what_stands_before_the_last_at_of_a_url_is_hidden(text, shown):
    assert redact(text) == shown


@pytest.mark.usefixtures("hidden")
def test_known_secrets_are_hidden_in_every_value_of_a_record():
    fields = line("say hush-hush", a='x q"uo\\te y', b=[{"hush": ["hush"]}], c=5, ab="ab level")

    assert fields["event"] == "say ***"
    assert fields["a"] == "x *** y"
    assert fields["b"] == [{"***": ["***"]}]
    assert (fields["c"], fields["ab"]) == (5, "ab ***"), "what is short says nothing by itself"
    assert (fields["level"], fields["service"]) == ("info", "worker"), "keys stay"


@pytest.mark.usefixtures("hidden")
def test_known_secrets_are_hidden_in_tracebacks():
    try:
        raise ValueError("not hush")
    except ValueError as error:
        fields = line("failed", exc_info=(ValueError, error, error.__traceback__))

    assert "ValueError: not ***" in str(fields["traceback"])


def test_secret_is_hidden_as_long_as_one_needs_it():
    hide_secrets(["twice"])
    hide_secrets(["twice"])
    forget_secrets(["twice"])
    assert redact("twice") == "***"

    forget_secrets(["twice"])
    forget_secrets(["twice"])
    assert redact("twice") == "twice"

    hide_secrets(["twice"])
    assert redact("twice") == "***"
    forget_secrets(["twice"])


@given(st.text(min_size=4), st.text(), st.text())
def test_no_secret_is_left_in_a_line(secret, before, after):
    hide_secrets([secret])
    try:
        fields = line("x", text=before + secret + after)
    finally:
        forget_secrets([secret])

    assert secret not in str(fields["text"]).replace("***", "") or secret in before + after
