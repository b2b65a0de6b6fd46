"""MiniMind from Python."""

import subprocess
import sys
from dataclasses import replace
from itertools import zip_longest

import pytest
import torch

import minimind as package
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render
from minimind.tokenizer.parse import parse

HI = [{"role": "user", "content": "Who are you?"}]


@pytest.fixture(scope="module")
def lm(tuned):
    return package.load(tuned / "model", device="cpu")


def greedy(lm, ids, count):
    """The definition: take the likeliest next token, again and again, without any cache."""
    new = []
    for _ in range(count):
        new.append(int(lm.logits(ids + new)[-1].argmax()))
        if new[-1] == lm.tokenizer.eos_id:
            break
    return new


def test_generate_continues_a_text_greedily(lm):
    ids = [lm.tokenizer.bos_id, *lm.tokenizer.encode("Once upon a time")]
    expected = lm.tokenizer.decode(greedy(lm, ids, 12), skip_special=True)
    assert lm.generate("Once upon a time", max_new_tokens=12) == expected


def test_chat_answers_greedily_after_the_generation_prompt(lm):
    prompt, _ = render(HI, lm.tokenizer, add_generation_prompt=True)
    reply = lm.chat(HI, max_new_tokens=12)
    assert reply == parse(greedy(lm, prompt, 12), lm.tokenizer)
    assert reply["role"] == "assistant"


@pytest.mark.parametrize("thinking", [False, True])
def test_a_stream_adds_up_to_the_answer(lm, thinking):
    pieces = list(lm.stream(HI, open_thinking=thinking, max_new_tokens=20))
    reply = lm.chat(HI, open_thinking=thinking, max_new_tokens=20)
    for field in ("content", "reasoning_content"):
        assert "".join(piece.get(field, "") for piece in pieces) == (reply.get(field) or "")


def test_tools_and_system_prompt_reach_the_model(lm, monkeypatch):
    seen = []
    submit = lm._engine.submit
    monkeypatch.setattr(lm._engine, "submit", lambda prompt, sampling: seen.append(prompt) or submit(prompt, sampling))
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
    lm.chat([{"role": "system", "content": "Be brief."}, *HI], tools=[tool], max_new_tokens=1)
    text = lm.tokenizer.decode(seen[0])
    assert "Be brief." in text
    assert '"name": "add"' in text


def test_a_stream_left_early_and_a_changed_weight_leave_no_trace(lm):
    prompt = "Once upon a time there was"
    to_the_end = Sampling(seed=1, ignore_eos=True)  # so little trained, it would greedily say nothing at all
    first = lm.generate(prompt, 12, to_the_end)
    next(lm.stream(HI, max_new_tokens=12), None)
    assert lm.generate(prompt, 12, to_the_end) == first
    embedding = lm.model.embed_tokens.weight
    with torch.no_grad():
        embedding.copy_(embedding.roll(1, 0))
    changed = lm.generate(prompt, 12, to_the_end)
    assert changed == package.LanguageModel(lm.model, lm.tokenizer).generate(prompt, 12, to_the_end) != first
    with torch.no_grad():
        embedding.copy_(embedding.roll(-1, 0))
    assert lm.generate(prompt, 12, to_the_end) == first


def test_two_streams_and_a_side_question_at_once(lm):
    others = [{"role": "user", "content": "What is 2 + 3?"}]
    rules = Sampling(seed=1, ignore_eos=True, max_new_tokens=20)
    alone = [lm.chat(question, sampling=rules)["content"] for question in (HI, others)]
    heard = ["", ""]
    for pieces in zip_longest(*(lm.stream(question, sampling=rules) for question in (HI, others)), fillvalue={}):
        heard = [text + piece.get("content", "") for text, piece in zip(heard, pieces, strict=True)]
    assert heard == alone
    told = ""
    for piece in lm.stream(HI, sampling=rules):
        told += piece.get("content", "")
        assert lm.chat(others, sampling=rules)["content"] == alone[1]
        with lm.without(mlp=0):  # the stream goes on, with what it had read so far
            lm.chat(others, max_new_tokens=1)
    assert told


def test_stop_strings_and_lengths_hold(lm):
    rules = Sampling(seed=1, ignore_eos=True, max_new_tokens=20)
    text = lm.generate("One", sampling=rules)
    stop = text[3:6]
    cut = replace(rules, stop=[stop])
    assert lm.generate("One", sampling=cut) == text[: text.index(stop)]
    said = lm.chat(HI, sampling=rules)["content"]
    stop = said[3:6]
    cut = replace(rules, stop=[stop])
    assert lm.chat(HI, sampling=cut)["content"] == said[: said.index(stop)]
    assert "".join(piece.get("content", "") for piece in lm.stream(HI, sampling=cut)) == said[: said.index(stop)]
    assert len(lm.generate("One", 5, rules)) < len(text), "what is said in the call counts"


def test_a_turn_ends_at_its_end_whatever_the_end_of_text_is(lm, monkeypatch):
    end, ids = lm.tokenizer.control_id("<|im_end|>"), []
    rules = Sampling(temperature=0, logit_bias={end: 100}, max_new_tokens=20)
    with monkeypatch.context() as patch:
        patch.setattr(lm.tokenizer, "eos_id", lm.tokenizer.control_id("<|endoftext|>"))
        submit = lm._engine.submit
        patch.setattr(lm._engine, "submit", lambda *given: ids.append(submit(*given)) or ids[-1])
        assert lm.chat(HI, sampling=rules)["content"] == ""
    assert ids[0].ids == [end]


def test_logits_are_float32_scores_of_every_next_token(lm):
    ids = lm.tokenizer.encode("春眠不觉晓")
    logits = lm.logits(ids)
    assert logits.shape == (len(ids), lm.model.config.vocab_size)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(lm.logits(ids[:3]), logits[:3])  # nobody sees the future


def test_sampling_with_a_seed_repeats(lm):
    draw = lambda seed: lm.generate("One", 12, Sampling(temperature=2.0, seed=seed))  # noqa: E731
    assert draw(1) == draw(1) != draw(2)


def test_it_is_a_module_and_a_tokenizer(lm):
    assert isinstance(lm, package.LanguageModel)
    assert isinstance(lm.model, torch.nn.Module)
    assert not lm.model.training
    assert lm.tokenizer.decode(lm.tokenizer.encode("abc 你好")) == "abc 你好"


def test_mistakes_are_user_errors(lm, tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        package.load(tmp_path)
    with pytest.raises(UserError, match="2048"):
        lm.generate("hi " * 3000)
    small = type(lm.model)(package.PRESETS["tiny"].with_(num_hidden_layers=1))
    with pytest.raises(UserError, match="6400 entries but the model only 2048"):
        package.LanguageModel(small, Tokenizer.load("default"))


def test_importing_is_cheap_and_misspelt_names_are_told():
    code = "import minimind, sys; minimind.PRESETS; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    with pytest.raises(AttributeError, match="laod"):
        package.laod  # noqa: B018
