"""The inference engine: requests join and leave a running batch at any step (continuous batching; Orca, Yu 2022).

Every step is one pass of the model over the newest token of each running request and a chunk of waiting prompts,
then one draw for each request that has all its tokens in the cache. No sequence is padded.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minimind import runtime
from minimind.engine import decode
from minimind.engine.grammar import Grammars
from minimind.engine.grammar_compile import complaint
from minimind.engine.model_runner import ModelRunner
from minimind.engine.pages import Pages
from minimind.engine.request import FinishReason, Output, PromptTooLong, Request, Token
from minimind.engine.sampling import SampledTokens, Sampling, sample, score, stream_of, uniforms
from minimind.engine.scheduler import Scheduler
from minimind.engine.text import Detokenizer
from minimind.errors import UsageError, did_you_mean
from minimind.model import lora
from minimind.model.cache import PAGE, KVCache, Span, pages_of
from minimind.model.qwen3 import Transformer
from minimind.model.rope import context_length
from minimind.tokenizer.bpe import Tokenizer

MEMORY = ("kv_cache", "weights")
"""What `Engine.release_memory` can give up."""
LOGIT_ROWS = 64
"""Tokens of a prompt whose scores exist at a time."""
NEAR_TIE = {torch.float32: 1e-3, torch.bfloat16: 0.25}
"""Outside reference mode, company in a batch can change a greedy answer, from a token on whose likeliest rival has
nearly its log-probability: within so many nats."""


class Engine:
    """Generates for many requests at once. Not thread-safe: `background.EngineThread` serves several threads.

    Args:
        model: its weights are shared, unless `dtype`, `int8` or an adapter that is merged make a copy necessary.
        tokenizer: for text, stop strings, grammars and the end-of-text token; token ids alone need none.
        max_batch_size: how many requests run at once; others wait.
        context: most tokens of a prompt with its answer; the model's own context by default.
        cache_tokens: tokens that the cache has room for, of all requests together; by default so many that none ever
            waits for another's, `max_batch_size` times `context`.
        dtype: number format of weights and cache; the model's by default.
        int8: round the matrices to int8 with a scale for each row; on a CPU, decoding reads a half or a quarter of the
            bytes. Everything else is in the format that the device is fast at.
        chunk: most prompt tokens of a step.
        batch_invariant: reference mode. The same request and seed give the same bits whatever else runs: matrix
            products have a fixed number of rows (their last bits depend on it), prompts are computed alone in fixed
            chunks, attention sequence by sequence, no prefix is reused, and a request waits until there is room in the
            cache for its longest answer.
        seed: of requests that bring none.
        variants: other models of the same shape, by name, that share the cache: a base with adapters merged into it. A
            request names one; each that is in a step makes a pass of its own.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer | None = None,
        *,
        max_batch_size: int = 16,
        context: int | None = None,
        cache_tokens: int | None = None,
        dtype: torch.dtype | None = None,
        chunk: int = 512,
        batch_invariant: bool = False,
        int8: bool = False,
        seed: int | None = None,
        variants: Mapping[str, Transformer] | None = None,
    ) -> None:
        weight = model.output_weight
        self.dtype = runtime.compute_dtype(weight.device) if int8 else dtype or weight.dtype
        self.tokenizer = tokenizer
        own = context_length(model.config)
        self.context = min(context or own, own)
        self.device = weight.device
        self.version = 0
        """How often the weights have been replaced."""
        self.batch_invariant = batch_invariant
        if cache_tokens is not None and cache_tokens < self.context:
            raise UsageError(f"a cache of {cache_tokens} tokens has no room for a context of {self.context}")
        tokens = cache_tokens or max_batch_size * pages_of(self.context) * PAGE
        self._cache = KVCache(model.config, tokens, self.dtype, self.device)
        if not batch_invariant:
            self._cache.newest = decode.attention(self._cache)
        models: dict[str | None, Transformer] = {None: model}
        models.update(variants or {})
        self._model_runners = {
            name: ModelRunner(one, self._cache, max_batch_size, int8, chunk, batch_invariant)
            for name, one in models.items()
        }
        self._pages = Pages(len(self._cache.all_pages))
        self._scheduler = Scheduler(self._pages, max_batch_size, chunk, exclusive=batch_invariant)
        self._random = random.Random(seed)
        self._detokenizers: dict[Request, Detokenizer] = {}
        self._matchers: dict[Request, Any] = {}
        self._ended: list[Output] = []
        self._released: set[str] = set()

    @property
    def model(self) -> Transformer:
        """The model, as it is computed with."""
        return self._model_runners[None].model

    # Requests

    def submit(
        self,
        prompt_ids: Sequence[int],
        sampling: Sampling | None = None,
        index: int = 0,
        variant: str | None = None,
        salt: str = "",
    ) -> Request:
        """Queue a request.

        Args:
            prompt_ids: token ids of the prompt.
            sampling: its rules.
            index: which of several answers to one prompt this is: each draws other random numbers from the seed.
            variant: name of the variant that answers; by default the model does.
            salt: the request shares computed prefixes with others of the same salt alone.

        Raises:
            PromptTooLong: the prompt fills the context.
            UsageError: the prompt is empty or holds an unknown id, a rule needs a tokenizer that is not there, or there
                is no such variant.
        """
        sampling = sampling or Sampling()
        self.check(prompt_ids, sampling)
        if variant not in self._model_runners:
            raise UsageError(
                f"there is no variant {variant!r}{did_you_mean(str(variant), filter(None, self._model_runners))}"
            )
        seed = self._random.getrandbits(63) if sampling.seed is None else sampling.seed
        seed = stream_of(seed, index)
        new = sampling.max_new_tokens
        limit = self.context if new is None else min(self.context, len(prompt_ids) + new)
        request = Request(list(prompt_ids), sampling, seed, limit, variant, salt)
        if self.tokenizer:
            self._detokenizers[request] = Detokenizer(self.tokenizer, sampling.stop)
        if sampling.grammar:
            self._matchers[request] = self.grammars.matcher(sampling.grammar)
        if limit == len(prompt_ids) and not request.reads_prompt:
            self._finish(request, "length")
        else:
            self._scheduler.add(request)
        return request

    def check(self, prompt_ids: Sequence[int], sampling: Sampling) -> None:
        """Raise what `submit` would raise; may be called from any thread."""
        vocabulary = self.model.config.vocab_size
        if not prompt_ids:
            raise UsageError("the prompt is empty: give it at least one token")
        if len(prompt_ids) >= self.context:
            raise PromptTooLong(len(prompt_ids), self.context)
        if not 0 <= min(prompt_ids) <= max(prompt_ids) < vocabulary:
            raise UsageError(f"the prompt holds a token id outside the model's vocabulary of {vocabulary}")
        if any(not 0 <= id < vocabulary for id in sampling.logit_bias):
            raise UsageError(f"logit_bias names a token id outside the model's vocabulary of {vocabulary}")
        if self.tokenizer is None and (sampling.stop or sampling.grammar):
            raise UsageError("stop strings and grammars need an engine with a tokenizer")
        if sampling.grammar:
            self.grammars.matcher(sampling.grammar)

    def cancel(self, request: Request) -> None:
        """End a request now; its pages of the cache are free at once."""
        if request.finish_reason is None:
            self._finish(request, "abort")

    @cached_property
    def grammars(self) -> Grammars:
        """What answers may be held to; making it takes a moment, so a server does before it serves."""
        assert self.tokenizer  # `check` has seen to it
        return Grammars(self.tokenizer, self.model.config.vocab_size)

    @property
    def max_batch_size(self) -> int:
        """How many requests run at once."""
        return self._scheduler.max_batch_size

    @property
    def running(self) -> int:
        """How many run now."""
        return len(self._scheduler.running)

    @property
    def cache_size(self) -> tuple[int, int]:
        """Tokens that the cache has room for, and the bytes of memory that it takes."""
        return len(self._cache.all_pages) * PAGE, self._cache.bytes

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return bool(self._ended or (not self._released and (self._scheduler.waiting or self._scheduler.running)))

    def run(self) -> Iterator[Output]:
        """Step until every request has finished."""
        while self.has_work:
            yield from self.step()

    def take_ended(self) -> list[Output]:
        """Return the last outputs of requests that ended between steps; `step` gives them too."""
        outputs, self._ended = self._ended, []
        return outputs

    # Weights

    @torch.no_grad()
    def update_weights(self, weights: Transformer | Mapping[str, Tensor]) -> None:
        """Copy new weights (all, or some by parameter name) into the engine's.

        Requests go on: they compute their tokens again under the new weights, and later tokens carry the new version.

        Raises:
            UsageError: a name or a shape is not the model's, or there are variants: they would stay as they were.
        """
        if len(self._model_runners) > 1:
            raise UsageError("an engine with adapters keeps the weights that they belong to; make another one")
        new = lora.plain_weights(weights) if isinstance(weights, Transformer) else weights
        parameters = dict(self.model.named_parameters())
        for name, value in new.items():
            if name not in parameters or parameters[name].shape != value.shape:
                raise UsageError(f"weight {name!r} of shape {list(value.shape)} has no place in the engine's model")
        for name, value in new.items():
            parameters[name].copy_(value)
        self.version += 1
        self.flush_cache()

    def flush_cache(self) -> None:
        """Forget everything computed; necessary after weights were changed other than by `update_weights`."""
        if not self._released:
            for runner in self._model_runners.values():
                runner.prepare()
        self._scheduler.flush()

    # Memory

    @property
    def released(self) -> bool:
        """Whether memory was given up, so that nothing is computed."""
        return bool(self._released)

    def release_memory(self, *parts: str) -> None:
        """Give memory to who trains on the same device, until `resume_memory`; requests wait meanwhile.

        Args:
            parts: of `MEMORY`; by default all. The cache is dropped, and computed again for requests that run; weights
                wait in the host's memory, where they may be replaced.
        """
        parts = parts or MEMORY
        if "kv_cache" in parts and "kv_cache" not in self._released:
            self._cache.release()
        for runner in self._model_runners.values():
            runner.release("weights" in parts)
        self._released.update(parts)
        self.flush_cache()
        runtime.empty_cache(self.device)

    def resume_memory(self, *parts: str) -> None:
        """Take memory again, all of it or some `parts`; with the last of them requests go on."""
        again = self._released.intersection(parts or MEMORY)
        if "kv_cache" in again:
            self._cache.resume()
        if "weights" in again:
            for runner in self._model_runners.values():
                runner.resume_weights()
        self._released -= again
        if again:
            self.flush_cache()

    # Steps

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """Run one pass of the model and return what each request got from it."""
        outputs = self.take_ended()
        plan = {} if self._released else self._scheduler.plan()
        if not plan:
            return outputs
        scores_BV = self._scores(plan)
        numbered = enumerate(plan.items())
        ready = {request: n for n, (request, span) in numbered if self._scheduler.advance(request, span)}
        for request in [request for request in ready if len(request) >= request.limit]:
            self._finish(request, "length")  # its prompt was all that was asked for
            del ready[request]
        if ready:
            requests, places = list(ready), list(ready.values())
            draws = self._draw(scores_BV if len(places) == len(plan) else scores_BV[places], requests)
            outputs += map(self._append, requests, self._tokens(draws, requests))
        return outputs + self.take_ended()

    def _scores(self, plan: dict[Request, Span]) -> Tensor:
        """Scores `[spans, vocab]` of what may follow the last token of each span: a pass of each variant among them."""
        pairs, places = list(plan.items()), dict[str | None, list[int]]()
        for i, request in enumerate(plan):
            places.setdefault(request.variant, []).append(i)
        parts = []
        for variant, where in places.items():
            runner, some = self._model_runners[variant], [pairs[i] for i in where]
            ids = [request.ids_at(span.start, span.end) for request, span in some]
            keep = any(request.reads_prompt and span.start < len(request.prompt_ids) for request, span in some)
            scores, states = runner.scores([span for _, span in some], ids, keep)
            parts.append(scores)
            for (request, span), states_NC in zip(some, states, strict=False):
                self._read(request, span, states_NC, runner.model)
        if len(parts) == 1:
            return parts[0]
        order = torch.tensor([i for where in places.values() for i in where], device=self.device)
        return torch.cat(parts)[order.argsort()]

    def _read(self, request: Request, span: Span, states_NC: Tensor, model: Transformer) -> None:
        """Note what is asked about the tokens of a prompt; a prompt that is computed again is read again."""
        prompt, top = request.prompt_ids, request.sampling.prompt_logprobs
        if request.sampling.embed:
            before = request.state_sum if span.start else None
            here = states_NC[: max(0, len(prompt) - span.start)].float().sum(0)
            request.state_sum = here if before is None else before + here
        if top is not None:
            request.prompt_tokens = request.prompt_tokens or [None] * len(prompt)
            labels = prompt[span.start + 1 : span.end + 1]
            for at in range(0, len(labels), LOGIT_ROWS):
                some = labels[at : at + LOGIT_ROWS]
                scored = score(model.logits(states_NC[at : at + len(some)]), some, top)
                start = span.start + 1 + at
                request.prompt_tokens[start : start + len(some)] = scored

    def _draw(self, logits_BV: Tensor, requests: Sequence[Request]) -> SampledTokens:
        samplings = [request.sampling for request in requests]
        places = [len(request.tokens) for request in requests]
        uniform_B = torch.from_numpy(uniforms([request.seed for request in requests], places))
        counts_BV = None
        if any(s.repetition_penalty != 1 or s.presence_penalty or s.frequency_penalty for s in samplings):
            vocabulary = logits_BV.shape[1]
            counts = [np.bincount(np.array(request.ids, dtype=np.int64), minlength=vocabulary) for request in requests]
            counts_BV = runtime.sent(torch.from_numpy(np.stack(counts)), self.device)
        allowed_BV = None
        if self._matchers.keys() & set(requests):
            allowed = self.grammars.allowed([self._matchers.get(request) for request in requests])
            allowed_BV = runtime.sent(allowed, self.device)
        return sample(logits_BV, samplings, uniform_B, counts_BV, allowed_BV)

    def _tokens(self, draws: SampledTokens, requests: Sequence[Request]) -> list[Token]:
        tops: list[list[tuple[int, float]]] = [[] for _ in requests]
        if most := max(request.sampling.top_logprobs for request in requests):
            values, ids = draws.model.topk(min(most, draws.model.shape[1]))
            for top, request, v, i in zip(tops, requests, values.tolist(), ids.tolist(), strict=True):
                top += list(zip(i, v, strict=True))[: request.sampling.top_logprobs]
        columns = (draws.ids.tolist(), draws.logprobs.tolist(), draws.policy_logprobs.tolist(), tops)
        return [Token(*values, self.version) for values in zip(*columns, strict=True)]

    def _append(self, request: Request, token: Token) -> Output:
        request.tokens.append(token)
        detokenizer = self._detokenizers.get(request)
        text = detokenizer.feed(token.id) if detokenizer else ""
        eos = self.tokenizer.eos_id if self.tokenizer and not request.sampling.ignore_eos else None
        reason: FinishReason | None = None
        ends = token.id in request.sampling.stop_ids or token.id == eos
        matcher = self._matchers.get(request)
        if matcher and not ends:
            matcher.consume_token(token.id)
        if matcher and matcher.is_error():
            reason, request.error = "error", complaint(matcher)
        elif ends:
            reason, request.stop = "stop", token.id
        elif detokenizer and detokenizer.found:
            reason, request.stop = "stop", detokenizer.found
        elif matcher and matcher.is_stopped():
            reason = "stop"  # nothing may follow
        elif len(request) >= request.limit:
            reason = "length"
        if reason:
            text += self._release(request, reason)
        request.text += text
        return Output(request, token, text, reason)

    def _release(self, request: Request, reason: FinishReason) -> str:
        """Take a request out of everything; return text that was held back."""
        request.finish_reason = reason
        self._scheduler.remove(request)
        self._matchers.pop(request, None)
        detokenizer = self._detokenizers.pop(request, None)
        return detokenizer.finish() if detokenizer else ""

    def _finish(self, request: Request, reason: FinishReason) -> None:
        text = self._release(request, reason)
        request.text += text
        self._ended.append(Output(request, None, text, reason))
