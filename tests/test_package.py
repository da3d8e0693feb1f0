"""ruledsl finds its grammar and its rules from a wheel, an editable install and a plain checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ruledsl

ROOT = Path(__file__).resolve().parent.parent
ABOUT = """
import pathlib, sys
import ruledsl
from ruledsl.lang.parse import parse
from ruledsl.resources import data_dir, load_source
assert parse(load_source(data_dir("rules") / "delta.rule")).statements
print(pathlib.Path(ruledsl.__file__).resolve().parent)
print(data_dir("grammars").resolve())
print(len(list(data_dir("rules").glob("*.rule"))))
"""


def _about(site: Path, elsewhere: Path) -> tuple[Path, Path, int]:
    """Where the package and its grammars are, and how many rules it has, for an interpreter that sees `site` and
    the dependencies, but no other copy of ruledsl."""
    dependencies = [p for p in sys.path if "site-packages" in p]
    first = f"import site, sys; site.addsitedir({str(site)!r}); sys.path.extend({dependencies!r})"
    done = subprocess.run(
        [sys.executable, "-S", "-c", first + ABOUT], capture_output=True, text=True, timeout=60, cwd=elsewhere
    )
    assert done.returncode == 0, done.stderr
    package, grammars, rules = done.stdout.split()
    return Path(package), Path(grammars), int(rules)


def _build(kind: str, out: Path) -> Path:
    """A wheel ("wheel") or an editable wheel ("editable") of the checkout, unpacked."""
    code = f"from hatchling import build; print(build.build_{kind}({str(out)!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    site = out / "site"
    with zipfile.ZipFile(out / done.stdout.split()[-1]) as wheel:
        wheel.extractall(site)
    return site


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _build("wheel", tmp_path_factory.mktemp("wheel"))


def _rules() -> int:
    return len(list((ROOT / "rules").glob("*.rule")))


def test_a_wheel_holds_the_data(wheel: Path, tmp_path: Path) -> None:
    package, grammars, rules = _about(wheel, tmp_path)
    assert package == wheel.resolve() / "ruledsl"
    assert grammars == package / "_data" / "grammars"
    assert rules == _rules()


def test_a_wheel_holds_every_module_and_nothing_else(wheel: Path) -> None:
    ours = {p.relative_to(ROOT) for p in (ROOT / "ruledsl").rglob("*.py")}
    theirs = {p.relative_to(wheel) for p in wheel.rglob("*.py")}
    assert theirs == ours
    assert {p.name.split("-")[0] for p in wheel.iterdir()} == {"ruledsl"}


def test_a_wheel_says_what_it_is(wheel: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = wheel / f"ruledsl-{ruledsl.__version__}.dist-info"
    metadata = (folder / "METADATA").read_text(encoding="utf-8")
    assert "License-Expression: MIT" in metadata and (folder / "licenses" / "LICENSE").is_file()
    assert "ruledsl = ruledsl.cli.app:main" in (folder / "entry_points.txt").read_text(encoding="utf-8")
    for dependency in project["dependencies"]:
        assert f"Requires-Dist: {dependency.split('>')[0]}" in metadata


def test_an_editable_install_uses_the_checkout(tmp_path: Path) -> None:
    package, grammars, rules = _about(_build("editable", tmp_path), tmp_path)
    assert package == ROOT / "ruledsl"
    assert grammars == ROOT / "grammars"
    assert rules == _rules()


def test_a_checkout_runs_without_being_installed(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for folder in ("ruledsl", "grammars", "rules"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("cli.py", "pyproject.toml"):
        shutil.copy(ROOT / file, checkout)
    package, grammars, _ = _about(checkout, tmp_path)
    assert package == checkout / "ruledsl" and grammars == checkout / "grammars"
    done = subprocess.run(
        [sys.executable, str(checkout / "cli.py"), "check", "delta"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("delta: chunkwise")
