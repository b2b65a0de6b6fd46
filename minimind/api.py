"""MiniMind from Python: `lm = minimind.load("model")`, then `lm.chat(...)`, `lm.generate(...)`, `lm.logits(...)`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from minimind import runtime
from minimind.engine.dialogue import ends_of_turn
from minimind.engine.engine import Engine
from minimind.engine.request import Request
from minimind.engine.sampling import GREEDY, Sampling
from minimind.engine.text import MessageReader
from minimind.errors import UserError
from minimind.inspect import trace as inspection
from minimind.inspect.prompts import as_document
from minimind.inspect.trace import Trace
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.model.store import load_model
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import normalize_tool, render
from minimind.tokenizer.parse import Delta, MessageParser

CONTEXT = 4096
"""Tokens of a conversation that memory is reserved for where nobody says: a model may be able to read far more."""


class LanguageModel:
    """A model with its tokenizer, ready to use. `model` is an `nn.Module`, `tokenizer` has `encode` and `decode`.

    context: most tokens of a prompt with its answer; no more than the model's own.
    """

    def __init__(self, model: Transformer, tokenizer: Tokenizer, context: int = CONTEXT) -> None:
        if tokenizer.vocab_size > model.config.vocab_size:
            raise UserError(
                f"the tokenizer has {tokenizer.vocab_size} entries but the model only {model.config.vocab_size}; "
                f"use the tokenizer that the model was trained with"
            )
        self.model, self.tokenizer, self._context = model.eval(), tokenizer, context
        self._engine = self._new_engine()

    def generate(self, prompt: str, max_new_tokens: int | None = None, sampling: Sampling = GREEDY) -> str:
        """Continue a text as in pretraining (bos + prompt); returns the continuation without special tokens.

        max_new_tokens: instead of the one in `sampling`; 256 where neither says.
        """
        request = self._submit(as_document(prompt, self.tokenizer), max_new_tokens, 256, sampling)
        for _ in self._tokens(request):
            pass
        return request.text

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        open_thinking: bool = False,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
    ) -> dict[str, Any]:
        """Answer a conversation: a message with `content` and, if any, `reasoning_content` and `tool_calls`.

        max_new_tokens: instead of the one in `sampling`; 512 where neither says.
        """
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        for delta in self.stream(messages, tools, open_thinking, max_new_tokens, sampling):
            for field, more in delta.items():
                message[field] = message[field] + more if field in message else more
        return message

    def stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        open_thinking: bool = False,
        max_new_tokens: int | None = None,
        sampling: Sampling = GREEDY,
    ) -> Iterator[Delta]:
        """Answer a conversation piece by piece: deltas of `content`, `reasoning_content` or `tool_calls`."""
        reader = MessageReader(MessageParser(self.tokenizer, open_thinking), sampling.stop)
        ends = [] if sampling.ignore_eos else ends_of_turn(self.tokenizer)
        rules = replace(sampling, stop=(), stop_ids=[*sampling.stop_ids, *ends])
        request = self._submit(self._prompt(messages, tools, open_thinking), max_new_tokens, 512, rules)
        for id in self._tokens(request):
            yield from reader.feed(id)
            if reader.found is not None:
                return
        yield from reader.finish()

    def _prompt(self, messages: Sequence[Mapping[str, Any]], tools: Any, open_thinking: bool) -> list[int]:
        offered = [normalize_tool(tool) for tool in tools or []]
        return render(messages, self.tokenizer, offered, open_thinking, add_generation_prompt=True)[0]

    def _submit(self, prompt: Sequence[int], most: int | None, default: int, sampling: Sampling) -> Request:
        if self._weights != self._state():
            self._engine = self._new_engine()
        said = sampling.max_new_tokens if most is None else most
        return self._engine.submit(prompt, replace(sampling, max_new_tokens=default if said is None else said))

    def _tokens(self, request: Request) -> Iterator[int]:
        """Yield the ids of an answer as they come; leaving early cancels it.

        Other answers may be asked for meanwhile: each step brings all of them on, whoever makes it.
        """
        engine, read = self._engine, 0  # its own: `without`, and whoever changes weights, put another there
        try:
            while read < len(request.tokens) or request.finish_reason is None:
                if read == len(request.tokens):
                    engine.step()
                for token in request.tokens[read:]:
                    read += 1
                    yield token.id
        finally:
            engine.cancel(request)

    def _new_engine(self) -> Engine:
        self._weights = self._state()
        # Two at once, so that a side question leaves the chat cached.
        return Engine(self.model, self.tokenizer, max_batch_size=2, context=self._context)

    def _state(self) -> list[tuple[int, int]]:
        """Changes whenever somebody writes to a weight: what the engine has cached is then of another model."""
        return [(parameter.data_ptr(), parameter._version) for parameter in self.model.parameters()]

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> torch.Tensor:
        """Scores of every next token: float32 [len(ids), vocab]."""
        ids_BT = torch.tensor([list(ids)], device=self.model.output_weight.device)
        return self.model.logits(self.model(ids_BT, Segments.whole(ids_BT)).states)[0].float()

    def trace(self, text: str | Sequence[int]) -> Trace:
        """What happens inside the model as it reads a text (bos + text, as in pretraining) or token ids.

        Returns a trace of T tokens through L layers, with `residual` `[L + 1, T, hidden]`, `attention`
        `[L, heads, T, T]`, `logits_per_layer` `[L + 1, T, vocab]` (the last are `logits(ids)`), `attention_out` and
        `mlp_out` `[L, T, hidden]`, `heads_out` `[L, T, heads, head_dim]`, `router` (`[T, experts]` by sparse layer),
        and `contributions(position, token)`.

        Raises:
            UsageError: the text is empty, or an id is unknown.
        """
        return inspection.trace(self.model, as_document(text, self.tokenizer) if isinstance(text, str) else text)

    @contextmanager
    def without(
        self, head: tuple[int, int] | None = None, mlp: int | None = None, layer: int | None = None
    ) -> Iterator[None]:
        """Switch a head (layer, number), an MLP or a whole layer off: `with lm.without(head=(2, 3)): lm.chat(...)`.

        Everything that this object does then is done without it: `logits`, `trace`, `generate`, `chat`. Several parts
        are several of these, one in the other.

        Raises:
            UsageError: there is no such part.
        """
        try:
            with inspection.without(self.model, head, mlp, layer):
                self._engine = self._new_engine()  # what was cached before was computed with the part
                yield
        finally:
            self._engine = self._new_engine()


def load(
    directory: str | Path,
    device: str = "auto",
    rope_scaling: Mapping[str, Any] | None = None,
    lora: str | Path | None = None,
    context: int = CONTEXT,
) -> LanguageModel:
    """Load a model directory, or an adapter's (merged into its base), in float32.

    context: most tokens of a prompt with its answer; no more than the model's own.
    lora: directory of an adapter to merge into the model.
    rope_scaling: instead of the model's own, as `{"rope_type": "yarn", "factor": 4.0}`; `{}` is none at all.

    Raises:
        UserError: it is no model directory, a file in it is missing or broken, or memory has no room for the context.
    """
    on = runtime.device(device)
    model = load_model(directory, device=on, adapter=lora)
    if rope_scaling is not None:
        model.use_rope_scaling(rope_scaling)
    return LanguageModel(model, Tokenizer.load(directory), context)
