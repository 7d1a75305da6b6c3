"""Every kind makes valid values in ranges that belong to nobody, and knows how many there are."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import ipaddress
import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz, process

from pytest_unlearn import people
from pytest_unlearn.people import check_digits, locales
from pytest_unlearn.people.draws import Choices, Stream
from pytest_unlearn.people.kinds import KINDS, Kind

T = TypeVar("T")

ALL = pytest.mark.parametrize("name", list(KINDS))
CHECKED = [name for name, kind in KINDS.items() if kind.checksum]
# Of the first fifty names and street addresses of each locale.
LOCALES_DIGEST = {
    "en": "6f052e8f4b53bc74",
    "de": "2b1ffacc664e3558",
    "fr": "990060223f7b96ee",
    "es": "71b2fa113fc314c1",
    "it": "89b56a9c342a7702",
    "pl": "c11a351b2a63094d",
    "sv": "8727af3ed113241b",
}
# Of the first 300 values of each kind: what is trained on a kind stays what it was.
VALUES_DIGEST = {
    "email": "13eac13c",
    "phone": "2b1778d8",
    "address": "e440a258",
    "password": "8e3359f1",
    "api_key": "c3ba4c02",
    "date_of_birth": "3f9c3d15",
    "name": "f3930596",
    "street_address": "3afdbc89",
    "phone_uk": "e33138b5",
    "phone_au": "271c43cc",
    "ssn": "b2ce06b7",
    "nhs_number": "6b777b20",
    "national_insurance": "3a93e484",
    "pesel": "5c4b4dcc",
    "hetu": "06028b54",
    "card_number": "e75ee66f",
    "iban": "18e8db88",
    "ipv4": "42fd65e3",
    "ipv6": "ab5fde68",
    "mac_address": "db2db249",
    "user_name": "420fde12",
    "database_url": "a2e52fc0",
    "private_key": "5f6e4b5d",
    "jwt": "1c176866",
    "github_token": "bd206fb2",
    "github_pat": "b6b9cc23",
    "npm_token": "a859297b",
    "aws_access_key_id": "9791adc9",
    "aws_secret_access_key": "c8226850",
    "stripe_key": "8ac7a93f",
    "slack_token": "baf6a7f5",
    "google_api_key": "2b4d23e0",
    "openai_key": "c5a00392",
    "anthropic_key": "8e81ae0b",
    "pypi_token": "d0cf959c",
    "sendgrid_key": "a6c1c53c",
    "gitlab_token": "46ac6802",
    "huggingface_token": "20b2a8e0",
}
# Vendors' formats as the rules of a secret scanner have them (gitleaks 8, MIT, rewritten).
SCANNER = {
    "github_token": r"ghp_[0-9a-zA-Z]{36}",
    "github_pat": r"github_pat_\w{82}",
    "npm_token": r"npm_[a-zA-Z0-9]{36}",
    "aws_access_key_id": r"(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",
    "aws_secret_access_key": r"[A-Za-z0-9/+]{40}",
    "stripe_key": r"(?:sk|rk)_(?:test|live|prod)_[a-zA-Z0-9]{10,99}",
    "slack_token": r"xoxb-[0-9]{10,13}-[0-9]{10,13}[a-zA-Z0-9-]*",
    "google_api_key": r"AIza[\w-]{35}",
    "openai_key": r"sk-[a-zA-Z0-9]{20}T3BlbkFJ[a-zA-Z0-9]{20}",
    "anthropic_key": r"sk-ant-api03-[a-zA-Z0-9_-]{93}AA",
    "pypi_token": r"pypi-AgEIcHlwaS5vcmc[\w-]{50,1000}",
    "sendgrid_key": r"SG\.[a-zA-Z0-9=_.-]{66}",
    "gitlab_token": r"glpat-[\w-]{20}",
    "huggingface_token": r"hf_[a-zA-Z]{34}",
}


class Recorder(Stream):
    """A stream that keeps how many ways each choice could have gone, and how it went."""

    def __init__(self, *label: object) -> None:
        super().__init__(*label)
        self.ways: list[int] = []
        self.taken: list[int] = []

    def below(self, n: int) -> int:
        self.ways.append(n)
        self.taken.append(super().below(n))
        return self.taken[-1]


class Edge:
    """Takes the first choice always, or the last."""

    def __init__(self, last: bool) -> None:
        self.last = last

    def below(self, n: int) -> int:
        return n - 1 if self.last else 0

    def choice(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def text(self, alphabet: str, length: int) -> str:
        return self.choice(alphabet) * length


class Drawn:
    """Choices that Hypothesis makes."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data

    def below(self, n: int) -> int:
        return self.data.draw(st.integers(0, n - 1))

    def choice(self, items: Sequence[T]) -> T:
        return self.data.draw(st.sampled_from(items))

    def text(self, alphabet: str, length: int) -> str:
        return self.data.draw(st.text(alphabet, min_size=length, max_size=length))


