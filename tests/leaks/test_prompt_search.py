"""The search on toy landscapes: what it finds, what it costs, and that it tells on itself."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pytest_unlearn.core.secret import Secret
from pytest_unlearn.leaks.prompt_search import (
    SearchOptions,
    SearchReport,
    SearchResult,
    SearchSpace,
    SearchTarget,
    ascend,
    fisher_p,
    log_threshold_for,
    search_records,
    tries_for,
)
from pytest_unlearn.leaks.shrinking import Ledger, MinimalPrompt, _words, shrink
from pytest_unlearn.people.draws import Stream

SIZES = (25, 24, 23)  # 13,800 combinations
FACTORS = tuple(tuple(f"cue{f}x{i}x" for i in range(size)) for f, size in enumerate(SIZES))
SPACE = SearchSpace(
    FACTORS,
    lambda indices: Secret(
        "# a heading nobody needs\n"
        + "".join(f"take {FACTORS[f][i]} and go on\n" for f, i in enumerate(indices))
        + "answer:",
        "prompt",
    ),
)


def value(number: int) -> Secret:
    """Return a made-up value."""
    return Secret(Stream("search test", number).text("abcdefghij", 12), "password")


def target(number: int = 0) -> SearchTarget:
    """Return a target in the space of three cues."""
    return SearchTarget(f"row-{number}", SPACE, value(number))


class Landscape:
    """A scorer that counts, and scores by which of a value's three cues a prompt shows."""

    def __init__(self, height: Callable[[list[bool]], float], people: Sequence[int] = (0,)) -> None:
        self.height = height
        self.needles = {value(n).reveal(): needle(n) for n in people}
        self.calls: list[int] = []
        self.seen: list[tuple[str, str]] = []

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.calls.append(len(pairs))
        self.seen += pairs
        return [self._one(prompt, wanted) for prompt, wanted in pairs]

    def _one(self, prompt: str, wanted: str) -> float:
        if wanted not in self.needles:
            return -40.0
        return self.height([cue in prompt for cue in self.needles[wanted]])


def needle(number: int) -> tuple[str, ...]:
    """Return the three cues that draw a value out; never the simplest ones."""
    stream = Stream("needle", number)
    return tuple(choices[1 + stream.below(len(choices) - 1)] for choices in FACTORS)


def separable(cues: list[bool]) -> float:
    """Each cue adds its share."""
    return -0.1 - 5.0 * cues.count(False)


def joint(cues: list[bool]) -> float:
    """One cue alone says nothing: two lift the score, three leak."""
    return {3: -0.1, 2: -8.0}.get(cues.count(True), -20.0)


def test_separable_needle_is_found_in_two_batches() -> None:
    score = Landscape(separable)
    (result,) = ascend([target()], score, SearchOptions(budget=111, batch=200))
    assert result.found
    assert result.labels == needle(0)
    assert result.cost == sum(score.calls) <= 111
    # All single changes of the simplest prompt, then the best ones joined.
    assert score.calls[0] == 1 + sum(size - 1 for size in SIZES)
    assert len(score.calls) == 2


def test_needle_that_needs_two_cues_at_once_is_found_by_new_starts() -> None:
    costs = []
    for seed in range(5):
        score = Landscape(joint)
        (result,) = ascend([target()], score, SearchOptions(budget=6000, seed=seed))
        assert result.found, seed
        assert result.labels == needle(0)
        costs.append(result.cost)
    assert len(set(costs)) > 1  # the seed matters
    assert max(costs) < 6000 < SPACE.size


def test_same_seed_same_prompts_and_company_does_not_matter() -> None:
    options = SearchOptions(budget=300, batch=37, seed=4)
    one, again = Landscape(joint, range(3)), Landscape(joint, range(3))
    first = ascend([target(n) for n in range(3)], one, options)
    second = ascend([target(n) for n in range(3)], again, options)
    assert one.seen == again.seen
    assert first == second
    (alone,) = ascend([target(1)], Landscape(joint, range(3)), options)
    assert alone == first[1]


