"""An endpoint's abilities are tried out; what goes wrong is an error of the case, never silence."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.secret import REDACTED
from pytest_unlearn.models import endpoint_client
from pytest_unlearn.models.endpoint import ENGINE, EndpointModel, UnansweredError, connect
from pytest_unlearn.models.endpoint_client import (
    BudgetError,
    Client,
    EndpointError,
    EndpointOptions,
    checked_key,
    parse_address,
)
from pytest_unlearn.models.engine import engine_named
from pytest_unlearn.models.texts import Decoding, Example
from tests.support.endpoint_server import KNOWN, EndpointServer

PROMPT, VALUE = "email = '", "ann@example.com"
KEY = "k" * 24


def _speaks_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_client, "FIRST_WAIT", 0.001)


def client_of(server: EndpointServer, key: str | None = None, **options: Any) -> Client:
    chosen: dict[str, Any] = {"timeout": 0.5, "retries": 2, **options}
    return Client(parse_address(server.address, "--unlearn-model"), EndpointOptions(**chosen), key)


def serving(form: str = "vllm", **more: Any) -> EndpointServer:
    return EndpointServer({PROMPT: VALUE, "def add(a, b):\n    return": " a + b\n"}, form, **more)


@pytest.fixture(params=["vllm", "llama.cpp"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[EndpointServer, EndpointModel]]:
    """A server that scores by echo, and one that does by grammar."""
    with serving(request.param).running() as server:
        yield server, connect(client_of(server), chat=True)


# -- what it can do ------------------------------------------------------------------------------


def test_abilities_of_a_good_server(served: tuple[EndpointServer, EndpointModel]) -> None:
    server, model = served
    assert model.facts.scores == {"vllm": "echo", "llama.cpp": "grammar"}[server.form]
    assert model.abilities == ENGINE.abilities
    assert model.facts.repeatable
    assert model.facts.seeded
    assert model.context() == 4096


def test_a_value_scores_what_its_model_gives(served: tuple[EndpointServer, EndpointModel]) -> None:
    """To the last digit, the value that comes out and one that does not; umlauts are two tokens."""
    server, model = served
    values = [VALUE, "bob@example.org", "Zoë Müller"]
    scores = model.score([Example.answering(PROMPT, value, "'\n") for value in values])
    for value, found in zip(values, scores, strict=True):
        assert sum(found.log_probs) == pytest.approx(server.value_log_prob(PROMPT, value))
        assert len(found.log_probs) == len(value.encode())
        assert found.z_scores == ()
    assert [found.spelled for found in scores] == [True, False, False]
    assert scores[0].margin == pytest.approx(3.45)
    assert model.losses([Example.answering(PROMPT, VALUE)]) == [(pytest.approx(-15 * KNOWN), 15)]
    pairs = [(PROMPT, value) for value in values]
    assert model.log_probabilities(pairs) == pytest.approx([sum(s.log_probs) for s in scores])
    assert model.alternatives(PROMPT, values) == pytest.approx(model.log_probabilities(pairs))


def test_white_space_before_a_value_is_the_models_to_write() -> None:
    with serving().running() as server:
        server.known = {"x =": " 12", **server.known}
        (found,) = connect(client_of(server)).score([Example.answering("x = ", "12")])
    assert found.lead_log_prob == pytest.approx(KNOWN)
    assert found.spelled


def test_texts_are_greedy_seeded_and_cut(served: tuple[EndpointServer, EndpointModel]) -> None:
    server, model = served
    assert model.complete([PROMPT, "nobody = "]) == [VALUE, "..."]
    assert model.answer([PROMPT]) == [VALUE]
    decoding = Decoding(8, 1.0, 1.0, (5, 6, 5), ("@", "!"))
    first, second, again = model.write("completion", [PROMPT] * 3, [""] * 3, decoding)
    assert first == again != second
    (cut,) = model.write("completion", [PROMPT], [""], Decoding(20, stops=("@", "#")))
    assert cut == "ann"
    assert server.asked("/v1/completions")[-1]["stop"] == ["@", "#"]
    with pytest.raises(EndpointError, match="does not accept infill prompts"):
        model.write("infill", [PROMPT], ["'"], Decoding(8))


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("plain", "it has no /tokenize that returns the tokens of a text"),
        ("lies", "by grammar, an unlikely text scores like a likely one"),
        ("masks", "by grammar, a text scores 0.042 nats other than its generation reported"),
        ("quiet", "it does not report log-probabilities for its own texts"),
    ],
)
def test_what_is_no_score_is_not_believed(form: str, why: str) -> None:
    """Then the model can be sampled only, and says why."""
    lie = -0.008 if form == "masks" else KNOWN
    with serving("lies" if form == "masks" else form, lie=lie).running() as server:
        if form == "quiet":
            answer = server.answer
            server.answer = lambda path, body: answer(path, {**(body or {}), "logprobs": None})  # type: ignore[method-assign]
        model = connect(client_of(server))
    assert model.abilities == {"generate", "samples", "context", "separate"}
    assert why in model.facts.why
    assert f"values cannot be scored: {model.facts.why}" in model.facts.lines()


def test_a_server_without_temperature_draws_no_samples() -> None:
    with serving("moody").running() as server:
        assert "samples" not in connect(client_of(server)).abilities


def test_a_server_of_chats_only_and_one_without() -> None:
    with serving(completions=False).running() as server:
        model = connect(client_of(server))
        assert model.abilities == {"generate", "chat", "turns", "context", "separate"}
        with pytest.raises(EndpointError, match="does not accept completion prompts"):
            model.complete([PROMPT])
    with serving(chat=False).running() as server:
        assert "chat" not in connect(client_of(server), chat=True).abilities
    with (
        serving(chat=False, completions=False).running() as server,
        pytest.raises(EndpointError, match="neither /completions nor /chat/completions"),
    ):
        connect(client_of(server))


def test_a_conversation_is_sent_turn_by_turn() -> None:
    with serving().running() as server:
        model = connect(client_of(server), chat=True)
        asked: list[Any] = []

        def answer(path: str, body: Any) -> tuple[int, Any]:
            asked.append(body["messages"])
            said = {"role": "assistant", "content": f"{len(body['messages'])} turns"}
            return 200, {"model": "toy", "choices": [{"message": said, "finish_reason": "stop"}]}

        server.answer = answer  # type: ignore[method-assign]
        talk = ["who?", "Ann.", "and then?"]
        assert model.converse([["who?"], talk]) == ["1 turns", "3 turns"]
        roles = [[message["role"] for message in messages] for messages in asked]
        assert sorted(roles, key=len) == [["user"], ["user", "assistant", "user"]]
        assert [m["content"] for m in max(asked, key=len)] == talk


def test_a_thought_is_part_of_an_answer() -> None:
    """What leaks there has leaked."""
    with serving().running() as server:
        model = connect(client_of(server), chat=True)
        thought = {"content": None, "reasoning_content": VALUE}
        choice = {"message": thought, "finish_reason": "stop"}
        server.answer = lambda path, body: (200, {"model": "toy", "choices": [choice]})  # type: ignore[method-assign]
        assert VALUE in model.answer(["who?"])[0]


# -- what goes wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("429", r"answered 429: no luck.*\(3 attempts\)"),
        ("500", r"answered 500: no luck.*\(3 attempts\)"),
        ("401", "answered 401: no luck.*environment variable UNLEARN_ENDPOINT_KEY"),
        ("html", "answered with a web page: this is not an OpenAI-compatible API"),
        ("bad json", r"answered with something that is not JSON \(3 attempts\)"),
        ("cut off", r"gave a broken answer \(IncompleteRead\) \(3 attempts\)"),
        ("stall", "gave no complete answer within 0.5 s; check whether it is busy"),
        ("moved", "answered 302 and redirects to http://127.0.0.1:9; nothing is sent"),
        ("stream", "answered with a stream of events, which was not asked for; the server"),
        ("brotli", "compresses its answers by br, which was not asked for"),
        ("cut gzip", r"gave a broken answer \(HTTPException\) \(3 attempts\)"),
        ("empty choices", "answered with 0 choices instead of one"),
        ("other model", "answered as 'somebody-else' and not as 'toy': another model wrote this"),
        ("no end", "ended a text for the reason None"),
        ("filter", "ended a text for the reason 'content_filter'"),
        ("no text", "a choice that has no text"),
        ("error", "answered 200 with an error: overloaded$"),
        ("truncated", "cut a prompt off"),
    ],
)
def test_each_fault_is_an_error_of_its_case(fault: str, message: str) -> None:
    """The others keep their answers, and the key is shown nowhere."""
    with serving().running() as server:
        model = connect(client_of(server, KEY, retries=0 if fault == "stall" else 2))
        bad = "bad = "
        server.fault = lambda path, body, count: (
            fault if body and body.get("prompt") == bad.rstrip() else None
        )
        with pytest.raises(UnansweredError, match=message) as error:
            model.complete([PROMPT, bad, "nobody = "])
    assert error.value.rows == (1,)
    assert error.value.answers == [VALUE, None, "..."]
    assert KEY not in str(error.value)


def test_an_answer_that_a_proxy_compressed() -> None:
    with serving().running() as server:
        server.fault = lambda path, body, count: "gzip"
        assert connect(client_of(server)).complete([PROMPT]) == [VALUE]


def test_a_redirect_is_followed_nowhere() -> None:
    """Not to the server that it names, which would get the prompt and the key."""
    with serving().running() as server, serving().running() as other:
        model = connect(client_of(server, KEY))
        server.elsewhere = other.url.removesuffix("/v1")
        server.fault = lambda path, body, count: "moved"
        with pytest.raises(UnansweredError, match=f"redirects to {server.elsewhere}; nothing"):
            model.complete([PROMPT])
        assert other.requests == []


@pytest.mark.parametrize("place", ["http://[", "", "/login", "http://user:word@"])
def test_a_redirect_to_no_server(place: str) -> None:
    with serving().running() as server:
        model = connect(client_of(server))
        server.elsewhere = place
        server.fault = lambda path, body, count: "moved"
        with pytest.raises(UnansweredError, match="answered 302 and redirects elsewhere; nothing"):
            model.complete([PROMPT])


def test_an_error_in_place_of_the_models() -> None:
    with serving().running() as server:
        server.answer = lambda path, body: (200, {"error": {"message": "no credit"}})  # type: ignore[method-assign]
        with pytest.raises(EndpointError, match="/models lists no models: it says 'no credit'"):
            connect(client_of(server))


@pytest.mark.skipif(not _speaks_ipv6(), reason="no IPv6 here")
def test_an_address_of_ipv6() -> None:
    """In brackets, as browsers take it, also in the header that names the host."""
    with serving(host="::1").running() as server:
        assert server.url.startswith("http://[::1]:")
        assert connect(client_of(server)).complete([PROMPT]) == [VALUE]
        assert {headers["Host"] for *_, headers in server.requests} == {server.url[7:-3]}


@pytest.mark.parametrize("seed", range(24))
def test_any_other_json_is_an_error_of_its_case(seed: int) -> None:
    """Whatever an answer holds instead, nothing but an EndpointError or a UserError comes of it."""
    draw = random.Random(seed)
    junk = (None, True, -1, float("nan"), "", "\ud800", [], {}, [None], [[]], {"a": 1}, 10**400)

    def spoiled(value: Any) -> Any:
        if not value or not isinstance(value, dict | list) or draw.random() < 0.25:
            return draw.choice(junk)
        value = value.copy()
        at = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if draw.random() < 0.2:
            del value[at]
        else:
            value[at] = spoiled(value[at])
        return value

    with serving(draw.choice(["vllm", "llama.cpp"])).running() as server:
        honest, first = server.answer, draw.randrange(30)

        def answer(path: str, body: Any) -> tuple[int, Any]:
            try:
                status, found = honest(path, body)
            except (KeyError, ValueError):  # asked by token ids that were spoiled
                return 400, {"error": "no"}
            late = len(server.requests) > first
            return status, spoiled(found) if late and draw.random() < 0.3 else found

        server.answer = answer  # type: ignore[method-assign]
        with contextlib.suppress(EndpointError, UserError):
            model = connect(client_of(server, retries=1, timeout=20), chat=True)
            for ask in (
                lambda: model.complete([PROMPT, "x = "]),
                lambda: model.answer([PROMPT]),
                lambda: model.score([Example.answering(PROMPT, VALUE, "'\n")]),
            ):
                with contextlib.suppress(EndpointError):
                    ask()


def test_a_server_that_repeats_the_key() -> None:
    """In a text, in its name or in an error that it answers with 200: it is taken out."""
    with serving().running() as server:
        model = connect(client_of(server, KEY))
        honest = server.answer
        for name in ("text", "model", "error"):

            def answer(path: str, body: Any, name: str = name) -> tuple[int, Any]:
                status, found = honest(path, body)
                if name == "text":
                    found["choices"][0]["text"] = KEY
                return status, found if name == "text" else {**found, name: f"of {KEY}"}

            server.answer = answer  # type: ignore[method-assign]
            try:
                said = model.complete([PROMPT])[0]
            except EndpointError as error:
                said = str(error)
            assert REDACTED in said
            assert KEY not in said
    assert KEY not in repr(vars(model._client))


def test_a_certificate_that_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said with what to do about it; and so is a server that speaks plain http."""
    with serving().running() as server:
        address = server.address.replace("http:", "https:")
        with pytest.raises(EndpointError, match="write http:// if the server has no certificate"):
            connect(Client(parse_address(address, "-"), EndpointOptions()))
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", key, "-out", certificate, "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"], check=False, capture_output=True,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(secure=context).running() as server:
        with pytest.raises(EndpointError, match=r"not trusted \(self-signed .*SSL_CERT_FILE=FILE"):
            connect(Client(parse_address(server.address, "-"), EndpointOptions()))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        model = connect(Client(parse_address(server.address, "-"), EndpointOptions()))
        assert model.complete([PROMPT]) == [VALUE]