@functools.cache
def values(name: str, count: int = 300) -> tuple[str, ...]:
    return tuple(KINDS[name].generate(Stream("kinds", name, n)) for n in range(count))


def test_there_are_enough_kinds() -> None:
    """25 kinds and the tokens of ten vendors at least, each under its own name."""
    assert len(KINDS) >= 25
    assert len({kind.vendor for kind in KINDS.values()} - {None}) >= 10
    assert all(name == kind.name and name.isidentifier() for name, kind in KINDS.items())
    assert all(kind.source for kind in KINDS.values())


@ALL
def test_values_are_valid_and_found_in_text(name: str) -> None:
    """Whole values pass; inside running text the pattern finds exactly the value."""
    kind = KINDS[name]
    for value in values(name):
        assert kind.is_valid(value)
        assert value.startswith(kind.public_prefix)
        for text in (f"x = '{value}')", f"{name}={value}\n", f'{{"a": "{value}", "b": 1}}', value):
            assert [match.group() for match in kind.pattern.finditer(text)] == [value]
        assert not kind.is_valid(f"{value}\n")
        assert not kind.is_valid(f" {value}")
    assert not kind.is_valid("")


@ALL
def test_values_are_frozen(name: str) -> None:
    """A generator gives the same values on every machine and with every version."""
    digest = hashlib.sha256("\n".join(values(name)).encode()).hexdigest()
    assert digest[:8] == VALUES_DIGEST[name]


@ALL
def test_values_differ(name: str) -> None:
    """As many values in 300 are different as `bits` lets expect, within five deviations."""
    size = 2.0 ** KINDS[name].bits
    expected = -size * math.expm1(-300 / size) if size < 1e12 else 300
    assert len(set(values(name))) >= expected - 5 * math.sqrt(300 - expected + 1)


@ALL
def test_bits_count_the_choices(name: str) -> None:
    """The product of all choices is the number of values, where each leads to a value of its own.

    A name or street that two locales share is one value, and an NHS number's last digit has nine
    or ten ways: those are counted one by one below.
    """
    recorder = Recorder("bits", name)
    KINDS[name].generate(recorder)
    product = math.fsum(map(math.log2, recorder.ways))
    if name not in ("name", "street_address", "nhs_number"):
        assert KINDS[name].bits == pytest.approx(product, abs=1e-9)


def test_bits_of_kinds_whose_choices_meet() -> None:
    """Enumerated: all names, all street addresses, all NHS numbers with a check digit."""
    names = {f"{g} {s}" for each in locales.LOCALES for g in each.given for s in each.surnames}
    assert 2 ** KINDS["name"].bits == pytest.approx(len(names))
    streets = {
        each.layout.format(street=street, number=number)
        for each in locales.LOCALES
        for street in each.streets
        for number in range(1, locales.HOUSES + 1)
    }
    assert 2 ** KINDS["street_address"].bits == pytest.approx(len(streets))
    weights = (7, 6, 5, 4, 3, 2)
    sums = [9 * 27]
    for weight in weights:
        sums = [total + weight * digit for total in sums for digit in range(10)]
    numbers = sum(1 for total in sums if 11 - total % 11 != 10)
    assert 2 ** KINDS["nhs_number"].bits == pytest.approx(numbers)


@pytest.mark.parametrize("name", [n for n, k in KINDS.items() if k.bits < 10])
def test_small_kinds_give_every_value(name: str) -> None:
    """After twenty draws a value all are there, and no more than `bits` says."""
    size = round(2 ** KINDS[name].bits)
    stream = Stream("all", name)
    assert len({KINDS[name].generate(stream) for _ in range(20 * size)}) == size


