"""The rooms of the looking-glass: what the page asks, answered as plain values for JSON.

A question is a name and an object. In most of them there is a prompt: `{"text": "..."}`, read as in pretraining, or
`{"messages": [...]}`, a conversation; which checkpoint is asked; and parts of the model that are `off`. Shape letters
are those of `trace`.
"""

import base64
import inspect
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from minimind.data.smallworld import facts as smallworld
from minimind.data.smallworld.world import ATTRIBUTES, LANGUAGES, build_world
from minimind.engine.engine import Engine
from minimind.engine.sampling import GREEDY
from minimind.errors import UserError
from minimind.fields import Fields
from minimind.inspect import facts, heads, history, lens, pair, practice, routing, words
from minimind.inspect.prompts import as_document, examples, fact_pairs, read_prompt, text_of
from minimind.inspect.shelf import Place
from minimind.inspect.trace import trace
from minimind.inspect.view import Answer, View, all_rounded, kept, rounded, switched_off
from minimind.model.qwen3 import Transformer
from minimind.model.store import load_config
from minimind.tokenizer.bpe import Tokenizer

ROOMS: dict[str, Callable[..., Any]] = {
    "tokens": words.merge_steps,
    "layers": lens.likeliest,
    "attention": heads.head_scores,
    "experts": routing.routing,
    "facts": facts.causal_trace,
    "time": history.token_losses,
    "practice": practice.read_rollout,
    "pair": pair.divergence,
}
"""The rooms of the page, and the function that each is about."""
CONTINUED = 24
"""Tokens of an answer that is shown with parts switched off."""
WORDS, SENTENCES, MODELS = 12, 4, 16
"""Shown words of an expert; people told about, in each language, for its words; models whose words are kept."""


# What there is


def answer_model(view: View, asked: Fields) -> Answer:
    """The model and its history, prompts to begin with, and where to read more."""
    shelf = view.shelf
    return {
        "name": shelf.name,
        "checkpoints": [_described(place) for place in shelf.models],
        "others": [{"name": one.name} for one in shelf.others],
        "examples": examples(),
        "facts": fact_pairs(view.tokenizer),
        "code": {room: {"label": "{}:{}".format(*_where(function))} for room, function in ROOMS.items()},
        "docs": {language: f"docs/{language}/looking-glass.md" for language in LANGUAGES},
    }


def _described(place: Place) -> Answer:
    config = load_config(place.folder)
    return {
        "name": place.name,
        "step": place.step,
        "stage": place.stage,
        "parameters": config.parameters(),
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "experts": config.num_experts,
    }


def answer_code(view: View, asked: Fields) -> Answer:
    """The function that a room is about."""
    function = ROOMS.get(asked.text("room", ""))
    if function is None:
        raise asked.wrong("room", f"one of {', '.join(ROOMS)}")
    file, line = _where(function)
    return {"file": file, "line": line, "source": inspect.getsource(inspect.unwrap(function))}


# Tokens


def answer_tokens(view: View, asked: Fields) -> Answer:
    """How a prompt is cut."""
    prompt = read_prompt(asked, view.tokenizer)
    return {
        "tokens": words.describe(view.tokenizer, prompt),
        "bytes_per_token": words.bytes_per_token(view.tokenizer, prompt.ids),
        "count": len(prompt.ids),
    }


def answer_merges(view: View, asked: Fields) -> Answer:
    """How a token came to be."""
    id = view.token(asked, "id", 0)
    steps = [
        {"pieces": [text_of(piece) for piece in step.pieces], "joined": step.joined, "rank": step.rank}
        for step in words.merge_steps(view.tokenizer, id)
    ]
    return {"steps": steps}


# Through the layers


def answer_lens(view: View, asked: Fields) -> Answer:
    """What every layer would say next."""
    trace = view.trace(asked)
    k = asked.integer("k", 5, 1, min(20, view.shelf.model(view.place(asked)).config.vocab_size))
    ids_LTk, probabilities_LTk = (one.tolist() for one in lens.likeliest(trace, k))
    cells = [
        [[[id, rounded(p)] for id, p in zip(*cell, strict=True)] for cell in zip(*layer, strict=True)]
        for layer in zip(ids_LTk, probabilities_LTk, strict=True)
    ]
    follow = lens.followers(trace, ids_LTk[-1][-1][0])
    last = zip(follow, *(one.tolist() for one in lens.of_tokens(trace.logits, follow)), strict=True)
    seen = {id for layer in ids_LTk for cell in layer for id in cell} | set(follow)
    return {
        "tokens": view.texts(trace.ids),
        "ids": trace.ids,
        "cells": cells,
        "texts": {str(id): view.shown(id) for id in seen},
        "next": [{"id": id, "probability": rounded(p), "rank": rank} for id, p, rank in last],
    }