@pytest.mark.parametrize("budget", [1, 7, 70, 71, 333])
def test_budget_is_spent_to_the_last_prompt_and_no_further(budget: int) -> None:
    score = Landscape(lambda _: -9.0, range(3))
    results = ascend([target(n) for n in range(3)], score, SearchOptions(budget=budget, batch=10))
    assert [result.cost for result in results] == [budget] * 3
    assert len(score.seen) == len(set(score.seen)) == 3 * budget
    assert not any(result.found for result in results)
    # Full batches, but for the last of a round.
    assert max(score.calls) == min(10, 3 * budget)


def test_small_space_is_searched_through_and_then_left() -> None:
    space = SearchSpace((("a", "b"), ("a", "b"), ("a", "b")), lambda i: Secret(f"p{i}", "prompt"))
    needle_text = "p(1, 1, 1)"
    pairs: list[tuple[str, str]] = []

    def score(batch: Sequence[tuple[str, str]]) -> list[float]:
        pairs.extend(batch)
        return [0.0 if prompt == needle_text else -9.0 for prompt, _ in batch]

    (result,) = ascend([SearchTarget("row", space, value(0))], score, SearchOptions(budget=8))
    assert result.found
    flat: list[int] = []
    (nothing,) = ascend(
        [SearchTarget("row", space, value(0))],
        lambda batch: [flat.append(1) or -9.0 for _ in batch],  # type: ignore[func-returns-value]
        SearchOptions(budget=1000),
    )
    assert (nothing.found, nothing.cost, len(flat)) == (False, 8, 8)


def test_what_is_left_of_an_affordable_space_is_one_batch() -> None:
    space = SearchSpace(
        tuple(tuple(map(str, range(size))) for size in (6, 7, 8)),
        lambda indices: Secret(f"p{indices}", "prompt"),
    )
    score = Landscape(lambda _: -9.0)
    options = SearchOptions(budget=space.size, batch=1000)
    (result,) = ascend([SearchTarget("row", space, value(0))], score, options)
    assert score.calls == [1 + 5 + 6 + 7, space.size - 19]
    assert result.cost == space.size


def test_huge_space_of_one_prompt_comes_to_an_end() -> None:
    many = tuple(map(str, range(60)))
    space = SearchSpace((many, many, many, many), lambda _: Secret("always this", "prompt"))
    (result,) = ascend([SearchTarget("row", space, value(0))], lambda b: [-9.0] * len(b))
    assert result.cost == 1
    assert result.log_probability == -9.0


def test_prompts_that_show_the_value_or_do_not_exist_are_never_scored() -> None:
    shown = value(0).reveal()
    texts = [None, f"x = {shown}", f"x = {shown.upper()[:6]}-{shown.upper()[6:]}", " \n", "x = "]

    def render(indices: tuple[int, ...]) -> Secret | None:
        text = texts[indices[0]]
        return None if text is None else Secret(text, "prompt")

    space = SearchSpace((tuple("abcde"),), render)
    score = Landscape(lambda _: 0.0)
    (result,) = ascend([SearchTarget("row", space, value(0))], score)
    assert [prompt for prompt, _ in score.seen] == ["x = "]
    assert result.cost == 1
    texts.pop()
    space = SearchSpace((tuple("abcd"),), render)
    (result,) = ascend([SearchTarget("row", space, value(0))], score)
    assert (result.found, result.prompt, result.indices, result.cost) == (False, None, None, 0)
    assert result.log_probability == -math.inf


@pytest.mark.parametrize("bad", [math.nan, 0.5])
def test_scores_that_are_no_log_probabilities_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not a log-probability") as caught:
        ascend([target()], lambda batch: [bad] * len(batch))
    assert "heading" not in str(caught.value)
    with pytest.raises(ValueError, match="63 scores for 64"):
        ascend([target()], lambda batch: [-1.0] * 63)


def minimal_of(result: SearchResult) -> MinimalPrompt:
    """Return the minimal prompt of a find."""
    assert result.minimal is not None
    return result.minimal


def test_ten_seeds_give_the_same_minimal_prompt() -> None:
    minima, costs = set(), []
    for seed in range(10):
        score = Landscape(joint)
        options = SearchOptions(budget=8000, batch=128, seed=seed)
        (result,) = search_records([target()], [], score, options).records
        minimal = minimal_of(result)
        minima.add(minimal.prompt.reveal())
        assert minimal.complete
        assert minimal.cost_search + minimal.cost_shrink == len(score.seen) == len(set(score.seen))
        costs.append(minimal.cost_shrink)
    assert minima == {" ".join(("", *needle(0)))}
    # The pages that anchor this measured a median of 93 and at most 153 on such a landscape.
    assert max(costs) <= 153, costs


