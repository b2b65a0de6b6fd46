"""Bits per byte by length and position: the chunked reading equals the plain one, in any window."""

import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import minimind as package
from minimind.eval import length as lengthy
from minimind.model.attend import Segments
from minimind.model.cache import KVCache

BOOK = "从前有座山，山里有座庙。 Once upon a time there was a mountain. " * 40


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(BOOK, encoding="utf-8", newline="\n")
    return path


def plain_bits(lm, ids, bos):
    """Each token's bits after bos and all before it, in one pass."""
    read = torch.tensor([[bos, *ids[:-1]]])
    logits = lm.model.logits(lm.model(read, Segments.whole(read)).states)[0].double()
    return F.cross_entropy(logits, torch.tensor(ids), reduction="none") / math.log(2)


@torch.no_grad()
@pytest.mark.parametrize("bos", [1, None])
def test_windows_equal_one_pass_over_each(model_dir, monkeypatch, bos):
    monkeypatch.setattr(lengthy, "CHUNK", 7)
    lm = package.load(model_dir, "cpu")
    text = lengthy.read_text([BOOK], lm.tokenizer, 90)
    assert len(text.ids) == 90
    cache = KVCache(lm.model.config, 30, torch.float32, "cpu")
    seen = []
    bits, sizes = lengthy.window_bits(lm.model, text, 30, bos, cache, seen.append)
    assert seen == [30, 30, 30]
    for start in (0, 30, 60):
        ids = text.ids[start : start + 30].tolist()
        if bos is None:
            assert bits[start] == sizes[start] == 0
            expected = plain_bits(lm, ids[1:], ids[0])
            torch.testing.assert_close(torch.from_numpy(bits[start + 1 : start + 30]), expected, atol=1e-3, rtol=1e-4)
        else:
            expected = plain_bits(lm, ids, bos)
            torch.testing.assert_close(torch.from_numpy(bits[start : start + 30]), expected, atol=1e-3, rtol=1e-4)


def test_the_bytes_are_those_of_the_text(model_dir):
    tokenizer = package.load(model_dir, "cpu").tokenizer
    text = lengthy.read_text([BOOK, "second"], tokenizer, 10**6)
    assert text.bytes.sum() == len((BOOK + "second").encode("utf-8"))
    assert (text.bytes == 0).sum() == 3, "eos, bos, eos"
    cut = lengthy.read_text([BOOK], tokenizer, 50)
    np.testing.assert_array_equal(cut.ids, text.ids[:50])


def test_the_command_measures_with_and_without_yarn(minimind, model_dir, book, tmp_path):
    argv = ["eval", "length", model_dir, "--data", book, "--device", "cpu", "--json"]
    ended = minimind(*argv, "--original-context", "64", "--factor", "4", "--plot", tmp_path / "curve.png")
    assert ended.code == 0, ended.err
    figures = json.loads(ended.out.splitlines()[-1])
    assert [row["length"] for row in figures["by_length"]] == [128, 256, 512]
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    assert figures["rope_scaling"] == yarn
    for row in figures["by_length"] + figures["by_position"]:
        assert row["bpb"] > 0
        assert row["bpb_yarn"] > 0
        assert row["bpb"] != row["bpb_yarn"]
    assert figures["by_position"][-1]["position"] == 512
    lm = package.load(model_dir, "cpu", rope_scaling=yarn)
    text = lengthy.read_text([BOOK], lm.tokenizer, 512)
    with torch.no_grad():
        expected = plain_bits(lm, text.ids[:512].tolist(), lm.tokenizer.bos_id).sum() / text.bytes[:512].sum()
    assert figures["by_length"][-1]["bpb_yarn"] == pytest.approx(expected.item(), rel=0.02), "products are bfloat16"
    for name in ("curve.png", "curve-by-length.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG\r\n")
    only = minimind(*argv, "--rope-scaling", "none", "--lengths", "100", "--plot", tmp_path / "curve.svg")
    (row,) = json.loads(only.out.splitlines()[-1])["by_length"]
    assert row.keys() == {"length", "bpb"}
    assert (tmp_path / "curve.svg").read_text(encoding="utf-8").startswith("<svg xmlns=")


def test_json_lines_are_one_text(minimind, model_dir, tmp_path):
    lines = "".join(json.dumps({"text": "short words, 短句。"}, ensure_ascii=False) + "\n" for _ in range(60))
    (tmp_path / "short.jsonl").write_text(lines, encoding="utf-8", newline="\n")
    argv = ["eval", "length", model_dir, "--data", tmp_path / "short.jsonl", "--device", "cpu", "--json"]
    assert json.loads(minimind(*argv).out.splitlines()[-1])["by_length"][0]["length"] == 128


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--lengths", "100000"], 1, ["tokens", "100,000"]),
        (["--lengths", "2"], 2, ["--lengths", "at least 8"]),
        (["--windows", "0"], 2, ["--windows"]),
        (["--plot", "curve.jpg"], 2, ["curve.jpg", ".png or .svg"]),
        (["--factor", "0.5"], 2, ["--factor 0.5"]),
        (["--original-context", "4"], 2, ["--original-context"]),
        (["--data", "none.txt"], 1, ["none.txt", "no such file"]),
    ],
)
def test_mistakes_are_named(minimind, model_dir, book, flags, code, words):
    ended = minimind("eval", "length", model_dir, "--data", book, *flags)
    assert ended.code == code, ended.err
    sentence = ended.err.split("minimind: ")[1]
    assert sentence.strip().count("\n") == 0
    for word in words:
        assert word in sentence


def test_a_text_in_another_encoding_is_refused(minimind, model_dir, tmp_path):
    (tmp_path / "gbk.txt").write_bytes("西游记".encode("gbk") * 100)
    ended = minimind("eval", "length", model_dir, "--data", tmp_path / "gbk.txt")
    assert ended.code == 1
    assert "save it as UTF-8" in ended.err


def test_yarn_at_inference(minimind, model_dir):
    asked = ["--device", "cpu", "--max-new-tokens", "8"]
    plain = minimind("chat", model_dir, "--prompt", "hello there", *asked)
    stretched = minimind(
        "chat", model_dir, "--prompt", "hello there", *asked, "--rope-scaling", "yarn", "--factor", "16"
    )
    assert plain.code == stretched.code == 0, stretched.err
    assert plain.out != stretched.out
    ended = minimind("chat", model_dir, "--prompt", "hi", "--factor", "4")
    assert ended.code == 2
    assert "--rope-scaling yarn" in ended.err
    lm = package.load(model_dir, "cpu", rope_scaling={"rope_type": "yarn", "factor": 16.0})
    assert lm._engine.context == 16 * 256
