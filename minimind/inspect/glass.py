"""Everything that the page asks, answered as plain values for JSON; `minimind/serve/glass.py` puts it on the network.

A question is a room's name and an object. In most of them there is a prompt: `{"text": "..."}`, read as in pretraining,
or `{"messages": [...]}`, a conversation; which checkpoint is asked; and parts of the model that are `off`. Shape
letters are those of `trace`.
"""

import base64
import inspect
import json
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from minimind.data.smallworld import facts as smallworld
from minimind.data.smallworld.world import ATTRIBUTES, LANGUAGES, build_world
from minimind.engine.engine import Engine
from minimind.engine.sampling import GREEDY
from minimind.errors import UserError
from minimind.fields import Fields
from minimind.inspect import facts, heads, history, lens, pair, practice, routing, words
from minimind.inspect.prompts import as_document, examples, fact_pairs, read_prompt, shown, text_of
from minimind.inspect.shelf import Place, Shelf
from minimind.inspect.trace import Trace, trace, without
from minimind.model.qwen3 import Transformer
from minimind.tokenizer.bpe import Tokenizer

Answer = dict[str, Any]
T = TypeVar("T")
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
KEPT_TRACES, KEPT_ANSWERS = 8, 64
CONTINUED = 24
"""Tokens of an answer that is shown with parts switched off."""
WORDS, SENTENCES = 12, 4
"""Shown words of an expert; people told about, in each language, for its words."""


