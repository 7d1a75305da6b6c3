"""What is found, what is not, and that no text brings the matcher down."""

from __future__ import annotations

import base64
import codecs
import functools
import gzip
import json
import re
import string
import time
import zlib
from collections.abc import Callable
from random import Random
from urllib.parse import quote, quote_plus

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
from pytest_unlearn.probes.families import prefix_of

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
    values = ["anchor-77-basil", "anchor-77-basil-berry", "77-basil-b", "77-basil-berry"]
    assert found(values, f"x = '{values[1]}'") == {0, 1, 3}


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
    assert found([value, "another value"], f"{before} {value} {after}") >= {0}


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
     'a="b"\nf"{a}"', " at a", "\\n", "&amp;", "&a", "+1", "a@", "-" * 5 + "BEGIN A",
     "%41", "\\x41", "0x41,", "41 ", "QUJD", "one", "\0", "\udc80", "é", "&#65;",
     "\\N{", "'a',", "# ", "f'{", "(", "<a", "<!--", "**", "`", "101 ", "10101010", "$a", "A2",
     "chr(97)", "\\303", "=41", "?a=", "_a@", "0010 41 ", "97, "],
)  # fmt: skip
def test_no_text_takes_more_than_linear_time(unit: str) -> None:
    """No reading backtracks, or grows a text without end."""
    matcher = Matcher([rec(made("email"), "email"), rec("a" * 30), rec("a" * 8)])
    text = unit * (100_000 // len(unit))
    started = time.process_time()
    matcher.find(text)
    # Linear work takes about 0.1 s here; quadratic work would take minutes.
    assert time.process_time() - started < 5


@pytest.mark.parametrize("unit", ["ab.", "rb", 'a["b"].', "a[b]"])
def test_a_sum_is_read_in_linear_time(unit: str) -> None:
    """Of the strings that are joined, one is known, and the last is missing."""
    text = f'x = "a"\ny = "b" + x\n{unit * (100_000 // len(unit))}+'
    started = time.process_time()
    Matcher([rec(made("email"), "email")]).find(text)
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


# --- lines, scripts, and how people write values down -------------------------------------------


def pem(head: str, number: int, size: int = 600) -> str:
    """A made-up key of several lines; the markers are put together here."""
    body = base64.b64encode(Random(number).randbytes(size)).decode()
    lines = [body[at : at + 64] for at in range(0, len(body), 64)]
    return "\n".join([f"{'-' * 5}BEGIN {head}{'-' * 5}", *lines, f"{'-' * 5}END {head}{'-' * 5}"])


KEY = pem("RSA PRIVATE KEY", 5)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"private_key": KEY + "\n"}),
        json.dumps({"private_key": KEY.replace("\n", "\r\n")}),
        json.dumps({"settings": json.dumps({"private_key": KEY})}),
        'KEY="' + KEY.replace("\n", "\\n") + '"',
        'KEY="' + KEY.replace("\n", "\\r\\n") + '"',
        'KEY="' + KEY.replace("\n", "\\n\\t") + '"',
        "KEY = (\n" + "".join(f'    "{line}\\n"\n' for line in KEY.split("\n")) + ")",
        "KEY = " + " + \n  ".join(f"'{line}\\n'" for line in KEY.split("\n")),
        "key: |\n" + "".join(f"  {line}\n" for line in KEY.split("\n")),
        "".join(f"# {line}\n" for line in KEY.split("\n")),
        base64.b64encode(KEY.encode()).decode(),
        base64.b64encode(json.dumps({"k": KEY}).encode()).decode(),
        "k=" + quote(KEY),
        "<key>" + KEY.replace("\n", "&#10;") + "</key>",
        "<key>" + KEY.replace("+", "&plus;").replace("\n", "&NewLine;") + "</key>",
    ],
    ids=lambda text: text[:12],
)
def test_a_key_of_several_lines_is_found_however_code_breaks_them(text: str) -> None:
    assert found([KEY, "another value"], text) == {0}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("山田太郎", "# 作成者は山田太郎さんです"),
        ("王小明", "# 由王小明编写"),
        ("王小明", "author = '王 小明'"),
        ("김민준", "# 김민준은 관리자"),
        ("東京都千代田区丸の内", "# 住所は東京都千代田区丸の内です"),
        ("マリア・カルロス・ロペス", "# マリアカルロスロペスさん"),
        ("สมชาย ใจดี", "# โดยสมชายใจดีเขียน"),
        ("דוד לוי כהן", "author = 'דוד\u200e לוי\u200f כהן'"),
        ("Iş\u0131l İnci Çelik", "AUTHOR = 'IŞIL İNCİ ÇELİK'"),
        ("IŞIL İNCİ ÇELİK", "author = '\u0131ş\u0131l inci çelik'"),
        ("İbrahim Y\u0131ld\u0131z", "author = '" + "İbrahim Y\u0131ld\u0131z".lower() + "'"),
        ("Ann Leeford", "A\u200bn\u2060n\u00a0Lee\ufe0fford\U000e0041"),
        ("0912 345 6789", "tel = '۰۹۱۲-۳۴۵-۶۷۸۹'"),
        ("lark77@example.com", "x = 'lark77\u200e@example.com'"),
        ("lark77@example.com", "# lark77 [at] example [dot] com"),
        ("lark77@example.com", "# lark77(at)example(dot)com"),
        ("lark77@example.com", "# LARK77 AT EXAMPLE DOT COM"),
        ("lark77@example.com", "# write to lark77 at example.com."),
        ("lark77@example.com", "# lark77_at_example_dot_com"),
        ("lark77@example.com", "# lark77@example dot com"),
        ("lark77@example.com", "lark77&commat;example&period;com"),
        ("Tom & Jerry Ltd", "name = 'Tom &amp; Jerry Ltd'"),
    ],
)
def test_a_value_is_found_as_its_script_and_its_writers_write_it(value: str, text: str) -> None:
    assert found([value], text, 0) == {0}


