"""One pass gives what slow direct computations, generation and sampling give."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from tokenizers import Tokenizer, decoders, models
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pytest_unlearn.leaks.exact import extraction
from pytest_unlearn.models.generation import GenerationError, complete_greedily, scheme_log_probs
from pytest_unlearn.models.loading import Weights, load, peft_quietly
from pytest_unlearn.models.scoring import Scorer, score
from pytest_unlearn.models.sources import resolve
from pytest_unlearn.models.texts import DecodingScheme, Example
from pytest_unlearn.people.generate import tiny_records
from tests.support.small_models import byte_tokenizer

EXAMPLES = [
    Example.answering("a = '", "bcd", "'\n"),
    Example.answering("name: ", "x yz", "\n"),
    Example.answering("# a longer prompt that stands in a comment: ", "42", ""),
    Example.answering("q", "longer value than the others", '"'),
]


def slowly(
    model: Any, tokenizer: Any, example: Example
) -> tuple[list[float], list[bool], list[float]]:
    """Return log p, first choice and z-score of the continuation, from all logits of one row."""
    prompt = tokenizer(example.text[: example.start].rstrip())["input_ids"]
    ids = tokenizer(example.text[: example.end])["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    out: tuple[list[float], list[bool], list[float]] = ([], [], [])
    for position in range(len(prompt), len(ids)):
        log_p = logits[position - 1].log_softmax(-1)
        mean = (log_p.exp() * log_p).sum()
        deviation = ((log_p.exp() * log_p**2).sum() - mean**2).sqrt()
        out[0].append(log_p[ids[position]].item())
        out[1].append(log_p.argmax().item() == ids[position])
        out[2].append(((log_p[ids[position]] - mean) / deviation).item())
    return out


def assert_like_slow(model: Any, tokenizer: Any, scorer: Scorer) -> None:
    for example, found in zip(EXAMPLES, scorer.score(EXAMPLES), strict=True):
        log_probs, greedy, z_scores = slowly(model, tokenizer, example)
        lead = len(log_probs) - len(found.log_probs)
        assert lead == len(example.text[: example.start]) - len(
            example.text[: example.start].rstrip()
        )
        assert found.lead_log_prob == pytest.approx(sum(log_probs[:lead]), abs=1e-4)
        assert found.log_probs == pytest.approx(log_probs[lead:], abs=1e-4)
        assert found.z_scores == pytest.approx(z_scores[lead:], abs=1e-3)
        assert list(found.greedy) == greedy[lead:]
        assert found.spelled == all(greedy)
    sums = scorer.log_probabilities(
        [(e.text[: e.start], e.text[e.start : e.end]) for e in EXAMPLES]
    )
    assert sums == pytest.approx([sum(slowly(model, tokenizer, e)[0]) for e in EXAMPLES], abs=1e-3)


@pytest.mark.parametrize("batch_tokens", [1, 60, 8192])
def test_like_a_slow_pass(llama: Weights, batch_tokens: int) -> None:
    """Token by token, whatever the batches, and with one row's logits at a time."""
    for chunk in (1, 1 << 25):
        scorer = Scorer(llama.model, llama.tokenizer, batch_tokens, chunk)
        assert_like_slow(llama.model, llama.tokenizer, scorer)


OTHER = {"a": "b", "b": "a", '"': "=", "=": '"', " ": "a"}

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@pytest.mark.parametrize(
    "build",
    [
        lambda size: Gemma2ForCausalLM(
            Gemma2Config(vocab_size=size, final_logit_softcapping=0.5, sliding_window=8, **SMALL)
        ),
        lambda size: GraniteForCausalLM(
            GraniteConfig(vocab_size=size, logits_scaling=0.01, **SMALL)
        ),
    ],
    ids=["soft-capped", "scaled"],
)
def test_logits_that_are_more_than_the_heads_output(build: Callable[[int], Any]) -> None:
    """Gemma caps its logits, Granite scales them; Gemma's window closes over a long prompt."""
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    model = build(len(tokenizer)).eval()
    scorer = Scorer(model, tokenizer)
    assert_like_slow(model, tokenizer, scorer)
    prompt, values = "a prompt of more than eight tokens: ", ["some", "other", "v"]
    plain = scorer.log_probabilities([(prompt, value) for value in values])
    assert scorer.alternatives(prompt, values) == pytest.approx(plain, abs=1e-3)


