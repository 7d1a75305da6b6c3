"""How tasks are asked: flags that fit together, styles, room, seeds."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import comb

import pytest

from pytest_unlearn.models.texts import cut_at
from pytest_unlearn.tasks.format import bundled_cases
from pytest_unlearn.tasks.task_prompts import (
    STOPS,
    Sampling,
    SamplingError,
    parse_sampling,
    pass_at_k,
    prompt_of,
    room_for,
    sample_id,
    seed_of,
    stops_of,
    suffix_of,
)

CASE = bundled_cases()[0]


def test_greedy_unless_more_samples_are_asked_for() -> None:
    assert parse_sampling() == Sampling(1, 0.0, 1.0, (1,), "completion", None)
    assert parse_sampling(10, "1,10") == Sampling(10, 0.8, 0.95, (1, 10))
    assert parse_sampling(1, temperature="0.2").temperature == 0.2
    assert parse_sampling(2, top_p="1").top_p == 1.0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"ks": "10"},
            "--unlearn-k=10: pass@10 needs --unlearn-samples=10 or more, and there is 1",
        ),
        ({"samples": 3, "ks": "1,5"}, "pass@5 needs --unlearn-samples=5 or more, and there are 3"),
        ({"ks": "x"}, "--unlearn-k=x: write whole numbers"),
        ({"ks": "0"}, "--unlearn-k=0: write each number once, and none below 1"),
        ({"samples": 2, "ks": "1,1"}, "--unlearn-k=1,1: write each number once"),
        ({"temperature": "-1"}, "--unlearn-temperature=-1: write a number of at least 0"),
        ({"temperature": "nan"}, "--unlearn-temperature=nan: write a number"),
        ({"samples": 4, "temperature": "0"}, "makes all 4 samples of --unlearn-samples the same"),
        ({"top_p": "0"}, "--unlearn-top-p=0: write a number over 0"),
        ({"top_p": "1.5"}, "--unlearn-top-p=1.5: write a number over 0 and at most 1"),
        ({"style": "poem"}, "--unlearn-task-style=poem: write completion, chat or infill"),
    ],
)
def test_flags_that_do_not_fit(flags: dict[str, object], message: str) -> None:
    with pytest.raises(SamplingError) as caught:
        parse_sampling(**flags)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_styles() -> None:
    """Completion and infill show the code, chat asks for it; none ends in white space."""
    for style in ("completion", "chat", "infill"):
        prompt = prompt_of(CASE, style)
        assert CASE.prompt.rstrip() in prompt
        assert prompt == prompt.rstrip()
    assert "`total`" in prompt_of(CASE, "chat")
    assert suffix_of(CASE, "completion") == ""
    assert suffix_of(CASE, "infill") == "\n"
    assert suffix_of(replace(CASE, suffix="    return x\n"), "infill") == "    return x\n"


def test_stops() -> None:
    """The earliest one counts; in an answer code may go on after `print(`."""
    assert cut_at("    return x\n\nprint(f(1))\nassert x", STOPS) == "    return x\n"
    assert cut_at("    return x\n    print(x)\n", STOPS) == "    return x\n    print(x)\n"
    assert cut_at("a</s>\nprint(", stops_of(CASE, "chat")) == "a"
    assert cut_at("a\nprint(1)", stops_of(CASE, "chat")) == "a\nprint(1)"


def test_room_for_a_long_solution() -> None:
    """Cut off, it would read as unsolved."""
    long = replace(CASE, solution="    x = 1\n" * 100)
    assert room_for(CASE, Sampling()) == 128
    assert room_for(long, Sampling()) == 500
    assert room_for(long, Sampling(tokens=7)) == 7
    assert room_for(CASE, Sampling(style="chat")) > 128


def test_seeds_are_those_of_the_sample() -> None:
    """Different for task, number and run; the id of a single sample is the case's own."""
    seeds = {seed_of(s, c, n) for s in (0, 1) for c in ("a", "b") for n in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_of(0, "a", 0) == seed_of(0, "a", 0)
    assert sample_id("a", 0, 1) == "a"
    assert sample_id("a", 1, 2) == "a#1"


def test_pass_at_k_against_exact_fractions() -> None:
    """Relative error below 1e-13 for every n up to 40, and at n = 10,000."""
    cases = [(n, c, k) for n in range(1, 41) for c in range(n + 1) for k in range(1, n + 1)]
    cases += [(10_000, c, k) for c in (0, 1, 5, 9_999) for k in (1, 10, 5_000, 10_000)]
    for n, c, k in cases:
        exact = 1 - Fraction(comb(n - c, k), comb(n, k))
        assert pass_at_k(n, c, k) == pytest.approx(float(exact), rel=1e-13, abs=0), (n, c, k)


def test_one_sample_is_solved_or_not() -> None:
    assert pass_at_k(1, 1, 1) == 1.0
    assert pass_at_k(1, 0, 1) == 0.0
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)


@pytest.mark.parametrize(("n", "c", "k"), [(1, 2, 1), (1, -1, 1), (3, 1, 4), (3, 1, 0), (0, 0, 1)])
def test_counts_that_cannot_be(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="no pass@"):
        pass_at_k(n, c, k)