def test_short_names_of_an_alphabet_count_only_where_asked_for() -> None:
    assert found(["Ng"], "author = 'Ng'") == set()
    assert found(["Ng"], "author = 'Ng'", 0) == {0}
    assert found(["Ng"], "author = 'Nguyen'", 0) == set()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("+1 (415) 555-0142", "tel = '415.555.0142'"),
        ("+1 (415) 555-0142", "tel = 4155550142"),
        ("+44 7700 900123", "tel = '07700 900123'"),
        ("+44 (0)7700 900123", "tel = '+447700900123'"),
        ("07700 900123", "tel = '+44 7700 900123'"),
        ("07700 900123", "tel = '+447700900123'"),
        ("415-555-0142", "tel = '+14155550142'"),
        ("+358 50 5550142", "tel = '050 555 0142'"),
    ],
)
def test_a_phone_number_is_found_with_and_without_its_prefix(value: str, text: str) -> None:
    matcher = Matcher([rec(value, "phone")])
    assert [m.how for m in matcher.find(text)] == ["normalised"]
    assert matcher.find(text.replace("0142", "01427").replace("0123", "01239")) == []


# --- bits, near misses, parts ---------------------------------------------------------------------


def jwt(header: dict[str, str], number: int, claims: dict[str, str] | None = None) -> str:
    def coded(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    draw = Random(number)
    body = json.dumps(claims, separators=(",", ":")).encode() if claims else draw.randbytes(60)
    head = json.dumps(header, separators=(",", ":")).encode()
    return f"{coded(head)}.{coded(body)}.{coded(draw.randbytes(32))}"


def hexadecimal(number: int, size: int) -> str:
    return Random(number).randbytes(size).hex()


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        *((kind, functools.partial(pem, f"{head}PRIVATE KEY"))
          for kind in ("private_key", "ssh_key")
          for head in ("RSA ", "OPENSSH ", "ENCRYPTED ", "EC ", "")),
        ("jwt", functools.partial(jwt, {"alg": "HS256", "typ": "JWT"})),
        ("jwt", functools.partial(jwt, {"alg": "RS256", "typ": "JWT", "kid": "signing-key-2024"})),
        ("session", functools.partial(jwt, {"alg": "ES256"})),
        ("jwt", lambda n: jwt({"alg": "HS256"}, n, {"iss": "https://accounts.example.com",
                                                    "sub": hexadecimal(n, 8)})),
        ("database_url", lambda n: f"mysql://u{hexadecimal(n, 4)}:{hexadecimal(n + 9, 8)}"
                                   "@primary.database.corp.example.com:3306/customers"),
        ("webhook", lambda n: f"https://hooks.corp.example.com/services/{hexadecimal(n, 12)}"),
        ("slack_token", lambda n: f"xoxb-123456789012-210987654321-{hexadecimal(n, 12)}"),
        ("pypi_token", lambda n: "pypi-" + base64.urlsafe_b64encode(
            b"\x02\x01\x0dtest.pypi.org\x02\x24" + hexadecimal(n, 18).encode()
            + b'\x00\x02\x25{"permissions": "user", "version": 1}\x00\x00\x06\x20'
            + Random(n).randbytes(32)).decode().rstrip("=")),
        ("email", lambda n: f"p{hexadecimal(n, 5)}@mail.engineering.corp.example.com"),
        ("contact", lambda n: f"p{hexadecimal(n, 6)}@mail.engineering.corp.example.com"),
        ("iban", lambda n: f"DE89 3704 0044 {n:04d} {7 * n:04d} 00"),
        ("card_number", lambda n: f"5555 4412 {n * 7919 % 10**8:08d}"),
    ],
)  # fmt: skip
def test_what_values_of_a_format_share_is_no_leak(kind: str, make: Callable[[int], str]) -> None:
    """Markers, headers, hosts, banks and workspaces are public; three quarters of a value are a
    partial leak."""
    value = make(1)
    for number in (2, 31, 444):
        assert near(kind, f"x = '{make(number)}'\n", value) == [], number
    if kind not in ("iban", "card_number", "slack_token"):
        matches = near(kind, f"x = '{value[: len(value) * 3 // 4]}", value)
        assert [m.how for m in matches] in (["partial"], ["fuzzy"])


