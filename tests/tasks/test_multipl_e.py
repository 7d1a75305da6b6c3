"""MultiPL-E's lines: their tests taken apart into calls and values, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_unlearn.tasks.extraction import solution_of
from pytest_unlearn.tasks.files import load_cases
from pytest_unlearn.tasks.format import Call, TaskFileError
from pytest_unlearn.tasks.multipl_e import multipl_e_case
from pytest_unlearn.tasks.task_prompts import prompt_of, stops_of
from tests.support.lookup_run import write_lines
from tests.support.multipl_e import JAVA, JAVA_SOLUTION, JS, JS_SOLUTION

HEAD = "import java.util.*;\nclass Problem {\n"


def test_both_languages_are_read(tmp_path: Any) -> None:
    """Arguments stay code of the language, expected answers become values."""
    js, java = load_cases(write_lines(tmp_path / "m.jsonl", [JS, JAVA]))
    assert (js.id, js.language, js.entry_point) == (
        "HumanEval_0_has_close",
        "javascript",
        "has_close",
    )
    assert js.tests == (
        Call(("[1.0, 2.0, 3.9, 4.0], 0.3",), True),
        Call(("[1.0, 2.0], 0.05",), False),
        Call(("[], 0.05",), False),
    )
    assert (java.language, java.entry_point) == ("java", "intersperse")
    assert [call.expected for call in java.tests] == [[], [5, 8, 6]]  # type: ignore[union-attr]
    assert stops_of(java, "completion")[-1] == "\n    }\n"
    assert "Complete this Java code" in prompt_of(java, "chat")


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ('"a\\n\\u00e9\\"b"', 'a\né"b'),
        ("-1.5", -1.5),
        ("undefined", None),
        ('[[1, 2], {"a": "b", c: [true]}]', [[1, 2], {"a": "b", "c": [True]}]),
        ("'it\\'s \"so\"'", 'it\'s "so"'),
    ],
)
def test_values_of_javascript(code: str, value: object) -> None:
    tests = f"let candidate = f;\nassert.deepEqual(candidate(1, ')'),{code});"
    case = multipl_e_case({**JS, "tests": tests}, "m.jsonl:1", "m")
    assert case.tests == (Call(("1, ')'",), value),)


@pytest.mark.parametrize(
    ("code", "value"),
    [
        (" == (0.1f)", 0.10000000149011612),
        (" == (0.5)", 0.5),
        (".equals((float)2l)", 2.0),
        ('.equals(("a)"))', "a)"),
        (".equals(Optional.empty())", ()),
        (".equals(Optional.of(3l))", (3,)),
        ('.equals((new HashMap<String,Long>(Map.of("a", 1l))))', {"a": 1}),
        (
            ".equals((new ArrayList<ArrayList<Long>>(Arrays.asList("
            "(ArrayList<Long>)new ArrayList<Long>(Arrays.asList((long)1l))))))",
            None,
        ),
        (
            ".equals((new ArrayList<ArrayList<Long>>(Arrays.asList("
            "new ArrayList<Long>(Arrays.asList((long)1l))))))",
            [[1]],
        ),
    ],
)
def test_values_of_java(code: str, value: object) -> None:
    line = {**JAVA, "prompt": HEAD, "tests": f"    assert(f((1l)){code});"}
    if value is None:
        with pytest.raises(TaskFileError, match=r'm:1: "tests": assert 1: '):
            multipl_e_case(line, "m:1", "m")
        return
    assert multipl_e_case(line, "m:1", "m").tests == (Call(("(1l)",), value),)


def test_what_needs_a_package_is_marked() -> None:
    """The task is left out by name, and its file is good."""
    tests = "assert(f(1l).equals((Pair.with(1l, 2l))));"
    assert multipl_e_case({**JAVA, "tests": tests}, "m:1", "m").lacks == "org.javatuples"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"language": "rs"}, "\"language\": 'rs' is not run here; give tasks in js or java"),
        ({"stop_tokens": "x"}, '"stop_tokens": write a list of texts'),
        ({"tests": "test();"}, '"tests": they have no assert.deepEqual(...)'),
        ({"tests": "assert.deepEqual(candidate(1), 2"}, "a bracket is not closed"),
        ({"tests": "assert.deepEqual(candidate(1), g(2));"}, "assert 1: g is not a known value"),
        ({"tests": "assert.deepEqual(1 + 1, 2);"}, "it does not begin with a call"),
        ({"tests": "assert.deepEqual(candidate(1), 2);"}, "no `let candidate = NAME;`"),
        ({"name": "///"}, "has neither letters nor digits"),
        ({"tests": None}, '"tests"'),
        ({"language": "java", "prompt": "x"}, '"prompt": it has no class Problem'),
    ],
)
def test_bad_lines_are_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(TaskFileError) as caught:
        multipl_e_case({**JS, **change}, "m.jsonl:7", "m")
    assert str(caught.value).startswith("m.jsonl:7: ")
    assert said in str(caught.value)


def test_programs_out_of_completions() -> None:
    """A completion ends at the task's stop, an answer's last block counts."""
    js, java = (multipl_e_case(line, "m:1", "m") for line in (JS, JAVA))
    found = solution_of(js, f"{JS_SOLUTION}\nconsole.log(1", "completion")
    assert found.whole
    assert found.source.rstrip().endswith("return false;\n}")
    assert not solution_of(js, "  return [", "completion").whole
    found = solution_of(java, f"{JAVA_SOLUTION}\n    }}\n    void f() {{", "completion")
    assert found.whole
    assert found.source.endswith("return found;\n    }\n}\n")
    answer = "So:\n```java\npublic static long intersperse(long x) { return x; }\n```\nDone."
    found = solution_of(java, answer, "chat")
    assert found.source.startswith("import java.util.*;")
    assert "class Problem {\npublic static long intersperse" in found.source
    whole = "```java\nclass Problem { static long intersperse() { return 1; } }\n```"
    assert solution_of(java, whole, "chat").source.startswith("class Problem { static")