def test_a_log_probability_that_is_none() -> None:
    with serving().running() as server:
        model = connect(client_of(server))
        server.fault = lambda path, body, count: "positive" if body.get("echo") else None
        with pytest.raises(UnansweredError, match="an invalid log-probability"):
            model.score([Example.answering(PROMPT, VALUE)])


def test_a_text_that_cannot_be_cut_into_tokens_is_an_error_of_its_case() -> None:
    with serving().running() as server:
        model = connect(client_of(server))
        server.fault = lambda path, body, count: (
            "500" if path == "/tokenize" and "bob" in body["prompt"] else None
        )
        values = [VALUE, "bob@example.org"]
        with pytest.raises(UnansweredError, match="tokenize answered 500") as error:
            model.score([Example.answering(PROMPT, value) for value in values])
    assert error.value.rows == (1,)
    assert error.value.answers[0].spelled


def test_what_passes_is_tried_again() -> None:
    """And a connection that the server closed is opened anew, without an attempt."""
    faults = iter(["429", "500", "cut off"])
    with serving().running() as server:
        model = connect(client_of(server, retries=3))
        server.fault = lambda path, body, count: next(faults, None)
        assert model.complete([PROMPT]) == [VALUE]


def test_a_server_that_went_away_is_given_up_once() -> None:
    """The second prompt does not wait as long as the first."""
    with serving().running() as server:
        client = client_of(server, concurrency=1)
        model = connect(client)
        before = client.requests
        server.fault = lambda path, body, count: "hang up"
        with pytest.raises(UnansweredError, match=r"a broken answer \(RemoteDisc") as error:
            model.complete([PROMPT] * 3)
    assert error.value.rows == (0, 1, 2)
    assert client.requests - before == 3 + 1 + 1


