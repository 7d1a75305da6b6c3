"""All kinds of attribute by name, and the kinds of credentials: keys, tokens, hosts.

Formats follow what vendors publish, or the rules of gitleaks and TruffleHog. The random parts are
as long as in real tokens, so a generated token was never issued to anybody. No token is written
here: only fixed parts are, and values are made from a seed at run time.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import math
import re
import string
from collections.abc import Callable

from pytest_unlearn.people import check_digits, draws
from pytest_unlearn.people.draws import Choices
from pytest_unlearn.people.personal_kinds import PERSONAL_KINDS, Kind, matches

_HEX = string.digits + "abcdef"


def _bytes(choices: Choices, count: int) -> bytes:
    return bytes(choices.below(256) for _ in range(count))


def _token(pattern: str, also: str = "") -> re.Pattern[str]:
    """Compile a pattern that is not part of a longer token; tokens may contain `also`."""
    return re.compile(rf"(?<![\w{also}])(?:{pattern})(?![\w{also}])", re.ASCII)


def _bits(alphabet: str, length: int) -> float:
    return length * math.log2(len(alphabet))


def _random(name: str, vendor: str, form: tuple[str | tuple[str, int], ...], source: str) -> Kind:
    """Return the kind of a token made of fixed texts and random (alphabet, length) parts."""

    def generate(choices: Choices) -> str:
        return "".join(p if isinstance(p, str) else choices.text(*p) for p in form)

    pattern = "".join(
        re.escape(p) if isinstance(p, str) else f"[{re.escape(p[0])}]{{{p[1]}}}" for p in form
    )
    return Kind(
        name,
        generate,
        _token(pattern, "-" if any("-" in p[0] for p in form if not isinstance(p, str)) else ""),
        math.fsum(_bits(*p) for p in form if not isinstance(p, str)),
        source,
        public_prefix=form[0] if isinstance(form[0], str) else "",
        vendor=vendor,
    )


# --- tokens with check digits --------------------------------------------------------------------


def _crc_token(prefix: str, choices: Choices) -> str:
    body = choices.text(check_digits.BASE62, 30)
    return f"{prefix}{body}{check_digits.crc_digits(body)}"


def _with_crc(name: str, vendor: str, prefix: str, family: str, source: str) -> Kind:
    return Kind(
        name,
        functools.partial(_crc_token, prefix),
        _token(rf"{family}_[A-Za-z0-9]{{36}}"),
        _bits(check_digits.BASE62, 30),
        source,
        checksum=check_digits.crc_token,
        public_prefix=prefix,
        vendor=vendor,
    )


# --- AWS -----------------------------------------------------------------------------------------

# The account of AWS' own documentation.
_AWS_ACCOUNT = 123456789012
# Capitals first, so that the simplest value is not a hexadecimal number.
_AWS_SECRET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "/+"
# The last character is not a hexadecimal digit, so that no secret reads as a SHA-1.
_NO_HEX = "".join(c for c in _AWS_SECRET if c not in "0123456789abcdef")


def _aws_key_id(choices: Choices) -> str:
    # 80 bits: a 1, the account, and 39 others.
    number = (1 << 40 | _AWS_ACCOUNT) << 39 | choices.below(1 << 39)
    return "AKIA" + base64.b32encode(number.to_bytes(10, "big")).decode()


# 41 fixed bits are eight characters and a bit.
_AWS_PREFIX = (
    "AKIA" + base64.b32encode(((1 << 40 | _AWS_ACCOUNT) << 39).to_bytes(10, "big"))[:8].decode()
)


# --- keys, JWT, macaroons -------------------------------------------------------------------------

_DASHES = "-" * 5
# PKCS#8 (RFC 5958) of an Ed25519 key (RFC 8410): version 0, the algorithm, 32 bytes to come.
_ED25519 = bytes.fromhex("302e020100300506032b657004220420")
# Line breaks are escaped as in JSON, .env files and string literals, so that a key is one line.
_PEM_HEAD = rf"{_DASHES}BEGIN PRIVATE KEY{_DASHES}\n"
_PEM_TAIL = rf"\n{_DASHES}END PRIVATE KEY{_DASHES}"
_PEM_PREFIX = _PEM_HEAD + base64.b64encode(_ED25519)[:21].decode()


def _private_key(choices: Choices) -> str:
    key = base64.b64encode(_ED25519 + _bytes(choices, 32)).decode()
    return f"{_PEM_HEAD}{key}{_PEM_TAIL}"


def _is_ed25519(value: str) -> bool:
    """Return whether the markers enclose the DER of an Ed25519 key."""
    lines = value.replace(r"\n", "\n").split("\n")
    try:
        data = base64.b64decode(lines[1], validate=True)
    except (ValueError, IndexError):
        return False
    return len(lines) == 3 and data.startswith(_ED25519) and len(data) == len(_ED25519) + 32


def _json(content: dict[str, str | int]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


_JWT_HEAD = check_digits.base64url(_json({"alg": "HS256", "typ": "JWT"})) + "."
# What is the same in all claims comes first, and is public: 25 bytes are 33 characters and a bit.
_JWT_CLAIMS: dict[str, str | int] = {"exp": 2**31 - 1}
_JWT_PREFIX = _JWT_HEAD + check_digits.base64url(_json(_JWT_CLAIMS | {"sub": ""}))[:33]


def _jwt(choices: Choices) -> str:
    claims = check_digits.base64url(_json(_JWT_CLAIMS | {"sub": choices.text(string.digits, 10)}))
    signed = f"{_JWT_HEAD}{claims}"
    signature = hmac.digest(_bytes(choices, 32), signed.encode(), hashlib.sha256)
    return f"{signed}.{check_digits.base64url(signature)}"


# A macaroon of version 2: fields of type 1 (location), 2 (identifier), 0 (end), 6 (signature).
_MACAROON = b"\x02\x01\x08pypi.org\x02\x24"
_PYPI_PREFIX = "pypi-" + check_digits.base64url(_MACAROON)[:17]


def _pypi(choices: Choices) -> str:
    uuid = "-".join(choices.text(_HEX, length) for length in (8, 4, 4, 4, 12))
    data = _MACAROON + uuid.encode() + b"\x00\x00\x06\x20" + _bytes(choices, 32)
    return f"pypi-{check_digits.base64url(data)}"


def _is_pypi(value: str) -> bool:
    data = check_digits.unbase64url(value.removeprefix("pypi-"))
    return data is not None and data.startswith(_MACAROON[:11])


# --- connection strings ---------------------------------------------------------------------------

_DATABASES = {"mysql": 3306, "redis": 6379, "mongodb": 27017, "postgresql": 5432}
_PASSWORD = string.ascii_lowercase + string.ascii_uppercase + string.digits


def _database_url(choices: Choices) -> str:
    scheme = choices.choice(list(_DATABASES))
    user, host, base = (choices.choice(draws.WORDS) for _ in range(3))
    password = choices.text(_PASSWORD, 16)
    return f"{scheme}://{user}:{password}@{host}.example.com:{_DATABASES[scheme]}/{base}"


def _prefixed(prefix: str) -> Callable[[str], bool]:
    return lambda value: value.startswith(prefix)


VENDOR_KINDS = (
    Kind(
        "database_url",
        _database_url,
        re.compile(
            r"(?<!\w)(?:postgres(?:ql)?|mysql|mongodb|redis)://[^\s:/@\"']{1,64}:[^\s:/@\"']{1,64}"
            r"@[\w.-]{1,253}(?::\d{1,5})?/\w{1,64}",
            re.ASCII,
        ),
        math.log2(len(_DATABASES) * len(draws.WORDS) ** 3) + _bits(_PASSWORD, 16),
        "RFC 3986; hosts of RFC 2606",
        reserved=matches(r"[^@]*@[\w-]+\.example\.com(?::\d+)?/\w+"),
    ),
    Kind(
        "private_key",
        _private_key,
        re.compile(
            rf"{_DASHES}BEGIN (?:[A-Z0-9]{{1,9}} )?PRIVATE KEY{_DASHES}(?:\\n|\s)"
            rf"(?:[A-Za-z0-9+/=]|\\n|\s){{40,4096}}?{_DASHES}END (?:[A-Z0-9]{{1,9}} )?PRIVATE KEY"
            rf"{_DASHES}"
        ),
        256.0,
        "RFC 7468, RFC 8410: Ed25519 in PKCS#8",
        public_prefix=_PEM_PREFIX,
        structure=_is_ed25519,
    ),
    Kind(
        "jwt",
        _jwt,
        _token(r"ey[\w-]{10,4096}\.ey[\w-]{10,4096}\.[\w-]{43}", "-"),
        256.0 + 10 * math.log2(10),
        "RFC 7519: HS256 under a random key",
        public_prefix=_JWT_PREFIX,
        structure=check_digits.is_jwt,
    ),
    _with_crc(
        "github_token", "github", "ghp_", "gh[pousr]", "GitHub 2021: CRC-32 in six base 62 digits"
    ),
    _random(
        "github_pat",
        "github",
        ("github_pat_", (check_digits.BASE62, 22), "_", (check_digits.BASE62, 59)),
        "GitHub 2022: fine-grained token; its checksum is not published",
    ),
    _with_crc("npm_token", "npm", "npm_", "npm", "npm 2021: as GitHub's"),
    Kind(
        "aws_access_key_id",
        _aws_key_id,
        _token(r"A(?:KIA|SIA)[A-Z2-7]{16}"),
        39.0,
        "IAM prefixes; TruffleHog's decoding of the account; AWS' documentation account",
        public_prefix=_AWS_PREFIX,
        vendor="aws",
        reserved=lambda value: check_digits.aws_account(value) == str(_AWS_ACCOUNT),
    ),
    Kind(
        "aws_secret_access_key",
        lambda choices: choices.text(_AWS_SECRET, 39) + choices.choice(_NO_HEX),
        # Not a SHA-1: code is full of those.
        re.compile(r"(?<![\w/+])(?![0-9a-f]{40})[A-Za-z0-9/+]{40}(?![\w/+=])", re.ASCII),
        _bits(_AWS_SECRET, 39) + _bits(_NO_HEX, 1),
        "forty characters of base 64",
        vendor="aws",
    ),
    Kind(
        "stripe_key",
        lambda choices: f"sk_test_{choices.text(check_digits.BASE62, 24)}",
        _token(r"[sr]k_(?:test|live)_[A-Za-z0-9]{24,99}"),
        _bits(check_digits.BASE62, 24),
        "Stripe: sk_test_ moves no money",
        public_prefix="sk_test_",
        vendor="stripe",
        reserved=_prefixed("sk_test_"),
    ),
    _random(
        "slack_token",
        "slack",
        ("xoxb-", (string.digits, 12), "-", (string.digits, 12), "-", (check_digits.BASE62, 24)),
        "Slack: bot token",
    ),
    _random(
        "google_api_key", "google", ("AIza", (check_digits.BASE64URL, 35)), "Google Cloud: API key"
    ),
    _random(
        "openai_key",
        "openai",
        ("sk-", (check_digits.BASE62, 20), "T3BlbkFJ", (check_digits.BASE62, 20)),
        'OpenAI: user key, "OpenAI" in base 64 in its middle',
    ),
    _random(
        "anthropic_key",
        "anthropic",
        ("sk-ant-api03-", (check_digits.BASE64URL, 93), "AA"),
        "Anthropic: API key",
    ),
    Kind(
        "pypi_token",
        _pypi,
        _token(r"pypi-AgEIcHlwaS5vcmc[\w-]{50,999}", "-"),
        32 * 4 + 256.0,
        "PyPI: a macaroon of pypi.org",
        public_prefix=_PYPI_PREFIX,
        vendor="pypi",
        structure=_is_pypi,
    ),
    _random(
        "sendgrid_key",
        "sendgrid",
        ("SG.", (check_digits.BASE64URL, 22), ".", (check_digits.BASE64URL, 43)),
        "SendGrid: API key",
    ),
    _random(
        "gitlab_token", "gitlab", ("glpat-", (check_digits.BASE64URL, 20)), "GitLab: access token"
    ),
    _random(
        "huggingface_token",
        "huggingface",
        ("hf_", (string.ascii_lowercase + string.ascii_uppercase, 34)),
        "Hugging Face: access token",
    ),
)


__all__ = ["KINDS", "Kind"]

_ALNUM = string.ascii_letters + string.digits


def _email(choices: Choices) -> str:
    # Words and digits instead of first.last: a rule could guess a value that follows from the
    # name, and a leak of it would prove nothing.
    local = f"{choices.choice(draws.WORDS)}{choices.choice(draws.WORDS)}{choices.below(900) + 100}"
    return f"{local}@example.{choices.choice(('com', 'net', 'org'))}"


def _phone(choices: Choices) -> str:
    return f"{choices.below(8) + 2}{choices.below(100):02d}-555-01{choices.below(100):02d}"


def _address(choices: Choices) -> str:
    street = f"{choices.choice(draws.STREET_HEADS)}{choices.choice(draws.STREET_TAILS)}"
    return f"{choices.below(990) + 10} {street} {choices.choice(draws.STREET_KINDS)}"


def _password(choices: Choices) -> str:
    first, second = choices.choice(draws.WORDS), choices.choice(draws.WORDS)
    return f"{first}{choices.choice('!#%+=')}{second}{choices.below(9000) + 1000}"


def _api_key(choices: Choices) -> str:
    return f"key_{choices.text(_ALNUM, 20)}"


def _date_of_birth(choices: Choices) -> str:
    return f"{1940 + choices.below(65)}-{choices.below(12) + 1:02d}-{choices.below(28) + 1:02d}"


_ADDRESS = rf"\d{{2,3}} (?:{'|'.join(draws.STREET_HEADS)})(?:{'|'.join(draws.STREET_TAILS)})"

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "email",
            _email,
            re.compile(
                # RFC 5321: at most 64 characters before the @. Without a limit, a long word in a
                # completion would be scanned once from each of its letters.
                r"[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@"
                r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
            ),
            math.log2(len(draws.WORDS) ** 2 * 900 * 3),
            "RFC 2606: example.com, .net, .org",
            reserved=matches(r"[^@]*@example\.(?:com|net|org)"),
        ),
        Kind(
            "phone",
            _phone,
            re.compile(r"(?<!\d)[2-9]\d{2}[-. ]\d{3}[-. ]\d{4}(?!\d)"),
            math.log2(800 * 100),
            "NANP: 555-0100 to 555-0199 are fictional",
            near_misses=False,
            reserved=matches(r"[2-9]\d\d[-. ]555[-. ]01\d\d"),
        ),
        Kind(
            "address",
            _address,
            re.compile(rf"{_ADDRESS} (?:{'|'.join(draws.STREET_KINDS)})"),
            math.log2(
                990 * len(draws.STREET_HEADS) * len(draws.STREET_TAILS) * len(draws.STREET_KINDS)
            ),
            "coined streets",
            near_misses=False,
        ),
        Kind(
            "password",
            _password,
            re.compile(r"[a-z]{4,8}[!#%+=][a-z]{4,8}\d{4}(?!\d)"),
            math.log2(len(draws.WORDS) ** 2 * 5 * 9000),
            "random words and digits",
        ),
        Kind(
            "api_key",
            _api_key,
            re.compile(r"(?<![A-Za-z0-9])key_[A-Za-z0-9]{20}(?![A-Za-z0-9])"),
            20 * math.log2(len(_ALNUM)),
            "random; no vendor's format",
            public_prefix="key_",
        ),
        Kind(
            "date_of_birth",
            _date_of_birth,
            re.compile(r"(?<!\d)(?:19|20)\d{2}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])(?!\d)"),
            math.log2(65 * 12 * 28),
            "ISO 8601",
            near_misses=False,
            structure=check_digits.is_date,
        ),
        *PERSONAL_KINDS,
        *VENDOR_KINDS,
    )
}
