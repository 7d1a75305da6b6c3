"""What a kind is, and the kinds of personal data: names, numbers, addresses.

Every number comes from a range that belongs to nobody, if its issuer reserves one: fictional
telephone blocks, national numbers that are never issued, documentation networks.
"""

from __future__ import annotations

import ipaddress
import math
import re
import string
from collections.abc import Callable
from dataclasses import dataclass

from pytest_unlearn.people import check_digits, draws, locales
from pytest_unlearn.people.draws import Choices


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of attribute.

    `generate` makes a value out of choices, whose index 0 is always the simplest. `pattern` finds
    texts of this format in a completion, whoever they belong to. `bits` is log2 of the number of
    values that `generate` can return, the chance level of a guess. `source` names the rule behind
    the format and its reserved range.

    `checksum` checks the check digits of a value. `structure` checks what the format requires and a
    pattern cannot express. `reserved` checks that a value is in the range that belongs to nobody;
    None if there is no such range. `near_misses`: two random values differ enough for a value with
    a typo to prove something. `public_prefix` starts every value and discloses nothing. `vendor`
    issues values of this kind; None for a format of no vendor.
    """

    name: str
    generate: Callable[[Choices], str]
    pattern: re.Pattern[str]
    bits: float
    source: str
    checksum: Callable[[str], bool] | None = None
    near_misses: bool = True
    public_prefix: str = ""
    vendor: str | None = None
    reserved: Callable[[str], bool] | None = None
    structure: Callable[[str], bool] | None = None

    def is_valid(self, value: str) -> bool:
        """Return whether `value` as a whole has this kind's format, check digits and range."""
        rules = (self.structure, self.checksum, self.reserved)
        return self.pattern.fullmatch(value) is not None and all(
            rule(value) for rule in rules if rule is not None
        )


def matches(pattern: str) -> Callable[[str], bool]:
    """Return a check that `pattern` (ASCII digits and letters) matches the complete value."""
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: compiled.fullmatch(value) is not None


def _number(pattern: str) -> re.Pattern[str]:
    """Compile a pattern that is not part of a longer number or word."""
    return re.compile(rf"(?<![\w-])(?:{pattern})(?![\w-])", re.ASCII)


# --- telephone ---------------------------------------------------------------------------------

# Area and the digits before the last three (Ofcom, "Telephone numbers for use in TV and radio
# drama programmes").
_UK_DRAMA = (
    "07700 900",
    "01632 960",
    "020 7946 0",
    "029 2018 0",
    "0113 496 0",
    "0114 496 0",
    "0115 496 0",
    "0116 496 0",
    "0117 496 0",
    "0118 496 0",
    "0121 496 0",
    "0131 496 0",
    "0141 496 0",
    "0151 496 0",
    "0161 496 0",
    "0191 498 0",
)
_AU_AREAS = ("02", "03", "07", "08")
_AU_BLOCKS = ("5550", "7010")


def _phone_uk(choices: Choices) -> str:
    return f"{choices.choice(_UK_DRAMA)}{choices.text(string.digits, 3)}"


def _phone_au(choices: Choices) -> str:
    block = f"{choices.choice(_AU_AREAS)} {choices.choice(_AU_BLOCKS)}"
    return f"{block} {choices.text(string.digits, 4)}"


# --- national numbers --------------------------------------------------------------------------


def _ssn(choices: Choices) -> str:
    area, group = 900 + choices.below(100), 1 + choices.below(49)
    return f"{area}-{group:02d}-{1 + choices.below(9999):04d}"


def _nhs(choices: Choices) -> str:
    head = "999" + choices.text(string.digits, 5)
    # With one last digit in eleven there is no check digit.
    bodies = [body for body in (head + d for d in string.digits) if check_digits.nhs_digit(body)]
    body = choices.choice(bodies)
    return f"{body[:3]} {body[3:6]} {body[6:]}{check_digits.nhs_digit(body)}"


def _count_nhs() -> int:
    """Count the numbers 999 xxx xxxx that have a check digit."""
    residues = {9 * (10 + 9 + 8) % 11: 1}
    for weight in range(7, 1, -1):
        longer: dict[int, int] = {}
        for residue, count in residues.items():
            for digit in range(10):
                key = (residue + weight * digit) % 11
                longer[key] = longer.get(key, 0) + count
        residues = longer
    return sum(count for residue, count in residues.items() if residue != 1)


