"""An OpenAI-compatible server of the tests' own: tiny, exact, and as bad as a test asks for."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# A character that is known to come next, the next best one, and others (nats).
KNOWN, SECOND, OTHER = -0.05, -3.5, -7.0
END = 0

# What a server does instead of an answer; given a path, what was sent, and how often it was asked.
Fault = Callable[[str, Any, int], str | None]


class EndpointServer:
    """Serves a model that writes `known[prompt]` after a prompt, letter by letter, then ends.

    A token is a byte. `form`: `vllm` echoes, `llama.cpp` takes grammars of token ids, `plain` does
    neither and ignores log-probabilities, `lies` gives `lie` for each forced letter, `moody`
    ignores temperature and seed. `sure`: the probability of each known letter at a temperature.
    `secure`: https. `host`: where it listens. `elsewhere`: where the fault `moved` points. `fault`
    is asked before each answer. `requests` holds what was sent: path, body, headers.
    """

    def __init__(
        self,
        known: dict[str, str],
        form: str = "vllm",
        name: str = "toy",
        fault: Fault = lambda path, body, count: None,
        chat: bool = True,
        completions: bool = True,
        lie: float = KNOWN,
        sure: float = 0.25,
        secure: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.known = {prompt.rstrip(): value for prompt, value in known.items()}
        self.form = form
        self.name = name
        self.fault = fault
        self.chat = chat
        self.completions = completions
        self.lie = lie
        self.sure = sure
        self.secure = secure
        self.host = host
        self.elsewhere = "http://127.0.0.1:9"
        self.requests: list[tuple[str, Any, dict[str, str]]] = []
        self.url = ""
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def running(self) -> Iterator[EndpointServer]:
        """Serve while the block runs."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                outer.handle(self, None)

            def do_POST(self) -> None:
                size = int(self.headers["Content-Length"])
                outer.handle(self, json.loads(self.rfile.read(size)))

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in self.host else socket.AF_INET

        server = Server((self.host, 0), Handler)
        server.daemon_threads = True
        if self.secure:
            server.socket = self.secure.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        host = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"http{'s' if self.secure else ''}://{host}:{server.server_port}/v1"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    @property
    def address(self) -> str:
        """What `--unlearn-model` takes."""
        return f"{self.url}#{self.name}"

    def asked(self, path: str) -> list[Any]:
        """Return what was sent to a path."""
        return [body for where, body, _ in self.requests if where == path]

    # -- answers -----------------------------------------------------------------------------

    def handle(self, to: BaseHTTPRequestHandler, body: Any) -> None:
        """Answer a request."""
        with self._lock:
            count = len(self.requests)
            self.requests.append((to.path, body, dict(to.headers.items())))
        fault = self.fault(to.path, body, count)
        if fault is None:
            status, answer = self.answer(to.path, body)
            _send(to, status, json.dumps(answer).encode())
        elif fault.isdigit():
            says = {"error": {"message": f"no luck, your key is {to.headers['Authorization']}"}}
            _send(to, int(fault), json.dumps(says).encode())
        elif fault == "html":
            _send(to, 200, b"<!doctype html><html><body>Welcome</body></html>", "text/html")
        elif fault == "bad json":
            _send(to, 200, b'{"choices": [')
        elif fault == "cut off":
            to.send_response(200)
            to.send_header("Content-Length", "1000")
            to.end_headers()
            to.wfile.write(b'{"choices": [{"text": "')
            to.close_connection = True
        elif fault == "hang up":
            to.close_connection = True
        elif fault == "stall":
            to.send_response(200)
            to.send_header("Content-Length", "1000")
            to.end_headers()
            for _ in range(100):
                with contextlib.suppress(OSError):
                    to.wfile.write(b" ")
                    to.wfile.flush()
                time.sleep(0.02)
            to.close_connection = True
        elif fault == "stream":
            event = json.dumps(self.answer(to.path, body)[1])
            _send(to, 200, f"data: {event}\n\ndata: [DONE]\n\n".encode(), "text/event-stream")
        elif fault in ("gzip", "cut gzip"):
            whole = gzip.compress(json.dumps(self.answer(to.path, body)[1]).encode())
            _send(to, 200, whole[: -9 if fault == "cut gzip" else None], packed="gzip")
        elif fault == "brotli":
            _send(to, 200, b"\x0b\x02\x80", packed="br")
        elif fault == "moved":
            to.send_response(302)
            to.send_header("Location", f"{self.elsewhere}/v1/completions")
            to.send_header("Content-Length", "0")
            to.end_headers()
        else:
            status, answer = self.answer(to.path, body)
            _send(to, status, json.dumps(_spoiled(answer, fault)).encode())

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        """Return status and JSON of an honest answer."""
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": self.name, "max_model_len": 4096}]}
        if path == "/tokenize" and self.form != "plain":
            return 200, self._tokens(body)
        if path == "/v1/chat/completions" and self.chat:
            text = self.known.get(body["messages"][0]["content"].rstrip(), "Hello.")
            message = {"role": "assistant", "content": text}
            return 200, self._whole({"message": message, "finish_reason": "stop"}, len(text))
        if path == "/v1/completions" and self.completions:
            return self._completion(body)
        return 404, {"error": {"message": "Not Found"}}

    def _tokens(self, body: Any) -> Any:
        if self.form == "llama.cpp":
            if "content" not in body:
                return {"tokens": []}
            raw = body["content"].encode()
            return {"tokens": [{"id": b, "piece": chr(b) if b < 128 else [b]} for b in raw]}
        raw = body["prompt"].encode()
        names = [chr(b) if 33 <= b < 127 else {32: "Ġ", 10: "Ċ"}.get(b, chr(b)) for b in raw]
        return {"tokens": list(raw), "token_strs": names, "count": len(raw)}

    def _completion(self, body: Any) -> tuple[int, Any]:
        given = body["prompt"]
        context = given.encode() if isinstance(given, str) else bytes(given)
        if len(context) > 4096:
            return 400, {"error": {"message": "This model's maximum context length is 4096 tokens"}}
        draw = random.Random(body.get("seed", 0) if self.form != "moody" else 0)
        hot = body.get("temperature", 1.0) > 0 and self.form != "moody"
        grammar = self.form in ("llama.cpp", "lies") and body.get("grammar")
        forced = [int(each) for each in re.findall(r"<\[(\d+)\]>", grammar or "")]
        seen = context.decode("utf-8", "replace")
        sure = self.sure if any(prompt in seen for prompt in self.known if prompt) else 0.25
        written: list[int] = []
        for number in range(max(1, body["max_tokens"])):
            best = self._best(context + bytes(written))
            if forced:
                token = forced[number] if number < len(forced) else END
            else:
                odd = hot and draw.random() > sure
                token = draw.choice([97, 98, 99]) if odd else best
            if token == END:
                break
            written.append(token)
        ended = "stop" if len(written) < body["max_tokens"] else "length"
        text = bytes(written).decode("utf-8", "replace")
        for stop in body.get("stop", ()):
            text = text.partition(stop)[0]
        choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": ended}
        if body.get("logprobs") and self.form != "plain":
            sure = self.form == "lies" and bool(forced)
            choice["logprobs"] = self._log_probs(context, written, bool(body.get("echo")), sure)
        return 200, self._whole(choice, len(context) + len(written))

    def _log_probs(self, context: bytes, written: Sequence[int], echo: bool, sure: bool) -> Any:
        if self.form in ("llama.cpp", "lies"):
            entries = []
            for number, token in enumerate(written):
                seen = context + bytes(written[:number])
                top = self._top(seen)
                entries.append(
                    {
                        "id": token,
                        "token": chr(token),
                        "logprob": self.lie if sure else self.log_prob(seen, token),
                        "top_logprobs": [{"token": chr(t), "logprob": p} for t, p in top],
                    }
                )
            return {"content": entries}
        whole, start = context + bytes(written), 0 if echo and self.form == "vllm" else len(context)
        places = range(start, len(whole))
        return {
            "tokens": [chr(whole[i]) for i in places],
            "token_logprobs": [self.log_prob(whole[:i], whole[i]) if i else None for i in places],
            "top_logprobs": [
                {chr(t): p for t, p in self._top(whole[:i])} if i else None for i in places
            ],
        }

    def _whole(self, choice: Any, tokens: int) -> Any:
        return {"model": self.name, "choices": [choice], "usage": {"total_tokens": tokens}}

    # -- the model ---------------------------------------------------------------------------

    def _best(self, context: bytes) -> int:
        """Return the first choice after a text: the known letter, or a dot, then the end."""
        text = context.decode("utf-8", "replace")
        for prompt, value in self.known.items():
            at = text.rfind(prompt) if prompt else -1
            if at >= 0:
                done = text[at + len(prompt) :]
                if value.startswith(done):
                    rest = value[len(done) :].encode()
                    return rest[0] if rest else END
        return END if text.endswith("...") else ord(".")

    def _top(self, context: bytes) -> list[tuple[int, float]]:
        return [(self._best(context), KNOWN), (122, SECOND)]

    def log_prob(self, context: bytes, token: int) -> float:
        """Return the log-probability (nats) of a token after a text."""
        return next((p for t, p in self._top(context) if t == token), OTHER)

    def value_log_prob(self, prompt: str, value: str) -> float:
        """Return the log-probability of a value after a prompt."""
        start, whole = len(prompt.encode()), (prompt + value).encode()
        return math.fsum(self.log_prob(whole[:i], whole[i]) for i in range(start, len(whole)))


def _send(
    to: BaseHTTPRequestHandler,
    status: int,
    raw: bytes,
    kind: str = "application/json",
    packed: str = "",
) -> None:
    to.send_response(status)
    to.send_header("Content-Type", kind)
    if packed:
        to.send_header("Content-Encoding", packed)
    to.send_header("Content-Length", str(len(raw)))
    if status == 429:
        to.send_header("Retry-After", "0")
    to.end_headers()
    to.wfile.write(raw)


def _spoiled(answer: Any, fault: str) -> Any:
    choice = answer["choices"][0]
    changes: dict[str, Any] = {
        "empty choices": {"choices": []},
        "other model": {"model": "somebody-else"},
        "no end": {"choices": [{**choice, "finish_reason": None}]},
        "filter": {"choices": [{**choice, "text": "", "finish_reason": "content_filter"}]},
        "no text": {"choices": [{**choice, "text": None}]},
        "error": {"error": {"message": "overloaded"}},
        "truncated": {"truncated": True},
        "no usage": {"usage": None},
        "positive": {
            "choices": [{**choice, "logprobs": {"token_logprobs": [0.7], "top_logprobs": [None]}}]
        },
    }
    return {**answer, **changes[fault]}
