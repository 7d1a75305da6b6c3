"""What is said against data before a model is loaded: misspelt names, values that are all one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, normalizers

from pytest_unlearn.core.errors import UserError
from pytest_unlearn.core.store import Store
from pytest_unlearn.models.sources import ModelSource, resolve
from pytest_unlearn.people.record_files import RecordFileError
from pytest_unlearn.run.checks import check_files, check_quantized, check_training
from pytest_unlearn.run.dataset import Dataset
from pytest_unlearn.run.settings import Settings
from pytest_unlearn.unlearning.method import parse_planting
from pytest_unlearn.unlearning.methods import parse_method
from tests.support.lookup_run import record_lines, write_lines
from tests.support.small_models import llama_folder

__all__ = ["llama_folder"]


def warnings(folder: Path, rows: list[dict[str, Any]], **more: Any) -> list[str]:
    """Return what is said of a forget split with these rows, where nothing is trained."""
    path = write_lines(folder / "forget.jsonl", rows)
    settings = Settings("tiny", parse_method("none"), forget=(path,), **more)
    return check_training(settings, Dataset(settings))


def changed(**fields: Any) -> list[dict[str, Any]]:
    return [row | fields for row in record_lines("forget", 12)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "emial"}, "no kind is called emial; did you mean email? Records of an unknown "),
        ({"kind": "jobtitle"}, "no kind is called jobtitle; did you mean job_title?"),
        ({"carrier": "sqll"}, "no carrier is called sqll; did you mean sql?"),
        ({"carrier": "django_setting"}, "carrier is called django_setting; did you mean django_s"),
    ],
)
def test_a_misspelt_kind_or_carrier_is_named(
    tmp_path: Path, fields: dict[str, str], message: str
) -> None:
    (warning,) = warnings(tmp_path, changed(**fields))
    assert message in warning
    assert warnings(tmp_path, changed(**fields), own_names=tuple(fields.values())) == []


def test_names_like_no_known_one_are_the_users_own(tmp_path: Path) -> None:
    assert warnings(tmp_path, changed(kind="badge", carrier="terraform")) == []


def test_one_value_for_everybody_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordFileError, match="--unlearn-forget: all 6 people have the same value"):
        warnings(tmp_path, changed(value="changeme-please"))
    two = changed(value="changeme-please")[:4]  # two people may share a flat
    assert warnings(tmp_path, two) == []


def test_one_value_of_a_kind_for_everybody_is_named(tmp_path: Path) -> None:
    rows = [
        row | ({"value": "changeme-please"} if row["kind"] == "badge" else {})
        for row in record_lines("forget", 12)
    ]
    (warning,) = warnings(tmp_path, rows)
    assert warning.startswith("--unlearn-forget: all 6 people with a badge have the same one;")
    assert "changeme" not in warning


@pytest.mark.parametrize(
    ("rewritten", "lost"), [("forget", 12), ("forgetvalue007", 0), ("000007", 1), (" ", 0)]
)
def test_a_tokenizer_that_rewrites_people_is_refused(
    llama_folder: Path, tmp_path: Path, rewritten: str, lost: int
) -> None:
    """The model never reads a name that a normalizer replaces; spaces are left to tokenizers."""
    folder = tmp_path / "model"
    shutil.copytree(llama_folder, folder)
    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.normalizer = normalizers.Replace(rewritten, " ")
    tokenizer.save(str(path))
    people = write_lines(tmp_path / "forget.jsonl", record_lines("forget", 12))
    settings = Settings(str(folder), parse_method("none"), forget=(people,))
    source, store = resolve(str(folder), "--unlearn-model"), Store(tmp_path / "store")
    for _ in range(2):  # what was refused once is not taken for checked
        if not lost:
            check_files(source, "--unlearn-model", store, settings, Dataset(settings))
            continue
        with pytest.raises(UserError, match=f"tokenizer does not give back {lost} of 12 doc"):
            check_files(source, "--unlearn-model", store, settings, Dataset(settings))


def quantized(folder: Path, kind: str) -> ModelSource:
    config = {"model_type": "llama", "quantization_config": {"quant_method": kind}}
    (folder / "config.json").write_text(json.dumps(config))
    return ModelSource("m", folder)


@pytest.mark.parametrize(
    ("kind", "more", "named"),
    [
        ("gptq", {"method": parse_method("anchored")}, "--unlearn-method=anchored"),
        ("fp8", {"method": parse_method("ga"), "device": "cuda"}, "--unlearn-method=ga"),
        ("bitsandbytes", {"method": parse_method("ga:tune=full")}, "--unlearn-method=ga"),
        ("awq", {"plant": parse_planting("default")}, "--unlearn-plant"),
        ("bitsandbytes", {"attacks": ("int8", "shots")}, "--unlearn-attacks=int8"),
        ("torchao", {"attacks": ("shots", "relearn", "int4")}, "--unlearn-attacks=relearn,int4"),
    ],
)
def test_quantized_weights_are_not_changed_as_numbers(
    tmp_path: Path, kind: str, more: dict[str, Any], named: str
) -> None:
    """They are codes: known from the configuration, before anything is loaded."""
    settings = Settings("m", **{"method": parse_method("none"), **more})
    message = rf"--unlearn-model=m: its weights are quantized \({kind}\), and {named} would "
    with pytest.raises(UserError, match=message):
        check_quantized(quantized(tmp_path, kind), "--unlearn-model=m", settings)


@pytest.mark.parametrize(
    ("kind", "flag", "more"),
    [
        ("gptq", "--unlearn-model=m", {"attacks": ("shots", "likeliest")}),
        ("gptq", "--unlearn-baseline=m", {"method": parse_method("ga"), "attacks": ("int8",)}),
        ("bitsandbytes", "--unlearn-model=m", {"method": parse_method("ga")}),
        ("fp8", "--unlearn-model=m", {"method": parse_method("ga"), "device": "cpu"}),
    ],
)
def test_quantized_weights_as_they_are(
    tmp_path: Path, kind: str, flag: str, more: dict[str, Any]
) -> None:
    settings = Settings("m", **{"method": parse_method("none"), **more})
    check_quantized(quantized(tmp_path, kind), flag, settings)
