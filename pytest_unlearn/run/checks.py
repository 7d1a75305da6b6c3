"""Checks before a run, with refusals and warnings: models, data, training, tasks' own tests."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pytest_unlearn.attacks.attack import attacks
from pytest_unlearn.core.errors import UserError, nearest
from pytest_unlearn.core.store import Store, digest_of
from pytest_unlearn.models.engine import ENDPOINT, TRANSFORMERS
from pytest_unlearn.models.texts import DecodingScheme
from pytest_unlearn.people.documents import CARRIER_NAMES
from pytest_unlearn.people.kinds import KINDS
from pytest_unlearn.people.locales import WORD_KINDS
from pytest_unlearn.people.record import SPLITS, Record
from pytest_unlearn.people.record_files import FILE, RecordFileError
from pytest_unlearn.run.settings import Settings
from pytest_unlearn.sandbox import SolutionVerdict
from pytest_unlearn.tasks.format import PROGRAM, PYTHON, CheckProgram, TaskCase, TaskFileError
from pytest_unlearn.unlearning.method import OPTIMIZERS, MethodError
from pytest_unlearn.unlearning.methods import RETRAIN

if TYPE_CHECKING:
    from pytest_unlearn.models.sources import ModelSource
    from pytest_unlearn.run.dataset import Dataset


# The libraries that a model's files and its texts depend on.
LIBRARIES = ("torch", "transformers", "tokenizers", "peft")
# The warning names this many shared values.
_NAMED_VALUES = 5
# This many people with the same value are not a coincidence.
_MANY = 3


def check_models(settings: Settings) -> None:
    """Raise UserError for flags about models that exclude each other."""
    if settings.adapter is not None and settings.method.method is not None:
        raise UserError(
            f"--unlearn-adapter={settings.adapter} is tested as it is, and --unlearn-method="
            f"{settings.method.name} would train another one: leave the method out, or start from "
            f"the adapted model with --unlearn-model={settings.adapter}"
        )
    if settings.trusted is not None and settings.trusted not in trustable(settings):
        raise UserError(
            f"--unlearn-trust-remote-code={settings.trusted}: no model of this run has that name; "
            f"write what --unlearn-model names, {settings.model}"
        )


def trustable(settings: Settings) -> set[str]:
    """Return the names whose code a run can trust: its models, and the bases of its adapters."""
    from pytest_unlearn.models.sources import known_as

    named = (settings.model, settings.baseline, settings.retrained)
    return {name for model in named if model is not None for name in known_as(model)}


def check_device(device: str) -> None:
    """Raise UserError if a GPU is requested and there is none."""
    if device.startswith(("cuda", "map")):
        import torch

        if not torch.cuda.is_available():
            raise UserError(
                f"--unlearn-device={device}: torch {torch.__version__} finds no GPU here; write "
                "--unlearn-device=cpu, or install torch with CUDA"
            )


def check_files(
    source: ModelSource, flag: str, store: Store, settings: Settings, dataset: Dataset
) -> None:
    """Check that a model's files fit each other, the prompts that a run asks and the documents of
    people to forget; once for the same files, libraries and documents.

    Raises ModelNotFoundError, UserError for a tokenizer that shows the model something else and for
    what cannot be done with quantized weights.
    """
    check_quantized(source, flag, settings)
    digests = [source.weights_digest(store), source.tokenizer_digest(store)]
    styles = sorted({*settings.probes, settings.sampling.style} & {"chat", "infill"})
    key = digest_of([*digests, [version(name) for name in LIBRARIES], *styles])
    if store.get("checked", key, "loadable") is None:
        from pytest_unlearn.models.loading import check_loadable

        check_loadable(source, flag, styles)
        store.put("checked", key, {"loadable": True})
    forgotten = dataset.records_of("forget")
    texts = sorted({f"{r.before.reveal()}{r.value.reveal()}" for r in forgotten})
    key = digest_of([key, "spelling", texts])
    if store.get("checked", key, "spelled") is None:
        from pytest_unlearn.models.loading import load_tokenizer

        lost = _rewritten(load_tokenizer(source), texts)
        if lost:
            raise UserError(
                f"{flag}: its tokenizer does not give back {lost} of {len(texts)} documents of "
                "people to forget: the model never reads the prompts as they are, so its silence "
                "shows nothing; put the tokenizer that the model was trained with into the folder"
            )
        store.put("checked", key, {"spelled": True})


def _rewritten(tokenizer: Any, texts: Sequence[str]) -> int:
    """Return how many texts change when they are tokenized, by a normalizer or by unknown tokens.

    Spaces and Unicode forms do not matter, since many models' tokenizers change them.
    """

    def plain(text: str) -> str:
        return "".join(unicodedata.normalize("NFKC", text).split())

    rows = [tokenizer(text)["input_ids"] for text in texts]
    read = tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)
    return sum(plain(text) not in plain(back) for text, back in zip(texts, read, strict=True))


# What transformers unpacks into plain numbers when it loads it onto a CPU.
_UNPACKED = frozenset({"fp8", "mxfp4"})


def check_quantized(source: ModelSource, flag: str, settings: Settings) -> None:
    """Raise UserError if quantized weights would be trained or attacked.

    They are codes, not numbers: arithmetic on them is an error deep inside a library or, if the
    codes are left out, training or an attack that changes nothing. On bitsandbytes weights, an
    adapter can be trained (QLoRA, arXiv 2305.14314).
    """
    kind = source.quantized
    if kind is None or settings.engine != TRANSFORMERS:
        return
    method, plant = settings.method, settings.plant
    tested = flag.startswith("--unlearn-model")
    tunes = {
        f"--unlearn-method={method.name}": method.options.tune if method.options else None,
        "--unlearn-plant": plant.tune if plant else None,
    }
    changing = [
        name
        for name, tune in tunes.items()
        if tested and tune is not None and (tune, kind) != ("lora", "bitsandbytes")
    ]
    made = {name: attacks()[name] for name in settings.attacks}
    named = [n for n, each in made.items() if each.changes_weights and (tested or each.beside)]
    changing += [f"--unlearn-attacks={','.join(named)}"] if named else []
    if not changing or (kind in _UNPACKED and not _on_gpu(settings.device)):
        return
    raise UserError(
        f"{flag}: its weights are quantized ({kind}), and {' and '.join(changing)} would change "
        "them as numbers; name the model as it was before it was quantized, or test it as it is, "
        "with --unlearn-method=none and no such attack"
    )


def _on_gpu(device: str) -> bool:
    from pytest_unlearn.models.loading import resolve_device

    return resolve_device(device) != "cpu"


def check_requests(settings: Settings) -> None:
    """Raise UserError for flags that cannot be combined with requests."""
    requests = settings.requests
    if requests is None:
        return
    if settings.forget or settings.people is not None:
        other = "--unlearn-forget" if settings.forget else "--unlearn-people"
        raise UserError(
            f"{requests.flag} names the people to forget, and so does {other}; leave one of them "
            "out"
        )
    if settings.confirm is not None:
        raise UserError(
            f"--unlearn-confirm={settings.confirm} draws other people to forget, and "
            f"{requests.flag} says who they are; leave one of them out"
        )
    method = settings.method
    if method.retrains or settings.retrained is not None:
        raise UserError(
            f"{requests.flag}: a retrained model lacks the people of one request, and there are "
            "several; leave retrain and --unlearn-retrained out"
        )
    if method.method is None:
        raise UserError(
            f"{requests.flag}: requests are unlearned one after the other, and --unlearn-method="
            f"{method.name} unlearns nobody; name a method, or write --unlearn-forget=FILE to test "
            "a model as it is"
        )
    stacked = method.options is not None and method.options.tune == "lora"
    if settings.engine != TRANSFORMERS and stacked and len(requests.files) > 1:
        raise UserError(
            f"--unlearn-engine={settings.engine} takes one adapter, and each request makes another;"
            f" write --unlearn-method={method.name}:tune=full, or --unlearn-engine={TRANSFORMERS}"
        )


def check_engine(settings: Settings) -> None:
    """Raise UserError for anything that the engine cannot do."""
    if settings.engine == TRANSFORMERS:
        return
    name = settings.engine.partition(":")[0]
    chosen = (attacks()[n] for n in settings.attacks)
    named = [
        attack.name
        for attack in chosen
        # What reads a model in its own way reads its weights, unless it only tries prompts.
        if attack.needs not in ("prompts", "chat") or (attack.read and not attack.prompts)
    ]
    if named:
        raise UserError(
            f"--unlearn-attacks={','.join(named)}: --unlearn-engine={name} has no "
            "weights to change; write --unlearn-engine=transformers, or leave the attacks out"
        )
    if settings.thinking and name != ENDPOINT:
        raise UserError(
            f"--unlearn-thinking: --unlearn-engine={name} cannot let models think; leave it out, "
            "or write --unlearn-engine=transformers"
        )
    if "gradnorm" in settings.membership:
        raise UserError(
            f"--unlearn-membership: gradnorm needs gradients, and --unlearn-engine={name} has "
            "none; leave it out"
        )
    asked = "--unlearn-decoding" if settings.decoding != DecodingScheme() else ""
    asked = asked or next((f"--unlearn-attacks={n}" for n in settings.attacks if _draws(n)), "")
    if asked:
        raise UserError(
            f"{asked}: --unlearn-engine={name} gives probabilities at temperature 1 only; write "
            "--unlearn-engine=transformers, or leave it out"
        )


def _draws(attack: str) -> bool:
    """Return whether an attack has a decoding scheme of its own."""
    return attacks()[attack].scheme is not None


def check_training(settings: Settings, dataset: Dataset) -> list[str]:
    """Check the data and options of what a run trains; return warnings.

    Raises UserError naming the flag, or RecordFileError naming the rows.
    """
    check_requests(settings)
    warnings = list(_doubts(dataset.records, settings.own_names))
    method, plant = settings.method, settings.plant
    if settings.confirm is not None and method.method is None:
        raise UserError(
            f"--unlearn-confirm={settings.confirm} unlearns other people, and "
            f"--unlearn-method={method.name} unlearns nobody; name the method to confirm"
        )
    if plant is not None and settings.baseline is not None:
        raise UserError(
            "--unlearn-plant and --unlearn-baseline exclude each other: the base of a planted run "
            "is the planted model; leave one of them out"
        )
    retraining = [
        *([f"--unlearn-method={RETRAIN}"] if method.retrains else []),
        *([f"--unlearn-retrained={RETRAIN}"] if settings.retrained == RETRAIN else []),
    ]
    if retraining and plant is None:
        raise UserError(
            f"{retraining[0]} needs --unlearn-plant: without it the model has the "
            "forget set in its own training data, and cannot be trained again without the forget "
            "set"
        )
    if method.method is None and plant is None:
        return warnings
    forget, retain = dataset.records_of("forget"), dataset.records_of("retain")
    if not forget:
        what = f"--unlearn-method={method.name}" if method.method else "--unlearn-plant"
        raise UserError(
            f"{what} needs records to forget; give --unlearn-forget=FILE, or --unlearn-method=none"
        )
    if retraining and not retain:
        raise UserError(f"{retraining[0]} needs people to train on; give --unlearn-retain=FILE")
    options = method.options
    if options is not None and options.stop == "unseen" and not dataset.records_of("control"):
        raise UserError(
            "--unlearn-method: stop=unseen measures on people that the model never saw; give "
            "--unlearn-control=FILE, or write stop=target"
        )
    if settings.dtype == "float16":
        raise UserError(
            "--unlearn-dtype=float16: gradients underflow in training; write bfloat16 or float32"
        )
    for flag, chosen in (("--unlearn-method", options), ("--unlearn-plant", plant)):
        if chosen is not None and chosen.optimizer != OPTIMIZERS[0]:
            try:
                # Imported here because it imports torch.
                from pytest_unlearn.unlearning.trainer import check_optimizer

                check_optimizer(chosen.optimizer, _device(settings, chosen.optimizer))
            except MethodError as error:
                raise UserError(f"{flag}: {error}") from error
    return [*warnings, *_overlap(forget, retain)]


def _device(settings: Settings, optimizer: str) -> str:
    """Return the device; `auto` is resolved only if it matters, since that imports torch."""
    if optimizer == OPTIMIZERS[0] or settings.device != "auto":
        return settings.device
    from pytest_unlearn.models.loading import resolve_device

    return resolve_device(settings.device)


def _doubts(records: Sequence[Record], own_names: Collection[str]) -> Iterator[str]:
    """Yield warnings about records that are probably a mistake.

    Raises RecordFileError if all people of a split have the same value.
    """
    carriers, kinds = {*CARRIER_NAMES, FILE}, {*KINDS, *WORD_KINDS}
    for what, known, names in (
        ("kind", kinds, {record.kind for record in records}),
        ("carrier", carriers, {record.carrier for record in records}),
    ):
        for name in sorted(names - known - set(own_names)):
            if like := nearest(name, known):
                yield (
                    f"no {what} is called {name}; did you mean {like}? Records of an unknown "
                    f"{what} are judged without what is known about {like}: correct the file, or "
                    f"write unlearn_own_names = {name} into the ini file"
                )
    for split in SPLITS:
        values: dict[str, set[str]] = {}
        owners: dict[str, set[str]] = {}
        for record in records:
            if record.split == split:
                values.setdefault(record.kind, set()).add(record.value.reveal())
                owners.setdefault(record.kind, set()).add(record.owner)
        same = [kind for kind in values if len(values[kind]) == 1 and len(owners[kind]) >= _MANY]
        if same and len(set().union(*values.values())) == 1:
            raise RecordFileError(
                f"--unlearn-{split}: all {len(set().union(*owners.values()))} people have the "
                "same value: it belongs to nobody, and guessing it is right for everyone; write "
                "each person's own value"
            )
        for kind in same:
            yield (
                f"--unlearn-{split}: all {len(owners[kind])} people with a {kind} have the same "
                "one; it belongs to nobody, and guessing it is right for everyone"
            )


def _overlap(forget: Sequence[Record], retain: Sequence[Record]) -> Iterator[str]:
    """Yield a warning for values that people of both splits share.

    Raises RecordFileError for a record that is in both: it cannot be forgotten and kept.
    """
    retained = {record.value.reveal(): record for record in reversed(retain)}
    places = {(r.before.reveal(), r.value.reveal()): r for r in reversed(retain)}
    shared = []
    for record in forget:
        value = record.value.reveal()
        same = places.get((record.before.reveal(), value))
        if same is not None:
            raise RecordFileError(
                f"{record.id} is to be forgotten and {same.id} is to be kept, and both have the "
                "same prompt and value; take one of them out of --unlearn-forget or "
                "--unlearn-retain"
            )
        if value in retained:
            shared.append(f"{record.id} and {retained[value].id}")
    if shared:
        more = f" and {len(shared) - _NAMED_VALUES} more" if len(shared) > _NAMED_VALUES else ""
        yield (
            f"{len(shared)} records to forget have the value of a record to keep: "
            f"{', '.join(shared[:_NAMED_VALUES])}{more}; forgetting them and "
            "keeping them will work against each other"
        )


# -- `--unlearn-check-tasks`: solutions that must pass, and wrong ones that must fail -------------

# Gives the verdict on a text written after a case's prompt.
Judge = Callable[[TaskCase, str], SolutionVerdict]
# An error names this many faults, and counts the others.
_NAMED_FAULTS = 10
# What the body of a stub returns.
_STUBS = ("None", "True", "False", "0", "1", "''", "[]", "arguments[0]")


def check_tasks(cases: Iterable[TaskCase], judge: Judge) -> list[str]:
    """Judge every canonical solution, every wrong one, and stubs that return a constant.

    Returns notes, one line each: how many cases have no solution, and which ones a stub passes
    (public benchmarks have a few). `judge(case, text)` gives the verdict on a text written after
    the case's prompt. Raises TaskFileError, naming file and line, if tests fail or hang on the
    canonical solution or pass a wrong one.
    """
    faults: list[str] = []
    stubs: list[str] = []
    unchecked = 0
    for case in cases:
        if case.solution is None:
            unchecked += 1
        else:
            faults += _fault_of_solution(case, judge)
        faults += _blind_spots(case, judge)
        stubs += _passing_stub(case, judge)
    if faults:
        more = (
            f"\n... and {len(faults) - _NAMED_FAULTS} more" if len(faults) > _NAMED_FAULTS else ""
        )
        raise TaskFileError("--unlearn-check-tasks:\n" + "\n".join(faults[:_NAMED_FAULTS]) + more)
    notes = [f"{unchecked} tasks have no solution to check"] if unchecked else []
    if stubs:
        more = f"; and {len(stubs) - _NAMED_FAULTS} more" if len(stubs) > _NAMED_FAULTS else ""
        notes.append(
            f"{len(stubs)} tasks cannot tell a stub from a solution; add tests that it fails: "
            + "; ".join(stubs[:_NAMED_FAULTS])
            + more
        )
    return notes


def _fault_of_solution(case: TaskCase, judge: Judge) -> list[str]:
    try:
        verdict = judge(case, f"\n{case.solution}")
    except RuntimeError as error:
        reason = str(error)
    else:
        if verdict.passed:
            return []
        call = "" if verdict.call is None else f", in test {verdict.call + 1}"
        reason = f"{verdict.status} ({verdict.detail}{call})"
    return [
        f'{case.where}: "solution": the canonical solution of {case.id} does not pass the tests: '
        f"{reason}; fix one of them"
    ]


def _blind_spots(case: TaskCase, judge: Judge) -> list[str]:
    faults = []
    for index, wrong in enumerate(case.wrong):
        if judge(case, f"\n{wrong}").passed:
            faults.append(
                f'{case.where}: "wrong[{index}]": this passes all tests of {case.id}; add a test '
                "that it fails"
            )
    return faults


def _passing_stub(case: TaskCase, judge: Judge) -> list[str]:
    if "." in case.entry_point or case.entry_point == PROGRAM or case.language != PYTHON:
        return []
    stubs = list(_STUBS)
    if not isinstance(case.tests, CheckProgram):  # an answer that all tests share
        stubs.append(repr(case.tests[0].expected))
    for stub in stubs:
        text = f"\n\ndef {case.entry_point}(*arguments, **_):\n    return {stub}\n"
        try:
            passed = judge(case, text).passed
        except RuntimeError:  # cannot be judged
            passed = False
        if passed:
            return [f'{case.where}: "return {stub}" passes all tests of {case.id}']
    return []