class LookingGlass:
    """Answers about the models at `path`. Not thread-safe, but for `shelf`."""

    page = files("minimind.inspect") / "page"
    """The folder of the page's files."""

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        self.shelf = Shelf(path, device)
        self.tokenizer = self.shelf.tokenizer
        self.rooms: dict[str, Callable[[Fields], Answer]] = {
            "model": self.model,
            "code": self.code,
            "tokens": self.tokens,
            "merges": self.merges,
            "lens": self.lens,
            "token": self.token,
            "attention": self.attention,
            "heads": self.heads,
            "without": self.without,
            "experts": self.experts,
            "facts": self.facts,
            "history": self.history,
            "curve": self.curve,
            "learned": self.learned,
            "practice": self.practice,
            "rollout": self.rollout,
            "pair": self.pair,
        }
        self._traces: OrderedDict[Hashable, Trace] = OrderedDict()
        self._answers: OrderedDict[Hashable, Answer] = OrderedDict()

    def answer(self, room: str, asked: Mapping[str, Any]) -> Answer:
        """The answer to one question; the newest are remembered.

        Raises:
            UserError: there is no such room, or something is wrong with what is asked.
        """
        if room not in self.rooms:
            raise UserError(f"there is no room {room!r} here; there are {', '.join(self.rooms)}")
        question = (room, json.dumps(asked, sort_keys=True))
        return _kept(self._answers, question, KEPT_ANSWERS, lambda: self.rooms[room](Fields(asked, "the request")))

    # What there is

    def model(self, asked: Fields) -> Answer:
        """The model and its history, prompts to begin with, and where to read more."""
        shelf = self.shelf
        config = shelf.model(shelf.place(None)).config
        return {
            "name": shelf.name,
            "parameters": config.parameters(),
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "kv_heads": config.num_key_value_heads,
            "hidden": config.hidden_size,
            "vocab": config.vocab_size,
            "experts": config.num_experts,
            "sparse_layers": [layer for layer in range(config.num_hidden_layers) if config.is_sparse(layer)],
            "context": config.max_position_embeddings,
            "checkpoints": [{"name": one.name, "step": one.step, "stage": one.stage} for one in shelf.models],
            "others": [{"name": one.name} for one in shelf.others],
            "examples": examples(),
            "facts": fact_pairs(self.tokenizer),
            "runs": bool(shelf.runs),
            "practice": any(practice.rollouts(run) for run in shelf.runs),
            "code": {room: {"label": "{}:{}".format(*_where(function))} for room, function in ROOMS.items()},
            "docs": {
                room: {language: f"docs/{language}/looking-glass.md#{room}" for language in LANGUAGES} for room in ROOMS
            },
        }

    def code(self, asked: Fields) -> Answer:
        """The function that a room is about."""
        function = ROOMS.get(asked.text("room", ""))
        if function is None:
            raise asked.wrong("room", f"one of {', '.join(ROOMS)}")
        file, line = _where(function)
        return {"file": file, "line": line, "source": inspect.getsource(inspect.unwrap(function))}

    # Tokens

    def tokens(self, asked: Fields) -> Answer:
        """How a prompt is cut."""
        prompt = read_prompt(asked, self.tokenizer)
        return {
            "tokens": words.describe(self.tokenizer, prompt),
            "bytes_per_token": words.bytes_per_token(self.tokenizer, prompt.ids),
            "count": len(prompt.ids),
        }

    def merges(self, asked: Fields) -> Answer:
        """How a token came to be."""
        id = self._token(asked, "id", 0)
        steps = [
            {"pieces": [text_of(piece) for piece in step.pieces], "joined": step.joined, "rank": step.rank}
            for step in words.merge_steps(self.tokenizer, id)
        ]
        return {"text": self._shown(id), "control": words.is_control(self.tokenizer, id), "steps": steps}

    # Through the layers

    def lens(self, asked: Fields) -> Answer:
        """What every layer would say next."""
        trace = self._trace(asked)
        k = asked.integer("k", 5, 1, min(20, self.shelf.model(self._place(asked)).config.vocab_size))
        ids_LTk, probabilities_LTk = (one.tolist() for one in lens.likeliest(trace, k))
        cells = [
            [[[id, _round(p)] for id, p in zip(*cell, strict=True)] for cell in zip(*layer, strict=True)]
            for layer in zip(ids_LTk, probabilities_LTk, strict=True)
        ]
        follow = lens.followers(trace, ids_LTk[-1][-1][0])
        last = zip(follow, *(one.tolist() for one in lens.of_tokens(trace.logits, follow)), strict=True)
        seen = {id for layer in ids_LTk for cell in layer for id in cell} | set(follow)
        return {
            "tokens": self._texts(trace.ids),
            "ids": trace.ids,
            "cells": cells,
            "texts": {str(id): self._shown(id) for id in seen},
            "next": [{"id": id, "probability": _round(p), "rank": rank} for id, p, rank in last],
        }

    def token(self, asked: Fields) -> Answer:
        """One token at one position: what each layer thinks of it, and what each part adds to its logit."""
        trace = self._trace(asked)
        position = asked.integer("position", len(trace.ids) - 1, 0, len(trace.ids) - 1)
        token = self._token(asked, "token", None)
        logits = trace.logits_at(position)
        found = lens.of_tokens(logits, [token] * len(logits))
        parts = trace.contributions(position, token)
        blocks = zip(parts.attention.tolist(), parts.mlp.tolist(), parts.heads.tolist(), strict=True)
        layers = [
            {"probability": _round(p), "rank": rank} for p, rank in zip(*(x.tolist() for x in found), strict=True)
        ]
        return {
            "text": self._shown(token),
            "layers": layers,
            **layers[-1],
            "logit": _round(parts.logit),
            "embedding": _round(parts.embedding),
            "blocks": [{"attention": _round(a), "mlp": _round(m), "heads": _rounded(h)} for a, m, h in blocks],
            "scale": _round(parts.scale),
        }

    # Attention

    def attention(self, asked: Fields) -> Answer:
        """Every head's pattern, as bytes: 255 is all of the attention."""
        trace = self._trace(asked)
        patterns = ((pattern.float() * 255).round().byte().cpu() for pattern in trace.attention_of_layers())
        return {
            "tokens": self._texts(trace.ids),
            "patterns": [base64.b64encode(one.numpy().tobytes()).decode("ascii") for one in patterns],
        }

    def heads(self, asked: Fields) -> Answer:
        """What kind of head each is."""
        tokenizer = self.tokenizer
        ordinary = [
            id
            for id in range(tokenizer.vocab_size)
            if tokenizer.token_bytes(id) and not words.is_control(tokenizer, id)
        ]
        scores = heads.head_scores(self.shelf.model(self._place(asked)), ordinary, tokenizer.bos_id)
        figures = {name: [_rounded(layer) for layer in score.tolist()] for name, score in scores._asdict().items()}
        return {**figures, "length": heads.LENGTH, "sequences": heads.SEQUENCES}

    def without(self, asked: Fields) -> Answer:
        """The answer with all parts, and with some switched off."""
        model, prompt = self.shelf.model(self._place(asked)), read_prompt(asked, self.tokenizer)
        off = asked.items("off")
        if not off:
            raise UserError("nothing is switched off: choose a head, an MLP or a layer")
        logits, texts = [], []
        for some in ([], off):
            with _switched_off(model, some):
                logits.append(trace(model, prompt.ids).logits)
                texts.append(_continued(model, self.tokenizer, prompt.ids))
        before, after = logits
        kl_T = pair.kl(before, after)
        return {
            "before": self._likeliest(before[-1], 8),
            "after": self._likeliest(after[-1], 8),
            "kl": _round(float(kl_T[-1])),
            "kl_tokens": _rounded(kl_T.tolist()),
            "answer": {"before": texts[0], "after": texts[1]},
        }

    # Experts

    def experts(self, asked: Fields) -> Answer:
        """Where the tokens go."""
        place = self._place(asked)
        model, trace = self.shelf.model(place), self._trace(asked)
        found = routing.routing(model, trace)
        frequent = _kept(self._answers, ("words", place), KEPT_ANSWERS, lambda: self._words(model))
        return {
            "tokens": self._texts(trace.ids),
            "chosen": found[0].chosen.shape[1],
            "layers": [
                {
                    "layer": one.layer,
                    "probabilities": [_rounded(row) for row in one.probabilities.tolist()],
                    "chosen": one.chosen.tolist(),
                    "load": _rounded(one.load.tolist()),
                    "words": frequent[str(one.layer)],
                }
                for one in found
            ],
        }

    def _words(self, model: Transformer) -> Answer:
        """By layer, what its experts get of some sentences of the small world."""
        people = build_world().asked[:SENTENCES]
        told = [
            f"{smallworld.question(person, attribute, language)}\n{smallworld.answer(person, attribute, language)}"
            for person in people
            for attribute in ATTRIBUTES
            for language in LANGUAGES
        ]
        counted = routing.words_of_experts(model, [as_document(text, self.tokenizer) for text in told])
        return {
            str(layer): [
                [{"text": self._shown(id), "count": count} for id, count in counter.most_common(WORDS)]
                for counter in counters
            ]
            for layer, counters in counted.items()
        }

    # Facts

    def facts(self, asked: Fields) -> Answer:
        """Where the fact that two questions differ in passes through the model."""
        model = self.shelf.model(self._place(asked))
        clean, corrupt = (read_prompt(asked.fields(name), self.tokenizer).ids for name in ("clean", "corrupt"))
        answer = self._token(asked, "answer", None) if "answer" in asked.given else None
        with _switched_off(model, asked.items("off")):
            found = facts.causal_trace(model, clean, corrupt, answer)
        restored = [[None if math.isnan(p) else _round(p) for p in layer] for layer in found.restored.tolist()]
        return {
            "tokens": self._texts(corrupt),
            "from": [None if source is None else self._shown(clean[source]) for source in found.sources],
            "first": found.first,
            "answer": {"id": found.answer, "text": self._shown(found.answer)},
            "other": {"id": found.other, "text": self._shown(found.other)},
            "clean": _round(found.clean),
            "corrupt": _round(found.corrupt),
            "restored": restored,
        }

    # Over time

    def history(self, asked: Fields) -> Answer:
        """The loss of each token at every checkpoint."""
        ids = read_prompt(asked, self.tokenizer).ids
        losses = []
        for place in self.shelf.models:
            model = self.shelf.model(place)
            with _switched_off(model, asked.items("off")):
                losses.append(_rounded(history.token_losses(model, ids).tolist()))
        return {"tokens": self._texts(ids), **self._timeline(), "losses": losses}

    def curve(self, asked: Fields) -> Answer:
        """The loss curves of the runs."""
        return {"runs": [history.curve(run) for run in self.shelf.runs]}

    def learned(self, asked: Fields) -> Answer:
        """Which held-out facts each checkpoint knows."""
        told = history.held_out_facts()
        right = [history.knows(self.shelf.model(place), self.tokenizer, told) for place in self.shelf.models]
        found = [
            {
                "question": fact.question,
                "answer": fact.value.strip(),
                "language": fact.language,
                "right": [at[number] for at in right],
            }
            for number, fact in enumerate(told)
        ]
        return {**self._timeline(), "facts": found}

    def _timeline(self) -> Answer:
        models = self.shelf.models
        return {"checkpoints": [place.name for place in models], "steps": [place.step for place in models]}

    # Practice

    def practice(self, asked: Fields) -> Answer:
        """Which rollouts of a run were kept."""
        run = self._practised()
        if run is None:
            return {"stage": None, "rollouts": [], "components": {}, "divide_by_sigma": True}
        return {
            "stage": run.absolute().name,
            "rollouts": practice.rollouts(run),
            "components": practice.weights(run),
            "divide_by_sigma": practice.divides(run),
        }

    def rollout(self, asked: Fields) -> Answer:
        """One of them."""
        run = self._practised()
        if run is None:
            raise UserError("no rollout was kept: train grpo, ppo or agent with --set.rl.dump DIR, DIR below the run")
        return practice.read_rollout(run, asked.integer("rollout", 0), self.tokenizer)

    def _practised(self) -> Path | None:
        return next((run for run in reversed(self.shelf.runs) if practice.rollouts(run)), None)

    # Side by side

    def pair(self, asked: Fields) -> Answer:
        """Two models on one prompt."""
        other = self.shelf.place(asked.text("other", None))
        mine, others = self.shelf.model(self._place(asked)), self.shelf.model(other)
        if mine.config.vocab_size != others.config.vocab_size:
            raise UserError(f"{other.name} has another vocabulary: side by side are models that read the same tokens")
        first = self._trace(asked)
        second = self._trace(Fields({**asked.given, "checkpoint": other.name}, asked.source))
        kl_LT = pair.divergence(first, second)
        return {
            "tokens": self._texts(first.ids),
            "first": self._place(asked).name,
            "second": other.name,
            "kl": _rounded(kl_LT[-1].tolist()),
            "kl_layers": [_rounded(layer) for layer in kl_LT.tolist()] if len(kl_LT) > 1 else None,
            "first_top": [self._likeliest(logits_V, 3) for logits_V in first.logits],
            "second_top": [self._likeliest(logits_V, 3) for logits_V in second.logits],
        }

    # What they share

    def _place(self, asked: Fields) -> Place:
        return self.shelf.place(asked.text("checkpoint", None))

    def _trace(self, asked: Fields) -> Trace:
        """The trace of a prompt; the newest are kept, for one prompt is looked at in many ways."""
        place, ids, off = self._place(asked), read_prompt(asked, self.tokenizer).ids, asked.items("off")

        def traced() -> Trace:
            model = self.shelf.model(place)
            with _switched_off(model, off):
                return trace(model, ids)

        return _kept(self._traces, (place, tuple(ids), json.dumps(off, sort_keys=True)), KEPT_TRACES, traced)

    def _token(self, asked: Fields, name: str, default: int | None) -> int:
        id = asked.integer(name, default, 0, self.tokenizer.vocab_size - 1)
        if id is None:
            raise asked.wrong(name, "a token's id")
        return id

    def _shown(self, id: int) -> str:
        return shown(self.tokenizer, id)

    def _texts(self, ids: Sequence[int]) -> list[str]:
        return [self._shown(id) for id in ids]

    def _likeliest(self, logits_V: Tensor, k: int) -> list[Answer]:
        best = logits_V.softmax(-1).topk(k)
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [{"id": id, "text": self._shown(id), "probability": _round(p)} for id, p in pairs]


