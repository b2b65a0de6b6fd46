"""Generation on the device: the recorded step answers as the model itself does, and as transformers does.

In a rehearsal on a CPU nothing is recorded: the function that would be is called instead.
"""

from dataclasses import replace

import pytest
import torch
from gpu_models import REHEARSED, build

from minimind.engine import decode, graphs
from minimind.engine.engine import NEAR_TIE, Engine
from minimind.engine.graphs import GraphStep
from minimind.engine.sampling import GREEDY, Sampling
from minimind.model.attend import Segments
from minimind.model.store import save_model

pytestmark = pytest.mark.gpu

NEW = 24
LENGTHS = (3, 40, 11, 25, 60, 7) if REHEARSED else (3, 250, 11, 140, 500, 7)  # some pass a graph's last slot
FORMATS = [("dense", torch.float32), ("dense", torch.bfloat16), ("moe", torch.bfloat16), ("yarn", torch.float32)]
formats = pytest.mark.parametrize(("kind", "dtype"), FORMATS, ids=[f"{kind}-{dtype}" for kind, dtype in FORMATS])


@pytest.fixture(autouse=True)
def _recorded(monkeypatch):
    if REHEARSED:
        monkeypatch.setattr(graphs, "make", GraphStep)
        monkeypatch.setattr(graphs, "LEAST_SLOTS", 16)


@pytest.fixture
def eager(monkeypatch):
    """A function that makes an engine without a recorded or compiled step."""

    def make(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(graphs, "make", lambda *_: None)
            patch.setattr(decode, "make", lambda *_: None)
            return Engine(*args, **options)

    return make


def prompts(model, lengths=LENGTHS):
    random = torch.Generator().manual_seed(5)
    return [torch.randint(3, model.config.vocab_size, (length,), generator=random).tolist() for length in lengths]


def answers(engine, asked, new=NEW):
    requests = [engine.submit(prompt, Sampling(temperature=0, max_new_tokens=new)) for prompt in asked]
    for _ in engine.run():
        pass
    return [request.ids for request in requests]


def recording(engine):
    step = engine._model_runners[None].decode_step
    return isinstance(step, GraphStep) and bool(step._graphs)


def assert_same(model, asked, found, right, dtype):
    """The same ids, but for choices between words that are nearly equally likely, after which all may differ."""
    for prompt, a, b in zip(asked, found, right, strict=True):
        assert len(a) == len(b)
        place = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)
        if place is not None:
            ids = torch.tensor([prompt + a[:place]], device=model.output_weight.device)
            with torch.inference_mode():
                scores = model.logits(model(ids, Segments.whole(ids)).states[0, -1]).float().log_softmax(-1)
            assert abs(scores[a[place]] - scores[b[place]]) < NEAR_TIE[dtype], (place, a, b)


@formats
def test_the_recorded_step_answers_as_the_model_does(kind, dtype, device, eager):
    model = build(kind, device)
    asked = prompts(model)
    engine = Engine(model, max_batch_size=4, context=max(LENGTHS) + NEW + 1, dtype=dtype)
    found = answers(engine, asked)
    if kind == "dense":
        assert recording(engine)
    assert_same(
        model,
        asked,
        found,
        answers(eager(model, max_batch_size=4, context=max(LENGTHS) + NEW + 1, dtype=dtype), asked),
        dtype,
    )
    assert_same(model, asked, answers(engine, asked), found, dtype)  # replayed, from the cache of the first time


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_answers_are_those_of_transformers(kind, device, tmp_path):
    transformers = pytest.importorskip("transformers")
    model = build(kind, device)
    save_model(model, tmp_path, "float32")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).to(device)
    asked = prompts(model)
    right = []
    for prompt in asked:
        ids = torch.tensor([prompt], device=device)
        options = {"do_sample": False, "min_new_tokens": NEW, "max_new_tokens": NEW, "pad_token_id": 0}
        with torch.inference_mode():
            right.append(
                theirs.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()
            )
    found = answers(Engine(model, max_batch_size=4, context=max(LENGTHS) + NEW + 1), asked)
    assert_same(model, asked, found, right, torch.float32)


@formats
def test_requests_come_and_go(kind, dtype, device, eager):
    model = build(kind, device)
    asked, context = prompts(model), max(LENGTHS) + NEW + 1
    engine = Engine(model, max_batch_size=4, context=context, dtype=dtype)
    waiting, running = list(asked), []

    def submit(count):
        for _ in range(count):
            running.append(engine.submit(waiting.pop(0), Sampling(temperature=0, max_new_tokens=NEW)))

    for arriving, steps in ((2, 5), (3, 4), (1, 3)):
        submit(arriving)
        for _ in range(steps):
            engine.step()
    engine.cancel(running[1])
    for _ in engine.run():
        pass
    alone = [answers(eager(model, max_batch_size=1, context=context, dtype=dtype), [prompt])[0] for prompt in asked]
    left = [n for n in range(len(asked)) if n != 1]
    assert running[1].finish_reason == "abort"
    found, right = [running[n].ids for n in left], [alone[n] for n in left]
    assert_same(model, [asked[n] for n in left], found, right, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_64_streams_at_once(dtype, device, eager):
    model = build("dense", device)
    asked = prompts(model, [3 + 5 * n % 40 for n in range(64)])
    engine = Engine(model, max_batch_size=64, context=80, dtype=dtype)
    found = answers(engine, asked)
    assert recording(engine)
    assert_same(model, asked, found, answers(eager(model, max_batch_size=64, context=80, dtype=dtype), asked), dtype)


def test_new_weights_are_seen_by_recorded_steps(device, eager):
    model, other = build("dense", device), build("dense", device, initializer_range=0.05)
    asked = prompts(model)
    engine = Engine(model, max_batch_size=4, context=max(LENGTHS) + NEW + 1)
    before = answers(engine, asked)
    engine.update_weights(other)
    after = answers(engine, asked)
    assert before != after
    assert_same(
        other,
        asked,
        after,
        answers(eager(other, max_batch_size=4, context=max(LENGTHS) + NEW + 1), asked),
        torch.float32,
    )


def test_what_a_token_is_reported_to_be_worth(device):
    """Log-probabilities of drawn tokens are the model's; those under the rules are a distribution's."""
    model = build("dense", device)
    (prompt,) = prompts(model, [20])
    rules = Sampling(temperature=1.0, top_k=50, top_p=0.9, seed=3, max_new_tokens=NEW)
    engine = Engine(model, max_batch_size=2, context=64)
    request = engine.submit(prompt, rules)
    greedy = engine.submit(prompt, replace(GREEDY, max_new_tokens=NEW))
    for _ in engine.run():
        pass
    ids = torch.tensor([prompt + request.ids], device=device)
    with torch.inference_mode():
        scores = model.logits(model(ids, Segments.whole(ids)).states[0]).float().log_softmax(-1)
    for place, token in enumerate(request.tokens, len(prompt) - 1):
        assert token.logprob == pytest.approx(float(scores[place, token.id]), abs=1e-3)
        assert token.logprob - 1e-3 <= token.policy_logprob <= 1e-6, "fewer words share the probability"
    assert all(token.policy_logprob == 0 for token in greedy.tokens)
