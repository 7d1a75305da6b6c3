"""Installed packages are importable when allowed, with what they require, and only then."""

from __future__ import annotations

import importlib.util
from importlib import metadata

import pytest

from pytest_unlearn.sandbox import ImportNotFoundError, Sandbox
from pytest_unlearn.sandbox.helper import find_packages
from pytest_unlearn.tasks.format import Call, CheckProgram

numpy = pytest.mark.skipif(not importlib.util.find_spec("numpy"), reason="needs numpy")
SOURCE = """
import numpy as np
def f(a):
    import numpy.linalg, numpy.fft
    return np.float64(np.linalg.norm(np.array(a)))
"""


@numpy
def test_numpy_is_importable_when_allowed() -> None:
    tests = [Call(([3, 4],), 5.0)]
    with Sandbox() as closed:
        assert "No module named 'numpy'" in closed.run(SOURCE, "f", tests).detail
    with Sandbox(imports=["numpy"]) as it:
        verdict = it.run(SOURCE, "f", tests)
        assert verdict.passed, verdict
        # Plain numbers cross as such; an array does not.
        for value, expected in (("int64(3)", 3), ("bool_(True)", True), ("str_('x')", "x")):
            source = f"import numpy as np\ndef f(): return [np.{value}]"
            assert it.run(source, "f", [Call((), [expected])]).passed
        source = "import numpy as np\ndef f(): return np.zeros(3)"
        assert it.run(source, "f", [Call((), [0.0] * 3)]).status == "wrong_answer"
        program = CheckProgram("import numpy as np\nassert np.isclose(f([3, 4]), 5)")
        assert it.run(SOURCE, "f", program).passed
        # Everything else stays as it was.
        for name in ("pytest", "pytest_unlearn"):
            detail = it.run(f"def f(): import {name}", "f", [Call((), 1)]).detail
            assert detail.startswith(f"ModuleNotFoundError: No module named '{name}'")


def test_requirements_are_found() -> None:
    packages = find_packages(["pytest"])
    assert {"pytest", "_pytest", "pluggy", "iniconfig", "packaging"} <= set(packages.modules)
    assert "torch" not in packages.modules
    assert any(path.endswith("/pluggy") for path in packages.paths)
    assert not any(".." in path for path in packages.paths)


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(ImportNotFoundError, match="no_such_package: no installed package"):
        Sandbox(imports=["no_such_package"])


def test_a_requirement_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.distribution

    def distribution(name: str) -> metadata.Distribution:
        if name == "pluggy":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "distribution", distribution)
    assert "pluggy" not in find_packages(["pytest"]).modules
