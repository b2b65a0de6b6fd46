"""The engine with a real model: against `transformers`, among strangers, from a seed, with grammars and new weights."""

import asyncio
import contextlib
import json
import random
import re
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from minimind.config import PRESETS
from minimind.engine import grammar
from minimind.engine.background import EngineThread, QueueFull
from minimind.engine.engine import NEAR_TIE, Engine
from minimind.engine.model_runner import rounded
from minimind.engine.request import PromptTooLong
from minimind.engine.sampling import GREEDY, Sampling
from minimind.errors import UsageError
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.load("default")
SMALL = {"num_hidden_layers": 2, "vocab_size": 6400, "initializer_range": 0.3, "max_position_embeddings": 256}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CONFIGS = {
    "dense": PRESETS["tiny"].with_(**SMALL),
    "moe": PRESETS["tiny-moe"].with_(**SMALL),
    "yarn": PRESETS["tiny"].with_(**SMALL, rope_scaling=YARN),
}

CROWDED = {"cache_tokens": 256}
"""As many tokens as one request may have, for all of them."""


def build(kind="dense", seed=3):
    torch.manual_seed(seed)
    return Transformer(CONFIGS[kind]).eval()


@pytest.fixture(scope="module")
def model():
    return build()


def prompts(count=8, shared=20):
    """Prompts of which every second begins alike."""
    dice = random.Random(5)
    draw = lambda n: [dice.randrange(36, 6400) for _ in range(n)]  # noqa: E731
    beginning = draw(shared)
    return [(beginning if i % 2 else []) + draw(dice.choice([1, 2, 9, 40])) for i in range(count)]


def joining_at_random(engine, jobs, seed):
    """Submit `jobs` at random steps beside strangers that come and are cancelled; return the requests."""
    dice = random.Random(seed)
    requests, strangers, todo = [], [], list(jobs)
    while todo or engine.has_work:
        while todo and dice.random() < 0.4:
            requests.append(engine.submit(*todo.pop(0)))
        if todo and dice.random() < 0.3:
            strangers.append(engine.submit([dice.randrange(6400)] * dice.randint(1, 70), Sampling(max_new_tokens=9)))
        if strangers and dice.random() < 0.2:
            engine.cancel(dice.choice(strangers))
        engine.step()
    return requests


