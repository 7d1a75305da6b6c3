"""Lines of task files, right and wrong ones."""

from __future__ import annotations

import json
from typing import Any

from pytest_unlearn.tasks.format import (
    MAX_TEXT,
)

VALID: dict[str, Any] = {
    "id": "sum-of-list",
    "prompt": "def total(xs):\n",
    "entry_point": "total",
    "tests": [{"args": [[1, 2]], "expected": 3}],
}


def changed(**fields: Any) -> str:
    return json.dumps({**VALID, "id": "bad", **fields})


def lacking(key: str) -> str:
    return json.dumps({name: value for name, value in VALID.items() if name != key})


BAD_LINES = {
    "no-json": ("{", "invalid JSON at column 2 (Expecting property name enclosed in double"),
    "deep-json": ("[" * 200_000, "the JSON cannot be read (nested too deeply"),
    "long-number": (changed(tests=[]).replace("[]", "9" * 5000), "a number too long"),
    "nan": (changed(tests=[{"args": [], "expected": float("nan")}]), '"tests[0]": NaN, Infinity'),
    "nul": (changed(prompt="x\0"), '"prompt": character 2 is a NUL, which a Python'),
    "long": (changed(solution="x" * (MAX_TEXT + 1)), '"solution": the text has 1048577 characters'),
    "wrong-type": (changed(wrong={}), '"wrong": an object is given; write a list of texts'),
    "wrong-item": (changed(wrong=["x", 1]), '"wrong[1]": a number is given; write a string'),
    "suffix-type": (changed(suffix=None), '"suffix": null is given; write a string'),
    "surrogate": (changed(prompt="x\ud800"), '"prompt": character 2 is half of a surrogate'),
    "no-object": ("[1]", 'the line is a list; write a JSON object with the keys "id", "prompt"'),
    "no-id": (lacking("id"), '"id": the key is missing; add a string that is unique'),
    "no-prompt": (lacking("prompt"), '"prompt": the key is missing; add the code'),
    "no-entry-point": (lacking("entry_point"), '"entry_point": the key is missing; add the name'),
    "no-tests": (lacking("tests"), '"tests": the key is missing; add a list of {"args": [...]'),
    "unknown-key": (changed(level=1), '"level": unknown key; use only "id", "prompt", "entry'),
    "id-type": (changed(id=3), '"id": a number is given; write a string'),
    "id-characters": (changed(id="a b"), "\"id\": 'a b' is empty or has characters other than"),
    "id-newline": (changed(id="a\n"), "\"id\": 'a\\n' is empty or has characters other than"),
    "id-empty": (changed(id=""), "\"id\": '' is empty or has characters other than"),
    "id-twice": (json.dumps(VALID), "\"id\": 'sum-of-list' is already the id of line 1; give"),
    "prompt-type": (changed(prompt=None), '"prompt": null is given; write a string'),
    "prompt-empty": (changed(prompt=" "), '"prompt": the text is empty; write the code'),
    "entry-point-type": (changed(entry_point=[]), '"entry_point": a list is given; write a str'),
    "entry-point-name": (changed(entry_point="a-b"), "'a-b' is not a Python identifier; write"),
    "entry-point-word": (changed(entry_point="def"), "'def' is not a Python identifier; write"),
    "solution-type": (changed(solution=True), '"solution": a boolean is given; write a string'),
    "tests-type": (changed(tests={}), '"tests": an object is given; write a list of {"args"'),
    "tests-empty": (changed(tests=[]), '"tests": the list is empty; add at least one {"args": '),
    "test-type": (changed(tests=[1.5]), '"tests[0]": a number is given; write {"args": [...]'),
    "test-key": (
        changed(tests=[{"args": [], "expected": 1, "want": 2}]),
        '"tests[0].want": unknown key; use only "args", "expected", "after"',
    ),
    "test-after": (
        changed(tests=[{"args": [[1], 2], "expected": 1, "after": [[1]]}]),
        '"tests[0].after": write a list of all 2 arguments as the call must leave them, or "any"',
    ),
    "test-after-type": (
        changed(tests=[{"args": [], "expected": 1, "after": "x"}]),
        '"tests[0].after": write a list of all 0 arguments',
    ),
    "timeout-type": (changed(timeout="3"), '"timeout": write a number of seconds over 0'),
    "timeout-none": (changed(timeout=0), '"timeout": write a number of seconds over 0'),
    "timeout-long": (changed(timeout=601), '"timeout": write a number of seconds over 0 and at mo'),
    "tolerance": (changed(tolerance=-1), '"tolerance": write a number of at least 0, like 1e-6'),
    "tolerance-type": (changed(tolerance=True), '"tolerance": write a number of at least 0'),
    "test-lacks-expected": (
        changed(tests=[*VALID["tests"], {"args": []}]),
        '"tests[1].expected": the key is missing; write {"args": [...], "expected": ...}',
    ),
    "test-lacks-args": (changed(tests=[{"expected": 1}]), '"tests[0].args": the key is missing'),
    "test-args-type": (
        changed(tests=[{"args": "x", "expected": 1}]),
        '"tests[0].args": a string is given; write a list of the arguments, [] for none',
    ),
}