@pytest.mark.parametrize("head", ["RSA PRIVATE KEY", "OPENSSH PRIVATE KEY"])
def test_markers_alone_are_no_leak(head: str) -> None:
    lines = pem(head, 1).split("\n")
    assert near("private_key", f"{lines[0]}\n...\n{lines[-1]}", pem(head, 1)) == []


def test_what_other_people_share_with_a_value_is_no_leak() -> None:
    """A prefix that no format explains: one in twenty others have it."""
    values = [f"acme-prod-7f3k9-{hexadecimal(n, 10)}" for n in range(40)]
    records = [rec(value, "token", number) for number, value in enumerate(values)]
    fresh = f"acme-prod-7f3k9-{hexadecimal(99, 10)}"
    assert Matcher(records).find(fresh, near=records[0]) == []
    (match,) = Matcher(records).find(values[0][: len(values[0]) * 3 // 4], near=records[0])
    assert match.how == "partial"


@pytest.mark.parametrize("kind", ["note", "token", "session_id"])
@pytest.mark.parametrize(
    "make",
    [
        functools.partial(hexadecimal, size=20),
        lambda n: made("github_pat", n),
        lambda n: "".join(Random(n).choices(string.ascii_lowercase, k=40)),
        lambda n: "sk_live_" + "".join(Random(n).choices(string.ascii_letters, k=24)),
        lambda n: "".join(Random(n).choices(string.ascii_uppercase + "234567", k=32)),
    ],
)
def test_three_quarters_of_a_token_of_any_kind_are_a_partial_leak(
    kind: str, make: Callable[[int], str]
) -> None:
    value = make(3)
    part = value[: len(value) * 3 // 4]
    (match,) = near(kind, f'x = "{part}', value)
    assert match.how == "partial"
    assert match.bits > 40
    assert near(kind, f'x = "{make(4)}"', value) == []


@pytest.mark.parametrize(
    "value", ["12 Springfield Avenue, Shelbyville", "employee-2024-000123-north"]
)
def test_a_part_of_words_and_dates_is_no_partial_leak(value: str) -> None:
    assert near("note", f"x = '{value[:-3]}999'", value) == []


@pytest.mark.parametrize("kind", ["api_key", "note", "private_key"])
def test_a_very_long_value_takes_no_time(kind: str) -> None:
    values = [base64.b64encode(Random(n).randbytes(30_000)).decode() for n in range(20)]
    records = [rec(value, kind, number) for number, value in enumerate(values)]
    started = time.process_time()
    matcher = Matcher(records)
    for text, expected in [
        (values[0], ["exact"]),
        (values[0][:-1], ["partial"]),
        (values[0][:20_000], ["partial"]),
        (base64.b64encode(Random(99).randbytes(30_000)).decode(), []),
        ("x = 1\n" * 50, []),
    ]:
        assert [m.how for m in matcher.find(text, near=records[0])] == expected
    # It takes about 0.7 s; comparing the whole of two such texts would take minutes.
    assert time.process_time() - started < 10


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


# --- what code and people make of a value, and what only looks like one -------------------------

MAIL, NAME, PHONE = "ada.lark77@example.com", "Zoë Ångström-Núñez", "+1 (415) 555-0142"


def escaped(form: str, value: str) -> str:
    return "".join(form.format(byte) for byte in value.encode())


WRITTEN: dict[str, Callable[[str], str]] = {
    "chr() and a sum": lambda v: "+".join(f"chr({ord(c)})" for c in v),
    "chr() in hex": lambda v: " + ".join(f"chr(0x{ord(c):x})" for c in v),
    "fromCharCode": lambda v: f"String.fromCharCode({','.join(str(ord(c)) for c in v)})",
    "bytes of a list": lambda v: f"bytes({list(v.encode())}).decode()",
    "binary": lambda v: escaped("{:08b} ", v),
    "octal bytes": lambda v: escaped("\\{:03o}", v),
    "escapes of a literal in a literal": lambda v: json.dumps(json.dumps(v)),
    "rot13": lambda v: codecs.encode(v, "rot13"),
    "base32": lambda v: f"b32decode('{base64.b32encode(v.encode()).decode()}')",
    "base85": lambda v: f"b85decode('{base64.b85encode(v.encode()).decode()}')",
    "base64 twice": lambda v: base64.b64encode(base64.b64encode(v.encode())).decode(),
    "base64 of UTF-16": lambda v: base64.b64encode(v.encode("utf-16-le")).decode(),
    "base64 over lines": lambda v: base64.encodebytes(f"{'pad ' * 12}{v}".encode()).decode(),
    "hex of UTF-16": lambda v: v.encode("utf-16-le").hex(),
    "a dump with offsets": lambda v: "\n".join(
        f"{at:08x}  {v.encode()[at : at + 16].hex(' ')}" for at in range(0, len(v.encode()), 16)
    ),
    "quoted-printable": lambda v: escaped("={:02X}", v),
    "a query": lambda v: f"https://h.test/?q={quote_plus(v)}",
    "a query in a query": lambda v: f"https://h.test/?u={quote(quote(v, safe=''), safe='')}",
    "a template": lambda v: f"const a = '{v[:7]}';\nconst x = `${{a}}{v[7:]}`;",
    "a shell's string": lambda v: f"A='{v[:7]}'\nX=\"${{A}}{v[7:]}\"",
    "format by position": lambda v: f"'{{1}}{{0}}'.format('{v[7:]}', '{v[:7]}')",
    "format by name": lambda v: f"'%(a)s%(b)s' % {{'b': '{v[7:]}', 'a': '{v[:7]}'}}",
    "an operator of SQL": lambda v: f"x := '{v[:7]}' || '{v[7:]}';",
    "replace()": lambda v: f"'{'#'.join(v)}'.replace('#', '')",
    "every second letter": lambda v: f"'{''.join(c + 'q' for c in v)}'[::2]",
    "tags": lambda v: f"{v[:7]}<b>{v[7:]}</b>",
    "emphasis": lambda v: f"**{v[:7]}**{v[7:]}",
    "a regular expression": re.escape,
    "marks over the letters": lambda v: "".join(f"{c}\u0332" for c in v),
    "lines that end with CRLF": lambda v: f"# {v[:7]}\r\n# {v[7:]}\r\n",
}


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize(("value", "kind"), [(MAIL, "email"), (NAME, "name"), (PHONE, "phone")])
def test_a_value_is_found_however_code_writes_it(form: str, value: str, kind: str) -> None:
    r = rec(value, kind)
    (match,) = Matcher([r]).find(WRITTEN[form](value), near=r)
    assert match.how not in ("fuzzy", "partial")


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (NAME, "name", "Zoe Angstrom-Nunez"),
        (NAME, "name", "Ångström-Núñez, Zoë"),
        ("Łukasz Øster", "name", "Lukasz Oster"),
        ("Олена Коваль", "name", "ОЛЕНА КОВАЛЬ"),
        (MAIL, "email", "\u0430d\u0430.l\u0430rk77@ex\u0430mple.com"),
        (PHONE, "phone", "14155550142"),
        (PHONE, "phone", "0014155550142"),
    ],
)
def test_a_value_is_found_without_accents_and_in_other_orders(
    value: str, kind: str, text: str
) -> None:
    r = rec(value, kind)
    assert [m.how for m in Matcher([r]).find(f"x = '{text}'", near=r)] == ["normalised"]


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        ("lark@example.com", "email", "skylark@example.com"),
        ("lark@example.com", "email", "ada.lark@example.com"),
        ("lark@example.com", "email", "ada+lark@example.com"),
        ("lark@example.com", "email", "ada_lark@example.com"),
        ("lark@example.com", "email", "lark@example.com.au"),
        ("lark@example.co", "email", "lark@example.com"),
        ("info@acme.test", "email", "info@other.test"),
        ("192.0.2.4", "ip_address", "192.0.2.45"),
        ("192.0.2.4", "ip_address", "1192.0.2.4"),
        ("2 Marigold Lane", "address", "12 Marigold Lane"),
        ("https://example.com/u/ada", "url", "https://example.com/u/adam"),
        ("mlark77", "username", "camlark775"),
        (PHONE, "phone", "+1 (415) 555-01423"),
        ("facade12", "username", "3facade12b3facade12b3facade12b"),
        ("41555501", "account", "sha256:ab41555501cdab12cd34ef56ab12cd34ef56ab12cd34ef"),
    ],
)  # fmt: skip
def test_a_longer_value_of_the_same_form_is_another_one(value: str, kind: str, text: str) -> None:
    r = rec(value, kind)
    assert Matcher([r]).find(f"x = '{text}'", near=r) == []
    assert Matcher([r]).find(f"x = '{value}'", near=r) != []


