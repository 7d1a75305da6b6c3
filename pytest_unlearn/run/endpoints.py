"""The models of a run that are served at addresses: base and tested endpoint.

Their weights are elsewhere and nothing is trained: an endpoint is tested as it is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from pytest_unlearn.attacks.attack import BOTH, attacks
from pytest_unlearn.core.errors import UserError, naming
from pytest_unlearn.models.endpoint import EndpointEngine, EndpointModel, connect
from pytest_unlearn.models.endpoint_client import (
    KEY_VARIABLE,
    Address,
    Client,
    EndpointError,
    EndpointOptions,
    checked_key,
    parse_address,
)
from pytest_unlearn.models.engine import engine_named, is_address
from pytest_unlearn.run.models import AttackedState

if TYPE_CHECKING:
    from pytest_unlearn.attacks.attack import Attack
    from pytest_unlearn.run.dataset import Dataset
    from pytest_unlearn.run.models import Completer, State
    from pytest_unlearn.run.settings import Settings

# The number of processes that run tests; each gets its share of an endpoint's limits.
_WORKERS = "PYTEST_XDIST_WORKER_COUNT"


class EndpointModels:
    """The models at the addresses that the settings name; see the module's docstring."""

    def __init__(self, settings: Settings, progress: Callable[[str], None]) -> None:
        """Read the addresses.

        Raises UserError for a wrong one, and for a flag about loaded models.
        """
        check_endpoints(settings)
        engine: Any = engine_named(settings.engine)
        self._engine: EndpointEngine = engine
        self._settings = settings
        self._progress = progress
        self._addresses = addresses(settings)
        self._models: dict[Address, EndpointModel] = {}

    def prepare(self, state: State) -> None:
        """Do nothing, since nothing has to be made."""

    def resolve(self) -> None:
        """Find out what each endpoint can do, and report it. Raises UserError."""
        for flag, address in self._addresses.items():
            model = self._model(flag)
            for line in model.facts.lines():
                self._progress(f"{address.url}#{model.facts.model}: {line}")
        self._check_styles()

    def _check_styles(self) -> None:
        """Raise UserError for probes or tasks that an endpoint cannot take."""
        settings = self._settings
        chats = [family == "chat" for family in settings.probes or ("direct",)]
        asked: set[str] = {settings.sampling.style}
        asked |= {"chat"} if any(chats) else set()
        asked |= {"completion"} if not all(chats) else set()
        for flag in self._addresses:
            facts = self._model(flag).facts
            if "completion" in asked and not facts.completes:
                raise UserError(
                    f"{flag}: the endpoint takes messages only; write --unlearn-probes=chat "
                    "--unlearn-task-style=chat"
                )
            if "chat" in asked and not facts.chat:
                raise UserError(
                    f"{flag}: the endpoint does not answer messages; leave chat out of "
                    "--unlearn-probes and --unlearn-task-style"
                )

    def key(self, state: State) -> dict[str, Any]:
        """Return everything known about an endpoint that can change what it writes or how values
        are scored, without its API key and its speed limits."""
        flag = self._flag(state)
        facts = self._model(flag).facts
        return {
            "engine": {
                "name": self._engine.name,
                **self._engine.key(),
                "url": self._addresses[flag].url,
                "model": facts.model,
                "server": facts.version,
                "written": facts.written,
                "plain": facts.plain,
                "seeded": facts.seeded,
                "scores": facts.scores or f"none: {facts.why}",
            },
            "thinking": self._settings.thinking,
            "dtype": "unknown",
        }

    def model(self, state: State) -> Completer:
        """Return the model at an address. Raises UserError."""
        return self._model(self._flag(state))

    @contextlib.contextmanager
    def attacked(
        self, attack: Attack, of: State = "unlearned"
    ) -> Iterator[Iterator[AttackedState]]:
        """Ask a model with an attack's prompts; `check_endpoints` refuses other attacks."""
        model = self.model(of)
        yield (AttackedState(state, BOTH, model) for state in attack.states)

    def stored_unlearning(self) -> None:
        """Return None, since nothing is unlearned."""

    def stored_planting(self) -> None:
        """Return None, since nothing is planted."""

    def release(self) -> None:
        """Close the connections."""
        for model in self._models.values():
            model.close()

    def lines(self) -> list[str]:
        """Return what each endpoint can do and what this process requested, one line each."""
        texts = []
        for address, model in self._models.items():
            requests, tokens = model.spent
            texts += [f"{address.url}#{model.facts.model}: {line}" for line in model.facts.lines()]
            texts[-1] += f"; {requests:,} requests and {tokens:,} tokens by the main process"
        return texts

    def _flag(self, state: State) -> str:
        if state == "retrained":
            return "--unlearn-retrained"
        compared = state == "base" and "--unlearn-baseline" in self._addresses
        return "--unlearn-baseline" if compared else "--unlearn-model"

    def _model(self, flag: str) -> EndpointModel:
        address = self._addresses[flag]
        if address not in self._models:
            options = self._engine.options
            key = key_of(flag, self._addresses, options)
            client = Client(address, options, key, int(os.environ.get(_WORKERS, "1")))
            settings = self._settings
            chat = settings.sampling.style == "chat" or "chat" in settings.probes
            chat = chat or any(attacks()[name].needs == "chat" for name in settings.attacks)
            try:
                with naming(flag):
                    self._models[address] = connect(client, chat, settings.thinking)
            except EndpointError as error:
                raise UserError(f"{flag}: {error}") from error
        return self._models[address]