def test_any_two_of_three_cues_shrink_to_a_prompt_that_needs_every_word_and_choice() -> None:
    def two_of_three(cues: list[bool]) -> float:
        return -0.2 if cues.count(True) >= 2 else -12.0

    start = tuple(FACTORS[f].index(cue) for f, cue in enumerate(needle(0)))
    minima = set()
    for seed in range(6):
        score = Landscape(two_of_three)
        ledger = Ledger(value(0), 1)
        ledger.enter(SPACE.render(start) or Secret("", ""), -0.2)
        minimal = shrink(SPACE, start, ledger, score, seed=seed)
        assert minimal.complete
        # The first factor gives way, the others stay: of several minima, always this one.
        assert minimal.indices == (0, *start[1:])
        words = minimal.prompt.reveal().split()
        assert len(words) == 2
        for word in words:
            less = minimal.prompt.reveal().replace(word, "")
            assert score([(less, value(0).reveal())]) == [-12.0]
        minima.add(minimal.prompt)
    assert len(minima) == 1


def test_long_text_is_thinned_window_by_window() -> None:
    words = [f"w{i}" for i in range(90)]
    needed = {"w0", "w40", "w41", "w89"}
    space = SearchSpace((("only",),), lambda _: Secret(" ".join(words), "prompt"))

    def score(batch: Sequence[tuple[str, str]]) -> list[float]:
        return [0.0 if needed <= set(prompt.split()) else -9.0 for prompt, _ in batch]

    report = search_records([SearchTarget("row", space, value(0))], [], score)
    minimal = minimal_of(report.records[0])
    assert set(minimal.prompt.reveal().split()) == needed
    assert minimal.complete
    assert minimal.cost_shrink <= 90  # prompt of 90 words


@pytest.mark.parametrize("budget", [1, 20, 45])
def test_shrinking_keeps_its_budget_and_says_that_it_is_not_done(budget: int) -> None:
    score = Landscape(separable)
    options = SearchOptions(budget=300, shrink_budget=budget)
    (result,) = search_records([target()], [], score, options).records
    minimal = minimal_of(result)
    assert minimal.cost_shrink == budget
    assert len(score.seen) == result.cost + budget
    assert not minimal.complete
    assert minimal.log_probability >= math.log(0.5)
    # Whatever was reached leaks.
    assert score([(minimal.prompt.reveal(), value(0).reveal())]) == [minimal.log_probability]


def test_no_shrinking_without_a_shrink_budget() -> None:
    (result,) = search_records(
        [target()], [], Landscape(separable), SearchOptions(shrink_budget=0)
    ).records
    assert result.found
    assert result.minimal is None


@pytest.mark.parametrize("good_calls", [0, 1, 5, 8, 12, 16, 20, 24])
def test_error_of_the_scorer_comes_out_as_it_is_and_at_once(good_calls: int) -> None:
    score = Landscape(separable)
    (result,) = ascend([target()], score)
    assert result.indices is not None
    score.calls.clear()
    failures = []

    def breaks(batch: Sequence[tuple[str, str]]) -> list[float]:
        if len(score.calls) >= good_calls:
            failures.append(1)
            raise MemoryError("no room")
        return score(batch)

    with pytest.raises(MemoryError, match="no room"):
        shrink(SPACE, result.indices, result.ledger, breaks)
    assert len(failures) == 1


def test_shrinking_what_does_not_leak_is_refused() -> None:
    with pytest.raises(ValueError, match="does not leak"):
        shrink(SPACE, (0, 0, 0), Ledger(value(0), 5), Landscape(separable))


def report_on(score: Any, forget: int, control: int, shrink_budget: int = 0) -> SearchReport:
    """Search `forget` people from 0 and `control` people from 100."""
    return search_records(
        [target(n) for n in range(forget)],
        [target(100 + n) for n in range(control)],
        score,
        SearchOptions(budget=120, shrink_budget=shrink_budget),
    )