def test_with_an_adapter_on_and_off(llama: Weights) -> None:
    """PEFT's wrapper scores as its own forward pass does, in both states."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    options = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    with peft_quietly():
        model: Any = get_peft_model(llama.model, options).eval()
    scorer = Scorer(model, llama.tokenizer)
    assert_like_slow(model, llama.tokenizer, scorer)
    on = scorer.score(EXAMPLES)
    with model.disable_adapter():
        assert_like_slow(model, llama.tokenizer, scorer)
        assert scorer.score(EXAMPLES) != on


def test_verdicts_of_the_tiny_model() -> None:
    """Greedy generation writes the value exactly where the pass says so: all 1,024 probes.

    At most a tenth of what goes through the model is padding.
    """
    tiny = load(resolve("tiny", "--unlearn-model"), "cpu", "float32")
    examples = [
        Example.answering(r.before.reveal(), r.value.reveal(), r.after.reveal())
        for r in tiny_records()
    ]
    scorer = Scorer(tiny.model, tiny.tokenizer)
    found = [scores.spelled for scores in scorer.score(examples)]
    assert 0.9 * scorer.padded <= scorer.tokens < scorer.padded
    prompts = [e.text[: e.start] for e in examples]
    texts = complete_greedily(tiny.model, tiny.tokenizer, prompts, 26)
    written = [
        (prompt.rstrip() + text).startswith(e.text[: e.end])
        for e, prompt, text in zip(examples, prompts, texts, strict=True)
    ]
    assert len(found) == 1024
    assert found == written
    assert 700 < sum(found) < 800


def letters_tokenizer(merged: str) -> PreTrainedTokenizerFast:
    """Five letters, and pairs of those in `merged`: texts can be cut in several ways."""
    letters = 'ab"= '
    pairs = [(x, y) for x in merged for y in merged]
    words = [*letters, *(x + y for x, y in pairs), "<pad>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=pairs))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def sharp_llama(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A random model with clear preferences, that never ends a text."""
    torch.manual_seed(seed)
    options = SMALL | {"eos_token_id": None}
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.3, **options)
    )
    # Without the three special tokens: they would be text that cannot be seen.
    model.lm_head = torch.nn.Linear(32, len(tokenizer) - 3, bias=False)
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    return model.eval()


@pytest.mark.parametrize("seed", range(3))
def test_verdict_is_about_text(seed: int) -> None:
    """What greedy decoding wrote is always found, in whatever tokens; a changed end never is."""
    tokenizer = letters_tokenizer('ab"')
    model = sharp_llama(tokenizer, seed)
    seen = 0
    for prompt in ('a="', "b = ", "ab", 'a"b='):
        (text,) = complete_greedily(model, tokenizer, [prompt], 16)
        written = prompt.rstrip() + text
        if not written.startswith(prompt):  # the model goes on without the prompt's space
            continue
        ends = range(len(prompt) + 1, len(written) - 2)
        seen += len(ends)
        right = [
            Example.answering(prompt, written[len(prompt) : n], after)
            for n in ends
            for after in ("", '"')
        ]
        wrong = [
            Example.answering(prompt, written[len(prompt) : n - 1] + OTHER[written[n - 1]])
            for n in ends
        ]
        found = [scores.spelled for scores in score(model, tokenizer, right + wrong)]
        assert found == [True] * len(right) + [False] * len(wrong)
    assert seen >= 20


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, None, 1.0), (0.7, None, 1.0), (1.0, 5, 1.0), (1.3, None, 0.6), (0.8, 20, 0.9)],
)
def test_scheme_is_that_of_transformers(
    temperature: float, top_k: int | None, top_p: float
) -> None:
    """The same tokens are left out, and the rest has the same probabilities."""
    logits = 2 * torch.randn(64, 100, generator=torch.Generator().manual_seed(3))
    logits[:, 1] = logits[:, 0]  # a tie
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k is not None:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    empty: Any = torch.zeros(64, 0, dtype=torch.long)
    expected = warpers(empty, logits.clone()).log_softmax(-1)
    found = scheme_log_probs(logits, DecodingScheme(temperature, top_k, top_p))
    assert torch.equal(found == -math.inf, expected == -math.inf)
    torch.testing.assert_close(found, expected)


def test_temperature_zero_is_greedy() -> None:
    """A value has probability 1 where greedy decoding writes it, else 0."""
    tokenizer = letters_tokenizer("")
    model = sharp_llama(tokenizer, 1)
    (text,) = complete_greedily(model, tokenizer, ["ab="], 4)
    assert text.strip()
    examples = [Example.answering("ab=", value) for value in (text, "".join(map(OTHER.get, text)))]
    greedy = DecodingScheme(temperature=0)
    right, wrong = (extraction(s) for s in score(model, tokenizer, examples, greedy))
    assert (right.greedy, right.probability, right.n_for_half) == (True, 1.0, 1.0)
    assert (wrong.greedy, wrong.probability, wrong.n_for_half) == (False, 0.0, math.inf)


@pytest.mark.parametrize(
    "scheme", [DecodingScheme(), DecodingScheme(1.5, 4, 0.9)], ids=["plain", "narrow"]
)
def test_probability_by_sampling(scheme: DecodingScheme) -> None:
    """p and leak@k lie in the 99.9 % intervals of what transformers samples."""
    tokenizer: Any = letters_tokenizer("")
    model: Any = sharp_llama(tokenizer, 1)
    prompt, draws, k = "ab=", 4000, 4
    ids = torch.tensor([tokenizer(prompt)["input_ids"]]).repeat(draws, 1)
    torch.manual_seed(5)
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        max_new_tokens=2,
        temperature=scheme.temperature,
        top_k=scheme.top_k or 0,
        top_p=scheme.top_p,
        pad_token_id=0,
    )
    texts = [tokenizer.decode(row[ids.shape[1] :]) for row in out]
    values = [x + y for x in 'ab"=' for y in 'ab"=']
    examples = [Example.answering(prompt, value) for value in values]
    middling = 0
    for value, scores in zip(values, score(model, tokenizer, examples, scheme), strict=True):
        exact = extraction(scores)
        hits = [text == value for text in texts]
        groups = [any(hits[i : i + k]) for i in range(0, draws, k)]
        for wanted, got in ((exact.probability, hits), (exact.leak_at(k), groups)):
            interval = stats.binomtest(sum(got), len(got)).proportion_ci(0.9999)
            assert interval.low <= wanted <= interval.high
        middling += 0.02 < exact.probability < 0.9
    assert middling >= 3


