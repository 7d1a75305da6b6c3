"""Check digits and other rules that distinguish a well-formed identifier from random digits.

Every check takes the text as written, separators included, and returns False for a text that does
not have the format at all.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
import string
import zlib
from collections.abc import Sequence
from datetime import date

# Not python-stdnum: it rejects the ranges that belong to nobody (IBANs of the country XX, personal
# identity codes numbered from 900), which are the ones generated here.
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
BASE64URL = BASE62 + "-_"
_GROUPING = str.maketrans("", "", " -")


def _digits(value: str) -> list[int] | None:
    """Return the digits of a grouped number, None if it contains anything else."""
    digits = value.translate(_GROUPING)
    return [int(c) for c in digits] if digits.isascii() and digits.isdigit() else None


def luhn_digit(body: str) -> str:
    """Return the check digit that follows the digits `body` (ISO/IEC 7812-1, annex B)."""
    doubled = [int(c) * (2 if i % 2 == 0 else 1) for i, c in enumerate(reversed(body))]
    return str(-sum(n // 10 + n % 10 for n in doubled) % 10)


def luhn(value: str) -> bool:
    """Check a number by Luhn's formula, its last digit being the check digit."""
    digits = _digits(value)
    if digits is None or len(digits) < 2:
        return False
    body = "".join(map(str, digits[:-1]))
    return luhn_digit(body) == str(digits[-1])


def _mod97(text: str) -> int:
    return int("".join(str(int(c, 36)) for c in text)) % 97


def iban_digits(country: str, bban: str) -> str:
    """Return the two check digits of an IBAN (ISO 13616, ISO/IEC 7064 MOD 97-10)."""
    return f"{98 - _mod97(f'{bban}{country}00'):02d}"


def iban(value: str) -> bool:
    """Check an IBAN of any country, with or without spaces."""
    text = value.translate(_GROUPING)
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", text, re.ASCII):
        return False
    return iban_digits(text[:2], text[4:]) == text[2:4]


def _weighted(digits: Sequence[int], weights: Sequence[int]) -> int:
    return sum(d * w for d, w in zip(digits, weights, strict=True))


def nhs_digit(body: str) -> str | None:
    """Return the check digit of nine digits of an NHS number (mod 11); None if they have none."""
    check = -_weighted([int(c) for c in body], range(10, 1, -1)) % 11
    return None if check == 10 else str(check)


def nhs(value: str) -> bool:
    """Check an NHS number (NHS Data Dictionary: weights 10 to 2, modulus 11)."""
    digits = _digits(value)
    if digits is None or len(digits) != 10:
        return False
    return nhs_digit("".join(map(str, digits[:9]))) == str(digits[9])


def pesel_digit(body: str) -> str:
    """Return the check digit of ten digits of a PESEL (weights 1, 3, 7, 9, modulus 10)."""
    return str(-_weighted([int(c) for c in body], (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10)


def pesel(value: str) -> bool:
    """Check a Polish PESEL."""
    digits = _digits(value)
    if digits is None or len(digits) != 11:
        return False
    return pesel_digit("".join(map(str, digits[:10]))) == str(digits[10])


def hetu_letter(birth: str, number: str) -> str:
    """Return the check character of a Finnish personal code: `DDMMYY` and three digits, mod 31."""
    return "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(birth + number) % 31]


def hetu(value: str) -> bool:
    """Check a Finnish personal identity code (DVV), of any century sign."""
    match = re.fullmatch(r"(\d{6})[-+A-FU-Y](\d{3})([0-9A-Y])", value, re.ASCII)
    return match is not None and hetu_letter(match[1], match[2]) == match[3]


def is_date(value: str) -> bool:
    """Return whether `YYYY-MM-DD` is a day of the calendar (ISO 8601)."""
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def crc_digits(body: str) -> str:
    """Return the CRC-32 of `body` in base 62, six digits: the end of GitHub's and npm's tokens.

    github.blog/2021-04-05-behind-githubs-new-authentication-token-formats.
    """
    rest, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        digits = BASE62[digit] + digits
    return digits


def crc_token(value: str) -> bool:
    """Check a token of a prefix, `_`, a body and six characters of checksum."""
    body = value.partition("_")[2]
    return len(body) > 6 and body.isascii() and crc_digits(body[:-6]) == body[-6:]


def aws_account(key_id: str) -> str | None:
    """Return the twelve-digit account that an AWS access key id contains; None if it has none.

    After the four-letter prefix come 80 bits in base 32: a 1, 40 bits of account, and 39 others
    (TruffleHog's decoding; ids of before 2019 start with a 0 and name no account).
    """
    try:
        data = base64.b32decode(key_id[4:])
    except (binascii.Error, ValueError):
        return None
    if len(data) != 10 or not data[0] & 0x80:
        return None
    return f"{(int.from_bytes(data[:6], 'big') & 0x7FFFFFFFFF80) >> 7:012d}"


def base64url(data: bytes) -> str:
    """Return `data` in URL-safe base64 without padding (RFC 4648, section 5)."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def unbase64url(text: str) -> bytes | None:
    """Return what an unpadded URL-safe base64 text encodes; None for any other text."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64url(data) == text else None  # spare bits must be zero


def is_jwt(value: str) -> bool:
    """Return whether a text is a JWT signed with HS256 (RFC 7519, RFC 7515): its parts decode."""
    parts = [unbase64url(part) for part in value.split(".")]
    if len(parts) != 3 or None in parts:
        return False
    header, payload, signature = (part or b"" for part in parts)
    try:
        head, claims = json.loads(header), json.loads(payload)
    except (ValueError, RecursionError):
        return False
    if not (isinstance(head, dict) and isinstance(claims, dict)):
        return False
    return head.get("alg") == "HS256" and len(signature) == 32


def is_ip(value: str) -> bool:
    """Return whether a text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def in_networks(value: str, networks: Sequence[str]) -> bool:
    """Return whether an address is in one of the networks, given as `192.0.2.0/24`."""
    return is_ip(value) and any(
        ipaddress.ip_address(value) in ipaddress.ip_network(network) for network in networks
    )
