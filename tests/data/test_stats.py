import json

import pytest

from minimind.data.stats import GRAM, measure, ngrams
from minimind.errors import UserError
from minimind.tokenizer import chat
from minimind.tokenizer.bpe import Tokenizer

ENGLISH = "The quick brown fox jumps over the lazy dog while seven wizards quietly watch from a distant hill"
CHINESE = "春天来了，小河边的柳树长出了嫩绿的新叶，孩子们在草地上放风筝。"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load("default")


def test_a_corpus_is_counted(tmp_path, tokenizer):
    path = tmp_path / "c.jsonl"
    rows = [{"text": ENGLISH}, {"text": CHINESE}, {"text": ENGLISH}, {"text": "word 天气 word word"}]
    path.write_text("\n".join([*map(json.dumps, rows), "{broken"]), encoding="utf-8")
    figures = measure([path], tokenizer)
    sizes = sorted(len(tokenizer.encode(row["text"])) + 2 for row in rows)
    assert figures["documents"] == 4
    assert figures["duplicates"] == 1
    assert figures["bytes"] == sum(len(row["text"].encode()) for row in rows)
    assert figures["tokens"] == sum(sizes)
    assert figures["token_percentiles"]["100"] == sizes[-1]
    assert figures["languages"] == {"zh": 1, "en": 2, "mixed": 1}
    assert figures["bad_lines"] == 1
    assert "c.jsonl line 5" in figures["first_bad_line"]


def test_conversations_are_recognised(write_jsonl, tokenizer):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    figures = measure([write_jsonl("c.jsonl", [{"messages": turns}])], tokenizer)
    assert figures["tokens"] == len(chat.render(turns, tokenizer)[0])
    assert figures["bytes"] == len("Hi\nHello")


def test_overlap_with_evaluation_files(write_jsonl, tokenizer):
    words = ENGLISH.upper().replace(" ", ",  ").split()
    questions = [
        {"question": " ".join(words[2 : 2 + GRAM]), "answer": 0},  # spelled otherwise, but the same words
        {"question": " ".join(words[: GRAM - 1]), "choices": ["something", "different", "entirely", "here"]},
        {"question": "春天来了，小河边的柳树长出了嫩绿的新叶!"},
        {"question": "too short"},
    ]
    corpus = write_jsonl("c.jsonl", [{"text": f"Once. {ENGLISH}."}, {"text": CHINESE}, {"text": "unrelated"}])
    figures = measure([corpus], tokenizer, [write_jsonl("q.jsonl", questions)])
    (overlap,) = figures["contamination"].values()
    assert overlap == {"questions": 4, "too_short": 1, "contaminated": 2, "share": 2 / 3, "corpus_documents": 2}


def test_ngrams():
    assert len(ngrams("a b")) == 0
    assert len(ngrams(" ".join("abcdefghijklmn"))) == 2
    assert len(set(ngrams("word " * 20).tolist())) == 1
    assert set(ngrams("A-b c d e f g h i j k l m").tolist()) == set(ngrams("a b c d e f g h i j k l m!").tolist())
    assert set(ngrams("b a c d e f g h i j k l m").tolist()) != set(ngrams("a b c d e f g h i j k l m").tolist())


def test_nothing_to_count(tmp_path, tokenizer, write_jsonl):
    (tmp_path / "none.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no document in it"):
        measure([tmp_path / "none.jsonl"], tokenizer)
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"bad\.jsonl line 1: not valid JSON"):
        measure([write_jsonl("c.jsonl", [{"text": "a"}])], tokenizer, [tmp_path / "bad.jsonl"])