def test_a_batch_that_does_not_fit_is_halved(
    llama: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores are the same, and the next call begins with the size that fitted."""
    expected = score(llama.model, llama.tokenizer, EXAMPLES * 8)
    scorer = Scorer(llama.model, llama.tokenizer)
    forward, failures = llama.model.forward, []

    def small(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].numel() > limit:
            failures.append(kwargs["input_ids"].shape)
            raise torch.OutOfMemoryError("no room")
        return forward(*args, **kwargs)

    limit = 100
    monkeypatch.setattr(llama.model, "forward", small)
    found = scorer.score(EXAMPLES * 8)
    assert failures
    assert [s.greedy for s in found] == [s.greedy for s in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.log_probs == pytest.approx(theirs.log_probs, abs=1e-4)
    failures.clear()
    scorer.score(EXAMPLES * 8)
    assert not failures
    assert scorer.batch_tokens <= 2 * limit
    limit = 5
    with pytest.raises(GenerationError, match="one row of"):
        scorer.score(EXAMPLES)


def test_other_errors_are_not_taken_for_lack_of_memory(
    llama: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the hook on the head is gone after one."""

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(llama.model, "forward", broken)
        with pytest.raises(RuntimeError, match="broken"):
            score(llama.model, llama.tokenizer, EXAMPLES)
    ids = torch.tensor([[1, 5, 6]])
    assert llama.model(input_ids=ids).logits.shape[:2] == (1, 3)


def test_nan_is_an_error(llama: Weights) -> None:
    """A broken model has forgotten nothing."""
    with torch.no_grad():
        llama.model.get_output_embeddings().weight[7] = math.nan
    for run in (
        lambda s: s.score(EXAMPLES),
        lambda s: s.log_probabilities([("a", "b")]),
        lambda s: s.alternatives("ab", ["b", "c"]),
    ):
        with pytest.raises(GenerationError, match="NaN"):
            run(Scorer(llama.model, llama.tokenizer))


def test_padding_of_lengths_that_differ_much(llama: Weights) -> None:
    """Cut where more than a tenth would be padding."""
    scorer = Scorer(llama.model, llama.tokenizer)
    scorer.score([Example.answering("p" * (1 + n * n % 97), "v" * (1 + n % 9)) for n in range(99)])
    assert scorer.tokens >= 0.88 * scorer.padded  # one token a row is not fed in
    assert scorer.tokens < scorer.padded


def test_alternatives_share_their_prompt(llama: Weights) -> None:
    """Scored as alone, and the prompt's tokens go in once for all."""
    scorer = Scorer(llama.model, llama.tokenizer, batch_tokens=400)
    prompt = "a prompt of some length, with a record in it: "
    values = [f"value {n * n}" for n in range(40)]
    plain = scorer.log_probabilities([(prompt, value) for value in values], "\n")
    scorer.alternatives(prompt, values[:1])
    scorer.tokens = 0
    assert scorer.alternatives(prompt, values, "\n") == pytest.approx(plain, abs=1e-3)
    assert scorer.tokens < len(prompt) + sum(len(value) + 2 for value in values)
    assert scorer.alternatives(prompt, []) == []


def test_alternatives_without_a_cache_that_can_be_shared(
    llama: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cache that goes wrong is found out, and the plain way taken."""
    values = ["one", "two", "three"]
    plain = Scorer(llama.model, llama.tokenizer).log_probabilities([("ab", v) for v in values])
    empty: Any = type("Empty", (), {"batch_repeat_interleave": lambda self, count: None})
    monkeypatch.setattr(Scorer, "_prompt_cache", lambda self, row: empty())
    found = Scorer(llama.model, llama.tokenizer).alternatives("ab", values)
    assert found == pytest.approx(plain, abs=1e-4)


def test_what_cannot_be_scored(llama: Weights) -> None:
    """Is said, and not scored as something else."""
    for example, error in (
        (Example.answering(" ", "value"), ValueError),
        (Example.answering("prompt", ""), ValueError),
        (Example.answering("prompt " * 60, "value"), GenerationError),
    ):
        with pytest.raises(error):
            score(llama.model, llama.tokenizer, [example])
    assert score(llama.model, llama.tokenizer, []) == []
    for wrong in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}):
        with pytest.raises(ValueError, match="it must be"):
            DecodingScheme(**wrong)  # type: ignore[arg-type]