def answer_token(view: View, asked: Fields) -> Answer:
    """One token at one position: what each layer thinks of it, and what each part adds to its logit."""
    trace = view.trace(asked)
    position = asked.integer("position", len(trace.ids) - 1, 0, len(trace.ids) - 1)
    token = view.token(asked, "token", None)
    logits = trace.logits_at(position)
    found = lens.of_tokens(logits, [token] * len(logits))
    parts = trace.contributions(position, token)
    blocks = zip(parts.attention.tolist(), parts.mlp.tolist(), parts.heads.tolist(), strict=True)
    layers = [{"probability": rounded(p), "rank": rank} for p, rank in zip(*(x.tolist() for x in found), strict=True)]
    return {
        "layers": layers,
        "logit": rounded(parts.logit),
        "embedding": rounded(parts.embedding),
        "blocks": [{"attention": rounded(a), "mlp": rounded(m), "heads": all_rounded(h)} for a, m, h in blocks],
    }


# Attention


def answer_attention(view: View, asked: Fields) -> Answer:
    """Every head's pattern, as bytes: 255 is all of the attention."""
    trace = view.trace(asked)
    patterns = ((pattern.float() * 255).round().byte().cpu() for pattern in trace.attention_of_layers())
    return {
        "tokens": view.texts(trace.ids),
        "patterns": [base64.b64encode(one.numpy().tobytes()).decode("ascii") for one in patterns],
    }


def answer_heads(view: View, asked: Fields) -> Answer:
    """What kind of head each is."""
    tokenizer = view.tokenizer
    ordinary = [
        id for id in range(tokenizer.vocab_size) if tokenizer.token_bytes(id) and not words.is_control(tokenizer, id)
    ]
    scores = heads.head_scores(view.shelf.model(view.place(asked)), ordinary, tokenizer.bos_id)
    return {name: [all_rounded(layer) for layer in score.tolist()] for name, score in scores._asdict().items()}


def answer_without(view: View, asked: Fields) -> Answer:
    """The answer with all parts, and with some switched off."""
    model, prompt = view.shelf.model(view.place(asked)), read_prompt(asked, view.tokenizer)
    off = asked.items("off")
    if not off:
        raise UserError("nothing is switched off: choose a head, an MLP or a layer")
    logits, texts = [], []
    for some in ([], off):
        with switched_off(model, some):
            logits.append(trace(model, prompt.ids).logits)
            texts.append(_continued(model, view.tokenizer, prompt.ids))
    before, after = logits
    kl_T = pair.kl(before, after)
    return {
        "before": view.likeliest(before[-1], 8),
        "after": view.likeliest(after[-1], 8),
        "kl": rounded(float(kl_T[-1])),
        "kl_tokens": all_rounded(kl_T.tolist()),
        "answer": {"before": texts[0], "after": texts[1]},
    }


# Experts


def answer_experts(view: View, asked: Fields) -> Answer:
    """Where the tokens go."""
    place = view.place(asked)
    model, trace = view.shelf.model(place), view.trace(asked)
    found = routing.routing(model, trace)
    frequent = kept(view.words_of_experts, place, MODELS, lambda: _words(view, model))
    return {
        "tokens": view.texts(trace.ids),
        "layers": [
            {
                "layer": one.layer,
                "probabilities": [all_rounded(row) for row in one.probabilities.tolist()],
                "chosen": one.chosen.tolist(),
                "load": all_rounded(one.load.tolist()),
                "words": frequent[str(one.layer)],
            }
            for one in found
        ],
    }


def _words(view: View, model: Transformer) -> Answer:
    """By layer, what its experts get of some sentences of the small world."""
    people = build_world().asked[:SENTENCES]
    told = [
        f"{smallworld.question(person, attribute, language)}\n{smallworld.answer(person, attribute, language)}"
        for person in people
        for attribute in ATTRIBUTES
        for language in LANGUAGES
    ]
    counted = routing.words_of_experts(model, [as_document(text, view.tokenizer) for text in told])
    return {
        str(layer): [
            [{"text": view.shown(id), "count": count} for id, count in counter.most_common(WORDS)]
            for counter in counters
        ]
        for layer, counters in counted.items()
    }


# Facts


def answer_facts(view: View, asked: Fields) -> Answer:
    """Where the fact that two questions differ in passes through the model."""
    model = view.shelf.model(view.place(asked))
    clean, corrupt = (read_prompt(asked.fields(name), view.tokenizer).ids for name in ("clean", "corrupt"))
    answer = view.token(asked, "answer", None) if "answer" in asked.given else None
    with switched_off(model, asked.items("off")):
        found = facts.causal_trace(model, clean, corrupt, answer)
    restored = [[None if math.isnan(p) else rounded(p) for p in layer] for layer in found.restored.tolist()]
    return {
        "tokens": view.texts(corrupt),
        "from": [None if source is None else view.shown(clean[source]) for source in found.sources],
        "first": found.first,
        "answer": {"id": found.answer, "text": view.shown(found.answer)},
        "other": {"id": found.other, "text": view.shown(found.other)},
        "clean": rounded(found.clean),
        "corrupt": rounded(found.corrupt),
        "restored": restored,
    }