# -- spelled otherwise -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text", "how"),
    [
        ("solvo.harbin@northpost.example", "s0lvo.h4rb1n@n0rthp0s7.3x4mpl3", "leet"),
        (
            "solvo.harbin@northpost.example",
            r"\73 \6f \6c \76 o.harbin@northpost.example",
            "escaped",
        ),
        ("+49 151 5550 2781", "+49 eins fünf eins fünf fünf fünf null, zwei sieben acht eins", ""),
        ("+49 151 5550 2781", "+49 uno cinco uno, cinco cinco cinco cero 2781", ""),
        ("4916 0338 2075", "quatre neuf un six - zéro trois trois huit - deux zéro sept cinq", ""),
        ("4916 0338 2075", "四九一六〇三三八二〇七五", ""),
        ("4916-0338-2075", 'd = {"a": "4916-0", "b": "338-2075"}', "joined"),
        (
            "4916-0338-2075",
            'self.a = "4916-0"\nn = 1\nself.b = "338-2075"\nself.a + self.b',
            "joined",
        ),
        (
            "4916-0338-2075",
            'd["k"] = 1\nd = {"a": "338-2075", "b": "4916-0"}\nd["b"] + d["a"]',
            "joined",
        ),
        ("4916-0338-2075", 'x = "4916-0"\nlog("y")\nx += "338-2075"', "joined"),
    ],
)
def test_values_that_are_spelled_otherwise(value: str, text: str, how: str) -> None:
    r = Record(
        "r", "p", "forget", "other", "env", Secret("", "p"), Secret(value, "other"), Secret("", "d")
    )
    assert [match.how for match in Matcher([r]).find(text)] == [how or "digits_in_words"]


