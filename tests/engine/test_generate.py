"""Generation against `transformers`, and its promises about batches, seeds and ends."""

import pytest
import torch
from transformers import AutoModelForCausalLM, RepetitionPenaltyLogitsProcessor

from minimind.config import PRESETS, ModelConfig
from minimind.engine.engine import Engine
from minimind.engine.generate import EnginePool, complete
from minimind.engine.sampling import GREEDY, Sampling
from minimind.errors import UserError
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model

SMALL = {"num_hidden_layers": 2, "vocab_size": 61, "initializer_range": 0.3, "max_position_embeddings": 64}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
MODELS = {
    "dense": PRESETS["tiny"].with_(**SMALL),
    "moe": PRESETS["tiny-moe"].with_(**SMALL),
    "yarn": PRESETS["tiny"].with_(**SMALL, rope_scaling=YARN),
}


def make(config: ModelConfig) -> tuple[Transformer, list[list[int]]]:
    torch.manual_seed(3)
    model = Transformer(config).eval()
    prompts = [torch.randint(3, config.vocab_size, (n,)).tolist() for n in (5, 1, 17, 9, 2)]
    return model, prompts


@pytest.mark.parametrize("kind", MODELS)
def test_greedy_tokens_equal_transformers_alone_and_among_strangers(kind, tmp_path):
    model, prompts = make(MODELS[kind])
    save_model(model, tmp_path, "float32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    stop = 7
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        out = theirs.generate(ids, do_sample=False, max_new_tokens=20, eos_token_id=stop, pad_token_id=0)
        expected.append(out[0, len(prompt) :].tolist())
    assert complete(model, prompts, GREEDY, [stop], 20, batch_size=5) == expected
    assert complete(model, prompts, GREEDY, [stop], 20, batch_size=2) == expected
    assert [complete(model, [prompt], GREEDY, [stop], 20)[0] for prompt in prompts] == expected


def test_rows_end_at_stop_tokens_at_different_times():
    model, prompts = make(MODELS["dense"])
    free = complete(model, prompts, GREEDY, (), 20)
    assert {len(answer) for answer in free} == {20}
    stops = {free[0][3], free[2][10]}
    stopped = complete(model, prompts, GREEDY, stops, 20)
    assert len({len(answer) for answer in stopped}) > 1
    for whole, cut in zip(free, stopped, strict=True):
        assert whole[: len(cut)] == cut
        assert not stops & set(cut[:-1])
        assert len(cut) == 20 or cut[-1] in stops


def test_a_seed_gives_the_same_answer_whoever_shares_the_batch():
    model, prompts = make(MODELS["dense"])
    sampling = Sampling(temperature=1.5, top_k=20, top_p=0.9, seed=11)
    together = complete(model, prompts, sampling, (), 15)
    assert together == complete(model, prompts, sampling, (), 15, batch_size=2)
    assert together[0] == complete(model, prompts[:1], sampling, (), 15)[0]
    assert together != complete(model, prompts, Sampling(temperature=1.5, top_k=20, top_p=0.9, seed=12), (), 15)


def test_a_seed_gives_the_same_answer_beside_other_rules():
    model, prompts = make(MODELS["dense"])
    rules = [Sampling(temperature=t, top_p=p, seed=3, max_new_tokens=15) for t, p in ((1, 1), (1.5, 0.9), (0.7, 0.5))]

    def answers(rows):
        engine = Engine(model, max_batch_size=3, context=64)
        requests = [engine.submit(prompts[row], rules[row]) for row in rows]
        list(engine.run())
        return [request.ids for request in requests]

    assert answers([0, 1, 2]) == [answers([row])[0] for row in range(3)]


def test_logprobs_are_those_of_the_model():
    model, prompts = make(MODELS["moe"])
    pool = EnginePool(Engine(model))
    pool.submit("x", prompts[2], Sampling(seed=1, max_new_tokens=6))
    ((key, found),) = pool.finished()
    assert (key, found.status) == ("x", "truncated")
    ids = torch.tensor([[*prompts[2], *found.ids]])
    with torch.no_grad():
        logprobs = model.logits(model(ids, Segments.whole(ids)).states).log_softmax(-1)[0]
    start = len(prompts[2]) - 1
    expected = [logprobs[start + i, id].item() for i, id in enumerate(found.ids)]
    assert found.log_probs == pytest.approx(expected, abs=1e-4)


def test_generation_ends_where_the_context_does():
    model, _ = make(MODELS["dense"])
    assert len(complete(model, [[5] * 60, [6] * 3], GREEDY, (), 100)[0]) == 4


@pytest.mark.parametrize(("prompt", "word"), [([5] * 64, "64 tokens"), ([], "empty"), ([61], "vocabulary")])
def test_bad_prompts_are_refused_before_anything_runs(prompt, word):
    model, _ = make(MODELS["dense"])
    with pytest.raises(UserError, match=word):
        complete(model, [[1], prompt])


def test_the_repetition_penalty_equals_transformers(tmp_path):
    model, prompts = make(MODELS["dense"])
    save_model(model, tmp_path, "float32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    expected = []
    for prompt in prompts:
        penalty = RepetitionPenaltyLogitsProcessor(1.7, prompt_ignore_length=len(prompt))
        out = theirs.generate(
            torch.tensor([prompt]), do_sample=False, max_new_tokens=15, logits_processor=[penalty], eos_token_id=None
        )
        expected.append(out[0, len(prompt) :].tolist())
    assert complete(model, prompts, Sampling(temperature=0, repetition_penalty=1.7), (), 15) == expected
    assert complete(model, prompts, GREEDY, (), 15) != expected
