"""A run against addresses: as a user types it, and what is refused before anything is asked."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models import endpoint_client, vllm_engine
from pytest_unlearn.people.record import SPLITS
from pytest_unlearn.session.options import engine_of
from pytest_unlearn.session.sweep import short_names
from tests.support.endpoint_server import EndpointServer
from tests.support.lookup_run import UnlearnRun, data_flags, record_lines, task_lines


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EndpointServer]:
    """A server whose model knows people and tasks."""
    monkeypatch.setattr(endpoint_client, "FIRST_WAIT", 0.001)
    known = {
        row["prompt"]: row["value"] for s in ("forget", "retain") for row in record_lines(s, 6)
    }
    known |= {task["prompt"]: "\n" + task["solution"] for task in task_lines(2)}
    with EndpointServer(known).running() as running:
        yield running


def flags(pytester: pytest.Pytester, server: EndpointServer) -> list[str]:
    return [
        f"--unlearn-model={server.address}",
        *data_flags(pytester.path, 6, 6, 6, 2),
        "--unlearn-population=requests",
        "--unlearn-gate=leak.count<=0",
        "--unlearn-gate=leak.expected(100)<=0.1",
        "--unlearn-sandbox=off",
    ]


def test_an_address_is_audited(pytester: pytest.Pytester, server: EndpointServer) -> None:
    """No method is needed, abilities and cost are shown, and the key nowhere."""
    key = "v" * 30
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(endpoint_client.KEY_VARIABLE, key)
        result = pytester.runpytest_inprocess(
            *flags(pytester, server), "--unlearn-report=summary:out.json", "-v"
        )
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "*model http://127.0.0.1:*/v1#toy, method none*",
            "leak.count*6*6*exact*<=0*FAIL",
            "leak.expected(100)*FAIL",
            "http://127.0.0.1:*/v1#toy: gives completions, samples, scores by echo; * requests *",
        ]
    )
    summary = (pytester.path / "out.json").read_text()
    assert json.loads(summary)["provenance"]["models"]["unlearned"]["engine"]["scores"] == "echo"
    assert key not in summary + result.stdout.str() + result.stderr.str()
    assert all(headers["Authorization"].endswith(key) for *_, headers in server.requests)


OWN = """
import os

def test_own(unlearn_model):
    header = "Bearer " + os.environ["UNLEARN_ENDPOINT_KEY"]
    assert vars(unlearn_model._client) == header
    unlearn_model.complete([""])

def test_other(unlearn_model):
    unlearn_model.complete([""])