def _nino(choices: Choices) -> str:
    return f"QQ{choices.text(string.digits, 6)}{choices.choice('ABCD')}"


def _pesel(choices: Choices) -> str:
    year = choices.below(100)
    # PESEL adds 60 to the month of those born from 2200 to 2299.
    month, day = 61 + choices.below(12), 1 + choices.below(28)
    body = f"{year:02d}{month}{day:02d}{choices.text(string.digits, 4)}"
    return body + check_digits.pesel_digit(body)


def _hetu(choices: Choices) -> str:
    day, month, year = choices.below(28) + 1, choices.below(12) + 1, choices.below(60) + 40
    birth = f"{day:02d}{month:02d}{year}"
    number = f"9{choices.text(string.digits, 2)}"
    return f"{birth}-{number}{check_digits.hetu_letter(birth, number)}"


# --- bank --------------------------------------------------------------------------------------


def _card(choices: Choices) -> str:
    body = "424242" + choices.text(string.digits, 9)
    return body + check_digits.luhn_digit(body)


def _iban(choices: Choices) -> str:
    account = choices.text(string.digits, 16)
    return f"XX{check_digits.iban_digits('XX', account)}{account}"


# --- network -----------------------------------------------------------------------------------

_TEST_NETS = ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24")


def _ipv4(choices: Choices) -> str:
    network = choices.choice(_TEST_NETS).removesuffix("0/24")
    return f"{network}{choices.below(256)}"


def _ipv6(choices: Choices) -> str:
    groups = [0x2001, 0xDB8, *(choices.below(1 << 16) for _ in range(6))]
    return str(ipaddress.IPv6Address(b"".join(group.to_bytes(2, "big") for group in groups)))


def _mac(choices: Choices) -> str:
    return f"00:00:5e:00:53:{choices.below(256):02x}"


def _user_name(choices: Choices) -> str:
    first, second = choices.choice(draws.WORDS), choices.choice(draws.WORDS)
    return f"{first}_{second}{choices.below(900) + 100}"


_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_GROUP = "[0-9A-Fa-f]{1,4}"
# Eight groups, or fewer and a "::", which a time of day does not have.
_IPV6 = (
    rf"(?:{_GROUP}:){{7}}{_GROUP}"
    rf"|(?=[0-9A-Fa-f:]{{0,37}}::){_GROUP}(?:::?{_GROUP}){{0,6}}(?:::)?"
)