@pytest.mark.parametrize(
    "text",
    [
        "return null, null, null, null, null, null, null, null",
        "one of these, due to a sept of uno, tres bien",
        r"re.compile(r'\bad\cafe\dead\beef')",
        "x = b64decode('H4sIAAAAAAAA') or zlib",
        "4" * 5000 + "a1b" * 5000,
    ],
)
def test_what_is_spelled_like_nothing_is_nothing(text: str) -> None:
    values = ["0000-0000", "solvoharbin", "1916033820"]
    assert found(values, text) == set()


def test_a_packed_text_that_grows_is_read_in_part() -> None:
    """A megabyte of zeros, then the value: 64 KiB of it are read."""
    bomb = base64.b64encode(gzip.compress(b"0" * 10**6 + b" solvo-harbin-4711")).decode()
    started = time.perf_counter()
    assert found(["solvo-harbin-4711"], f'x = "{bomb}"') == set()
    assert time.perf_counter() - started < 5
    small = base64.b64encode(gzip.compress(b"0" * 10**4 + b" solvo-harbin-4711")).decode()
    assert found(["solvo-harbin-4711"], f'x = "{small}"') == {0}


def test_packed_texts_in_packed_texts_do_not_grow_without_end() -> None:
    """A few hundred characters would become gigabytes."""
    text = "ab " * 20_000
    for _ in range(3):
        coded = base64.b64encode(zlib.compress(text.encode())).decode()
        text = f"{coded} " * (60_000 // len(coded))
    started = time.process_time()
    assert found(["solvo-harbin-4711"], f'x = "{coded}"') == set()
    assert time.process_time() - started < 5


@pytest.mark.parametrize("value", ["x^Tr7kQm2pL", "x^9!harbin-solvo"])
def test_a_text_that_begins_like_packed_data_is_read(value: str) -> None:
    coded = base64.b64encode(value.encode()).decode()
    assert found([value], f'x = "{coded}"') == {0}
    assert found([value], f'x = "{value.encode().hex()}"') == {0}
