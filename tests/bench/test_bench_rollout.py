"""`minimind bench rollout`: all engines do the same work, of mixed lengths."""

import json

import pytest

from minimind.bench import rollout
from minimind.bench.rollout import ENGINES, Work

SMALL = ["--groups", "2", "--samples", "2", "--prompt", "8", "--new", "8", "--dtype", "float32", "--device", "cpu"]


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    """Starting a process for each turn takes longer than these turns."""
    monkeypatch.setattr(rollout, "in_a_process", lambda _, *turn: rollout.turn(*turn))


def test_it_reports_every_engine(minimind):
    pytest.importorskip("transformers")
    ended = minimind("bench", "rollout", "tiny", *SMALL, "--json")
    assert ended.code == 0, ended.err
    figures = json.loads(ended.out.splitlines()[-1])
    assert [row["engine"] for row in figures["rows"]] == list(ENGINES)
    assert all(row["samples_per_second"] > 0 for row in figures["rows"])
    first, second = (row["samples_per_second"] for row in figures["rows"][:2])
    assert figures["ratios"][ENGINES[1]] == pytest.approx(first / second, rel=0.02, abs=0.01)
    assert figures["samples"] == 4


def test_without_the_reference_it_needs_nothing_else(minimind):
    ended = minimind("bench", "rollout", "tiny", *SMALL, "--no-reference")
    assert ended.code == 0, ended.err
    assert "minimind" in ended.out


def test_lengths_are_mixed_and_prompts_shared_in_a_group():
    work = Work("", "float32", 4, 8, 64, 40, "cpu")
    lengths, prompts = work.lengths(), work.prompts(1000)
    assert len(lengths) == len(prompts) == 32
    assert min(lengths) >= 5
    assert max(lengths) <= 40
    assert len(set(lengths)) > 15
    assert [len({tuple(p) for p in prompts[i : i + 8]}) for i in range(0, 32, 8)] == [1] * 4
    assert (len(prompts[0]), len(prompts[-1])) == (16, 64)


def test_mistakes_are_named(minimind):
    for flags, word in [
        (["tinny"], "preset"),
        (["tiny", "--dtype", "int8"], "int8"),
        (["tiny", "--new", "0"], "--new"),
    ]:
        ended = minimind("bench", "rollout", *flags)
        assert ended.code == 2
        assert word in ended.err