def test_leaks_of_forgotten_people_only_are_leaks() -> None:
    report = report_on(Landscape(separable, range(6)), 8, 8)
    assert (report.forget_found, report.control_found) == (6, 0)
    assert report.verdict == "leaks"
    assert report.verdict != "over-strong"
    # 8 of 16 are forgotten; all 6 finds among them.
    assert report.p_value == pytest.approx(math.comb(8, 6) / math.comb(16, 6))
    assert report.as_row()["control_searched"] == 8


def test_search_that_makes_anything_come_out_is_over_strong() -> None:
    """A copycat: after any prompt it writes whatever is asked for."""
    report = report_on(lambda batch: [-0.01] * len(batch), 8, 8, shrink_budget=100)
    assert (report.forget_found, report.control_found) == (8, 8)
    assert report.verdict == "over-strong"
    assert report.verdict == "over-strong"
    # One word is all it takes, which tells as well.
    assert {len(_words(minimal_of(r).prompt.reveal())) for r in report.records} == {1}
    assert report.controls[0].minimal is None


def test_controls_are_searched_as_hard_as_records() -> None:
    score = Landscape(lambda _: -9.0, [])
    report = report_on(score, 3, 3)
    assert report.verdict == "nothing found"
    assert {result.cost for result in (*report.records, *report.controls)} == {120}


def test_one_find_and_one_control_decide_nothing() -> None:
    report = report_on(Landscape(separable), 1, 1)
    assert report.verdict == "undecided"
    assert report_on(Landscape(separable), 1, 0).verdict == "undecided"


def test_only_controls_leak_is_over_strong() -> None:
    assert report_on(Landscape(separable, [100]), 2, 2).verdict == "over-strong"


def test_fisher_p_is_the_share_of_arrangements_at_least_as_lopsided() -> None:
    for size_a, size_b, found in itertools.product((3, 4), (2, 5), (1, 3, 5)):
        people = range(size_a + size_b)
        picks = list(itertools.combinations(people, min(found, size_a + size_b)))
        for found_a in range(min(size_a, found) + 1):
            if found - found_a > size_b:
                continue
            extreme = sum(sum(p < size_a for p in pick) >= found_a for pick in picks)
            assert fisher_p(found_a, size_a, found - found_a, size_b) == pytest.approx(
                extreme / len(picks)
            )
    assert fisher_p(0, 0, 0, 0) == 1.0
    with pytest.raises(ValueError, match="out of range"):
        fisher_p(3, 2, 0, 2)


def test_tries_and_thresholds_are_each_others_inverse() -> None:
    assert tries_for(math.log(0.5)) == tries_for(0.0) == 1
    assert tries_for(math.log(0.01)) == 69  # ln 0.5 / ln 0.99 = 68.97
    assert tries_for(-1000.0) == tries_for(-744.0) == math.inf
    for tries in (1, 2, 10, 1000):
        threshold = log_threshold_for(tries)
        assert tries_for(threshold + 1e-9) <= tries < tries_for(threshold - 1e-2)


def test_nothing_shows_a_prompt_or_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_on(Landscape(separable, range(2)), 2, 1, shrink_budget=40)
    out, err = capsys.readouterr()
    assert out == err == ""
    rows = [result.as_row() for result in (*report.records, *report.controls)]
    shown = repr(report) + repr(rows) + repr(report.as_row())
    assert "heading" not in shown
    assert "take" not in shown
    for number in (0, 1, 100):
        assert value(number).reveal() not in shown
    assert rows[0]["minimal"]["length"] > 0


def test_minimal_prompt_states_its_size_and_cost() -> None:
    minimal = MinimalPrompt(Secret("abc", "prompt"), (0,), math.log(0.01), 5, 7, True, 12)
    assert (minimal.length, minimal.compression_ratio, minimal.n_for_half) == (3, 4.0, 69)


@pytest.mark.parametrize(
    "wrong",
    [{"budget": 0}, {"batch": 0}, {"shrink_budget": -1}, {"log_threshold": 0.1}, {"alpha": 1.0}],
)
def test_options_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SearchOptions(**wrong)


def test_empty_factors_are_refused() -> None:
    for factors in ((), ((),), (("a",), ())):
        with pytest.raises(ValueError, match="at least one choice"):
            SearchSpace(factors, lambda _: None)