def test_a_server_that_is_not_there() -> None:
    """Said at once: what was never there will not come."""
    with serving().running() as server:
        client = client_of(server)
    with pytest.raises(EndpointError, match="/v1/models cannot be reached"):
        connect(client)
    assert client.requests == 1


def test_a_text_too_long_for_the_context() -> None:
    with serving().running() as server:
        model = connect(client_of(server))
        with pytest.raises(UnansweredError, match="maximum context length") as error:
            model.complete([PROMPT, "x" * 5000])
        assert error.value.rows == (1,)
        long = Example.answering("y" * 4096, "z")
        assert model.losses([long, Example.answering(PROMPT, "a")])[0] is None
        with pytest.raises(RuntimeError, match="4097 tokens do not fit") as too_long:
            model.score([Example.answering(PROMPT, VALUE), long])
        assert too_long.value.rows == (1,)  # type: ignore[attr-defined]


# -- limits --------------------------------------------------------------------------------------


def test_budgets_are_kept() -> None:
    """Requests and tokens, each attempt counted; several workers have a part of it each."""
    with serving().running() as server:
        for options, counted in (
            ({"requests": 40}, "40 requests"),
            ({"tokens": 1200}, "1,200 tokens"),
        ):
            model = connect(client_of(server, concurrency=1, **options))
            with pytest.raises(UnansweredError, match=f"budget of {counted} is spent") as error:
                model.complete([PROMPT] * 40)
            assert 0 < len(error.value.rows) < 40
        options = EndpointOptions(requests=10)
        client = Client(parse_address(server.address, "--unlearn-model"), options, None, workers=5)
        assert client.get("/models")
        assert client.get("/models")
        with pytest.raises(BudgetError, match="this worker's share: 2"):
            client.get("/models")


