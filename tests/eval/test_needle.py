"""Needles lie where they should, and who finds them is told from who does not."""

import json

import numpy as np
import pytest

from minimind.eval import needle
from minimind.tokenizer.bpe import Tokenizer

DEPTHS = [0.0, 0.5, 1.0]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load("default")


@pytest.mark.parametrize("seed", [0, 1])
def test_a_haystack_has_its_length_and_its_needles(tokenizer, seed):
    text = needle.haystack(tokenizer, 400, DEPTHS, seed)
    assert len(text.ids) == 400
    whole = tokenizer.decode(text.ids)
    places = []
    for asked, answers, right in text.asked:
        assert len(answers) == 10
        sentences = [tokenizer.decode([*asked, *answer]).splitlines()[1] for answer in answers]
        assert len(set(sentences)) == 10
        assert whole.count(sentences[right]) == 1
        assert not any(sentence in whole for n, sentence in enumerate(sentences) if n != right)
        places.append(whole.index(sentences[right]) / len(whole))
    assert places == sorted(places)
    assert places[0] < 0.1
    assert 0.3 < places[1] < 0.7
    assert places[2] > 0.85
    assert needle.haystack(tokenizer, 400, DEPTHS, seed) == text, "the seed decides"


@pytest.mark.parametrize("attentive", [True, False])
def test_who_looks_back_finds_them_all(tokenizer, monkeypatch, model_dir, attentive):
    from minimind.model.store import load_model

    read = []

    def looking_back(model, ids, labels, cache, start=0):
        if not start:
            read[:] = tokenizer.decode(ids.tolist()).splitlines()
            return np.zeros(len(ids))
        answer = tokenizer.decode([*ids.tolist(), labels[-1]]).splitlines()[1]
        return np.array([0.0 if (answer in "\n".join(read)) is attentive else 1.0])

    monkeypatch.setattr(needle, "long_nll", looking_back)
    rows = needle.retrieval(load_model(model_dir), tokenizer, [300], DEPTHS, 2, None, {"score": None})
    assert [row["score"] for row in rows] == [float(attentive)] * 3


def test_the_command_gives_a_share_for_each_length_and_depth(minimind, model_dir):
    argv = ["eval", "needle", model_dir, "--lengths", "120", "160", "--texts", "2", "--device", "cpu"]
    ended = minimind(*argv, "--depths", "0", "1", "--factor", "4", "--json")
    assert ended.code == 0, ended.err
    figures = json.loads(ended.out.splitlines()[-1])
    rows = figures["needle"]
    assert [(row["length"], row["depth"]) for row in rows] == [(120, 0), (120, 1), (160, 0), (160, 1)]
    assert figures["rope_scaling"]["factor"] == 4
    for row in rows:
        assert row["n"] == 2
        assert {row["score"], row["score_yarn"]} <= {0.0, 0.5, 1.0}
    table = minimind(*argv, "--depths", "0.5", "--rope-scaling", "none")
    assert "depth 0.5" in table.out
    for flags, word in (
        (["--depths", "2"], "0 to 1"),
        (["--texts", "0"], "--texts"),
        (["--lengths", "9"], "--lengths"),
    ):
        assert word in minimind(*argv, *flags).err
