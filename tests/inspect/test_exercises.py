"""The exercises of docs/en/looking-glass.md: their answers hold for the demo's model, whichever run it is from."""

import base64
from collections import Counter
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from minimind.data.smallworld.world import LANGUAGES, build_world
from minimind.inspect.glass import LookingGlass
from minimind.inspect.prompts import Fact

pytestmark = pytest.mark.slow
DEMO = Path(__file__).parents[2] / "runs" / "demo"
PEOPLE = build_world().held_out[:12]


@pytest.fixture(scope="module")
def demo(minimind):
    """The demo's models up to SFT: those that are there, or made now, which takes as long as the demo says."""
    ended = minimind("demo", "--out", DEMO, "--until", "sft")
    assert ended.code == 0, ended.err
    return LookingGlass(DEMO / "sft", "cpu")


@pytest.fixture(scope="module")
def asked(demo):
    """Begun answers about the homes of people whom no question in training is about, each with the city's token."""
    facts = [Fact.about(person, "city", language) for language in LANGUAGES for person in PEOPLE]
    return [(form(fact), demo.tokenizer.encode(fact.value)[0]) for fact in facts for form in (Fact.text, Fact.chat)]


def begun(prompt):
    """The beginning of the answer."""
    return prompt["begins"] if "begins" in prompt else prompt["text"].split("\n")[1]


def last_token(demo, prompt, city):
    end = len(demo.answer("tokens", prompt)["tokens"]) - 1
    return demo.answer("token", {**prompt, "position": end, "token": city})


def strongest_head(told):
    pushes = {(layer, head): push for layer, one in enumerate(told["blocks"]) for head, push in enumerate(one["heads"])}
    return max(pushes, key=pushes.__getitem__)


def test_what_is_supervised(demo):
    messages = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A model."}]
    tokens = demo.answer("tokens", {"messages": messages})["tokens"]
    assert "".join(one["text"] for one in tokens if one["supervised"]).endswith("A model.<|im_end|>")
    assert not tokens[-1]["supervised"]


def test_the_city_is_first_from_the_middle_layers_on(demo, asked):
    since, largest = [], Counter()
    for prompt, city in asked:
        told = last_token(demo, prompt, city)
        ranks = [layer["rank"] for layer in told["layers"]]
        since.append(next((at for at in range(len(ranks)) if not any(ranks[at:])), len(ranks)) - 1)
        parts = {(name, at): one[name] for at, one in enumerate(told["blocks"]) for name in ("attention", "mlp")}
        largest[max(parts, key=parts.__getitem__)] += 1
    assert 1 <= mean(since) <= 3
    assert sum(count for (_, layer), count in largest.items() if layer in (2, 3)) > 0.8 * len(asked)


def test_the_head_that_brings_the_city_looks_at_the_name_and_is_not_alone(demo, asked):
    late = at_the_name = kept = 0
    for prompt, city in asked:
        layer, head = strongest_head(last_token(demo, prompt, city))
        found = demo.answer("attention", prompt)
        length = len(found["tokens"])
        pattern = np.frombuffer(base64.b64decode(found["patterns"][layer]), np.uint8).reshape(-1, length, length)
        at = int(pattern[head, -1].argmax())
        late += layer in (2, 3)
        at_the_name += length - len(demo.tokenizer.encode(begun(prompt))) <= at < length - 1
        off = demo.answer("without", {**prompt, "off": [{"layer": layer, "head": head}]})
        kept += off["after"][0]["id"] == city
    assert min(late, at_the_name, kept) > 0.8 * len(asked)


def test_the_fact_moves_from_the_name_to_the_last_token(demo):
    at_the_name, at_the_end = [], []
    for language in LANGUAGES:
        for pair in demo.answer("model", {})["facts"][language]:
            found = demo.answer("facts", {"clean": pair["clean"], "corrupt": pair["corrupt"]})
            after = dict(enumerate(found["restored"], -1))  # by layer; -1: the embedding
            answer = slice(-len(demo.tokenizer.encode(begun(pair["corrupt"]))), -1)
            at_the_name.append(max(after[1][answer]))
            at_the_end.append(after[3][-1])
    assert mean(at_the_name) > 0.8
    assert min(at_the_end) > 0.9


def test_only_the_names_and_the_beginning_of_a_question_surprise(minimind, demo):
    pretrained = LookingGlass(DEMO / "pretrain", "cpu")
    for person in PEOPLE:
        fact = Fact.about(person, "city", "en")
        found = pretrained.answer("history", fact.text())
        losses = dict(enumerate(found["losses"][-1], 1))
        tokens = found["tokens"]
        name = next(at for at, token in enumerate(tokens) if token.strip() == person.name("en").split()[0])
        assert losses[name] > 2
        assert max(loss for at, loss in losses.items() if at > name) < 0.5


def test_sft_changed_the_form_and_kept_the_fact(demo):
    both = LookingGlass(DEMO, "cpu")
    pair = both.answer("model", {})["facts"]["en"][0]["clean"]
    found = both.answer("pair", {**pair, "checkpoint": "pretrain/model", "other": "sft/model"})
    assert max(found["kl"]) > 5
    assert found["kl"][-1] < 0.1
