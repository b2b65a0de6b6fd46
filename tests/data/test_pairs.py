"""Packed pairs: what the shared layout computes is what separate conversations give, and sums are each answer's."""

import numpy as np
import pytest
import torch
from test_preferences import PAIRS, TOKENIZER, row

from minimind.config import ModelConfig
from minimind.data.packing import IGNORE
from minimind.data.pairs import PairStream
from minimind.data.preferences import read_pair
from minimind.data.shards import ensure
from minimind.losses.log_probs import token_log_probs
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.tokenizer.chat import render
from minimind.train.loop import split

SHAPE = ModelConfig(
    vocab_size=TOKENIZER.vocab_size,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
)
ROWS = [row(*PAIRS[name]) for name in PAIRS]


@pytest.fixture
def shards(write_jsonl, tmp_path):
    return ensure([write_jsonl("pairs.jsonl", ROWS)], TOKENIZER, "dpo", cache=tmp_path)


def alone(model, side, prompt):
    """Log-probabilities of a conversation's own supervised tokens, and its last state, computed by itself."""
    ids, mask = render(side.messages, TOKENIZER, side.tools)
    earlier = len(render(side.messages[:prompt], TOKENIZER, side.tools)[0])
    ids_1T = torch.tensor([ids])
    states_TC = model(ids_1T, Segments.whole(ids_1T)).states[0]
    scored = torch.tensor(mask)[1:] & (torch.arange(1, len(ids)) >= earlier)
    log_probs = model.logits(states_TC[:-1]).log_softmax(-1).gather(1, ids_1T[0, 1:, None])[:, 0]
    return (log_probs * scored).sum(), scored.sum(), states_TC[-1, 0].detach()


@pytest.mark.parametrize("length", [256, 1024])
@pytest.mark.parametrize("training", [False, True])
def test_answers_are_scored_as_if_each_conversation_were_alone(shards, length, training):
    torch.manual_seed(0)
    model = Transformer(SHAPE).requires_grad_(training)
    stream = PairStream(shards, length, seed=2)
    found = []
    for _, batch in stream.epoch(rows=2):
        states = model(batch.input_ids, Segments(batch.document_ids, batch.positions, batch.branches)).states
        log_probs = token_log_probs(states, model.output_weight, batch.labels).log_probs
        sums = batch.answer_sums(log_probs)
        lengths = batch.answer_sums((batch.labels != IGNORE).float())
        found += torch.stack([sums, lengths, batch.last_tokens(states[..., 0])], -1).flatten(1).tolist()
        assert batch.num_items == len(sums)
    assert stream.state_dict()["position"] == [0, 0, 0]
    pairs = [read_pair(one) for one in ROWS]
    expected = [
        [x.item() for side in (pair.chosen, pair.rejected) for x in alone(model, side, pair.shared_turns)]
        for pair in pairs
    ]
    torch.testing.assert_close(torch.tensor(sorted(found)), torch.tensor(sorted(expected)), atol=2e-4, rtol=1e-4)


def test_gradients_flow_through_the_shared_prompt(shards):
    torch.manual_seed(0)
    model = Transformer(SHAPE)
    (_, batch), *_ = PairStream(shards, 1024).epoch(rows=8)
    states = model(batch.input_ids, Segments(batch.document_ids, batch.positions, batch.branches)).states
    batch.answer_sums(token_log_probs(states, model.output_weight, batch.labels).log_probs)[:, 0].sum().backward()
    shared = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    pairs = [read_pair(one) for one in ROWS]
    sum(alone(model, pair.chosen, pair.shared_turns)[0] for pair in pairs).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(shared[name], p.grad, atol=2e-4, rtol=1e-3, msg=name)


def test_the_reference_comes_with_the_tokens_it_belongs_to(shards):
    numbered = np.arange(shards.tokens, dtype=np.float32) + 1
    stream = PairStream(shards, 320)
    stream.reference = numbered
    for places, batch in stream.epoch(rows=3):
        for row_of, (starts, lengths) in enumerate(places):
            expected = [start + i + 1 for start, length in zip(starts, lengths, strict=True) for i in range(length)]
            assert batch.reference[row_of, : len(expected)].tolist() == expected
            assert (batch.reference[row_of, len(expected) :] == 0).all()


def test_a_micro_batch_counts_its_own_pairs(shards):
    stream = PairStream(shards, 320)
    batch = stream.next_batch(4)
    parts = list(split(batch, 1))
    assert sum(part.num_items for part in parts) == batch.num_items
    values = torch.rand(batch.labels.shape)
    pieces = torch.cat([part.answer_sums(values[i : i + 1]) for i, part in enumerate(parts)])
    torch.testing.assert_close(pieces, batch.answer_sums(values))


def test_a_split_never_parts_the_answers_of_a_pair(write_jsonl, tmp_path):
    rows = [row([{"role": "user", "content": str(n)}], *PAIRS["one question"][1:]) for n in range(60)]
    files = [write_jsonl("many.jsonl", rows)]
    sides = [ensure(files, TOKENIZER, "dpo", cache=tmp_path, split=s, valid_fraction=0.3) for s in ("train", "valid")]
    assert sum(side.documents for side in sides) == 60
    assert all(side.documents > 0 for side in sides)
    for side in sides:
        assert sum(batch.num_items for _, batch in PairStream(side, 256).epoch(4)) == side.documents
