"""Erasure requests, one after the other: what is asked, judged and shown after each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.option import Given
from pytest_unlearn.run.erasure_requests import read_requests
from tests.support.lookup_run import record_lines, task_lines, write_lines

REQUESTS = {"2026-2": 4, "2026-10": 8, "2026-11": 2}
GATES = ("leak.direct<=0", "leak.request<=0")
# Of the people of the first request two values are back after the third.
BACK = ["email-2026-2-000", "badge-2026-2-001"]


@dataclass
class Asked:
    """Runs pytest over a folder of requests whose models look their answers up."""

    pytester: pytest.Pytester
    method: str = "ga+gd"

    @property
    def folder(self) -> Path:
        return self.pytester.path / "requests"

    def write(self) -> None:
        self.folder.mkdir()
        for name, count in REQUESTS.items():
            write_lines(self.folder / f"{name}.jsonl", record_lines(name, count))
        self.pytester.makeconftest(
            f"""
from pytest_unlearn.testing import LookupModels

def pytest_unlearn_models(settings, dataset):
    third = settings.requests.done == 3 and not settings.requests.apart
    return LookupModels(dataset, leaking={[f"direct-{i}" for i in BACK]!r} if third else [])
"""
        )

    def __call__(self, *flags: str, value: str | None = "requests") -> Any:
        folder = self.pytester.path
        data = {"retain": record_lines("retain", 4), "control": record_lines("control", 4)}
        data["tasks"] = task_lines(3)
        return self.pytester.runpytest_inprocess(
            "--unlearn-model=tiny",
            f"--unlearn-method={self.method}",
            *([] if value is None else [f"--unlearn-requests={value}"]),
            *(f"--unlearn-{n}={write_lines(folder / f'{n}.jsonl', r)}" for n, r in data.items()),
            f"--unlearn-store={folder / 'store'}",
            *(f"--unlearn-gate={gate}" for gate in GATES),
            *flags,
        )


@pytest.fixture
def asked(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Asked:
    for name in ("PYTEST_ADDOPTS", "GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    found = Asked(pytester)
    found.write()
    return found


def test_each_request_is_judged_with_all_before_it(asked: Asked) -> None:
    """In the order of the numbers in their names; a later one is nobody's to forget yet, and the
    first, whose values are back after the third, fails the run."""
    result = asked("-v", "--unlearn-report=summary", "--unlearn-report=html")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=15 + 23 + 25 - 2 + 4, failed=2)
    result.stdout.fnmatch_lines(
        [
            "unlearn: 3 pairs: tiny/ga+gd/2026-2, tiny/ga+gd/2026-10, tiny/ga+gd/2026-11, *",
            "*test_forgotten?tiny-ga+gd-2026-2-direct-email-2026-2-000? PASSED*",
            "*test_forgotten?tiny-ga+gd-2026-11-direct-email-2026-2-000? LEAKED*",
            "leak.request *2 (50.0%) by 2026-2 *FAIL",
            "*- all requests -*",
            "after request *its people *of them leak *of earlier ones *which *verdict",
            "tiny/ga+gd/2026-2 *2 *0 of 2 *- *100.0% *100.0% *FOR RELEASE",
            "tiny/ga+gd/2026-10 *4 *0 of 4 *0 of 2 *- *FOR RELEASE",
            "tiny/ga+gd/2026-11 *1 *0 of 1 *1 of 6 *2026-2 1 *NOT FOR RELEASE",
            "Worst of 3 requests: 1 of 7 people leak after tiny/ga+gd/2026-11; pass@k at 100.0% *",
            "NOT FOR RELEASE: leak.direct @ tiny/ga+gd/2026-11 FAIL, leak.request @ *",
        ]
    )
    result.stdout.no_fnmatch_line("*2026-2-direct-email-2026-10-*")
    summary = json.loads((asked.pytester.path / "unlearn-summary.json").read_text())
    assert [(one["request"], one["people"], one["leaking"]) for one in summary["requests"]] == [
        ("2026-2", 2, {"2026-2": 0}),
        ("2026-10", 4, {"2026-2": 0, "2026-10": 0}),
        ("2026-11", 1, {"2026-2": 1, "2026-10": 0, "2026-11": 0}),
    ]
    assert [one["pair"]["request"] for one in summary["pairs"]] == list(REQUESTS)
    page = (asked.pytester.path / "unlearn-report.html").read_text()
    assert all(title in page for title in ("Over the requests", "Over the size of a request"))


def test_apart(asked: Asked) -> None:
    """Each request alone, on the first model: none is asked for again after another."""
    result = asked("--unlearn-report=html", value="requests:apart")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=15 + 19 + 13 + 6)
    result.stdout.fnmatch_lines(["tiny/ga+gd/2026-11 *1 *0 of 1 *- *FOR RELEASE"])
    page = (asked.pytester.path / "unlearn-report.html").read_text()
    assert "Over the size of a request" in page
    assert "Over the requests" not in page


def test_gates_on_one_request(asked: Asked) -> None:
    """It is judged from its request on, and again by a replay of the rows."""
    gates = ("--unlearn-gate=leak.direct[request=2026-10]<=0", "--unlearn-report=jsonl")
    result = asked("-n2", *gates)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    lines = [line for line in result.outlines if line.startswith("leak.direct[request=2026-10]")]
    assert [line.split()[-1] for line in lines if "<=" in line] == ["PASS", "PASS"]
    replay = ["--unlearn-replay=unlearn-results.jsonl"]
    again = asked.pytester.runpytest_inprocess(*replay)
    again.stdout.fnmatch_lines(["Worst of 3 requests: *", "NOT FOR RELEASE"])
    again.stdout.no_fnmatch_line("*CHANGED*")
    again.stdout.no_fnmatch_line("*LEFT OUT*")
    wrong = asked.pytester.runpytest_inprocess(*replay, "--unlearn-gate=leak.direct[request=x]<=0")
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR
    wrong.stderr.fnmatch_lines(["*leak.direct?request=x?<=0: no request of this run has that name"])


def test_requests_are_no_sample(asked: Asked) -> None:
    """Their people are all there are: the default gates count, and the plan says how many."""
    result = asked("--unlearn-plan", "--unlearn-gate=leak.count<=0")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "tiny/ga+gd/2026-2: 2 people to forget, 2 with the requests before",
            "tiny/ga+gd/2026-11: 1 people to forget, 7 with the requests before",
            "all 3 pairs: models to run: 4 *",
            "leak.count<=0 *14 *7 *1 *",
        ]
    )


@pytest.mark.parametrize(
    ("value", "flags", "said"),
    [
        (
            "nowhere",
            [],
            "*=nowhere: * does not exist; name a folder with one *.jsonl for each request",
        ),
        ("conftest.py", [], "*=conftest.py: * is a file; name a folder*"),
        ("empty", [], "*=empty: no *.jsonl in *; write the people of each request"),
        ("requests", ["--unlearn-forget=x.jsonl"], "*so does --unlearn-forget; leave one of *"),
        (
            "requests",
            ["--unlearn-people=5"],
            "*people of a run, and --unlearn-requests names others*",
        ),
        ("requests", ["--unlearn-method=none"], "*--unlearn-method=none unlearns nobody; name a *"),
        ("requests", ["--unlearn-save=x"], "*--unlearn-save=x applies to the run of one model*"),
        (
            "requests",
            ["--unlearn-gate=leak.direct[request=2026-1]<=0"],
            "*--unlearn-gate: leak.direct*: no request has this name; there are 2026-2, 2026-10, "
            "2026-11",
        ),
        (
            "requests",
            ["--unlearn-gate=people.retained[request=2026-2]>=0.9"],
            "*request= only restricts metrics of people to forget",
        ),
        (
            "requests:together",
            [],
            "*=requests:together: after the colon write apart, or name a folder without a colon",
        ),
        ("odd", [], "*=odd: a b.jsonl names a request, and test ids contain the name; *"),
        ("twice", [], "*one person (owner *) is in a and in b; write everything of a person *"),
    ],
)
def test_bad_input_is_named(asked: Asked, value: str, flags: list[str], said: str) -> None:
    for folder, names in {"empty": [], "odd": ["a b"], "twice": ["a", "b"]}.items():
        (asked.pytester.path / folder).mkdir()
        for name in names:
            lines = [{**line, "id": f"{name}-{line['id']}"} for line in record_lines("x", 2)]
            write_lines(asked.pytester.path / folder / f"{name}.jsonl", lines)
    if "--unlearn-method=none" in flags:
        asked.method = "none"
        flags = []
    result = asked(*flags, value=value)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def named(asked: Asked) -> list[str]:
    """The requests of the folder, each with a name of its own, from files called otherwise."""
    flags = []
    for number, (name, count) in enumerate(REQUESTS.items()):
        path = asked.pytester.path / f"people-{number}.jsonl"
        write_lines(path, record_lines(name, count))
        flags.append(f"--unlearn-forget={name}:{path.name}")
    return flags


def test_requests_are_named_one_by_one(asked: Asked) -> None:
    """In the order of the command line; the same run, the same limits, as of a folder with them."""
    result = asked(*named(asked), "--unlearn-report=summary", value=None)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=15 + 23 + 25 - 2 + 4, failed=2)
    result.stdout.fnmatch_lines(
        [
            "unlearn: 3 pairs: tiny/ga+gd/2026-2, tiny/ga+gd/2026-10, tiny/ga+gd/2026-11, *",
            "leak.request *2 (50.0%) by 2026-2 *FAIL",
            "tiny/ga+gd/2026-11 *1 *0 of 1 *1 of 6 *2026-2 1 *NOT FOR RELEASE",
        ]
    )
    folder = asked.pytester.path
    summaries = [(folder / "unlearn-summary.json").read_text()]
    asked("--unlearn-report=summary")
    summaries.append((folder / "unlearn-summary.json").read_text())
    one, other = (json.loads(text) for text in summaries)
    assert one["requests"] == other["requests"]
    keys = [
        [pair["provenance"]["data"]["records"] for pair in each["pairs"]] for each in (one, other)
    ]
    assert keys[0] == keys[1]
    names = [file["name"] for file in one["pairs"][0]["provenance"]["data"]["files"]]
    assert names[:3] == ["people-0.jsonl", "people-1.jsonl", "people-2.jsonl"]


def test_named_requests_are_planned(asked: Asked) -> None:
    """The people of each, and default limits by count, as for a folder."""
    result = asked(*named(asked), "--unlearn-plan", "--unlearn-gate=leak.count<=0", value=None)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "tiny/ga+gd/2026-11: 1 people to forget, 7 with the requests before",
            "leak.count<=0 *14 *7 *1 *",
        ]
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--unlearn-forget=a:one.jsonl", "--unlearn-requests=requests"], "*so does --unlearn-f*"),
        (
            ["--unlearn-forget=a:one.jsonl", "--unlearn-forget=two.jsonl"],
            "*=two.jsonl has no name, and --unlearn-forget=a:one.jsonl has: *NAME:FILE for every *",
        ),
        (
            ["--unlearn-forget=a:one.jsonl", "--unlearn-forget=a:two.jsonl"],
            "*=a:one.jsonl: two files are request a; *",
        ),
        (
            ["--unlearn-forget=a:one.jsonl", "--unlearn-forget=b:one.jsonl"],
            "*=a:one.jsonl: the file is in two requests; *",
        ),
        (["--unlearn-forget=a b:one.jsonl"], "*'a b' names a request, and test ids contain *"),
        (["--unlearn-forget=:one.jsonl"], "*'' names a request, and test ids contain *"),
        (
            ["--unlearn-forget=a:nowhere.jsonl"],
            "*=a:nowhere.jsonl: there is no file of this name, and as NAME:FILE it is request 'a' "
            "with *nowhere.jsonl, which does not exist",
        ),
        (["--unlearn-forget=out/a:one.jsonl"], "*out/a:one.jsonl: the file does not exist*"),
        (["--unlearn-forget=a:requests"], "*request 'a' with *requests, which is a folder"),
        (["--unlearn-forget=C:\\people\\one.jsonl"], "*one.jsonl: the file does not exist*"),
        (
            ["--unlearn-forget=a:one.jsonl", "--unlearn-people=5"],
            "*all people of a run, and --unlearn-forget=NAME:FILE names others*",
        ),
        (["--unlearn-forget=a:one.jsonl", "--unlearn-confirm=1"], "*--unlearn-forget=NAME:FILE *"),
        (
            ["--unlearn-forget=a:one.jsonl", "--unlearn-method=none"],
            "*--unlearn-forget=NAME:FILE: requests are unlearned one after the other, and *=none *",
        ),
        (
            ["--unlearn-forget=a:one.jsonl", "--unlearn-forget=b:two.jsonl"],
            "*--unlearn-forget=NAME:FILE: one person (owner *) is in a and in b; *",
        ),
    ],
)
def test_names_that_are_none(asked: Asked, flags: list[str], said: str) -> None:
    for name in ("one", "two"):
        lines = [{**line, "id": f"{name}-{line['id']}"} for line in record_lines("x", 2)]
        write_lines(asked.pytester.path / f"{name}.jsonl", lines)
    if "--unlearn-method=none" in flags:
        asked.method = "none"
        flags.remove("--unlearn-method=none")
    result = asked(*flags, value=None)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([said])


def test_a_file_with_a_colon_in_its_name(asked: Asked) -> None:
    """It is the file, not a request, whatever else is there: no gate on requests has a meaning."""
    for name in ("a:one.jsonl", "one.jsonl"):
        write_lines(asked.pytester.path / name, record_lines("x", 2))
    result = asked("--unlearn-forget=a:one.jsonl", "--unlearn-plan", value=None)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*leak.request<=0: this run makes no such request: add *"])


def given(folder: Path) -> Given:
    return Given("--unlearn-requests", folder.name, folder.parent)


def test_no_file_is_left_out_in_silence(tmp_path: Path) -> None:
    """Whoever asked in a file that nobody reads would be reported as forgotten."""
    folder = tmp_path / "requests"
    folder.mkdir()
    for name in ("2.jsonl", "10.jsonl.gz", "README.md", ".hidden", "manifest.json"):
        (folder / name).touch()
    assert read_requests(given(folder)).names == ("2", "10")
    for name, said in {
        "3.json": "3.json is not a request, and whoever asked in it would be left out",
        "3.JSONL": "3.JSONL is not a request",
        "2.jsonl.gz": "two files are request 2",
    }.items():
        (folder / name).touch()
        with pytest.raises(UserError, match=said):
            read_requests(given(folder))
        (folder / name).unlink()
