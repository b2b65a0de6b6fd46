"""`minimind bench generate`: what it reports, and that all engines do the same work."""

import json

import pytest
import torch

from minimind import runtime


def test_it_reports_every_engine_dtype_and_batch(minimind):
    pytest.importorskip("xllamacpp")
    flags = [
        "--dtypes",
        "bfloat16",
        "--batches",
        "2",
        "--prompt",
        "8",
        "--new",
        "4",
        "--rounds",
        "1",
        "--device",
        "cpu",
    ]
    ended = minimind("bench", "generate", "tiny", *flags, "--json")
    assert ended.code == 0, ended.err
    figures = json.loads(ended.out.splitlines()[-1])
    assert [row["engine"] for row in figures["rows"]] == ["minimind", "transformers", "llama.cpp"]
    for row in figures["rows"]:
        assert (row["dtype"], row["batch"], row["prompt"]) == ("bfloat16", 2, 8)
        assert row["prefill_tokens_per_second"] > 0
        assert row["decode_tokens_per_second"] > 0
    ours, theirs = figures["rows"][:2]
    ratio = ours["decode_tokens_per_second"] / theirs["decode_tokens_per_second"]
    assert figures["ratios"][0]["decode"] == pytest.approx(ratio, abs=0.01)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_without_references_it_needs_nothing_else(minimind, dtype):
    flags = ["--dtypes", dtype, "--batches", "1", "--prompt", "5", "--new", "3", "--rounds", "1", "--no-reference"]
    ended = minimind("bench", "generate", "tiny", *flags)
    assert ended.code == 0, ended.err
    assert "minimind" in ended.out
    assert "llama.cpp" not in ended.out


def test_by_default_it_computes_in_what_the_device_is_fast_at(minimind):
    flags = ["--batches", "1", "--prompt", "5", "--new", "3", "--rounds", "1", "--no-reference", "--device", "cpu"]
    ended = minimind("bench", "generate", "tiny", *flags, "--json")
    assert ended.code == 0, ended.err
    fast = str(runtime.decoding_dtype(torch.device("cpu"))).removeprefix("torch.")
    assert [row["dtype"] for row in json.loads(ended.out.splitlines()[-1])["rows"]] == sorted([fast, "int8"])


def test_mistakes_are_named(minimind):
    for flags, word in [
        (["tinny"], "preset"),
        (["tiny", "--dtypes", "int4"], "int8"),
        (["tiny", "--new", "1"], "--new"),
        (["tiny", "--set.model.hidden_size", "64"], "--set.model.hidden-size"),
    ]:
        ended = minimind("bench", "generate", *flags)
        assert ended.code == 2
        assert word in ended.err
