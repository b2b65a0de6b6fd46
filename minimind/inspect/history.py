"""Over time: the loss of every token of a text at each checkpoint, when each fact was learned, and the loss curve."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minimind.data.smallworld.world import ATTRIBUTES, LANGUAGES, build_world
from minimind.fields import Fields
from minimind.inspect.prompts import Fact, read_prompt
from minimind.inspect.trace import packed
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import metrics

FACTS = 24
POINTS = 400
"""Of a loss curve: a picture shows no more."""


@torch.no_grad()
def token_losses(model: Transformer, ids: Sequence[int]) -> Tensor:
    """Negative log-likelihood (nats) of each token but the first, `[T - 1]`."""
    ids_1T = torch.tensor([list(ids)], device=model.output_weight.device)
    logits_TV = model.logits(model(ids_1T, Segments.whole(ids_1T)).states)[0].float()
    return torch.nn.functional.cross_entropy(logits_TV[:-1], ids_1T[0, 1:], reduction="none")


def held_out_facts() -> list[Fact]:
    """Facts that no question in training is about, the same number in each language."""
    people, half = build_world().held_out, FACTS // 2
    about = [(people[i], ATTRIBUTES[i % len(ATTRIBUTES)]) for i in range(half)]
    return [Fact.about(person, attribute, language) for language in LANGUAGES for person, attribute in about]


@torch.no_grad()
def knows(model: Transformer, tokenizer: Tokenizer, facts: Sequence[Fact]) -> list[bool]:
    """Whether the model's likeliest tokens behind the beginning of the answer are the fact.

    It is asked as pretraining tells it and as a conversation; one of them is enough.
    """
    texts, begins = [], []
    for fact in facts:
        for prompt in (fact.text(), fact.chat()):
            before = read_prompt(Fields(prompt, "fact"), tokenizer).ids
            texts.append(before + tokenizer.encode(fact.value))
            begins.append(len(before))
    ids_1N, segments = packed(texts, model.output_weight.device)
    states_NC = model(ids_1N, segments).states[0]
    right, start = [], 0
    for ids, begin in zip(texts, begins, strict=True):
        asked = slice(start + begin - 1, start + len(ids) - 1)
        said = model.logits(states_NC[asked]).argmax(-1).tolist()
        right.append(said == ids[begin:])
        start += len(ids)
    return [as_text or as_chat for as_text, as_chat in zip(right[::2], right[1::2], strict=True)]


def curve(run: Path) -> dict[str, Any]:
    """What a run logged, as `[[step, figure], ...]`: the loss in training (`loss`, nats a token) and on held-out text
    (`valid`, bits per byte); where rollouts went ahead of the trainer, the seconds that it and the engine waited for
    each other."""
    lines = metrics.read(run / "metrics.jsonl")
    found = {}
    waits = [(name, f"{name}_seconds") for name in ("trainer_wait", "engine_wait")]
    for name, key in (("loss", "loss"), ("valid", "valid_bpb"), *waits):
        points = [[line["step"], line[key]] for line in lines if isinstance(line.get(key), float)]
        found[name] = points[:: -(-len(points) // POINTS) or 1]
    return {"stage": run.name, **found}
