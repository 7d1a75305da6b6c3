"""What is collected, and how the plugin behaves when no model is named."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.lookup_run import CONTROL, FORGET, RETAIN, TASKS, UnlearnRun

ALL = FORGET + RETAIN + CONTROL + TASKS

MARKED = """
    import pytest

    @pytest.mark.unlearn_forget(kind="email")
    def test_marked(unlearn_probe, unlearn_completions):
        assert unlearn_completions.unlearned.outcome.label != "direct"

    @pytest.mark.unlearn_critical
    def test_mark_only():
        pass

    def test_task(unlearn_task):
        pass

    def test_model(unlearn_model, unlearn_base_model):
        pass

    def test_ordinary():
        pass
"""


def test_inert_without_a_model(pytester: pytest.Pytester) -> None:
    """Tests of the plugin skip for one reason; others run; nothing is printed."""
    pytester.makepyfile(MARKED)
    result = pytester.runpytest_inprocess("-rs", "--strict-markers")
    result.assert_outcomes(passed=1, skipped=4)
    result.stdout.fnmatch_lines(["SKIPPED*needs --unlearn-model"])
    result.stdout.no_fnmatch_line("*unlearning*")
    result.stdout.no_fnmatch_line("unlearn:*")


def test_inert_run_imports_nothing_heavy(pytester: pytest.Pytester) -> None:
    """Without a model neither torch nor the plugin's own rooms are imported."""
    pytester.makepyfile(MARKED)
    code = (
        "import sys, pytest; pytest.main(['-q', '-p', 'no:hypothesispytest', '-p', 'no:faker']);"
        "heavy = {'torch', 'transformers', 'peft', 'huggingface_hub', 'filelock'};"
        "own = {'pytest_unlearn.' + n for n in"
        " ('session.session', 'run.measuring', 'run.dataset', 'models.endpoint_client')};"
        "print('imported', sorted((heavy | own) & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "imported []" in run.stdout


def test_collecting_loads_no_torch(unlearn_run: UnlearnRun) -> None:
    """`--collect-only` with a model reads data only."""
    code = (
        "import sys, pytest;"
        "pytest.main(['--unlearn-model=tiny', '--collect-only', '-q', '-p', 'no:cacheprovider']);"
        "print('imported', sorted({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=unlearn_run.pytester.path,
    )
    assert "1664 tests collected" in run.stdout
    assert "imported []" in run.stdout


def test_no_path_collects_the_suite_and_unlearn_testpaths(unlearn_run: UnlearnRun) -> None:
    """`testpaths` are the ordinary tests and stay out; `unlearn_testpaths` come in."""
    unlearn_run.lookup()
    own = unlearn_run.pytester.mkdir("own")
    (own / "test_own.py").write_text("def test_own(unlearn_task): pass\n")
    other = unlearn_run.pytester.mkdir("other")
    (other / "test_other.py").write_text("def test_other(): pass\n")
    unlearn_run.pytester.makeini("[pytest]\ntestpaths = other\nunlearn_testpaths = own\n")
    result = unlearn_run("--collect-only", "-q")
    result.stdout.fnmatch_lines(
        ["*test_leakage.py::test_forgotten?direct-email-forget-000?", "own/test_own.py::test_own*"]
    )
    result.stdout.no_fnmatch_line("*test_other*")


def test_a_path_collects_that_path_only(unlearn_run: UnlearnRun) -> None:
    """A named path is taken at its word."""
    unlearn_run.lookup()
    unlearn_run.pytester.makepyfile(test_mine="def test_mine(unlearn_task): pass\n")
    result = unlearn_run("--collect-only", "-q", "test_mine.py")
    result.stdout.fnmatch_lines([f"{TASKS} tests collected*"])


def test_suite_by_module_name(unlearn_run: UnlearnRun) -> None:
    """`--pyargs pytest_unlearn.suite` names the bundled suite, with search and attacks."""
    unlearn_run.lookup()
    result = unlearn_run("--collect-only", "-q", "--pyargs", "pytest_unlearn.suite")
    result.stdout.fnmatch_lines([f"{ALL + 2} tests collected*"])


def test_a_users_own_test(unlearn_run: UnlearnRun) -> None:
    """Fixtures and markers as the documentation shows them; a critical leak fails its test."""
    unlearn_run.lookup(leaking=["direct-email-forget-000"])
    unlearn_run.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.unlearn_critical
        @pytest.mark.unlearn_forget(kind="email")
        def test_no_email_at_all(unlearn_probe, unlearn_completions):
            assert unlearn_probe.kind == "email"

        def test_still_codes(unlearn_task, unlearn_completions):
            assert unlearn_completions.unlearned.outcome.passed

        def test_model(unlearn_model, unlearn_base_model):
            prompt = "retain user 0 email = '"
            assert unlearn_model.complete([prompt]) == unlearn_base_model.complete([prompt])
        """
    )
    result = unlearn_run("test_a_users_own_test.py")
    result.assert_outcomes(failed=1, passed=FORGET // 2 - 1 + TASKS + 1 + 1, skipped=2)
    result.stdout.fnmatch_lines(["*direct-email-forget-000 leaked: direct, exact, email of *"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def test(unlearn_probe, unlearn_task): pass", "*not for both*"),
        (
            "import pytest\n@pytest.mark.unlearn_forget(kid='x')\ndef test(unlearn_probe): pass",
            "*unlearn_forget takes kind=, carrier= and probe=, not ?'kid'?*",
        ),
        (
            "import pytest\n@pytest.mark.unlearn_forget(kind='x')\ndef test(unlearn_probe): pass",
            "*no record has kind='x'; known: badge, email*",
        ),
    ],
)
def test_wrong_use_is_a_usage_error(unlearn_run: UnlearnRun, source: str, message: str) -> None:
    """A test that asks for what is not there says so at collection."""
    unlearn_run.lookup()
    unlearn_run.pytester.makepyfile(test_it=source)
    result = unlearn_run("test_it.py")
    assert result.ret in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED)
    assert any(
        pytest.LineMatcher([line]).str().strip() and __import__("fnmatch").fnmatch(line, message)
        for line in [*result.outlines, *result.errlines]
    )


def test_completions_need_a_row(unlearn_run: UnlearnRun) -> None:
    """`unlearn_completions` alone has nothing to complete."""
    unlearn_run.lookup()
    unlearn_run.pytester.makepyfile(test_it="def test_it(unlearn_completions): pass")
    result = unlearn_run("test_it.py")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*unlearn_completions needs unlearn_probe or unlearn_task*"])


def test_works_without_xdist_and_without_cache(unlearn_run: UnlearnRun) -> None:
    """Neither plugin is needed."""
    unlearn_run.lookup()
    result = unlearn_run("-p", "no:xdist", "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.OK


def test_works_without_autoload(unlearn_run: UnlearnRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """With autoload off, `-p pytest_unlearn.plugin` is enough."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    unlearn_run.lookup()
    result = unlearn_run("-p", "pytest_unlearn.plugin", subprocess=True)
    assert result.ret == pytest.ExitCode.OK


def test_help_and_markers_are_described(pytester: pytest.Pytester) -> None:
    """Flags, ini keys, markers and fixtures explain themselves."""
    shown = pytester.runpytest_inprocess("--help").stdout.str()
    for word in ("--unlearn-model=NAME", "--unlearn-method=METHOD", "unlearn_testpaths"):
        assert word in shown
    assert "unlearn_critical" in pytester.runpytest_inprocess("--markers").stdout.str()
    assert "unlearn_completions" in pytester.runpytest_inprocess("--fixtures").stdout.str()
