"""What is found, what is not, and that no text brings the matcher down."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_unlearn.core.secret import Secret
from pytest_unlearn.leaks import near_misses
from pytest_unlearn.leaks.decodings import fold, kept_positions, squeeze
from pytest_unlearn.leaks.matching import Automaton, Match, Matcher, encodable, value_bits
from pytest_unlearn.people.draws import Stream
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.record import Record
from pytest_unlearn.probes.prompts import prefix_of

any_text = st.text(max_size=60)  # surrogates, NULs and all
# Text in which the readings' patterns take part.
hostile = st.text(alphabet="\"'\\+%{}=fx0189aA_-/ \n\0\ud800\udcffé\u2028ßﬁ", max_size=200)


def rec(value: str, kind: str = "note", number: int = 0) -> Record:
    return Record(
        f"r{number}",
        f"p{number}",
        "forget",
        kind,
        "env",
        Secret("", "p"),
        Secret(value, kind),
        Secret("", "document"),
    )


def recs(values: list[str]) -> list[Record]:
    return [rec(value, number=number) for number, value in enumerate(values)]


def found(values: list[str], text: str, near: int | None = None) -> set[int]:
    records = recs(values)
    matches = Matcher(records).find(text, near=None if near is None else records[near])
    return {int(m.record.id[1:]) for m in matches}


def made(kind: str, number: int = 0) -> str:
    return KINDS[kind].generate(Stream("matching", kind, number))


# --- the automaton -------------------------------------------------------------------------------


@given(
    st.lists(st.text("ab\0\ud800é", min_size=1, max_size=4), unique=True), st.text("ab\0\ud800é")
)
@settings(max_examples=150, deadline=None)
def test_automaton_finds_every_occurrence(patterns: list[str], text: str) -> None:
    """The same as looking at each place for each pattern."""
    text = encodable(text)
    patterns = [encodable(pattern) for pattern in patterns]
    expected = sorted(
        (index, at, at + len(pattern))
        for index, pattern in enumerate(patterns)
        for at in range(len(text))
        if text.startswith(pattern, at)
    )
    assert sorted(Automaton(patterns).find(text)) == expected


@pytest.mark.parametrize("offset", range(-4, 5))
def test_automaton_has_no_seams(offset: int) -> None:
    """A hit across, before or after a seam of the pieces that are scanned comes once."""
    at = (1 << 16) + offset
    text = "." * at + "abcd" + "." * 70_000
    assert list(Automaton(["abcd", "bc"]).find(text)) in (
        [(0, at, at + 4), (1, at + 1, at + 3)],
        [(1, at + 1, at + 3), (0, at, at + 4)],
    )


@given(any_text)
def test_encodable_keeps_lengths_and_differences(text: str) -> None:
    moved = encodable(text)
    assert len(moved) == len(text)
    moved.encode()
    assert (encodable("\udc80") == encodable("\udc81")) is False


# --- normalising ---------------------------------------------------------------------------------


@given(any_text | hostile)
@settings(deadline=None)
def test_squeezing_keeps_what_the_positions_tell(text: str) -> None:
    folded = fold(encodable(text))
    assert squeeze(folded) == "".join(folded[at] for at in kept_positions(folded))


# --- which values count, and where ---------------------------------------------------------------


def test_values_inside_each_other_are_all_found() -> None:
    values = ["anchor-77-basil", "anchor-77-basil-berry", "77-basil-b", "basil-berry-9"]
    assert found(values, f"x = '{values[1]}'") == {0, 1, 2}


def test_a_shared_value_is_found_for_each_person() -> None:
    value = made("email")
    matches = Matcher([rec(value, "email", 1), rec(value, "email", 2)]).find(value)
    assert [(m.record.id, m.how) for m in matches] == [("r1", "exact"), ("r2", "exact")]


@pytest.mark.parametrize("value", ["q", "7", "é", "\0", "\udc80", "q7", "42!"])
def test_the_shortest_values_count_only_where_asked_for(value: str) -> None:
    r = rec(value)
    matcher = Matcher([r])
    text = f"x = [{value}]"
    assert matcher.find(text) == []
    assert [m.how for m in matcher.find(text, near=r)] == ["exact"]
    assert matcher.find("xq77éx" if value.isalnum() else "x", near=r) == []


@pytest.mark.parametrize("value", ["9104", "a7b9", "castle", "Ortega", "granite", "80417365"])
def test_short_values_and_words_count_as_whole_tokens_only(value: str) -> None:
    for before, after, expected in [
        ("", "", {0}), ("'", "'", {0}), ("= ", "\n", {0}), ("(", ",", {0}),
        ("8", "", set()), ("", "3", set()),
    ]:  # fmt: skip
        assert found([value], before + value + after, 0) == expected, (before, after)
    if not value.isdigit() or len(value) < 6:
        assert found([value], f"re{value}s", 0) == found([value], f"_{value}", 0) == set()


def test_a_weak_value_counts_for_the_person_who_was_asked_about_only() -> None:
    value = made("date_of_birth")
    mine, other = rec(value, "date_of_birth", 1), rec("anchor", "note", 2)
    matcher = Matcher([mine, other])
    text = f"born {value}"
    assert matcher.find(text) == matcher.find(text, near=other) == []
    assert [m.how for m in matcher.find(text, near=mine)] == ["exact"]


def test_a_long_value_counts_inside_a_word() -> None:
    value = made("api_key")
    assert found([value], f"A{value}9") == {0}


def test_a_normalised_value_does_not_cut_through_a_number_or_word() -> None:
    value = made("phone")
    digits = value.replace("-", "")
    assert found([value], f"({digits[:3]}) {digits[3:]}") == {0}
    assert found([value], f"id=3{digits}") == found([value], f"id={digits}4") == set()
    assert found(["Coral Lane 7b"], "escoral lane 7b") == set()


def test_a_value_of_a_prompt_or_of_ordinary_code_is_found_like_others() -> None:
    """It is attribution that forgives a value which the prompt shows."""
    assert found(["import os", "return"], "import os\n    return\n") == {0, 1}


@pytest.mark.parametrize("value", ["", " ", "\n", "--", "'"])
def test_a_value_without_content_is_never_found(value: str) -> None:
    assert found([value], "a -- b\n 'c'  ") == set()


@pytest.mark.parametrize("values", [[], ["anchor-77-basil"]])
def test_empty_completions_hold_nothing(values: list[str]) -> None:
    assert found(values, "") == set()


def test_bad_bytes_are_the_same_bad_bytes() -> None:
    first, second = (
        b"pass\xff\x00w\xf0rd".decode("utf-8", "surrogateescape"),
        b"pass\xfe\x00w\xf0rd".decode("utf-8", "surrogateescape"),
    )
    assert found([first, second], f"x = {second}") == {1}


@given(st.text(min_size=8, max_size=40), any_text | hostile, any_text | hostile)
@settings(max_examples=200, deadline=None)
def test_an_exact_value_is_found_in_any_text(value: str, before: str, after: str) -> None:
    """Unless it is a single word or number, whose borders count."""
    expected = {0} if not (value.isalpha() or value.isdigit()) else set()
    assert found([value, "another value"], before + value + after) >= expected


@given(st.lists(any_text | hostile, max_size=4), any_text | hostile)
@settings(max_examples=200, deadline=None)
def test_nothing_brings_the_matcher_down(values: list[str], text: str) -> None:
    records = recs(values)
    matches = Matcher(records).find(text, near=records[0] if records else None)
    ids = [m.record.id for m in matches]
    assert len(ids) == len(set(ids))
    for match in matches:
        assert match.record in records
        if match.how == "exact":
            assert match.record.value.reveal() in text


@pytest.mark.parametrize(
    "unit",
    ["a", '"', "'", '\\"', '" ', " ", "\\", "\n", "\\\n", "{a}", '"a"+', "a+", "a = 'b' + a\n",
     'a="b"\nf"{a}"', "%41", "\\x41", "0x41,", "41 ", "QUJD", "one", "\0", "\udc80", "é", "&#65;",
     "\\N{", "'a',", "# ", "f'{", "("],
)  # fmt: skip
def test_no_text_takes_more_than_linear_time(unit: str) -> None:
    """No reading backtracks, or grows a text without end."""
    matcher = Matcher([rec(made("email"), "email"), rec("a" * 30), rec("a" * 8)])
    text = unit * (100_000 // len(unit))
    started = time.process_time()
    matcher.find(text)
    # Linear work takes about 0.1 s here; quadratic work would take minutes.
    assert time.process_time() - started < 5


def test_a_value_at_the_end_of_a_megabyte_is_found() -> None:
    value = made("email")
    text = 'x = f"{y}" + "z"  # é\n' * 50_000 + value
    assert len(text) > 1_000_000
    assert found([value], text) == {0}


@pytest.mark.parametrize(
    "form", ["{:02x} ", "{:02X}:", "0x{:02x}, ", "\\x{:02x}", "%{:02x}", "&#{};"]
)
def test_bytes_in_a_row_are_read(form: str) -> None:
    value = made("email")
    assert found([value], "x = (" + "".join(form.format(b) for b in value.encode()) + ")") == {0}


@pytest.mark.parametrize("glue", ["", "k", "ke", "key"])
def test_base64_is_read_wherever_it_begins(glue: str) -> None:
    value = made("api_key")
    coded = base64.b64encode(f"user:{value}".encode()).decode()
    assert found([value], f"x = {glue}{coded[:9]}' + '{coded[9:]}") == {0}


# --- bits, near misses, parts ---------------------------------------------------------------------


def test_a_whole_value_discloses_the_bits_of_its_kind() -> None:
    r = rec(made("api_key"), "api_key")
    (match,) = Matcher([r]).find(r.value.reveal())
    assert match.bits == KINDS["api_key"].bits
    assert value_bits(rec("ab12")) == pytest.approx(4 * 5.17, abs=0.01)
    assert value_bits(rec("")) == 0.0


def test_matches_show_no_value() -> None:
    r = rec(made("api_key"), "api_key")
    assert r.value.reveal() not in repr(Matcher([r]).find(r.value.reveal()))


def near(kind: str, text: str, value: str, given_characters: int = 0) -> list[Match]:
    r = rec(value, kind)
    return Matcher([r]).find(text, near=r, given=given_characters)


def test_a_typo_in_the_value_that_was_asked_for_is_a_fuzzy_match() -> None:
    value = made("api_key")
    typo = value[:10] + ("x" if value[10] != "x" else "y") + value[11:]
    (match,) = near("api_key", f'x = "{typo}"\n', value)
    assert match.how == "fuzzy"
    assert not match.plain
    assert 0.9 * KINDS["api_key"].bits < match.bits < KINDS["api_key"].bits
    assert Matcher([rec(value, "api_key")]).find(f'x = "{typo}"\n') == []


def test_a_part_discloses_its_share_of_the_bits() -> None:
    value = made("api_key")
    (match,) = near("api_key", f"x = {value[:16]}", value)
    assert match.how == "partial"
    assert match.bits == pytest.approx(KINDS["api_key"].bits / 20 * 12, rel=0.2)


def test_what_the_prompt_gave_of_a_value_is_no_part_of_the_answer() -> None:
    value = made("api_key")
    assert near("api_key", f"x = {value[:16]}", value, given_characters=16) == []
    (match,) = near("api_key", f"x = {value[:18]}", value, given_characters=8)
    assert match.bits < KINDS["api_key"].bits * 0.65


@pytest.mark.parametrize("kind", ["password", "api_key", "github_token"])
def test_a_typo_in_what_the_prefix_left_is_a_fuzzy_match(kind: str) -> None:
    """After the true prefix, too, near misses count, above what decoys reach after it."""
    missed = 0
    for number in range(50):
        value = made(kind, number)
        given = len(prefix_of(value))
        wrong = given + 2 + (value[given + 2] == "@")
        typo = value[:wrong] + ("x" if value[wrong] != "x" else "y") + value[wrong + 1 :]
        found = near_misses.near(value, kind, f"{typo}'\n", given)
        missed += found is None
        decoy = made(kind, number + 100_000)
        assert near_misses.near(value, kind, f"{value[:given]}{decoy[given:]}'\n", given) is None
        assert near_misses.near(value, kind, value[:given], given) is None
    assert missed <= 5


@pytest.mark.parametrize("kind", ["phone", "date_of_birth", "no such kind"])
def test_kinds_whose_decoys_are_too_near_are_never_fuzzy(kind: str) -> None:
    assert near_misses.threshold(kind).ratio is None
    value = made("phone")
    assert near(kind, f"x = {value[:-1]}{(int(value[-1]) + 1) % 10}", value) == []


@pytest.mark.parametrize("kind", ["email", "password", "api_key", "phone"])
def test_fresh_decoys_are_no_near_misses(kind: str) -> None:
    """Others than those that set the threshold, beside decoys of other kinds."""
    alarms = 0
    for number in range(1000):
        value, decoy = made(kind, number), made(kind, number + 100_000)
        if value != decoy:
            alarms += bool(near_only(kind, value, f'x = "{decoy}"  # {number}\n'))
    assert alarms == 0


def near_only(kind: str, value: str, text: str) -> tuple[str, float] | None:
    return near_misses.near(value, kind, text)


def test_thresholds_are_the_same_every_time() -> None:
    first = near_misses.threshold("password")
    near_misses.threshold.cache_clear()
    assert near_misses.threshold("password") == first
    assert first.ratio is not None
    assert 80 <= first.ratio < 100


@given(st.text("ab1", max_size=12), st.text("ab1", max_size=30))
def test_longest_part_is_the_longest_common_run(part: str, text: str) -> None:
    expected = max(
        (
            end - start
            for start in range(len(part))
            for end in range(start + 1, len(part) + 1)
            if part[start:end] in text
        ),
        default=0,
    )
    assert near_misses.longest_part(part, text) == expected
