"""A new user's first rules: each is mended by doing what the messages say, and nothing else.

A case is a text and the edits `(message that must be told, old, new)`, where `new` is what the message asks for; after the
last edit the text is a rule of the stated kind.
"""

from __future__ import annotations

import pytest

from .running import run

Edit = tuple[str, str, str]
CASES: dict[str, tuple[str, list[Edit], str]] = {
    "a memory transposed": (
        "state S[V, K]\ninput q[K], k[K] unit, v[V], a in (0, 1], b in [0, 1]\n\nS = a*S\nS = S + b*k (v - S^T k)^T\noutput o = S^T q\n",
        [
            ("help: `S k`", "S^T k", "S k"),
            ("help: `S q`", "S^T q", "S q"),
            ("help: `S + (b*k (v - S k)^T)^T`", "S + b*k (v - S k)^T", "S + (b*k (v - S k)^T)^T"),
        ],
        "chunkwise",
    ),
    "misspelt words": (
        "state S[V, K]\ninput q[K], k[K], v[V], g[K]\nlet alpha = sigmoids(g)\nS = S diag(alhpa) + v k^T\nouput o = S q\n",
        [
            ("did you mean `output`?", "ouput", "output"),
            ("did you mean `sigmoid`?", "sigmoids", "sigmoid"),
            ("did you mean `alpha`?", "alhpa", "alpha"),
        ],
        "closed",
    ),
    "nothing declared": (
        "state S[V, K], z[K]\ninput q[K], k[K], v[V]\nS = gamma*S + v k^T\nz = gamma*z + k\noutput o = S q / (dot(z, q) + eps)\n",
        [
            ("`param gamma` (learned)", "S = gamma", "param gamma\nS = gamma"),
            ("`const eps = 0.9`", "S = gamma", "const eps = 1e-6\nS = gamma"),
        ],
        "closed",
    ),
    "operators of another language": (
        "state S[V, K]\ninput q[K], k[K], v[V], a, beta\nS = a S + beta (v - S @ k) * k'\noutput o = S q\n",
        [
            ("the matrix product is two things side by side", "S @ k", "S k"),
            ("write `x^T` for the transpose", "k'", "k^T"),
            ("help: `a*S`", "a S", "a*S"),
            ("help: `beta*(v - S k)`", "beta (v", "beta*(v"),
            ("help: `(beta*(v - S k)) k^T`", "beta*(v - S k) * k^T", "(beta*(v - S k)) k^T"),
        ],
        "chunkwise",
    ),
    "ranges": (
        "state S[V, K]\ninput q[K], k[K] unti, v[V], a in (0, 1, b in [1, 0]\nS = a*S + b*(v - S k) k^T\noutput o = S q\n",
        [
            ("the statement lacks `)`", "(0, 1,", "(0, 1),"),
            ("did you mean `unit`?", "unti", "unit"),
            ("help: `in [0, 1]`", "in [1, 0]", "in [0, 1]"),
        ],
        "chunkwise",
    ),
    "lets in a circle": (
        "state S[V, K]\ninput q[K], k[K], v[V], x\nlet g = sigmoid(x + h)\nlet h = tanh(g)\nS = g*S + v k^T\noutput o = S q\n",
        [("`g` and `h` need each other", "x + h", "x + prev(h)")],
        "sequential",
    ),
    "a gradient at two versions": (
        "state S[V, K], M[V, K]\ninput q[K], k[K], v[V], m in [0, 1), b in [0, 1]\nlet loss = 0.5*norm2(S k - v)\nM = m*M - b*grad(loss, M)\nS = S + M\nS = S - 0.01*grad(loss + norm2(S), S)\noutput o = S q\n",
        [
            ("did you mean `grad(..., S)`?", "grad(loss, M)", "grad(loss, S)"),
            ("read one of them under `stopgrad`", "grad(loss + ", "grad(stopgrad(loss) + "),
        ],
        "chunkwise",
    ),
    "a loop over everything": (
        "state S[V, K]\ninput q[K], k[K], v[V], b[K]\nfor j in 0..t:\n    S = S + b[j]*prev(v, j) prev(k, j)^T\noutput o = S q\n",
        [
            ("keep a memory of fixed size instead", "0..t", "0..3"),
            ("`b[j + 1]`", "b[j]", "b[j + 1]"),
        ],
        "closed",
    ),
    "transposes": (
        "state S[V, K]\ninput q[K], k[K], v[V], a[K] in (0, 1)\nS = diag(a) S + v k\noutput o = q^T S\n",
        [
            ("help: `S diag(a)`", "diag(a) S", "S diag(a)"),
            ("help: `v k^T`", "v k\n", "v k^T\n"),
            ("help: `S q`", "q^T S", "S q"),
        ],
        "closed",
    ),
    "reserved names": (
        "state state[V, K]\ninput t, in[K], k[K], out[V]\nstate = exp(-t)*state + out k^T\noutput o = state in\n",
        [
            ("such as `State_`", "state state[", "state State_["),
            ("such as `t_`", "t, in[K]", "t_, in[K]"),
            ("such as `in_`", " in[K]", " in_[K]"),
            ("such as `out_`", "out[V]", "out_[V]"),
            ("`state` is a word of the language", "state = exp(-t)*state + out k^T", "State_ = exp(-t_)*State_ + out_ k^T"),
            ("`state` is a reserved name", "state in\n", "State_ in_\n"),
        ],
        "closed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_is_mended_by_its_messages(name: str) -> None:
    text, edits, kind = CASES[name]
    for told, old, new in edits:
        done = run("check", "-", stdin=text, COLUMNS="200")
        assert done.status == 1 and told in done.err, (text, done.err)
        assert text.count(old) == 1, (old, text)
        text = text.replace(old, new)
    done = run("check", "-", stdin=text)
    assert done.status == 0, done.err
    assert done.out.startswith(f"<stdin>: {kind}"), done.out


def test_a_name_is_told_once() -> None:
    done = run("check", "-e", "state S[V, K]\ninput q[K], v[V]\nS = gm*S + gm*v q^T")
    assert done.err.count("error[RD201]") == 1