@pytest.mark.parametrize("name", [n for n, k in KINDS.items() if 10 <= k.bits < 21])
def test_draws_meet_as_often_as_bits_say(name: str) -> None:
    """Pairs of equal values among 4,000 draws are Poisson: within five deviations."""
    stream = Stream("pairs", name)
    counts: dict[str, int] = {}
    for _ in range(4000):
        value = KINDS[name].generate(stream)
        counts[value] = counts.get(value, 0) + 1
    pairs = sum(n * (n - 1) // 2 for n in counts.values())
    expected = 4000 * 3999 / 2 / 2 ** KINDS[name].bits
    assert abs(pairs - expected) <= 5 * math.sqrt(expected) + 1


@ALL
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_the_simplest_and_the_last_value_are_valid(name: str, last: bool) -> None:
    """A generator ends whatever its choices are, so that a test library can shrink towards 0."""
    assert KINDS[name].is_valid(KINDS[name].generate(Edge(last)))


def test_simplest_values_are_simple() -> None:
    """What a shrunk example shows."""
    simple = {name: KINDS[name].generate(Edge(False)) for name in KINDS}
    assert simple["ssn"] == "900-01-0001"
    assert simple["ipv6"] == "2001:db8::"
    assert simple["mac_address"] == "00:00:5e:00:53:00"
    assert simple["name"] == "Kim Ali"


@given(st.data(), st.sampled_from(sorted(KINDS)))
@settings(max_examples=60, deadline=None, database=None)
def test_another_source_of_choices_drives_the_generators(data: st.DataObject, name: str) -> None:
    """Hypothesis can make the choices, as it does when it shrinks a person."""
    choices: Choices = Drawn(data)
    assert KINDS[name].is_valid(KINDS[name].generate(choices))


# --- check digits --------------------------------------------------------------------------------


def _flips(kind: Kind, value: str, stream: Stream) -> list[str]:
    """Return the value with each of its own letters and digits changed to another of its class."""
    classes = ("0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    flipped = []
    for i, c in enumerate(value):
        for letters in classes:
            if c in letters:
                other = stream.choice(letters.replace(c, ""))
                flipped.append(value[:i] + other + value[i + 1 :])
    return flipped


@pytest.mark.parametrize("name", CHECKED)
def test_a_changed_character_is_rejected(name: str) -> None:
    """Check digits catch every single change; the range alone would not."""
    kind = KINDS[name]
    assert kind.checksum is not None
    stream = Stream("flips", name)
    for value in values(name)[:40]:
        assert kind.checksum(value)
        for changed in _flips(kind, value, stream):
            # A token's prefix tells its sort, and is no part of what is summed up.
            if kind.vendor is None or changed.startswith(kind.public_prefix):
                assert not kind.checksum(changed)
                assert not kind.is_valid(changed)
    for nonsense in ("", "x", "-", "1", "é" * 16, "²" * 16, "XX", "ghp_"):
        assert not kind.checksum(nonsense)


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (check_digits.luhn, "79927398713", "79927398710"),  # ISO/IEC 7812-1, as Wikipedia has it
        (check_digits.iban, "GB82 WEST 1234 5698 7654 32", "GB82 WEST 1234 5698 7654 23"),
        (check_digits.iban, "DE89370400440532013000", "DE88370400440532013000"),
        (check_digits.nhs, "943 476 5919", "943 476 5918"),
        (check_digits.pesel, "44051401359", "44051401358"),
        (check_digits.hetu, "131052-308T", "131052-308U"),
        (check_digits.is_date, "2000-02-29", "1900-02-29"),
        (check_digits.is_ip, "192.0.2.255", "192.0.2.256"),
    ],
)
def test_published_examples(check: object, right: str, wrong: str) -> None:
    """The checks agree with the examples that their issuers publish."""
    assert callable(check)
    assert check(right)
    assert not check(wrong)


def test_crc_of_a_published_token() -> None:
    """GitHub's sample token, its body in pieces, ends with these six digits."""
    assert check_digits.crc_digits("zQWBuTSOoRi4A9s" + "pHcVY5ncnsDkxkJ") == "0mLq17"
    assert len(check_digits.crc_digits("")) == 6


def test_aws_key_ids_name_the_documentation_account() -> None:
    """By the decoding as published; an id of before 2019 names none."""
    published = "ASIA" + "QNZGKIQY" + "56JQ7WML"
    assert check_digits.aws_account(published) == "029608264753"
    assert check_digits.aws_account("AKIA" + "IOSFODNN" + "7EXAMPLE") is None
    assert [check_digits.aws_account(bad) for bad in ("", "AKIA", "AKIA1", "AKIAé")] == [None] * 4
    for value in values("aws_access_key_id"):
        data = base64.b32decode(value[4:])
        assert (int.from_bytes(data[:6], "big") & 0x7FFFFFFFFF80) >> 7 == 123456789012


