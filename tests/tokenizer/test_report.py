"""The figures of `tokenizer report`, and both commands from files to the last line."""

import gzip
import json

import pytest

from minimind.commands.tokenizer import main
from minimind.errors import UserError
from minimind.tokenizer import Tokenizer
from minimind.tokenizer.report import han_share, measure


def test_figures_are_what_they_say():
    tokenizer = Tokenizer.load("default")
    texts = ["今天天气很好，我们去公园。", "Hello world, this is text.", "混合 mixed text"]
    found = measure(tokenizer, texts)
    counts = [len(tokenizer.encode(text)) for text in texts]
    assert found["chars_per_token"]["zh"] == len(texts[0]) / counts[0]
    assert found["chars_per_token"]["en"] == len(texts[1]) / counts[1]
    assert found["chars_per_token"]["other"] == len(texts[1] + texts[2]) / (counts[1] + counts[2])
    assert found["bytes_per_token"] == sum(len(text.encode()) for text in texts) / sum(counts)
    assert found["fertility"] == sum(counts) / (11 + 5 + 4)
    assert (found["documents"], found["tokens"], found["round_trip_failures"]) == (3, sum(counts), 0)


def test_a_text_that_does_not_come_back_is_counted():
    assert measure(Tokenizer.load("default"), ["fine", "lone \ud800"])["round_trip_failures"] == 1


def test_han_share():
    assert han_share("") == 0
    assert han_share("中a") == 0.5


def test_train_then_report(tmp_path, capsys):
    rows = [{"text": f"alpha beta {i} 你好世界"} for i in range(300)]
    rows.append({"conversations": [{"role": "user", "content": "gamma"}, {"role": "assistant", "content": None}]})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "c.txt").write_text("alpha\nbeta\n", encoding="utf-8", newline="\n")
    data = ["--data", str(tmp_path / "*.jsonl"), str(tmp_path / "b.jsonl.gz"), str(tmp_path / "c.txt")]
    out = str(tmp_path / "mine")
    assert main(["train", *data, "--vocab-size", "310", "--out", out]) == 0
    capsys.readouterr()
    assert main(["report", "--tokenizer", out, *data, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["vocab_size"], found["documents"], found["round_trip_failures"]) == (310, 604, 0)
    assert set(found) >= {"chars_per_token", "bytes_per_token"}
    assert main(["report", "--tokenizer", out, "default", *data, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["tokenizers"]) == {out, "default"}
    assert main(["report", "--tokenizer", "default", *data]) == 0
    assert "bytes a token" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": 3}', "a.jsonl line 1"),
        (b'{"text": "x"}\n{', "a.jsonl line 2"),
        (b'{"other": 1}', "line 1"),
        (b"", "is empty"),
        (b"\n\n", "no text"),
    ],
)
def test_bad_data_is_one_sentence(tmp_path, content, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        main(["report", "--tokenizer", "default", "--data", str(tmp_path / "a.jsonl")])


def test_a_missing_file_and_a_missing_tokenizer(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        main(["report", "--tokenizer", "default", "--data", str(tmp_path / "none.jsonl")])
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        main(["report", "--tokenizer", str(tmp_path), "--data", str(tmp_path / "a.txt")])
