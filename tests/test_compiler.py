"""A compiler that is there but cannot work costs one warning, not the run."""

import os
import subprocess
import sys

import pytest

from minimind import compiler, runtime

NO_HEADERS = (
    "In file included from x.cpp:1:\nx.h:5:10: fatal error: Python.h: No such file or directory\n    5 | #include"
)


@pytest.fixture(autouse=True)
def _ask_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIMIND_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MINIMIND_COMPILE", raising=False)
    compiler.can_compile.cache_clear()
    yield
    compiler.can_compile.cache_clear()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (NO_HEADERS, "python3-dev"),
        ("/usr/bin/ld: cannot find -lgomp", "libgomp1"),
        ("a.cpp:3: error: expected ';'\nmore", "expected ';'"),
        ("\nsomething else\nmore", "something else"),
        ("", "does not say why"),
    ],
)
def test_what_is_missing_is_named(said, words):
    assert words in compiler.what_is_missing(said)


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")
def test_a_compiler_that_fails_is_one_warning(tmp_path):
    asked = 'case "$*" in *--version*) exec g++ "$@";; esac'  # it is there, and says what it is
    (tmp_path / "g++").write_text(f"#!/bin/sh\n{asked}\necho '{NO_HEADERS}' >&2\nexit 1\n", encoding="utf-8")
    (tmp_path / "g++").chmod(0o755)
    code = "from minimind.compiler import can_compile; print(can_compile('cpu'), can_compile('cpu'))"
    own = {"CXX": str(tmp_path / "g++"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | own)
    assert ended.stdout == "False False\n"
    assert ended.stderr.count("\n") == 2, ended.stderr
    assert "does not work here: Python's headers are missing" in ended.stderr


def test_success_is_remembered_and_failure_is_not(monkeypatch, capsys):
    attempts = []
    monkeypatch.setattr(runtime, "cpp_compiler", lambda: sys.executable)
    monkeypatch.setattr(
        compiler, "_attempt", lambda kind: attempts.append(kind) or ("why" if len(attempts) < 2 else None)
    )
    assert [compiler.can_compile("cpu"), compiler.can_compile("cpu")] == [False, False]
    compiler.can_compile.cache_clear()  # another process
    assert compiler.can_compile("cpu")
    compiler.can_compile.cache_clear()
    assert compiler.can_compile("cpu")
    assert attempts == ["cpu", "cpu"]
    assert capsys.readouterr().err.count("does not work here: why") == 1


def test_what_needs_no_attempt(monkeypatch, capsys):
    monkeypatch.setattr(compiler, "_attempt", lambda kind: pytest.fail("it was tried"))
    assert not compiler.can_compile("mps")
    monkeypatch.setenv("MINIMIND_COMPILE", "0")
    assert not compiler.can_compile("cpu")
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("MINIMIND_COMPILE")
    compiler.can_compile.cache_clear()
    monkeypatch.setattr(runtime, "cpp_compiler", lambda: None)
    assert not compiler.can_compile("cpu")
    assert "no C++ compiler" in capsys.readouterr().err


def test_always_is_refused_where_it_cannot_be(minimind, pretrain_flags, tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "_attempt", lambda kind: "there is no linker")
    ended = minimind(*pretrain_flags, "--set.train.compile", "always", "--out", tmp_path / "run")
    assert ended.code == 1
    assert "there is no linker" in ended.err
    assert 'train.compile = "always", but nothing can be compiled here' in ended.err
