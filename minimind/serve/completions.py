"""`/v1/completions`: texts in, their continuations out, as in pretraining (no chat template)."""

import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from minimind.engine.grammar import Compiled
from minimind.engine.request import Output
from minimind.serve.errors import ApiError
from minimind.serve.logprobs import FLOOR, TokenNames
from minimind.serve.schema import CompletionRequest, limit
from minimind.serve.service import Job, Service
from minimind.tokenizer.bpe import Tokenizer

DEFAULT_TOKENS = 16  # OpenAI's, for texts only


def prompts(request: CompletionRequest) -> list[str | list[int]]:
    """The request's prompts as a list."""
    given = request.prompt
    if isinstance(given, str) or isinstance(given[0], int):
        return [given]  # a list that begins with an integer is one of token ids
    return given  # type: ignore[return-value]


def jobs(request: CompletionRequest, service: Service, form: Compiled | None) -> list[Job]:
    """What the engine has to do: `n` answers to each prompt, those of a prompt together.

    Raises:
        ApiError, UserError: the request asks for something that cannot be.
    """
    settings, tokenizer = service.settings, service.tokenizer
    texts, n = prompts(request), request.n or 1
    if len(texts) * n > settings.most_choices:
        message = f"{len(texts)} prompts with n = {n} are more than {settings.most_choices} answers"
        raise ApiError(400, message, "too_many_choices", "n")
    if request.echo and request.logprobs is not None:
        raise ApiError(400, "echo with logprobs is not supported: only new tokens have them here", param="echo")
    new = DEFAULT_TOKENS if request.max_tokens is None else request.max_tokens
    sampling = request.sampling(
        max_new_tokens=limit(new, settings.most_tokens),
        stop=request.stops,
        stop_ids=request.stop_token_ids or [],
        top_logprobs=request.logprobs or 0,
        grammar=form,
    )
    for text in texts:
        service.check_length([text] if isinstance(text, str) else [])
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    ids = [bos + tokenizer.encode(text) if isinstance(text, str) else text for text in texts]
    variant = service.variant(request.model)
    return [Job(prompt, sampling, index, variant) for prompt in ids for index in range(n)]


class _Text:
    """One continuation as it is read."""

    def __init__(self, request: CompletionRequest, tokenizer: Tokenizer, echo: str) -> None:
        self.text = echo
        self.tokens = 0
        self.finish_reason: str | None = None
        self._names = TokenNames(tokenizer) if request.logprobs is not None else None
        self._entries: list[tuple[int, Any]] = []

    def feed(self, output: Output) -> str:
        """Take one output; return the text that it adds."""
        if output.finish_reason == "abort":
            raise ApiError(503, "the answer was aborted: the server is shutting down", "aborted")
        if output.token:
            self.tokens += 1
            self._entries.append((len(self.text), output.token))
        self.text += output.text
        self.finish_reason = output.finish_reason
        return output.text

    def take_logprobs(self) -> dict[str, Any] | None:
        """Log-probabilities since the last call: four lists of one length."""
        if self._names is None:
            return None
        name, (taken, self._entries) = self._names.name, (self._entries, [])
        return {
            "text_offset": [offset for offset, _ in taken],
            "tokens": [name(token.id) for _, token in taken],
            "token_logprobs": [max(token.logprob, FLOOR) for _, token in taken],
            "top_logprobs": [{name(id): max(logprob, FLOOR) for id, logprob in token.top} for _, token in taken],
        }


class _Reply:
    """What all chunks of one reply share."""

    def __init__(self, request: CompletionRequest, service: Service, jobs: list[Job]) -> None:
        self.id, self.created = f"cmpl-{uuid.uuid4().hex}", int(time.time())
        self.model = request.model or service.settings.model
        texts, n = prompts(request), request.n or 1
        decode = service.tokenizer.decode
        self.echoes = [
            (text if isinstance(text, str) else decode(text)) if request.echo else ""
            for text in texts
            for _ in range(n)
        ]
        self.texts = [_Text(request, service.tokenizer, echo) for echo in self.echoes]
        self.prompt_tokens = sum(len(job.prompt_ids) for job in jobs[::n])
        self.cached_tokens = 0

    def frame(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The outer object of a reply or a chunk: both have the same name here."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def usage(self) -> dict[str, Any]:
        """Tokens read and written."""
        tokens = sum(text.tokens for text in self.texts)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


async def complete(request: CompletionRequest, service: Service, jobs: list[Job]) -> dict[str, Any]:
    """The whole reply as one object."""
    reply = _Reply(request, service, jobs)
    async with service.answers(jobs) as answers:
        async for index, output in answers:
            reply.texts[index].feed(output)
            if output.finish_reason and index % (request.n or 1) == 0:
                reply.cached_tokens += output.request.cached_tokens
    choices = [
        {"index": i, "text": text.text, "logprobs": text.take_logprobs(), "finish_reason": text.finish_reason}
        for i, text in enumerate(reply.texts)
    ]
    return reply.frame(choices) | {"usage": reply.usage()}


async def stream(request: CompletionRequest, service: Service, jobs: list[Job]) -> AsyncGenerator[dict[str, Any], None]:
    """The reply in chunks; the last of a text says why it ended."""
    reply = _Reply(request, service, jobs)
    no_usage: dict[str, Any] = {"usage": None} if request.include_usage else {}

    def chunk(index: int, piece: str, finish: str | None) -> dict[str, Any]:
        logprobs = reply.texts[index].take_logprobs()
        return reply.frame([{"index": index, "text": piece, "logprobs": logprobs, "finish_reason": finish}]) | no_usage

    for index, echo in enumerate(reply.echoes):
        if echo:
            yield chunk(index, echo, None)
    async with service.answers(jobs) as answers, aclosing(aiter(answers)) as outputs:
        async for index, output in outputs:
            piece = reply.texts[index].feed(output)
            if piece or output.finish_reason:
                yield chunk(index, piece, output.finish_reason)
    if request.include_usage:
        yield reply.frame([]) | {"usage": reply.usage()}