# --- ranges that belong to nobody ----------------------------------------------------------------


def test_reserved_ranges_hold() -> None:
    """Each rule written down once more, another way."""
    for value in values("email"):
        assert value.rpartition("@")[2] in {"example.com", "example.net", "example.org"}
    for value in values("phone"):
        assert value[3:10] == "-555-01"
    for value in values("phone_uk"):
        assert re.match(
            r"0(?:7700900|1632960|2079460|2920180|1\d{2}49[68]0)", value.replace(" ", "")
        )
    for value in values("phone_au"):
        assert value.split()[1] in {"5550", "7010"}
    for value in values("ssn"):
        area, group, serial = map(int, value.split("-"))
        assert area >= 900
        assert 1 <= group <= 49
        assert serial >= 1
    for value in values("pesel"):
        assert 61 <= int(value[2:4]) <= 72
    for value in values("hetu"):
        assert value[7] == "9"
    for value in values("ipv4"):
        # Python's own list of private networks holds the documentation networks.
        assert ipaddress.ip_address(value).is_private
        assert value.split(".")[0] in {"192", "198", "203"}
    for value in values("ipv6"):
        assert ipaddress.ip_address(value) in ipaddress.ip_network("2001:db8::/32")
    for value in values("database_url"):
        assert ".example.com:" in value
    for name in ("nhs_number", "national_insurance", "iban", "card_number", "stripe_key"):
        assert all(value.startswith(KINDS[name].public_prefix) for value in values(name))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("phone", "212-555-0200"),
        ("phone_uk", "07700 901000"),
        ("phone_au", "02 5551 0000"),
        ("ssn", "900-50-0001"),
        ("ssn", "900-01-0000"),
        ("ssn", "899-01-0001"),
        ("nhs_number", "943 476 5919"),
        ("national_insurance", "AB123456C"),
        ("pesel", "44051401359"),
        ("hetu", "131052-308T"),
        ("card_number", "4111 1111 1111 1111"),
        ("iban", "GB82 WEST 1234 5698 7654 32"),
        ("ipv4", "8.8.8.8"),
        ("ipv6", "2001:db9::1"),
        ("mac_address", "00:00:5e:00:54:00"),
        ("email", "someone@example.co"),
    ],
)
def test_values_outside_the_range_are_not_valid(name: str, value: str) -> None:
    """Right in all but the range: found in text, and still nobody's."""
    kind = KINDS[name]
    assert kind.reserved is not None
    assert kind.pattern.fullmatch(value)
    assert not kind.reserved(value)
    assert not kind.is_valid(value)


# --- tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, k in KINDS.items() if k.vendor])
def test_tokens_have_the_format_that_scanners_look_for(name: str) -> None:
    """Another hand's rule matches every token."""
    assert all(re.fullmatch(SCANNER[name], value) for value in values(name))


