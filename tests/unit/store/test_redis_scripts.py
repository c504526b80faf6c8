"""What holds for every script: it builds no key, and names all that it is given."""

from __future__ import annotations

import importlib
import pkgutil
import re

import pytest

import fedfleet.store
from fedfleet.store.redis_keys import Keys
from fedfleet.store.redis_scripts import Script

SCRIPTS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": value
    for info in pkgutil.iter_modules(fedfleet.store.__path__, "fedfleet.store.")
    if info.name.startswith("fedfleet.store.redis")
    for module in [importlib.import_module(info.name)]
    for name, value in vars(module).items()
    if isinstance(value, Script)
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_key_that_a_script_touches_was_given_to_it(name: str) -> None:
    script = SCRIPTS[name]
    calls = re.findall(r"redis\.call\(\s*'([A-Z]+)',\s*([^,)]+)(.)", script.text)

    assert len(calls) == script.text.count("redis.call(") > 0
    for command, key, _ in calls:
        assert key in script.key_names or re.fullmatch(r"KEYS\[[a-z_ +]+\]", key), (command, key)
    # Commands that take a second key.
    for moved in re.findall(r"redis\.call\('(?:RENAME|UNLINK)', [^,)]+, ([^)]+)\)", script.text):
        assert all(
            key in script.key_names or key.startswith("KEYS[") for key in moved.split(", ")
        ), moved


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_answers_by_done_alone(name: str) -> None:
    body = re.sub(r"local function .*?\nend\n", "", SCRIPTS[name].body, flags=re.S)

    returns = re.findall(r"\breturn\b\s*(\w+)", body)
    assert returns
    assert set(returns) == {"done"}


def test_scripts_are_told_apart() -> None:
    shas = {script.sha for script in SCRIPTS.values()}

    assert len(shas) == len(set(SCRIPTS.values())) > 20


def test_one_name_for_two_things_is_refused() -> None:
    for keys, args in (("run", "run"), ("lane", ""), ("", "fence"), ("", "done")):
        with pytest.raises(AssertionError, match="one name"):
            Script(keys, args, "return done({'ok'})")


def test_all_keys_of_a_namespace_share_its_hash_tag() -> None:
    keys = Keys("my.fleet")
    names = [
        *(value for name, value in vars(keys).items() if name != "_prefix"),
        keys.lane("x"),
        keys.run("}a{"),
        keys.updates("run:1", 2),
        keys.part("\ud800", 3),
    ]

    assert len(set(names)) == len(names) > 15
    for name in names:
        assert name.startswith("fedfleet:{my.fleet}:")