"""


@pytest.mark.parametrize("more", [(), ("--unlearn-show-values",), ("-n1",)])
def test_a_failing_test_of_ones_own_does_not_show_the_key(
    pytester: pytest.Pytester, server: EndpointServer, more: tuple[str, ...]
) -> None:
    """Not in its variables, in a comparison, or in those of our frames where values are shown."""
    key = "k3y-" * 6
    pytester.makepyfile(test_own=OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(endpoint_client.KEY_VARIABLE, f"{key}\n")
        arguments = [*flags(pytester, server), "-vv", "--showlocals", "--junitxml=out.xml"]
        result = pytester.runpytest_inprocess(*arguments, "test_own.py", *more)
    assert result.ret == 1
    shown = result.stdout.str() + result.stderr.str() + (pytester.path / "out.xml").read_text()
    assert "a prompt is empty" in shown
    assert "Bearer <redacted>" in shown
    assert "k3y-k3y" not in shown


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("two words of a key", "*UNLEARN_ENDPOINT_KEY contains white space or other characters*"),
        ("", "*the environment variable UNLEARN_ENDPOINT_KEY is not set*"),
    ],
)
def test_a_key_that_is_none_ends_the_run_at_once(
    pytester: pytest.Pytester, server: EndpointServer, key: str, message: str
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(endpoint_client.KEY_VARIABLE, key)
        engine = f"--unlearn-engine=endpoint:key={endpoint_client.KEY_VARIABLE}"
        result = pytester.runpytest_inprocess(*flags(pytester, server), engine)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert server.requests == []
    assert "two words" not in result.stderr.str() + result.stdout.str()


def test_a_case_without_an_answer_fails_the_run(
    pytester: pytest.Pytester, server: EndpointServer
) -> None:
    """And is never counted as forgotten: without it nothing is certain."""
    row = record_lines("forget", 6)[2]
    server.known = {p: v for p, v in server.known.items() if not p.startswith("forget")}
    with EndpointServer(
        {r["prompt"]: r["value"] for r in record_lines("forget", 6)}
    ).running() as b:
        server.fault = lambda path, body, count: (
            "other model"
            if path == "/v1/completions" and row["prompt"].rstrip() == body["prompt"]
            else None
        )
        result = pytester.runpytest_inprocess(
            *flags(pytester, server), f"--unlearn-baseline={b.address}"
        )
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            f"*{row['id']}: the endpoint answered as 'somebody-else' and not as 'toy'*",
            "leak.count*5*UNDECIDED",
        ]
    )
    assert "NOT FOR RELEASE" in result.stdout.str()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--unlearn-method=wga"], "*the weights of http://* are not here to be trained*"),
        (["--unlearn-engine=transformers"], "*is an address; leave the flag out*"),
        (["--unlearn-engine=endpoint:speed=9"], "*write options as name=value,name=value with*"),
        (["--unlearn-decoding=top_k=5"], "*gives probabilities at temperature 1 only*"),
        (["--unlearn-membership=min_k++"], "*min_k++ needs the probabilities of the whole*"),
        (["--unlearn-membership=gradnorm"], "*gradnorm needs gradients*"),
        (
            ["--unlearn-attacks=int8"],
            "*--unlearn-attacks=int8: --unlearn-engine=endpoint has no*",
        ),
        (["--unlearn-model=tiny"], "*is an address, and other models are loaded here*"),
    ],
)
def test_what_no_endpoint_can_be_asked(
    pytester: pytest.Pytester, server: EndpointServer, more: list[str], message: str
) -> None:
    """Exit 4, and not one request."""
    result = pytester.runpytest_inprocess(*flags(pytester, server), *more)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    assert server.requests == []


def test_an_endpoint_that_is_none_ends_the_run_at_once(
    pytester: pytest.Pytester, server: EndpointServer
) -> None:
    for fault, message in (
        ("html", "*--unlearn-model: http://*/v1/models answered with a web page*"),
        ("401", "*answered 401: no luck*UNLEARN_ENDPOINT_KEY*"),
    ):
        server.fault = lambda path, body, count, fault=fault: fault
        result = pytester.runpytest_inprocess(*flags(pytester, server))
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([message])


def test_the_plan_asks_for_nothing(pytester: pytest.Pytester, server: EndpointServer) -> None:
    """It counts requests and tokens, and compares the budget."""
    arguments = [*flags(pytester, server), "--unlearn-plan"]
    result = pytester.runpytest_inprocess(*arguments, "--unlearn-engine=endpoint:requests=30")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        ["*requests: 20 for completions, up to 60 for scores*", "*budget of 30 requests is less*"]
    )
    assert server.requests == []


def test_an_engine_that_is_not_installed(
    unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 4 with the extra's name, before a weight is read."""
    monkeypatch.setattr(
        vllm_engine.importlib.util, "find_spec", lambda name: None if name == "vllm" else 1
    )
    result = unlearn_run("--unlearn-engine=vllm", "--unlearn-method=none")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*--unlearn-model=tiny: vLLM is not installed; run `pip install 'pytest-unlearn?vllm?'`*"]
    )


def test_addresses_in_a_sweep_have_names() -> None:
    """By their models, with a number where two are alike; without a name, by host and port."""
    named = short_names(["http://h:1/v1#o/a", "http://h:2/v1#a", "http://h:3/v1"])
    assert named == ["a", "a.2", "h-3"]


def test_the_engine_of_names() -> None:
    assert engine_of(["tiny"], None) == "transformers"
    assert engine_of(["http://h/v1"], None) == "endpoint"
    assert engine_of(["HTTPS://h/v1"], "endpoint:rate=1") == "endpoint:rate=1"
    with pytest.raises(UserError, match="--unlearn-engine=endpoint: --unlearn-model=tiny is no"):
        engine_of(["tiny"], "endpoint")


@pytest.mark.parametrize("after", [9, 28], ids=["texts", "scores"])
def test_a_killed_run_does_not_pay_twice(
    pytester: pytest.Pytester, server: EndpointServer, after: int
) -> None:
    """What was answered before SIGKILL is stored: only what was under way is asked again."""
    prompts = [row["prompt"].rstrip() for s in SPLITS for row in record_lines(s, 6)]
    killed, answered = threading.Event(), []

    def asked(body: Any) -> str | None:
        """Name what is asked about a person: a text after a prompt, or the scores of a value."""
        given = (body or {}).get("prompt")
        text = bytes(given).decode() if isinstance(given, list) else str(given)
        prompt = next((p for p in prompts if text.startswith(p)), None)
        return prompt and f"{'scores' if isinstance(given, list) else 'text'} {prompt}"

    def fault(path: str, body: Any, count: int) -> str | None:
        what = asked(body) if path == "/v1/completions" else None
        if what and len(answered) >= after:
            killed.set()
            return "hang up"
        if what:
            answered.append(what)
        return None

    server.fault = fault
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *flags(pytester, server)]
    command += ["--unlearn-engine=endpoint:concurrency=1,retries=50"]
    process = pytester.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert killed.wait(60)
    finally:
        process.kill()
        process.wait()
    server.fault = lambda path, body, count: None
    before = len(server.requests)
    result = pytester.runpytest_inprocess(*command[5:])
    result.stdout.fnmatch_lines(["leak.count*6*6*exact*<=0*FAIL"])
    again = [asked(body) for path, body, _ in server.requests[before:] if path == "/v1/completions"]
    assert len(answered) == after
    assert not set(answered) & set(again)
    assert len([name for name in again if name]) > 2
