"""The doctor tells a machine that can do the main job from one that cannot, and says what to mend."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from vivavoce.apps import cli, doctor

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_machine_that_runs_these_tests_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    assert "can make portraits speak" in capsys.readouterr().out


def _library(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(doctor, "missing_libraries", lambda: ["libGL.so.1"])
    return "libgl1"


def _package(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(metadata, "requires", lambda name: ["surely-not-there>=1"])
    return "pip install surely-not-there"


def _broken_package(monkeypatch: pytest.MonkeyPatch) -> str:
    def refuse(name: str) -> None:
        if name == "numba":
            raise ImportError(f"{name} is broken")

    monkeypatch.setattr(doctor, "import_module", refuse)
    return "is broken"


def _python(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(doctor, "PYTHONS", ((2, 7),))
    return "2.7 is needed"


def _weights(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(doctor.resources, "files", lambda name: Path("nowhere"))
    return "install vivavoce again"


def _voice(monkeypatch: pytest.MonkeyPatch) -> str:
    def fail() -> doctor.Finding:
        raise OSError("no voices found")

    monkeypatch.setattr(doctor, "_espeak", fail)
    return "no voices found"


@pytest.mark.parametrize("harm", [_library, _package, _broken_package, _python, _weights, _voice])
def test_whatever_is_missing_is_named_and_the_exit_code_says_so(
    harm: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(harm)
    monkeypatch.setenv("COLUMNS", "200")
    says = harm(monkeypatch)
    assert cli.main(["doctor"]) == 2
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if says in line]
    assert rows, out
    assert all("missing" in row for row in rows)


def test_an_extra_that_is_not_installed_is_no_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(metadata, "requires", lambda name: ['surely-not-there>=1; extra == "test"'])
    assert cli.main(["doctor"]) == 0
    assert "[test] would enable" in capsys.readouterr().out


def test_each_package_is_named_once_and_ok_if_it_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    test, train = 'extra == "test"', 'extra == "train"'
    lines = ["numpy", f"pytest>=8; {test}", f"httpx; {test}", f"httpx>=1; {train}", f"nowhere; {train}"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    findings = [doctor._package(*each) for each in doctor._requirements()]
    found = {finding.what.removeprefix("package "): finding for finding in findings}
    assert len(found) == len(findings)
    assert list(found) == ["numpy", "pytest", "httpx", "nowhere"]
    assert [finding.good for finding in found.values()] == [True, True, True, None]
    assert "[test], [train]" in found["httpx"].found and "[train] would enable" in found["nowhere"].found


def test_every_extra_of_the_project_has_a_purpose() -> None:
    """The doctor knows what each declared extra is for."""
    declared = {extra for _, extras in doctor._requirements() for extra in extras}
    assert declared <= set(doctor.EXTRAS)
