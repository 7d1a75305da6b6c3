"""Requests to an OpenAI-compatible server: paced, retried, counted, and sent nowhere else.

This uses only the standard library: no proxy is used, no redirect is followed, and no library sends
a prompt or a key to an address that the user did not name.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import ssl
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from pytest_unlearn.core.errors import UserError, plain
from pytest_unlearn.core.secret import REDACTED, Secret

T = TypeVar("T")
R = TypeVar("R")

# The key in this variable is sent to the tested endpoint, and to another one only at the same
# address.
KEY_VARIABLE = "UNLEARN_ENDPOINT_KEY"
# Statuses after which the next attempt may succeed.
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
# Seconds before the first further attempt, doubled each time, and the longest wait.
FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
# No answer to a single prompt is longer.
_MOST_BYTES = 64 << 20
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class EndpointError(RuntimeError):
    """An endpoint gave no usable answer; this never counts as "forgotten"."""


class RefusedError(EndpointError):
    """A server understood a request and refused it; `status` is the HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class BudgetError(EndpointError):
    """The requests or tokens that the user allows are spent."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server, and the name of a model there (empty: its only model)."""

    scheme: str
    host: str
    port: int
    path: str
    model: str

    @property
    def origin(self) -> str:
        """Return scheme, host and port, which identify the recipient of requests."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def url(self) -> str:
        """The address without the model."""
        return self.origin + self.path

    @property
    def root(self) -> str:
        """Return the path above the API, where servers offer what OpenAI does not."""
        return self.path.removesuffix("/v1")


def parse_address(text: str, flag: str) -> Address:
    """Read `http://host:port/v1#name`. Raises UserError; `flag` is named in the message."""
    form = "write an address like http://127.0.0.1:8000/v1#name"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise UserError(f"{flag}={text}: {error}; {form}") from None
    if parts.username is not None or parts.password is not None:  # the message does not repeat it
        raise UserError(
            f"{flag}: the address contains a user or a password, which reports would show; put "
            f"the key into the environment variable {KEY_VARIABLE}"
        )
    if parts.query:
        raise UserError(
            f"{flag}={parts.scheme}://{parts.netloc}{parts.path}: an address must not have a part "
            f"after a ?; put a key into the environment variable {KEY_VARIABLE}"
        )
    host = _host(parts.hostname or "")
    path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise UserError(f"{flag}={text}: {form}")
    default = 443 if parts.scheme == "https" else 80
    return Address(parts.scheme, host, port or default, path, parts.fragment)


def _host(name: str) -> str:
    """Return a host as it is looked up; empty for a text that cannot be one."""
    try:
        ascii_name = name.encode("idna").decode() if ":" not in name else name
    except UnicodeError:  # an empty or too long part
        return ""
    return "" if re.search(r"[^\w.:%-]", ascii_name) else ascii_name


def checked_key(key: str, variable: str) -> str:
    """Return a key without the white space around it, such as the end of a file's line.

    Raises UserError, which does not repeat it, for a key that no header can hold.
    """
    key = key.strip()
    if not key.isascii() or any(not "!" <= letter <= "~" for letter in key):
        raise UserError(
            f"the environment variable {variable} contains white space or other characters that a "
            "key cannot have (it is not shown here); put only the key into it"
        )
    return key


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """How requests to an endpoint are made.

    concurrency: requests at the same time. rate: the most requests per second (0: no limit).
    timeout: seconds until a request is abandoned. retries: further attempts at a request. requests
    and tokens: the most that may be spent in one run (0: no limit). key: the environment variable
    that holds the key. baseline_key: the same for a base at another address. Several workers (`-n`)
    share these limits evenly.
    """

    concurrency: int = 4
    rate: float = 0.0
    timeout: float = 120.0
    retries: int = 5
    requests: int = 0
    tokens: int = 0
    key: str = ""
    baseline_key: str = ""

    def __post_init__(self) -> None:
        """Raise UserError for a number out of range, or for an invalid name of a variable."""
        for name, least in (("concurrency", 1), ("retries", 0), ("requests", 0), ("tokens", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: write a number of at least {least}")
        if not 0 <= self.rate < float("inf"):
            raise UserError(f"rate={self.rate}: write requests per second, at least 0")
        if not 0 < self.timeout < float("inf"):
            raise UserError(f"timeout={self.timeout}: write seconds, over 0")
        for name in ("key", "baseline_key"):
            if getattr(self, name) and not _VARIABLE.fullmatch(getattr(self, name)):
                raise UserError(  # the message does not repeat what may be a key
                    f"{name} must be the name of the environment variable that holds the key, "
                    f"which this cannot be; write {name}=MY_VARIABLE"
                )


class Client:
    """Sends requests to one address and counts them; safe for several threads.

    `requests` and `tokens` count what was spent, including failed attempts.
    """

    def __init__(
        self,
        address: Address,
        options: EndpointOptions,
        key: str | None = None,
        workers: int = 1,
    ) -> None:
        """`key`: sent as the bearer token. `workers`: the number of processes that share the
        limits."""
        self.address = address
        self.options = options
        self.requests = 0
        self.tokens = 0
        self._key = Secret(key, "key") if key else None
        self._workers = workers
        self._lock = threading.Lock()
        self._next = 0.0
        # Whether the server ever answered, and whether its last request failed.
        self._answered = False
        self._down = False
        # Idle connections for the next requests; closed with the client.
        self._idle: list[http.client.HTTPConnection] = []
        self._finalizer = weakref.finalize(self, _close, self._idle)

    def get(self, path: str) -> Any:
        """Return the JSON at a path of the API. Raises EndpointError."""
        return self._json("GET", self.address.path + path, None)

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        above: bool = False,
        attempts: int | None = None,
    ) -> dict[str, Any]:
        """Return the JSON object that answers a request.

        `above`: the path is above the API. `attempts`: at most this many; None for the number in
        the options. Raises EndpointError; RefusedError if the server refuses; BudgetError.
        """
        start = self.address.root if above else self.address.path
        answer = self._json("POST", start + path, json.dumps(body).encode(), attempts)
        if not isinstance(answer, dict):
            raise EndpointError(f"{self.address.url}{path} did not answer with a JSON object")
        used = answer.get("usage")
        spent = used.get("total_tokens") if isinstance(used, dict) else None
        counted = isinstance(spent, int) and spent > 0
        if self.options.tokens and not counted and "choices" in answer:
            raise BudgetError(
                f"--unlearn-engine=endpoint: {self.address.url} does not say how many tokens it "
                f"used, so that the budget of {self.options.tokens:,} tokens cannot be kept; write "
                "requests=N in its place"
            )
        with self._lock:
            self.tokens += spent if counted and isinstance(spent, int) else 0
        return answer

    def each(
        self,
        work: Callable[[T], R],
        items: Sequence[T],
        done: Callable[[int, R], None] = lambda number, result: None,
    ) -> list[R | EndpointError]:
        """Return what `work` makes of each item, in order; several run at once, and errors are
        returned as values.

        `done` is called with an item's number and result as soon as that is there, by any thread.
        """

        def one(numbered: tuple[int, T]) -> R | EndpointError:
            number, item = numbered
            try:
                result = work(item)
            except EndpointError as error:
                return error
            done(number, result)
            return result

        count = min(max(1, self.options.concurrency // self._workers), len(items))
        if count <= 1:
            return [one(numbered) for numbered in enumerate(items)]
        pool = ThreadPoolExecutor(count)
        try:
            return list(pool.map(one, enumerate(items)))
        finally:
            pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Close all connections; the next request opens a new one."""
        _close(self._idle)

    # -- one request -------------------------------------------------------------------------

    def _json(self, method: str, path: str, body: bytes | None, attempts: int | None = None) -> Any:
        wait = FIRST_WAIT
        attempts = attempts or self.options.retries + 1
        for attempt in range(attempts):
            self._charge()
            self._pace()
            try:
                answer = self._attempt(method, path, body)
            except _Passing as failure:
                # A server that never answered will not answer now, and a server that is down is
                # down for all requests.
                last = attempt == attempts - 1 or self._down
                last = last or (failure.absent and not self._answered)
                if last:
                    self._down = True
                    tries = f" ({attempt + 1} attempts)" if attempt else ""
                    raise EndpointError(f"{failure}{tries}") from None
                pause = failure.wait if failure.wait is not None else wait
                time.sleep(min(LONGEST_WAIT, pause) * (1 + random.random() / 4))
                wait *= 2
            else:
                self._answered, self._down = True, False
                return answer
        raise AssertionError("unreachable")

    def _charge(self) -> None:
        options = self.options
        with self._lock:
            for name in ("requests", "tokens"):
                allowed = getattr(options, name)
                share = max(1, allowed // self._workers)
                if allowed and getattr(self, name) >= share:
                    raise BudgetError(
                        f"--unlearn-engine=endpoint: the budget of {allowed:,} {name} is spent"
                        + (f" (this worker's share: {share:,})" if self._workers > 1 else "")
                        + "; raise it and run again to continue"
                    )
            self.requests += 1

    def _pace(self) -> None:
        if not self.options.rate:
            return
        with self._lock:
            at = max(self._next, time.monotonic())
            self._next = at + self._workers / self.options.rate
        time.sleep(max(0.0, at - time.monotonic()))

    def _attempt(self, method: str, path: str, body: bytes | None) -> Any:
        url = self.address.origin + path
        try:
            status, headers, raw = self._once(method, path, body)
        except ssl.SSLCertVerificationError as error:
            reason = error.verify_message or error.reason
            raise EndpointError(
                f"{url}: its certificate is not trusted ({reason}); set SSL_CERT_FILE=FILE in the "
                "environment to the certificate, or to that of its issuer"
            ) from None
        except TimeoutError:
            raise _Passing(
                f"{url} gave no complete answer within {self.options.timeout:g} s; check whether "
                "it is busy, or write timeout=SECONDS after --unlearn-engine=endpoint:"
            ) from None
        except http.client.HTTPException as error:  # cut off, or not HTTP
            raise _Passing(f"{url} gave a broken answer ({type(error).__name__})") from None
        except ssl.SSLError as error:
            raise _Passing(
                f"{url} gave a broken answer to https ({error.reason}); write http:// if the "
                "server has no certificate",
                absent=True,
            ) from None
        except OSError as error:
            raise _Passing(
                f"{url} cannot be reached ({error.strerror or type(error).__name__})", absent=True
            ) from None
        if self._key:  # a server may repeat the key, in an error or in a text
            raw = raw.replace(self._key.reveal().encode(), REDACTED.encode())
        if status in _PASSING:
            raise _Passing(f"{url} answered {status}{self._said(raw)}", wait=_retry_after(headers))
        if 300 <= status < 400:
            raise EndpointError(
                f"{url} answered {status} and redirects {_where(headers.get('Location', ''))}; "
                "nothing is sent to an address that you did not name: name the new address"
            )
        if status in (401, 403):
            raise RefusedError(
                f"{url} answered {status}{self._said(raw)}; put the key into the environment "
                f"variable {self.options.key or KEY_VARIABLE}",
                status,
            )
        if status != 200:
            raise RefusedError(f"{url} answered {status}{self._said(raw)}", status)
        try:
            return json.loads(raw)
        except (ValueError, RecursionError):
            if raw.lstrip()[:1] == b"<":
                raise EndpointError(
                    f"{url} answered with a web page: this is not an OpenAI-compatible API; write "
                    "its address as in http://127.0.0.1:8000/v1#name"
                ) from None
            if raw.lstrip().startswith((b"data:", b"event:", b": ")):
                raise EndpointError(
                    f"{url} answered with a stream of events, which was not asked for; the server, "
                    "or the proxy before it, must not stream"
                ) from None
            raise _Passing(f"{url} answered with something that is not JSON") from None

    def _once(
        self, method: str, path: str, body: bytes | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        deadline = time.monotonic() + self.options.timeout
        connection, used = self._connection()
        try:
            try:
                response = self._sent(connection, method, path, body)
            except (ConnectionError, http.client.BadStatusLine):
                if not used:  # a server may close an idle connection
                    raise
                connection.close()
                connection = self._connected()
                response = self._sent(connection, method, path, body)
            raw = _unpacked(_read(response, connection, deadline), response.headers)
        except BaseException:
            connection.close()
            raise
        if response.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        return response.status, response.headers, raw

    def _sent(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> http.client.HTTPResponse:
        headers = {"Accept": "application/json", "User-Agent": "pytest-unlearn"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._key:
            headers["Authorization"] = f"Bearer {self._key.reveal()}"
        connection.request(method, path, body, headers)
        return connection.getresponse()

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """Return a connection, and whether it was used before."""
        try:
            connection = self._idle.pop()
        except IndexError:
            return self._connected(), False
        connection.sock.settimeout(self.options.timeout)
        return connection, True

    def _connected(self) -> http.client.HTTPConnection:
        address, timeout = self.address, self.options.timeout
        connection: http.client.HTTPConnection
        if address.scheme == "https":
            secure = ssl.create_default_context()
            connection = http.client.HTTPSConnection(
                address.host, address.port, timeout=timeout, context=secure
            )
        else:
            connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout)
        connection.connect()
        return connection

    @staticmethod
    def _said(raw: bytes) -> str:
        """Return a server's error message, shortened and on one line."""
        text = raw.decode("utf-8", "replace").strip()
        with contextlib.suppress(ValueError):
            text = _message(json.loads(text)) or text
        if text.startswith("<"):
            return ""
        return f": {plain(' '.join(text.split()))[:200]}" if text else ""


class _Passing(EndpointError):
    """An error that the next attempt may not have. `wait`: the seconds that the server asks to
    wait."""

    def __init__(self, message: str, wait: float | None = None, absent: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.absent = absent


def _close(connections: list[http.client.HTTPConnection]) -> None:
    while connections:
        connections.pop().close()


def _read(
    response: http.client.HTTPResponse, connection: http.client.HTTPConnection, deadline: float
) -> bytes:
    """Return a complete body. Raises TimeoutError if it takes too long, and IncompleteRead if it is
    cut off."""
    parts: list[bytes] = []
    size = 0
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if connection.sock is not None:
            connection.sock.settimeout(left)
        part = response.read1(1 << 16)
        if not part:
            break
        parts.append(part)
        size += len(part)
        if size > _MOST_BYTES:
            raise http.client.HTTPException("too long")
    if response.length:  # bytes that were promised
        raise http.client.IncompleteRead(b"", response.length)
    response.close()  # read1() leaves the response open, and the connection busy
    return b"".join(parts)


def _unpacked(raw: bytes, headers: http.client.HTTPMessage) -> bytes:
    """Return a body as it was before it was compressed, which some proxies do unasked.

    Raises EndpointError for a form that is not known, HTTPException for a broken or too long one.
    """
    form = headers.get("Content-Encoding", "identity").strip().lower()
    if form in ("identity", ""):
        return raw
    if form not in ("gzip", "x-gzip", "deflate"):
        raise EndpointError(
            f"the endpoint compresses its answers by {plain(form)[:40]}, which was not asked for; "
            "turn that off at the server, or at the proxy before it"
        )
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, by their heads
    try:
        whole = unpacker.decompress(raw, _MOST_BYTES)
    except zlib.error as error:
        raise http.client.HTTPException("cannot be unpacked") from error
    if not unpacker.eof:
        raise http.client.HTTPException("too long, or cut off")
    return whole


def _where(location: str) -> str:
    """Return to which server an answer redirects, without what could be a password."""
    try:
        place = urlsplit(location)
    except ValueError:  # a broken address of IPv6
        return "elsewhere"
    server = place.netloc.rpartition("@")[2]
    return f"to {plain(place.scheme)}://{plain(server)}"[:200] if server else "elsewhere"


def _retry_after(headers: http.client.HTTPMessage) -> float | None:
    """Return the seconds that a server asks to wait, if it gives them in seconds."""
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def said_of(answer: Any) -> str:
    """Return the message in a server's error response on one line, shortened; empty for none."""
    return plain(" ".join(_message(answer).split()))[:200]


def _message(answer: Any) -> str:
    """Return the message in a server's error response, in any of the usual forms."""
    for name in ("error", "message", "detail"):
        if isinstance(answer, dict) and name in answer:
            answer = answer[name]
            return answer if isinstance(answer, str) else _message(answer)
    return ""


def failures(answers: Iterable[object]) -> Iterator[tuple[int, EndpointError]]:
    """Yield the index and the error of each item that `Client.each` could not do."""
    for number, each in enumerate(answers):
        if isinstance(each, EndpointError):
            yield number, each