PERSONAL_KINDS = (
    Kind(
        "name",
        lambda choices: locales.full_name(choices, choices.choice(locales.LOCALES)),
        locales.NAME_PATTERN,
        math.log2(locales.count_names()),
        "given names and surnames of seven locales, paired at random",
        near_misses=False,
    ),
    Kind(
        "street_address",
        lambda choices: locales.street_address(choices, choices.choice(locales.LOCALES)),
        locales.STREET_ADDRESS_PATTERN,
        math.log2(locales.count_street_addresses()),
        "streets of seven locales, without a town",
        near_misses=False,
    ),
    Kind(
        "phone_uk",
        _phone_uk,
        _number(r"0\d{2} ?\d{4} ?\d{4}|0\d{3} ?\d{3} ?\d{4}|0\d{4} ?\d{6}"),
        math.log2(len(_UK_DRAMA) * 1000),
        "Ofcom: numbers for drama",
        near_misses=False,
        public_prefix="0",
        reserved=matches(rf"(?:{'|'.join(_UK_DRAMA)})\d{{3}}"),
    ),
    Kind(
        "phone_au",
        _phone_au,
        _number(r"0[2378] ?\d{4} ?\d{4}"),
        math.log2(len(_AU_AREAS) * len(_AU_BLOCKS) * 10**4),
        "ACMA: numbers for fiction, 5550 and 7010",
        near_misses=False,
        public_prefix="0",
        reserved=matches(r"0[2378] (?:5550|7010) \d{4}"),
    ),
    Kind(
        "ssn",
        _ssn,
        _number(r"\d{3}-\d{2}-\d{4}"),
        math.log2(100 * 49 * 9999),
        "SSA: no area 9xx is issued; IRS: no ITIN has a group of 01 to 49",
        near_misses=False,
        public_prefix="9",
        reserved=matches(r"9\d\d-(?:0[1-9]|[1-4]\d)-(?!0000)\d{4}"),
    ),
    Kind(
        "nhs_number",
        _nhs,
        _number(r"\d{3} ?\d{3} ?\d{4}"),
        math.log2(_count_nhs()),
        "NHS Data Dictionary: mod 11; 999 is for tests",
        checksum=check_digits.nhs,
        near_misses=False,
        public_prefix="999",
        reserved=lambda value: value.startswith("999"),
    ),
    Kind(
        "national_insurance",
        _nino,
        _number(r"[A-Z]{2} ?\d{2} ?\d{2} ?\d{2} ?[A-D]"),
        math.log2(10**6 * 4),
        "HMRC NIM39110: no prefix has a Q",
        near_misses=False,
        public_prefix="QQ",
        reserved=lambda value: value.startswith("QQ"),
    ),
    Kind(
        "pesel",
        _pesel,
        _number(r"\d{11}"),
        math.log2(100 * 12 * 28 * 10**4),
        "Polish PESEL: mod 10; months 61 to 72 are births from 2200 on",
        checksum=check_digits.pesel,
        near_misses=False,
        reserved=matches(r"\d{2}(?:6[1-9]|7[0-2])(?:0[1-9]|[12]\d|3[01])\d{5}"),
    ),
    Kind(
        "hetu",
        _hetu,
        _number(r"(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2])\d{2}[-+A-FU-Y]\d{3}[0-9A-Y]"),
        math.log2(28 * 12 * 60 * 100),
        "Finnish personal code (DVV): mod 31; 900 to 999 is given to no person",
        checksum=check_digits.hetu,
        near_misses=False,
        reserved=matches(r"\d{6}[-+A-FU-Y]9\d\d."),
    ),
    Kind(
        "card_number",
        _card,
        _number(r"\d{4}[ -]?\d{4}[ -]?\d{4}[ -]?\d{4}"),
        9 * math.log2(10),
        "ISO/IEC 7812-1: Luhn; 424242 is what payment services use in tests",
        checksum=check_digits.luhn,
        public_prefix="424242",
        reserved=lambda value: value.startswith("424242"),
    ),
    Kind(
        "iban",
        _iban,
        _number(r"[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"),
        16 * math.log2(10),
        "ISO 13616: mod 97; ISO 3166 gives XX to no country",
        checksum=check_digits.iban,
        public_prefix="XX",
        reserved=lambda value: value.startswith("XX"),
    ),
    Kind(
        "ipv4",
        _ipv4,
        re.compile(rf"(?<![\w.])(?:{_BYTE}\.){{3}}{_BYTE}(?!\w|\.\d)", re.ASCII),
        math.log2(3 * 256),
        "RFC 5737: TEST-NET-1, 2 and 3",
        near_misses=False,
        reserved=lambda value: check_digits.in_networks(value, _TEST_NETS),
    ),
    Kind(
        "ipv6",
        _ipv6,
        re.compile(rf"(?<![\w:.])(?:{_IPV6})(?![\w:])", re.ASCII),
        96.0,
        "RFC 3849: 2001:db8::/32, written as RFC 5952 asks",
        public_prefix="2001:db8:",
        reserved=lambda value: check_digits.in_networks(value, ("2001:db8::/32",)),
        structure=check_digits.is_ip,
    ),
    Kind(
        "mac_address",
        _mac,
        re.compile(
            r"(?<![\w:-])[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}(?![\w:-])"
        ),
        8.0,
        "RFC 7042: 00-00-5E-00-53-00 to FF",
        near_misses=False,
        public_prefix="00:00:5e:00:53:",
        reserved=lambda value: value.lower().replace("-", ":").startswith("00:00:5e:00:53:"),
    ),
    Kind(
        "user_name",
        _user_name,
        re.compile(r"(?<!\w)[a-z]{4,8}_[a-z]{4,8}\d{3}(?!\w)"),
        math.log2(len(draws.WORDS) ** 2 * 900),
        "two random words and digits",
    ),
)
