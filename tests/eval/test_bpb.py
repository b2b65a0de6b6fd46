import json
import math

import numpy as np
import pytest
import torch

from minimind import runtime
from minimind.config import ModelConfig
from minimind.data.shards import ensure
from minimind.eval.bpb import Document, _windows, bits_per_byte, text_document
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.recipe import Recipe
from minimind.stages.setup import valid_bpb
from minimind.tokenizer.bpe import Tokenizer

CPU = torch.device("cpu")

SHAPE = ModelConfig(
    hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16
)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Transformer(SHAPE)


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load("default")


def by_hand(model, text, tokenizer):
    """-log2 p of the text's tokens after bos, one document at a time."""
    ids = torch.tensor([[tokenizer.bos_id, *tokenizer.encode(text)]])
    logits = model.logits(model(ids, Segments.whole(ids)).states)[0].double()
    chosen = logits.log_softmax(-1)[:-1].gather(1, ids[0, 1:, None])
    return -chosen.sum().item() / math.log(2)


def test_equals_the_definition(model, tokenizer):
    texts = ["The quick brown fox.", "春眠不觉晓，处处闻啼鸟。", "a", "mixed 混合 text 🙂"]
    with torch.no_grad():
        bits = sum(by_hand(model, text, tokenizer) for text in texts)
    result = bits_per_byte(model, [text_document(t, tokenizer) for t in texts], 512, torch.float32)
    assert result["bytes"] == sum(len(t.encode("utf-8")) for t in texts)
    assert result["tokens"] == sum(len(tokenizer.encode(t)) for t in texts)
    assert result["bpb"] == pytest.approx(bits / result["bytes"], rel=1e-5)


def test_a_uniform_model_needs_log2_of_the_vocabulary(model, tokenizer):
    flat = Transformer(SHAPE)
    with torch.no_grad():
        flat.embed_tokens.weight.zero_()
    result = bits_per_byte(flat, [text_document("hello world", tokenizer)], 512, torch.float32)
    assert result["loss"] == pytest.approx(math.log(SHAPE.vocab_size), rel=1e-5)


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 12, 13, 40, 41])
def test_every_token_is_scored_in_exactly_one_window(length):
    scored = np.ones(length, dtype=bool)
    scored[0] = False
    document = Document(np.arange(length), scored, length)
    seen = [i for ids, fresh in _windows([document], 8) for i in ids[fresh]]
    assert sorted(seen) == list(range(1, length))
    for ids, fresh in _windows([document], 8):
        assert len(ids) <= 8
        if ids[0] > 0:
            assert all(i - ids[0] >= 4 for i in ids[fresh]), "half a context behind every token"


def test_without_bos_the_first_token_is_not_scored(tokenizer):
    class NoBos:
        bos, eos = [], [2]
        encode, token_bytes = staticmethod(tokenizer.encode), staticmethod(tokenizer.token_bytes)

    text = "hello there"
    document = text_document(text, NoBos())
    assert not document.scored[0]
    assert not document.scored[-1]
    assert document.scored[1:-1].all()
    assert document.bytes == sum(len(tokenizer.token_bytes(id)) for id in document.ids[document.scored]) < len(text)
    word = text_document("a", NoBos())
    assert (word.scored.any(), word.bytes) == (False, 0)


def test_half_a_surrogate_pair_is_a_character_of_three_bytes(model, tokenizer):
    figures = bits_per_byte(model, [text_document("half \ud83d here", tokenizer)], 512, torch.float32)
    assert figures["bytes"] == len("half \ufffd here".encode())


def test_validation_in_training_gives_the_same(tmp_path, model):
    """Of a tokenizer with bos and of one without."""
    texts = ["one", "two words", "三个字"]
    (tmp_path / "v.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    default = Tokenizer.load("default")
    config = json.loads(default.files["tokenizer_config.json"]) | {"bos_token": None}
    without = Tokenizer(default.files | {"tokenizer_config.json": json.dumps(config)})
    for words in (default, without):
        recipe = Recipe()
        recipe.data.sequence_length = 64
        shards = ensure([tmp_path / "v.jsonl"], words, cache=tmp_path)
        there = bits_per_byte(model, [text_document(text, words) for text in texts], 64, runtime.compute_dtype(CPU))
        assert valid_bpb(recipe, model, words, shards)["bpb"] == pytest.approx(there["bpb"], rel=1e-6)
