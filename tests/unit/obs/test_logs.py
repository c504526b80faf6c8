from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedfleet.errors import SettingInvalid, StoreFull
from fedfleet.obs.logs import JsonFormatter, log_context, setup_logging


def line(message: str = "event", /, **extra: object) -> str:
    record = logging.makeLogRecord({"name": "here", "levelname": "INFO", "msg": message, **extra})
    return JsonFormatter("worker").format(record)


def test_formatter_writes_the_fixed_fields_and_the_extra_ones():
    fields = json.loads(line("round_closed", round=3, created=1.25))

    assert fields == {
        "time": "1970-01-01T00:00:01.250+00:00",
        "level": "info",
        "service": "worker",
        "logger": "here",
        "event": "round_closed",
        "round": 3,
    }


@given(st.text(), st.dictionaries(st.sampled_from(["a", "b"]), st.text() | st.floats()))
def test_formatter_makes_one_line_of_ascii_json_from_any_value(message, extra):
    text = line("%s", args=(message,), **extra)

    fields = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert text.isascii()
    assert len(text.splitlines()) == 1
    assert fields["event"] == message


@given(st.recursive(st.none() | st.floats() | st.binary() | st.builds(object), st.lists))
def test_formatter_never_fails_on_a_value(value):
    assert json.loads(line(value=value))["event"] == "event"


def test_formatter_takes_a_value_that_holds_itself():
    value: list[object] = []
    value.append(value)

    assert json.loads(line(value=value))["value"] == "[[...]]"


def test_field_cannot_replace_a_fixed_one():
    with log_context(level="debug", event="other", time="never"):
        fields = json.loads(line(service="coordinator"))

    assert (fields["level"], fields["event"], fields["service"]) == ("info", "event", "worker")
    assert fields["time"] != "never"


def test_formatter_writes_an_error_with_its_code_and_private_detail():
    try:
        raise StoreFull("no room", detail="/private/path\nis full")
    except StoreFull:
        text = line(exc_info=sys.exc_info())

    fields = json.loads(text)
    assert fields["code"] == "STORE_FULL"
    assert fields["detail"] == "/private/path\nis full"
    assert "no room" in fields["traceback"]
    assert len(text.splitlines()) == 1


def test_context_nests_and_ends():
    with log_context(run_id="r", round=1):
        with log_context(round=2, worker_id="w"):
            inner = json.loads(line())
        outer = json.loads(line())
    after = json.loads(line())

    assert (inner["run_id"], inner["round"], inner["worker_id"]) == ("r", 2, "w")
    assert (outer["round"], "worker_id" in outer) == (1, False)
    assert "run_id" not in after


async def test_context_of_one_task_is_not_seen_by_another():
    inside = asyncio.Event()
    seen = asyncio.Event()

    async def first() -> None:
        with log_context(run_id="first"):
            inside.set()
            await seen.wait()

    task = asyncio.ensure_future(first())
    await inside.wait()
    fields = json.loads(line())
    seen.set()
    await task

    assert "run_id" not in fields


def test_setup_writes_lines_of_the_level_and_above_to_stderr():
    code = (
        "import logging, warnings\n"
        "from fedfleet.obs.logs import setup_logging\n"
        "setup_logging('worker', 'INFO')\n"
        "setup_logging('worker', 'info')\n"  # twice gives no line twice
        "logging.getLogger('a.b').debug('quiet')\n"
        "logging.getLogger('a.b').info('loud', extra={'n': 1})\n"
        "warnings.warn('old')\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    loud, warning = (json.loads(text) for text in done.stderr.splitlines())
    assert (loud["event"], loud["n"], loud["logger"]) == ("loud", 1, "a.b")
    assert (warning["level"], warning["logger"]) == ("warning", "py.warnings")
    assert done.stdout == ""


def test_what_is_printed_becomes_records():
    code = (
        "import logging, sys, traceback\n"
        "from fedfleet.obs.logs import prints_as_records, setup_logging\n"
        "setup_logging('worker', 'INFO')\n"
        "with prints_as_records():\n"
        "    try:\n"
        "        raise ValueError('x')\n"
        "    except ValueError:\n"
        "        traceback.print_exc()\n"
        "    sys.stderr.write('a' * 20_000)\n"
        "    logging.getLogger().handlers[0].format = None\n"  # what logging says of it is dropped
        "    logging.getLogger('a').info('lost')\n"
        "sys.stderr.write('plain\\n')\n"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    *printed, plain = done.stderr.splitlines()
    texts = [json.loads(line)["text"] for line in printed]
    assert texts[0] == "Traceback (most recent call last):"
    assert texts[-2:] == ["ValueError: x", "a" * (1 << 14)]
    assert {json.loads(line)["event"] for line in printed} == {"printed"}
    assert plain == "plain"


def test_setup_refuses_an_unknown_level():
    with pytest.raises(SettingInvalid, match="'loud': must be one of debug"):
        setup_logging("worker", "loud")
