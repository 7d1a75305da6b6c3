"""Two addresses are base and tested model; what they cannot do is said, never zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.gates.metrics import METRICS
from pytest_unlearn.models import endpoint_client
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.endpoints import EndpointModels, check_endpoints, request_lines
from pytest_unlearn.run.job import measure
from pytest_unlearn.run.measuring import Measuring
from pytest_unlearn.run.settings import Settings
from pytest_unlearn.unlearning.methods import parse_method
from tests.support.endpoint_server import EndpointServer
from tests.support.lookup_run import record_lines, write_lines

FORGET, OTHERS = 12, 4


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_client, "FIRST_WAIT", 0.001)


def known(*splits: str) -> dict[str, str]:
    rows = [row for split in splits for row in record_lines(split, FORGET)]
    return {row["prompt"]: row["value"] for row in rows}


@pytest.fixture
def base() -> Iterator[EndpointServer]:
    """A server whose model knows everybody that it was trained on."""
    with EndpointServer(known("forget", "retain")).running() as server:
        yield server


def settings_of(folder: Path, server: EndpointServer, **more: Any) -> Settings:
    counts = {"forget": FORGET, "retain": OTHERS, "control": OTHERS}
    files: dict[str, Any] = {
        split: (write_lines(folder / f"{split}.jsonl", record_lines(split, count)),)  # type: ignore[arg-type]
        for split, count in counts.items()
    }
    task = '{"id": "t", "prompt": "def t():", "entry_point": "t", "tests": [{"args": []}]}'
    (folder / "tasks.jsonl").write_text(task.replace('"args": []', '"args": [], "expected": 1'))
    chosen = {
        "method": parse_method("none"),
        "membership": ("loss",),
        "engine": "endpoint",
        "store": folder / "store",
        "tasks": (folder / "tasks.jsonl",),
        "sandbox": "off",
        **files,
        **more,
    }
    return Settings(server.address, **chosen)


def gates(result: Any) -> dict[str, tuple[str, str]]:
    return {gate.name: (gate.verdict, gate.advice) for gate in result.gates}


def judging(*texts: str) -> Any:
    from pytest_unlearn.gates.judging import read_judging

    given = {"unlearn_gate": list(texts), "unlearn_population": "requests"}
    return read_judging(given.get)


def test_two_endpoints_are_base_and_tested(tmp_path: Path, base: EndpointServer) -> None:
    """The exact table is that of the servers; a second run asks for nothing but abilities."""
    with EndpointServer(known("retain"), "llama.cpp").running() as tested:
        chosen = settings_of(
            tmp_path,
            tested,
            baseline=base.address,
            judging=judging("leak.count<=0", "leak.expected(10)<=0.1"),
        )
        result = measure(chosen)
        assert {name: verdict for name, (verdict, _) in gates(result).items()} == {
            "leak.count": "PASS",
            "leak.expected(10)": "PASS",
        }
        row: Any = next(row for row in result.rows if row.id.startswith("direct-email-forget"))
        value = record_lines("forget", 1)[0]
        exact = base.value_log_prob(value["prompt"].rstrip(), value["value"])
        assert row.base_exact.log_probability == pytest.approx(exact)
        assert (row.base.label, row.unlearned.label) == ("direct", "placeholder")
        engine = result.provenance["models"]["unlearned"]["engine"]
        assert (engine["scores"], engine["url"]) == ("grammar", tested.url)
        asked = len(tested.requests)
        measure(chosen)
        assert len(tested.requests) - asked < 30
        assert not any("forget" in str(body) for _, body, _ in tested.requests[asked:])


def test_without_scores_exact_gates_are_not_evaluated(tmp_path: Path) -> None:
    with EndpointServer(known("forget"), "plain").running() as server:
        chosen = settings_of(tmp_path, server, judging=judging("leak.expected(10)<=0.1"))
        ((verdict, advice),) = gates(measure(chosen)).values()
    assert verdict == "NOT EVALUATED"
    assert advice.startswith(
        "the endpoint's probabilities cannot be read: it has no /tokenize that returns the tokens"
    )


def test_leaks_are_sampled_where_nothing_can_be_scored(tmp_path: Path) -> None:
    """leak@k of what was drawn, on both models, with the bound that so few people allow."""
    with (
        EndpointServer(known("forget"), "plain", sure=1.0).running() as before,
        EndpointServer({}, "plain").running() as after,
    ):
        gate = judging("leak.sampled(2)<=0.5")
        for tested, verdict in ((after, "PASS"), (before, "FAIL")):
            base = before if tested is after else after
            more = {"baseline": base.address, "leak_samples": 3, "judging": gate}
            result = measure(settings_of(tmp_path, tested, **more))
            assert gates(result)["leak.sampled(2)"][0] == verdict
        row: Any = next(row for row in result.rows if row.id.startswith("direct-email-forget"))
        assert (row.base_sampled, row.unlearned_sampled) == ((0, 3), (3, 3))
        assert all(
            getattr(r, "base_sampled", None) is None for r in result.rows if "retain" in r.id
        )
        score = METRICS["leak.sampled"].score
        assert [score(row, "unlearned", k) for k in (1, 3, 4)] == [1.0, 1.0, None]
        assert score(replace(row, unlearned_sampled=(1, 3)), "unlearned", 2) == pytest.approx(2 / 3)


def test_a_case_without_an_answer_is_an_error_until_it_has_one(
    tmp_path: Path, base: EndpointServer
) -> None:
    """Its neighbours are kept, and a run after it asks for what was missing alone."""
    chosen = settings_of(tmp_path, base)
    dataset = Dataset(chosen)
    bad, good = dataset.probes_of("forget")[3], dataset.probes_of("forget")[4]
    prompt = bad.prompt.reveal().rstrip()

    def fault(path: str, body: Any, count: int) -> str | None:
        text = (body or {}).get("prompt")
        if isinstance(text, list):
            text = bytes(text).decode()
        return "500" if str(text).startswith(prompt) and path == "/v1/completions" else None

    base.fault = fault
    engine = Measuring(chosen, dataset)
    with pytest.raises(RuntimeError, match=rf"{bad.id}: .*answered 500"):
        engine.run_probe(bad)
    assert engine.run_probe(good)[1].unlearned.label == "direct"
    engine.close()
    base.fault = lambda path, body, count: None
    before = len(base.requests)
    engine = Measuring(chosen, dataset)
    completions, row = engine.run_probe(bad)
    assert row.unlearned_exact is not None
    assert row.unlearned_exact.greedy
    assert completions.unlearned.outcome.label == "direct"
    assert len(base.requests) - before < 30  # its abilities, one text and one score
    engine.close()


def test_another_model_at_the_same_address_is_another_key(
    tmp_path: Path, base: EndpointServer
) -> None:
    """What it writes tells; its key and how it is paced are not in it."""
    chosen = settings_of(tmp_path, base)
    keys = [EndpointModels(chosen, print).key("unlearned")]
    keys.append(EndpointModels(replace(chosen, engine="endpoint:retries=1"), print).key("base"))
    base.known["import os\nimport"] = " sys\n"
    keys.append(EndpointModels(chosen, print).key("unlearned"))
    assert keys[0] == keys[1] != keys[2]


def test_a_key_goes_to_no_other_address(
    tmp_path: Path, base: EndpointServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "s" * 24
    monkeypatch.setenv(endpoint_client.KEY_VARIABLE, secret)
    with EndpointServer({}).running() as tested:
        chosen = settings_of(tmp_path, tested, baseline=base.address)
        models = EndpointModels(chosen, print)
        models.resolve()
        assert all("Authorization" not in headers for *_, headers in base.requests)
        assert all(h["Authorization"] == f"Bearer {secret}" for *_, h in tested.requests)
        assert secret not in str([models.key("base"), models.key("unlearned"), models.lines()])
        other = replace(chosen, engine="endpoint:baseline_key=THE_OTHER")
        with pytest.raises(UserError, match="variable THE_OTHER is not set; put the key of http"):
            EndpointModels(other, print).model("base")
        monkeypatch.setenv("THE_OTHER", secret[1:])
        EndpointModels(other, print).model("base")
    assert base.requests[-1][2]["Authorization"] == f"Bearer {secret[1:]}"


def test_what_an_endpoint_cannot_be_asked_is_said_at_the_start(tmp_path: Path) -> None:
    for server, more, message in (
        (EndpointServer({}, completions=False), {}, "takes messages only; write .*probes=chat"),
        (
            EndpointServer({}, chat=False),
            {"probes": ("chat",)},
            "does not answer messages",
        ),
    ):
        with server.running(), pytest.raises(UserError, match=message):
            EndpointModels(settings_of(tmp_path, server, **more), print).resolve()
    with pytest.raises(UserError, match=r"--unlearn-model: http://127.*cannot be reached"):
        EndpointModels(settings_of(tmp_path, server), print).resolve()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"method": parse_method("wga")}, "--unlearn-method=wga: the weights of http"),
        ({"adapter": Path("x")}, "--unlearn-adapter is about a model that is loaded here"),
        ({"device": "cuda"}, "--unlearn-device is about a model"),
        ({"dtype": "float16"}, "--unlearn-dtype is about a model"),
        ({"baseline": "tiny"}, "--unlearn-baseline=tiny: the other model of this run is at an"),
        ({"baseline": "http://h/v1#m"}, "is the tested model itself"),
        ({"probes": ("infill",)}, "is not known to fill in the middle"),
    ],
)
def test_flags_about_loaded_models_are_refused(more: dict[str, Any], message: str) -> None:
    plain = Settings("http://h/v1#m", parse_method("none"), engine="endpoint")
    check_endpoints(plain)
    with pytest.raises(UserError, match=message):
        check_endpoints(replace(plain, **more))


def test_requests_are_planned_and_a_budget_is_compared(
    tmp_path: Path, base: EndpointServer
) -> None:
    chosen = settings_of(tmp_path, base, baseline="http://h/v1#m")
    dataset = Dataset(chosen)
    cases, scored = FORGET + 2 * OTHERS + 1, FORGET + 2 * OTHERS
    (line,) = request_lines(chosen, dataset, 100)
    assert line.startswith(f"requests: {2 * cases} for completions, up to {2 * scored * 3} for")
    assert line.endswith("about 400 tokens at most")
    limited = replace(chosen, engine="endpoint:requests=100,tokens=1000")
    assert "the budget of 100 requests is less than" in request_lines(limited, dataset, 100)[1]
    assert len(request_lines(limited, dataset, 100)) == 2