@pytest.mark.parametrize("kind", CONFIGS)
def test_greedy_equals_transformers_whoever_comes_and_goes(kind, tmp_path):
    model = build(kind)
    save_model(model, tmp_path, "float32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    expected = []
    for prompt in prompts():
        ids = torch.tensor([prompt])
        out = theirs.generate(ids, do_sample=False, max_new_tokens=12, eos_token_id=None, pad_token_id=0)
        expected.append(out[0, len(prompt) :].tolist())
    rules = replace(GREEDY, max_new_tokens=12, ignore_eos=True)
    for seed, (size, options) in enumerate([(5, {}), (2, {"chunk": 16}), (3, {"batch_invariant": True}), (8, CROWDED)]):
        engine = Engine(model, TOKENIZER, max_batch_size=size, **options)
        requests = joining_at_random(engine, [(prompt, rules) for prompt in prompts()], seed)
        assert [request.ids for request in requests] == expected
        assert any(request.cached_tokens for request in requests) != engine.batch_invariant


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_in_reference_mode_a_request_gets_the_same_bits_whoever_comes_and_goes(kind):
    model = build(kind)
    rules = Sampling(temperature=1.2, top_p=0.95, max_new_tokens=12, ignore_eos=True)
    jobs = [(prompt, replace(rules, seed=i)) for i, prompt in enumerate(prompts())]
    alone = []
    for job in jobs:
        engine = Engine(model, TOKENIZER, max_batch_size=4, chunk=32, batch_invariant=True)
        alone.append(engine.submit(*job))
        list(engine.run())
    for seed in range(3):
        engine = Engine(model, TOKENIZER, max_batch_size=4, chunk=32, batch_invariant=True)
        together = joining_at_random(engine, jobs, seed)
        assert [request.tokens for request in together] == [request.tokens for request in alone]


@pytest.mark.parametrize("dtype", NEAR_TIE)
def test_in_fast_mode_company_changes_an_answer_only_where_two_tokens_tie(model, dtype):
    rules = replace(GREEDY, max_new_tokens=16, ignore_eos=True, top_logprobs=2)
    jobs = [(prompt, rules) for prompt in prompts()]
    alone = Engine(model, TOKENIZER, max_batch_size=1, dtype=dtype)
    expected = [alone.submit(*job) for job in jobs]
    list(alone.run())
    for seed in range(2):
        engine = Engine(model, TOKENIZER, max_batch_size=5, dtype=dtype, chunk=32)
        for request, other in zip(joining_at_random(engine, jobs, seed), expected, strict=True):
            pairs = zip(request.tokens, other.tokens, strict=True)
            for one in next((pair for pair in pairs if pair[0].id != pair[1].id), ()):
                (_, first), (_, second) = one.top
                assert first - second < NEAR_TIE[dtype]


def passes(engine, monkeypatch):
    """A list that every pass of the engine is added to: the spans of its requests."""
    plan, found = engine._scheduler.plan, []
    monkeypatch.setattr(engine._scheduler, "plan", lambda: found.append(plan()) or found[-1])
    return found


@pytest.mark.parametrize("reference", [False, True])
def test_who_had_to_give_way_goes_on_as_if_nothing_had_been(model, reference, monkeypatch):
    rules = [replace(GREEDY, max_new_tokens=70, ignore_eos=True), Sampling(seed=4, max_new_tokens=70, ignore_eos=True)]
    jobs = [(prompt, rules[reference], i) for i, prompt in enumerate(prompts())]
    free = Engine(model, TOKENIZER, max_batch_size=8, batch_invariant=reference)
    expected = [free.submit(*job) for job in jobs]
    list(free.run())
    crowded = Engine(model, TOKENIZER, max_batch_size=8, batch_invariant=reference, **CROWDED)
    preempt, gave_way = crowded._scheduler._preempt, []
    monkeypatch.setattr(crowded._scheduler, "_preempt", lambda: gave_way.append(preempt()) or gave_way[-1])
    requests = [crowded.submit(*job) for job in jobs]
    list(crowded.run())
    assert bool(gave_way) != reference, "who has room for its longest answer never has to"
    if reference:
        assert [request.tokens for request in requests] == [request.tokens for request in expected]
    else:
        assert [request.ids for request in requests] == [request.ids for request in expected]


def test_four_times_as_many_chats_run_in_the_memory_of_whole_contexts(model):
    engine = Engine(model, TOKENIZER, max_batch_size=100, cache_tokens=2 * 256)
    rules = replace(GREEDY, max_new_tokens=14, ignore_eos=True)
    requests = [engine.submit([n] * 50, rules) for n in range(36, 56)]
    most = 0
    while engine.has_work:
        engine.step()
        most = max(most, engine.running)
    assert most == 8, "of 63 tokens each, where two of 256 found room"
    assert {len(request.ids) for request in requests} == {14}
    tokens, memory = engine.cache_size
    assert (tokens, memory) == (512, 512 * 2 * 2 * 2 * 48 * 4)  # keys and values, layers, heads, head_dim, float32


def test_what_another_has_computed_is_used_where_it_lies(model, monkeypatch):
    engine = Engine(model, TOKENIZER, max_batch_size=3)
    found, rules = passes(engine, monkeypatch), replace(GREEDY, max_new_tokens=9, ignore_eos=True)
    beginning = prompts(2, shared=40)[1][:40]
    first = engine.submit([*beginning, 1, 2, 3], rules)
    engine.step()
    before = engine._cache.keys.clone()
    second = engine.submit([*beginning, 4, 5], rules)
    engine.step()
    assert second.pages[:2] == first.pages[:2]
    assert engine._cache.keys[:, :, first.pages[:2]].equal(before[:, :, first.pages[:2]])
    list(engine.run())
    assert sum(spans[second].end - spans[second].start for spans in found if second in spans) == 42 - 32 + 8
    third = engine.submit(second.prompt_ids + second.ids, rules)
    list(engine.run())
    assert (second.cached_tokens, third.cached_tokens) == (32, 48), "also when it has ended"


def test_logprobs_are_those_of_the_model_and_of_the_policy(model):
    engine = Engine(model, TOKENIZER, max_batch_size=3)
    rules = Sampling(temperature=0.7, seed=4, max_new_tokens=8, ignore_eos=True, top_logprobs=3)
    requests = [engine.submit(prompt, rules, index=i) for i, prompt in enumerate([prompts()[1]] * 3)]
    list(engine.run())
    assert len({tuple(request.ids) for request in requests}) == 3
    for request in requests:
        ids = torch.tensor([request.prompt_ids + request.ids])
        with torch.no_grad():
            logits = model.logits(model(ids, Segments.whole(ids)).states)[0, len(request.prompt_ids) - 1 : -1]
        own, policy = logits.log_softmax(-1), (logits / 0.7).log_softmax(-1)
        for i, token in enumerate(request.tokens):
            assert token.logprob == pytest.approx(own[i, token.id].item(), abs=1e-4)
            assert token.policy_logprob == pytest.approx(policy[i, token.id].item(), abs=1e-4)
            values, best = own[i].topk(3)
            assert [id for id, _ in token.top] == best.tolist()
            assert [value for _, value in token.top] == pytest.approx(values.tolist(), abs=1e-4)


def test_text_stop_strings_and_stop_ids(model):
    engine = Engine(model, TOKENIZER)
    free = replace(GREEDY, max_new_tokens=30, ignore_eos=True)

    def answer(**rules):
        request = engine.submit(prompts()[0], replace(free, **rules))
        outputs = [output for output in engine.run() if output.request is request]
        assert "".join(output.text for output in outputs) == request.text
        assert outputs[-1].finish_reason == request.finish_reason
        return request

    whole = answer()
    assert whole.text == TOKENIZER.decode(whole.ids, skip_special=True)
    assert whole.finish_reason == "length"
    stop = whole.text[7:10]
    cut = answer(stop=["never", stop])
    assert (cut.text, cut.finish_reason, cut.stop) == (whole.text[: whole.text.index(stop)], "stop", stop)
    at = answer(stop_ids=[whole.ids[4]])
    assert (at.ids, at.finish_reason) == (whole.ids[: whole.ids.index(whole.ids[4]) + 1], "stop")
    assert at.stop == whole.ids[4]
    biased = {"logit_bias": {TOKENIZER.eos_id: 1000.0}}
    assert answer(**biased).ids == [TOKENIZER.eos_id] * 30
    ended = answer(**biased, ignore_eos=False)
    assert (ended.ids, ended.text, ended.finish_reason) == ([TOKENIZER.eos_id], "", "stop")
    assert (answer(max_new_tokens=0).ids, answer(max_new_tokens=0).finish_reason) == ([], "length")


SCHEMA = {
    "type": "object",
    "properties": {"size": {"type": "integer", "minimum": 1, "maximum": 9}, "kind": {"enum": ["a", "b"]}},
    "required": ["size", "kind"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": 'say "hi"', "parameters": SCHEMA}}


def test_grammars_hold_for_a_model_that_knows_nothing(model):
    engine = Engine(model, TOKENIZER, max_batch_size=8)
    rules = Sampling(max_new_tokens=200, seed=1)
    free = engine.submit(prompts()[0], rules)
    ids = [id for part in ("<tool_call>", "</tool_call>") for id in [TOKENIZER.control_id(part)]]
    constrained = {
        name: [engine.submit(prompts()[1], replace(rules, grammar=text), index=i) for i in range(2)]
        for name, text in {
            "schema": grammar.json_schema(SCHEMA),
            "regex": grammar.regex(r"[0-9]{3}/\d-你好"),
            "call": grammar.tool_call([TOOL]),
        }.items()
    }
    alone = Engine(model, TOKENIZER)
    unconstrained = alone.submit(prompts()[0], rules)
    list(engine.run()), list(alone.run())
    assert free.ids == unconstrained.ids
    for request in constrained["schema"]:
        value = json.loads(request.text)
        assert 1 <= value["size"] <= 9
        assert value["kind"] in ("a", "b")
        assert request.finish_reason == "stop"
    for request in constrained["regex"]:
        assert re.fullmatch(r"[0-9]{3}/\d-你好", request.text)
    for request in constrained["call"]:
        assert [id for id in request.ids if id in ids] == ids  # as control tokens
        call = json.loads(request.text.removeprefix("<tool_call>\n").removesuffix("\n</tool_call>"))
        assert call["name"] == 'say "hi"'
        assert set(call["arguments"]) == {"size", "kind"}


def test_a_thought_may_come_before_a_constrained_answer(model):
    engine = Engine(model, TOKENIZER)
    close = TOKENIZER.control_id("</think>")
    rules = Sampling(grammar=grammar.json_schema(SCHEMA, open_thinking=True), logit_bias={close: 7.0}, seed=2)
    request = engine.submit(prompts()[0], rules)
    list(engine.run())
    thought, answer = request.text.split("</think>\n\n")
    assert thought
    assert set(json.loads(answer)) == {"size", "kind"}


def test_new_weights_take_effect_at_the_next_token():
    old, new = build(seed=3), build(seed=4)
    rules = replace(GREEDY, max_new_tokens=10, ignore_eos=True)
    prompt = prompts()[1]
    engine = Engine(build(seed=3), TOKENIZER)
    request = engine.submit(prompt, rules)
    for _ in range(4):
        engine.step()
    engine.update_weights(new)
    list(engine.run())
    assert [token.version for token in request.tokens] == [0] * 4 + [1] * 6
    before, after = Engine(old, TOKENIZER), Engine(new, TOKENIZER)
    first = before.submit(prompt, replace(rules, max_new_tokens=4))
    rest = after.submit(prompt + request.ids[:4], replace(rules, max_new_tokens=6))
    list(before.run()), list(after.run())
    assert request.ids == first.ids + rest.ids
    engine.update_weights(new)
    again = engine.submit(prompt, rules)
    list(engine.run())
    assert again.cached_tokens == 0
    with pytest.raises(UsageError, match=r"norm\.weigth"):
        engine.update_weights({"norm.weigth": torch.ones(192)})


@pytest.mark.parametrize("parts", [(), ("kv_cache",), ("weights",)])
def test_memory_given_up_in_the_middle_of_an_answer_changes_nothing(parts):
    rules = replace(GREEDY, max_new_tokens=10, ignore_eos=True)
    engine, undisturbed = (Engine(build(seed=3), TOKENIZER) for _ in range(2))
    request, expected = (one.submit(prompts()[1], rules) for one in (engine, undisturbed))
    list(undisturbed.run())
    for _ in range(4):
        engine.step()
    engine.release_memory(*parts)
    assert engine.released
    assert (engine._cache.keys.untyped_storage().nbytes() == 0) == (parts != ("weights",))
    assert not engine.has_work
    assert engine.step() == []
    engine.flush_cache()
    engine.resume_memory("weights")
    engine.resume_memory()
    list(engine.run())
    assert request.ids == expected.ids


def test_what_cannot_work_is_refused_before_anything_runs(model):
    engine = Engine(model, TOKENIZER, context=20)
    with pytest.raises(PromptTooLong, match="21 tokens, but the context is 20") as caught:
        engine.submit([5] * 21)
    assert (caught.value.tokens, caught.value.context) == (21, 20)
    for prompt, rules, word in [
        ([], {}, "empty"),
        ([6400], {}, "vocabulary"),
        ([1], {"logit_bias": {6400: 1}}, "logit_bias"),
        ([1], {"grammar": "start: /(/"}, "grammar"),
    ]:
        with pytest.raises(UsageError, match=word):
            engine.submit(prompt, Sampling(**rules))
    with pytest.raises(UsageError, match="a cache of 19 tokens has no room for a context of 20"):
        Engine(model, context=20, cache_tokens=19)
    with pytest.raises(UsageError, match="tokenizer"):
        Engine(model).submit([1], Sampling(stop=["x"]))
    assert not engine.has_work
    full = engine.submit([5] * 19)
    list(engine.run())
    assert (len(full.ids), full.finish_reason) == (1, "length")


def test_unseeded_requests_repeat_with_the_engine_seed(model):
    def answers(seed):
        engine = Engine(model, TOKENIZER, seed=seed)
        requests = [engine.submit(prompts()[0], Sampling(max_new_tokens=6, ignore_eos=True)) for _ in range(2)]
        list(engine.run())
        return [request.ids for request in requests]

    assert answers(1) == answers(1) != answers(2)
    assert answers(1)[0] != answers(1)[1]


def test_bfloat16_copies_the_weights_and_stays_near():
    model = build()
    engine = Engine(model, TOKENIZER, dtype=torch.bfloat16)
    assert model.output_weight.dtype == torch.float32
    request = engine.submit(prompts()[1], replace(GREEDY, max_new_tokens=1, top_logprobs=1))
    reference = Engine(model, TOKENIZER)
    wanted = reference.submit(prompts()[1], replace(GREEDY, max_new_tokens=1))
    list(engine.run()), list(reference.run())
    assert request.tokens[0].logprob == pytest.approx(wanted.tokens[0].logprob, abs=0.15)


def test_a_thread_serves_many_and_who_leaves_early_frees_the_row(model):
    async def talk():
        # reference mode: elsewhere a draw that falls between two tokens may go either way in other company
        thread = EngineThread(Engine(model, TOKENIZER, max_batch_size=2, batch_invariant=True), max_waiting=6)
        rules = Sampling(seed=1, max_new_tokens=20, ignore_eos=True)

        async def ask(index, leave_after=None):
            ids = []
            async with contextlib.aclosing(thread.generate(prompts()[1], rules, index)) as outputs:
                async for output in outputs:
                    ids.append(output.token.id)
                    if len(ids) == leave_after:
                        break
            return ids

        together = await asyncio.gather(*(ask(i) for i in range(5)), ask(5, leave_after=3))
        alone = [await ask(i) for i in range(5)]
        with pytest.raises(PromptTooLong):
            await ask_too_much(thread)
        thread.pause()
        paused = [asyncio.create_task(ask(i)) for i in range(6)]
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFull):
            await ask(6)
        assert not any(task.done() for task in paused)
        paused[0].cancel()
        thread.resume()
        rest = await asyncio.gather(*paused[1:-1])
        await paused[-1]
        left = await thread.call(lambda engine: (engine.has_work, engine.update_weights(model), engine.version))
        ending = asyncio.create_task(ask(0))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(thread.close)
        return together, alone, rest, left, thread.open_requests, await ask_to_end(ending)

    async def ask_too_much(thread):
        async for _ in thread.generate([5] * 256):
            pass

    async def ask_to_end(task):
        with contextlib.suppress(AttributeError):  # the last output of an aborted request has no token
            return await task

    together, alone, rest, left, still_open, _ = asyncio.run(asyncio.wait_for(talk(), 30))
    assert together[:5] == alone
    assert len(together[5]) == 3
    assert rest == alone[1:]
    assert left == (False, None, 1)
    assert still_open == 0


@pytest.mark.parametrize("options", [{}, {"chunk": 7}, {"batch_invariant": True}, {"dtype": torch.bfloat16}])
@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_a_prompt_is_scored_as_the_model_itself_scores_it(kind, options):
    model, prompt = build(kind), prompts()[1]
    engine = Engine(model, TOKENIZER, max_batch_size=3, **options)
    stranger = engine.submit(prompt[:20] + [99] * 30, replace(GREEDY, max_new_tokens=30, ignore_eos=True))
    for _ in range(3):
        engine.step()
    rules = Sampling(temperature=0, max_new_tokens=0, prompt_logprobs=3, embed=True)
    request, again = engine.submit(prompt, rules), engine.submit(prompt, replace(rules, max_new_tokens=2))
    list(engine.run())
    assert (len(request.tokens), len(again.tokens), len(stranger.tokens)) == (0, 2, 30)
    assert request.finish_reason == "length"
    assert request.prompt_tokens[0] is None
    ids_1T = torch.tensor([prompt])
    states_TC = model(
        ids_1T, Segments.right_padded(torch.tensor([len(prompt)]), len(prompt), torch.device("cpu"))
    ).states[0]
    log_probs_TV = model.logits(states_TC).float().log_softmax(-1)
    near = {"abs": 0.3} if options.get("dtype") else {"abs": 1e-4}
    for found in (request, again):
        assert [token.id for token in found.prompt_tokens[1:]] == prompt[1:]
        for at, token in enumerate(found.prompt_tokens[1:]):
            assert token.logprob == pytest.approx(float(log_probs_TV[at, token.id]), **near)
            assert len(token.top) == 3
            assert token.top[0][1] == pytest.approx(float(log_probs_TV[at].max()), **near)
            assert (token.rank == 1) == (token.id == token.top[0][0])
        assert found.state_sum.tolist() == pytest.approx(states_TC.sum(0).tolist(), abs=near["abs"] * len(prompt))


def test_passes_in_bfloat16_have_few_sizes(model):
    """For each number of rows oneDNN keeps a kernel of half a megabyte for every shape of a matrix."""
    engine = Engine(model, TOKENIZER, dtype=torch.bfloat16, max_batch_size=2, chunk=200)
    sizes, runner = [], engine._model_runners[None]
    for module in (engine.model.layers[0].mlp.up_proj, engine.model.layers[1].mlp.down_proj):
        module.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[1]))
    runner.prepare()  # a model with hooks has no compiled step: every pass goes through it
    for length in range(1, 200):
        engine.submit([36 + (7 * length + i) % 6000 for i in range(length)], replace(GREEDY, max_new_tokens=1))
    list(engine.run())
    assert max(sizes) == 208
    assert len(set(sizes)) <= 45


def test_rounding_adds_an_eighth_at_most():
    assert all(rows <= rounded(rows) <= rows * 9 / 8 for rows in range(1, 2000))