@contextmanager
def _switched_off(model: Transformer, off: Sequence[Any]) -> Iterator[None]:
    """Parts as the page names them: `{"layer": 2, "head": 3}`, `{"layer": 2, "mlp": true}` or `{"layer": 2}`."""
    with ExitStack() as stack:
        for one in off:
            part = Fields(one if isinstance(one, Mapping) else {}, "the request: off")
            layer, head = part.integer("layer", None), part.integer("head", None)
            if layer is None:
                raise part.wrong("layer", "the number of a layer")
            if head is not None:
                stack.enter_context(without(model, head=(layer, head)))
            elif part.flag("mlp"):
                stack.enter_context(without(model, mlp=layer))
            else:
                stack.enter_context(without(model, layer=layer))
        yield


def _continued(model: Transformer, tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The likeliest words behind a text."""
    # In reference mode, which always goes through the model itself: with parts switched off and without, the same way.
    engine = Engine(model, tokenizer, max_batch_size=1, context=len(ids) + CONTINUED, chunk=64, batch_invariant=True)
    request = engine.submit(ids, replace(GREEDY, max_new_tokens=CONTINUED))
    deque(engine.run(), maxlen=0)
    return tokenizer.decode(request.ids, skip_special=True)


def _kept(store: OrderedDict[Hashable, T], key: Hashable, most: int, make: Callable[[], T]) -> T:
    """What the store has under the key, or will have: it holds the `most` newest."""
    if key not in store:
        store[key] = make()
        while len(store) > most:
            store.popitem(last=False)
    store.move_to_end(key)
    return store[key]


def _where(function: Callable[..., Any]) -> tuple[str, int]:
    """File and line of a function, from the project's folder on."""
    bare = inspect.unwrap(function)
    return bare.__module__.replace(".", "/") + ".py", bare.__code__.co_firstlineno


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def _rounded(values: Sequence[float]) -> list[float]:
    return [_round(value) for value in values]