# A score takes one request for itself, and two for the tokens of its prompt and of its text.
_REQUESTS_A_SCORE = 3


def request_lines(settings: Settings, dataset: Dataset, tokens: int) -> list[str]:
    """Return how much a run requests from its endpoints, and whether its budget allows that.

    `tokens`: the most tokens of all prompts and completions for one endpoint.
    """
    states = 1 + (settings.baseline is not None)
    cases = len(dataset.chunk_of_case)
    scored = sum(probe.exact for probe in dataset.probes)
    scored += sum(case.solution is not None for case in dataset.tasks)
    cases += sum(len(chunk.cases) for chunk in map(dataset.drawn, dataset.probes) if chunk)
    completions, scores = states * cases, states * scored * _REQUESTS_A_SCORE
    if settings.retrained is not None:
        scores += scored * _REQUESTS_A_SCORE
    tokens *= 2 * states  # a score reads the prompt again
    lines = [
        f"requests: {completions:,} for completions, up to {scores:,} for scores (where the "
        f"endpoint can give them); about {tokens:,} tokens at most"
    ]
    engine: Any = engine_named(settings.engine)
    for name, needed in (("requests", completions + scores), ("tokens", tokens)):
        allowed = getattr(engine.options, name)
        if allowed and allowed < needed:
            lines.append(
                f"may end in errors: the budget of {allowed:,} {name} is less than {needed:,}; "
                "a later run does not repeat what is stored by then"
            )
    return lines


def addresses(settings: Settings) -> dict[str, Address]:
    """Return the addresses of a run by the flags that name them. Raises UserError."""
    named = {
        "--unlearn-model": settings.model,
        "--unlearn-baseline": settings.baseline,
        "--unlearn-retrained": settings.retrained,
    }
    parsed = {}
    for flag, name in named.items():
        if name is not None and not is_address(name):
            raise UserError(
                f"{flag}={name}: the other model of this run is at an address, so all have to be: "
                "serve this one as well, and name http://HOST:PORT/v1#NAME"
            )
        if name is not None:
            parsed[flag] = parse_address(name, flag)
    return parsed


def key_of(flag: str, named: dict[str, Address], options: EndpointOptions) -> str | None:
    """Return the API key for an endpoint, or None. A key only goes to the address it is meant for.

    Raises UserError if the named variable is not set, or does not hold a valid key.
    """
    same = named[flag].origin == named["--unlearn-model"].origin
    variable = options.key if same or flag == "--unlearn-model" else ""
    if flag != "--unlearn-model" and options.baseline_key:
        variable = options.baseline_key
    if variable and not os.environ.get(variable):
        raise UserError(
            f"--unlearn-engine=endpoint: the environment variable {variable} is not set; put the "
            f"key of {named[flag].url} into it"
        )
    if not variable and not same:
        return None
    variable = variable or KEY_VARIABLE
    return checked_key(os.environ.get(variable, ""), variable) or None


def all_keys(settings: Settings) -> frozenset[str]:
    """Return the keys that a run may send, which no output may show; none if models are loaded."""
    engine: object = engine_named(settings.engine)
    if not isinstance(engine, EndpointEngine):
        return frozenset()
    names = (KEY_VARIABLE, engine.options.key, engine.options.baseline_key)
    return frozenset(key for name in names if (key := os.environ.get(name, "").strip()))


def check_endpoints(settings: Settings) -> None:
    """Raise UserError for flags that need models which are loaded here."""
    addresses(settings)
    if settings.method.method is not None or settings.method.retrains:
        raise UserError(
            f"--unlearn-method={settings.method.name}: the weights of {settings.model} are not "
            "here to be trained; leave the method out, and name the base with --unlearn-baseline"
        )
    loaded = {
        "--unlearn-plant": settings.plant is not None,
        "--unlearn-adapter": settings.adapter is not None,
        "--unlearn-revision": settings.revision is not None,
        "--unlearn-trust-remote-code": settings.trusted is not None,
        "--unlearn-device": settings.device != "auto",
        "--unlearn-dtype": settings.dtype != "auto",
    }
    for flag, value in loaded.items():
        if value:
            raise UserError(
                f"{flag} is about a model that is loaded here, and {settings.model} runs "
                "elsewhere; leave it out"
            )
    if settings.baseline is not None and settings.baseline == settings.model:
        raise UserError(
            f"--unlearn-baseline={settings.baseline} is the tested model itself; name the model "
            "before unlearning, or leave it out"
        )
    if "infill" in settings.probes or settings.sampling.style == "infill":
        raise UserError(
            f"--unlearn-probes, --unlearn-task-style: {settings.model} is not known to fill in the "
            "middle; leave infill out"
        )