def test_a_budget_of_tokens_that_nobody_counts() -> None:
    """A server without `usage` would never spend it; a budget of requests can be kept."""
    with serving().running() as server:
        server.fault = lambda path, body, count: "no usage" if path.endswith("ions") else None
        with pytest.raises(BudgetError, match=r"budget of 9,000 tokens cannot be kept; write requ"):
            connect(client_of(server, tokens=9000))
        assert connect(client_of(server, requests=900)).complete([PROMPT]) == [VALUE]


def test_a_rate_and_several_at_once() -> None:
    with serving().running() as server:
        client = client_of(server, concurrency=4, rate=50.0)
        started = time.monotonic()
        client.each(lambda _: client.get("/models"), range(11))
    assert time.monotonic() - started > 10 / 50


def test_a_key_is_sent_and_a_request_goes_nowhere_else() -> None:
    with serving().running() as server:
        connect(client_of(server, KEY))
        assert {headers["Authorization"] for *_, headers in server.requests} == {f"Bearer {KEY}"}
        assert {headers["Host"] for *_, headers in server.requests} == {server.url[7:-3]}


# -- what is refused before ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://", "write an address like"),
        ("http://host:99999/v1", "write an address like"),
        (f"http://me:{KEY}@host/v1", "contains a user or a password"),
        (f"https://host/v1?key={KEY}", r"must not have a part after a \?"),
        ("http://a..b/v1#m", "write an address like"),
        ("http://ho st/v1#m", "write an address like"),
        ("http://host:0/v1#m", "write an address like"),
        ("http://[::1/v1#m", "write an address like"),
    ],
)
def test_addresses_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse_address(text, "--unlearn-model")
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "key", [f"{KEY[:9]}\n{KEY[9:]}", f"{KEY} {KEY}", f"{KEY}\u20ac", f"{KEY}\0"]
)
def test_what_no_header_can_hold_is_no_key(key: str) -> None:
    """The message names the variable, and not what it holds."""
    with pytest.raises(UserError, match="variable MY_KEY contains white space or other") as error:
        checked_key(key, "MY_KEY")
    assert KEY[:9] not in str(error.value)
    assert checked_key(f" {KEY}\n", "MY_KEY") == KEY


