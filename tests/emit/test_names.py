"""Identifiers, comments and cut-out functions."""

from __future__ import annotations

import ast
import io
import keyword
import tokenize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruledsl.emit import functions
from ruledsl.emit.names import Names, comment, identifier, quoted
from ruledsl.emit.release import release


@given(st.text(max_size=60))
def test_any_text_is_an_identifier(name: str) -> None:
    text = identifier(name)
    assert text.isidentifier() and text.isascii() and not keyword.iskeyword(text) and not text.startswith("_")


@given(st.text())
def test_any_text_is_a_comment(text: str) -> None:
    lines = comment(text)
    assert all(line.startswith("#") and line.isascii() and line.isprintable() for line in lines)
    assert ast.dump(ast.parse("\n".join([*lines, "x = 1"]))) == ast.dump(ast.parse("x = 1"))


@pytest.mark.parametrize("cookie", ["coding: utf-7", "-*- coding=rot13 -*-", "encoding:latin-1", "coding:coding=x"])
def test_a_comment_is_not_an_encoding(cookie: str) -> None:
    data = "\n".join([*comment(f"# {cookie}\n# +AAo-import os"), "x = 1"]).encode()
    assert tokenize.detect_encoding(io.BytesIO(data).readline)[0] == "utf-8"
    assert ast.dump(ast.parse(data)) == ast.dump(ast.parse("x = 1"))


@given(st.text())
def test_any_text_is_quoted(text: str) -> None:
    assert ast.literal_eval(quoted(text)) == text
    assert quoted(text).isascii()


def test_ordinary_comments_stay_as_they_are() -> None:
    assert comment("# a\nS = S + v k^T\n\n") == ["# # a", "# S = S + v k^T"]


@given(st.lists(st.sampled_from(["a", "a2", "n", "torch", "k_1", "lambda"]), max_size=12))
def test_names_are_handed_out_once(wishes: list[str]) -> None:
    names = Names({"taken"})
    made = [names.new(w) for w in wishes] + [names.new("taken")]
    assert len(set(made)) == len(made) and not set(made) & {"taken", "torch", "n", "lambda"}


def test_functions_come_with_what_they_call() -> None:
    text = "\n\n".join(functions.cut(["layernorm"]))
    defined = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert defined == ["rmsnorm", "layernorm"]
    with pytest.raises(KeyError):
        functions.cut(["no_such_function"])


def test_every_function_is_complete() -> None:
    import builtins

    known = set(dir(builtins)) | {"torch", "F", "math"} | functions.defined()
    for name in functions.defined():
        (tree,) = ast.parse(functions.cut([name])[-1]).body[:1]
        bound = {
            a.arg
            for n in ast.walk(tree)
            if isinstance(n, ast.arguments)
            for a in (*n.args, *n.kwonlyargs, *([n.vararg] if n.vararg else []))
        }
        bound |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        free = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - bound - known
        assert not free, f"{name} uses {free}"


def test_tiles_are_let_go_after_their_last_use() -> None:
    lines = ["a = x", "b = a", "c = b", "for n in z:", "    d = c", "e = d", "k = tiles[0]", "f = e + k", "g = f"]
    assert release(lines, ["g"]) == [*lines[:5], "del a, b, c", *lines[5:]]
    assert release(lines, ["a", "g"]) == [*lines[:8], "del b, c, e", lines[8]]
