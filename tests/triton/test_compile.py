"""`ruledsl compile RULE --backend triton`: a file that runs by itself, interpreted on the CPU."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

ROOT = Path(__file__).resolve().parents[2]
TOP = "state S[V, K]\ninput q[K], k[K], v[V], a in (0, 1]\n"
TEXTS = {
    "gates and reads": "state S[V, K]\ninput q[K], k[K] unit, v[V], a in (0, 1], b in [0, 1]\n"
    "S = a*S + b*(v - S k) k^T\noutput o = S q / sqrt(K)",
    "two states, two outputs": "state S[V, K], z[K]\ninput q[K], k[K], v[V]\nS = S + v exp(k)^T\nz = z + exp(k)\n"
    "output o = S q\noutput p = S q / (1 + z^T exp(q))",
    "looking back, a param, the head, the time": TOP + "param w[K]\n"
    "S = a*S + v (w .* k + 0.5*prev(k, 2))^T\noutput o = S q + v / (1 + head + t)",
    "a state with its columns in front": "state S[K, V]\ninput q[K], k[K], v[V], g[K] in (0, 1]\n"
    "S = diag(g) S + k v^T\noutput o = S^T q",
    "a system of each token": "state H[K, K]\ninput q[K], k[K] unit, g in (0, 1]\nparam l[K] in [0.5, inf)\n"
    "H = g*H + k k^T\noutput o = solve(H + diag(l), q, 20)",
}


def compiled(text: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "own.rule").write_text(text)
    command = [
        sys.executable,
        str(ROOT / "cli.py"),
        "compile",
        "own.rule",
        "-o",
        "own.py",
        "--backend",
        "triton",
        *words,
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"TRITON_INTERPRET": "1"}
    return subprocess.run(
        [sys.executable, "-I", "own.py"], capture_output=True, text=True, cwd=folder, env=env, timeout=240
    )


@pytest.mark.parametrize("name", TEXTS)
def test_the_self_test_passes(name: str, tmp_path: Path) -> None:
    assert compiled(TEXTS[name], tmp_path).returncode == 0
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.startswith("chunked (float32) against recurrent, float64: outputs")


def test_the_self_test_can_fail(tmp_path: Path) -> None:
    assert compiled(TEXTS["gates and reads"], tmp_path).returncode == 0
    path = tmp_path / "own.py"
    text = path.read_text()
    assert text.count(" S_next_t = ") == 2
    path.write_text(text.replace(" S_next_t = ", " S_next_t = 1.0 + ", 1))
    done = run(tmp_path)
    assert done.returncode == 1 and "against recurrent" in done.stdout, done.stdout + done.stderr


def test_it_imports_torch_and_triton_only_and_is_deterministic(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        assert compiled(TEXTS["gates and reads"], tmp_path).returncode == 0
        found.append((tmp_path / "own.py").read_text())
    assert found[0] == found[1] and found[0].isascii()
    tree = ast.parse(found[0])
    modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    modules |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {m.split(".")[0] for m in modules} == {"math", "torch", "triton"}
    functions = {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}
    assert {"chunked", "recurrent", "step", "forward", "backward"} <= functions
    names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    assert len(names) == len(set(names))


def test_what_has_no_kernels_is_refused_with_the_reason(tmp_path: Path) -> None:
    done = compiled(TOP + "S = a*S + v topk(k, 2)^T\noutput o = S q", tmp_path)
    assert done.returncode == 1 and "`topk` has no Triton form; backend 'torch' runs it" in done.stderr
    done = compiled(TOP + "S = tanh(S) + v k^T\noutput o = S q", tmp_path)
    assert done.returncode == 1 and "no chunk-parallel form" in done.stdout + done.stderr
    assert not (tmp_path / "own.py").exists()


def test_stages_of_the_triton_backend() -> None:
    def show(stage: str) -> str:
        words = [
            sys.executable,
            str(ROOT / "cli.py"),
            "show",
            "rules/delta.rule",
            "--stage",
            stage,
            "--backend",
            "triton",
        ]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    schedule = show("schedule")
    for line in ("forward: 3 kernels", "    carries  S", "    gives    o", "  reverse "):
        assert line in schedule
    assert "def forward_kernel(" in show("source") and "inverse" in show("chunk") and "d_q" not in show("gradient")


def test_the_cache_is_listed_and_cleared(tmp_path: Path) -> None:
    def cache(*words: str) -> str:
        env = {**os.environ, "RULEDSL_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, str(ROOT / "cli.py"), "cache", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert cache().endswith("cache: 0 files, 0 bytes\n")
    (tmp_path / "cache" / "rule_0123.py").write_text("# Generated by ruledsl from the rule\n# state S[V, K]\n")
    assert "rule_0123.py" in cache() and "state S[V, K]" in cache() and "1 file," in cache()
    assert cache("--clear").endswith("1 file removed\n")
    assert not (tmp_path / "cache" / "rule_0123.py").exists()