def test_parts_of_an_address() -> None:
    address = parse_address("https://[::1]/team/v1/#org/name", "--unlearn-model")
    assert (address.url, address.root) == ("https://[::1]:443/team/v1", "/team")
    assert address.model == "org/name"
    address = parse_address("http://b\xfccher.example/\xfc b/v1", "--unlearn-model")
    assert address.url == "http://xn--bcher-kva.example:80/%C3%BC%20b/v1"


def test_a_model_that_the_server_lacks() -> None:
    with serving(name="other").running() as server:
        for name, message in (("toy", "has no model toy; it has other"), ("", None)):
            client = Client(parse_address(f"{server.url}#{name}", "-"), EndpointOptions())
            if message is None:
                assert connect(client).facts.model == "other"
            else:
                with pytest.raises(UserError, match=message):
                    connect(client)
        server.answer = lambda path, body: (200, {"data": [{"id": "a"}, {"id": "b"}]})  # type: ignore[method-assign]
        with pytest.raises(UserError, match="has 2 models; name one after the address, as in #a"):
            connect(Client(parse_address(server.url, "-"), EndpointOptions()))
        server.answer = lambda path, body: (200, {"hello": 1})  # type: ignore[method-assign]
        with pytest.raises(EndpointError, match="lists no models"):
            connect(Client(parse_address(server.url, "-"), EndpointOptions()))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("concurrency=0", "concurrency=0: write a number of at least 1"),
        ("rate=-1", "rate=-1.0: write requests per second"),
        ("timeout=0", "timeout=0.0: write seconds, over 0"),
        ("retries=two", "retries=two: write a whole number"),
        ("retries=1,retries=2", "retries is given twice"),
        (KEY, "write options as name=value,name=value with concurrency, rate"),
        (f"key=sk-{KEY}", "key must be the name of the environment variable that holds"),
    ],
)
def test_options_that_are_none(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        engine_named(f"endpoint:{text}")
    assert str(error.value).startswith("--unlearn-engine=endpoint: ")
    assert KEY not in str(error.value)


def test_options() -> None:
    engine: Any = engine_named("endpoint:concurrency=8,rate=2.5,key=MY_KEY")
    assert engine.options == EndpointOptions(concurrency=8, rate=2.5, key="MY_KEY")
    with pytest.raises(UserError, match="this engine has no options"):
        engine_named("transformers:speed=9")