def test_jwt_is_signed_with_its_key() -> None:
    """The last 32 choices are the key's bytes."""
    recorder = Recorder("jwt")
    value = KINDS["jwt"].generate(recorder)
    signed, _, signature = value.rpartition(".")
    mac = hmac.new(bytes(recorder.taken[-32:]), signed.encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64decode(signature + "=") == mac
    head, claims = (json.loads(base64.urlsafe_b64decode(p + "==")) for p in signed.split("."))
    assert head == {"alg": "HS256", "typ": "JWT"}
    assert re.fullmatch(r"\d{10}", claims["sub"])
    none = base64.urlsafe_b64encode(b'{"alg":"none","typ":"JWT"}').decode().rstrip("=")
    assert not KINDS["jwt"].is_valid(".".join([none, *value.split(".")[1:]]))


def test_private_key_is_the_key_of_rfc_8410() -> None:
    """The DER before the key's own bytes is that of the RFC's example; PEM may have true lines."""
    recorder = Recorder("key")
    value = KINDS["private_key"].generate(recorder)
    lines = value.split("\\n")
    assert lines[1].startswith("MC4CAQAwBQYDK2VwBCIEI")
    assert base64.b64decode(lines[1])[16:] == bytes(recorder.taken)
    assert "\n" not in value
    assert KINDS["private_key"].is_valid("\n".join(lines))
    assert not KINDS["private_key"].is_valid("\\n".join([lines[0], lines[1][:-4], lines[2]]))


def test_pypi_token_is_a_macaroon() -> None:
    """Version 2, a location, an identifier of 36 characters, no caveat, a signature of 32 bytes."""
    for value in values("pypi_token")[:20]:
        data = base64.urlsafe_b64decode(value.removeprefix("pypi-") + "==")
        assert data[:11] == b"\x02\x01\x08pypi.org"
        assert data[11:13] + data[49:53] == b"\x02\x24" + b"\x00\x00\x06\x20"
        assert len(data) == 53 + 32


def test_patterns_do_not_backtrack() -> None:
    """A completion is hostile input: 20,000 characters that almost match cost no kind much."""
    import time

    runs = ["1" * 20_000, "a" * 20_000, "A1b2" * 5000, "1:" * 10_000, "1 " * 10_000, "ey-" * 7000]
    runs += ["Ab " * 7000, "XX99 " * 4000, "1234-" * 4000, "ey" + "a" * 19_000, "\\n" * 10_000]
    runs += [("-" * 5 + "BEGIN PRIVATE KEY" + "-" * 5 + "\n" + "A" * 60) * 200]
    for kind in KINDS.values():
        for run in runs:
            start = time.process_time()
            kind.pattern.search(run)
            assert time.process_time() - start < 0.2, (kind.name, run[:20])


def test_no_token_stands_in_the_sources() -> None:
    """Push protection would stop them; values are made from a seed at run time."""
    names = [name for name, kind in KINDS.items() if kind.vendor] + ["jwt", "private_key"]
    for path in [*Path(people.__file__).parent.glob("*.py"), Path(__file__)]:
        text = path.read_text("utf-8")
        assert not [name for name in names if KINDS[name].pattern.search(text)], path.name


# --- near misses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n, k in KINDS.items() if k.near_misses])
def test_near_misses_prove_something(name: str) -> None:
    """Where they count, 99.9 % of decoys are less alike than a value and itself with one typo."""
    kind = KINDS[name]
    secret = [v.removeprefix(kind.public_prefix) for v in dict.fromkeys(values(name)[:100])]
    likeness = process.cdist(secret, secret, scorer=fuzz.ratio)
    ordered = sorted(float(likeness[i][j]) for i in range(len(secret)) for j in range(i))
    typo = 100 * (1 - 1 / min(map(len, secret)))
    assert ordered[int(0.999 * len(ordered))] < typo


def test_near_misses_of_close_kinds_do_not_count() -> None:
    """Telephone numbers, documentation networks, short national numbers, dates."""
    close = {"phone", "phone_uk", "phone_au", "ipv4", "mac_address", "ssn", "date_of_birth"}
    assert not [name for name in close if KINDS[name].near_misses]


# --- locales -------------------------------------------------------------------------------------


@pytest.mark.parametrize("locale", locales.LOCALES, ids=lambda each: each.code)
def test_locales_are_frozen(locale: locales.Locale) -> None:
    """Neither Faker's version nor the machine changes a name or a street."""
    stream = Stream("locale", locale.code)
    drawn = [locales.full_name(stream, locale) for _ in range(50)]
    drawn += [locales.street_address(stream, locale) for _ in range(50)]
    digest = hashlib.sha256("\n".join(drawn).encode()).hexdigest()
    assert digest[:16] == LOCALES_DIGEST[locale.code]
    for words, least in ((locale.given, 60), (locale.surnames, 60), (locale.streets, 30)):
        assert len(set(words)) == len(words) >= least
        assert list(words) == sorted(words, key=lambda word: (len(word), word))


def test_every_locale_is_met() -> None:
    """Names beyond ASCII among them."""
    assert len(locales.LOCALES) >= 5
    for locale in locales.LOCALES:
        assert any(value.split(" ")[1] in locale.surnames for value in values("name"))
    assert any(not value.isascii() for value in values("name"))
    assert any(not value.isascii() for value in values("street_address"))


def test_nothing_heavy_is_imported() -> None:
    """Faker only gave its words, once; kinds need the standard library and no more."""
    code = (
        "import sys, pytest_unlearn.people.kinds\n"
        "heavy = {'faker', 'torch', 'transformers', 'hypothesis', 'pytest', 'cryptography'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