# Over time


def answer_history(view: View, asked: Fields) -> Answer:
    """The loss of each token at every checkpoint."""
    ids = read_prompt(asked, view.tokenizer).ids
    losses = [all_rounded(history.token_losses(model, ids).tolist()) for model in _through_time(view, asked)]
    return {"tokens": view.texts(ids), **_timeline(view), "losses": losses}


def answer_curve(view: View, asked: Fields) -> Answer:
    """The loss curves of the runs."""
    return {"runs": [history.curve(run) for run in view.shelf.runs]}


def answer_learned(view: View, asked: Fields) -> Answer:
    """Which held-out facts each checkpoint knows."""
    told = history.held_out_facts()
    right = [history.knows(model, view.tokenizer, told) for model in _through_time(view, asked)]
    found = [
        {
            "question": fact.question,
            "answer": fact.value.strip(),
            "language": fact.language,
            "right": [at[number] for at in right],
        }
        for number, fact in enumerate(told)
    ]
    return {**_timeline(view), "facts": found}


def _through_time(view: View, asked: Fields) -> Iterator[Transformer]:
    """The model at each checkpoint, with parts switched off while it is looked at."""
    for place in view.shelf.models:
        model = view.shelf.model(place)
        with switched_off(model, asked.items("off")):
            yield model


def _timeline(view: View) -> Answer:
    models = view.shelf.models
    return {"checkpoints": [place.name for place in models], "steps": [place.step for place in models]}


# Practice


def answer_practice(view: View, asked: Fields) -> Answer:
    """Which rollouts of a run were kept."""
    run = _practised(view)
    if run is None:
        return {"rollouts": [], "components": {}, "divide_by_sigma": True}
    return {
        "rollouts": practice.rollouts(run),
        "components": practice.weights(run),
        "divide_by_sigma": practice.divides(run),
    }


def answer_rollout(view: View, asked: Fields) -> Answer:
    """One of them."""
    run = _practised(view)
    if run is None:
        raise UserError("no rollout was kept: train grpo, ppo or agent with --set.rl.dump DIR, DIR below the run")
    return practice.read_rollout(run, asked.integer("rollout", 0), view.tokenizer)


def _practised(view: View) -> Path | None:
    return next((run for run in reversed(view.shelf.runs) if practice.rollouts(run)), None)


# Side by side


def answer_pair(view: View, asked: Fields) -> Answer:
    """Two models on one prompt."""
    other = view.shelf.place(asked.text("other", None))
    first = view.trace(asked)
    second = view.trace(Fields({**asked.given, "checkpoint": other.name}, asked.source))
    kl_LT = pair.divergence(first, second)
    return {
        "tokens": view.texts(first.ids),
        "first": view.place(asked).name,
        "second": other.name,
        "kl": all_rounded(kl_LT[-1].tolist()),
        "kl_layers": [all_rounded(layer) for layer in kl_LT.tolist()] if len(kl_LT) > 1 else None,
        "first_top": [view.likeliest(logits_V, 3) for logits_V in first.logits],
        "second_top": [view.likeliest(logits_V, 3) for logits_V in second.logits],
    }


def _continued(model: Transformer, tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The likeliest words behind a text."""
    # In reference mode, which always goes through the model itself: with parts switched off and without, the same way.
    engine = Engine(model, tokenizer, max_batch_size=1, context=len(ids) + CONTINUED, chunk=64, batch_invariant=True)
    request = engine.submit(ids, replace(GREEDY, max_new_tokens=CONTINUED))
    deque(engine.run(), maxlen=0)
    return tokenizer.decode(request.ids, skip_special=True)


def _where(function: Callable[..., Any]) -> tuple[str, int]:
    """File and line of a function, from the project's folder on."""
    bare = inspect.unwrap(function)
    return bare.__module__.replace(".", "/") + ".py", bare.__code__.co_firstlineno


QUESTIONS: dict[str, Callable[[View, Fields], Answer]] = {
    "model": answer_model,
    "code": answer_code,
    "tokens": answer_tokens,
    "merges": answer_merges,
    "lens": answer_lens,
    "token": answer_token,
    "attention": answer_attention,
    "heads": answer_heads,
    "without": answer_without,
    "experts": answer_experts,
    "facts": answer_facts,
    "history": answer_history,
    "curve": answer_curve,
    "learned": answer_learned,
    "practice": answer_practice,
    "rollout": answer_rollout,
    "pair": answer_pair,
}
