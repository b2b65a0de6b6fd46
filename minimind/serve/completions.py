"""`/v1/completions`: texts in, their continuations out, as in pretraining (no chat template)."""

import codecs
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from minimind.engine.grammar import Compiled
from minimind.engine.request import Output, Request
from minimind.serve.errors import ApiError
from minimind.serve.frame import Frame
from minimind.serve.logprobs import TokenNames, check_scored
from minimind.serve.sampled import limit
from minimind.serve.schema import CompletionRequest, EmbeddingsRequest
from minimind.serve.service import Job, Service, coarse
from minimind.tokenizer.bpe import Tokenizer

DEFAULT_TOKENS = 16  # OpenAI's, for texts only


def prompts(request: CompletionRequest | EmbeddingsRequest) -> list[str | list[int]]:
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
    if len(texts) * n > settings.max_choices:
        message = f"{len(texts)} prompts with n = {n} are more than {settings.max_choices} answers"
        raise ApiError(400, message, "too_many_choices", "n")
    scored = [top for top in (request.logprobs if request.echo else None, request.prompt_logprobs) if top is not None]
    new = DEFAULT_TOKENS if request.max_tokens is None else request.max_tokens
    sampling = request.sampling(
        tokenizer,
        max_new_tokens=limit(new, settings.max_tokens),
        stop=request.stops,
        stop_ids=request.stop_token_ids or [],
        top_logprobs=request.logprobs or 0,
        prompt_logprobs=max(scored, default=None),
        grammar=form,
    )
    for text in texts:
        service.check_length([text] if isinstance(text, str) else [])
    bos = _bos(request, tokenizer)
    ids = [bos + tokenizer.encode(text) if isinstance(text, str) else text for text in texts]
    check_scored(ids * n, sampling.prompt_logprobs)
    variant = service.variant(request.model)
    return [Job(prompt, sampling, index, variant, request.cache_salt or "") for prompt in ids for index in range(n)]


def _bos(request: CompletionRequest, tokenizer: Tokenizer) -> list[int]:
    """What stands before a prompt that comes as text."""
    return tokenizer.bos if request.add_special_tokens else []


class _Text:
    """One continuation as it is read; `echo` is its prompt, if that is to be in the text."""

    def __init__(
        self, request: CompletionRequest, tokenizer: Tokenizer, prompt: str | list[int], prompt_ids: Sequence[int]
    ) -> None:
        self.echo = (prompt if isinstance(prompt, str) else tokenizer.decode(prompt)) if request.echo else ""
        self.text = self.echo
        self.tokens = 0
        self.finish_reason: str | None = None
        self.extras: dict[str, Any] = {}
        """What only some ask for."""
        self._request, self._prompt_ids = request, prompt_ids
        self._unseen = len(_bos(request, tokenizer)) if isinstance(prompt, str) else 0
        self._names = TokenNames(tokenizer)
        self._is_special = tokenizer.is_special
        self._entries: list[tuple[int, int, Any]] = []
        self._begun = False
        # Where the text of each token begins, also of those whose text is still held back.
        self._at, self._utf8 = 0, codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, output: Output) -> str:
        """Take one output; return the text that it adds."""
        if not self._begun:
            self._begin(output.request)
        if output.token:
            self.tokens += 1
            self._place(output.token.id, output.token, not self._is_special(output.token.id))
            if self._request.return_token_ids:
                self.extras.setdefault("token_ids", []).append(output.token.id)
        self.text += output.text
        self.finish_reason = output.finish_reason
        return output.text

    def take_logprobs(self) -> dict[str, Any] | None:
        """Log-probabilities since the last call: four lists of one length."""
        if self._request.logprobs is None:
            return None
        taken, self._entries = self._entries, []
        return self._names.lists(taken)

    def take_extras(self) -> dict[str, Any]:
        """What only some ask for, since the last call."""
        taken, self.extras = self.extras, {}
        return taken

    def _begin(self, request: Request) -> None:
        """Note what is asked about the prompt."""
        self._begun, asked = True, self._request
        if asked.echo and asked.logprobs is not None:
            for i, (id, token) in enumerate(zip(self._prompt_ids, request.prompt_tokens, strict=True)):
                self._place(id, token and token._replace(top=token.top[: asked.logprobs]), i >= self._unseen)
        else:
            self._at = len(self.echo)
        if asked.prompt_logprobs is not None:
            self.extras["prompt_logprobs"] = self._names.prompt(request.prompt_tokens)
        if asked.return_token_ids:
            self.extras |= {"prompt_token_ids": list(self._prompt_ids), "token_ids": []}

    def _place(self, id: int, token: Any, seen: bool) -> None:
        if self._request.logprobs is not None:
            self._entries.append((self._at, id, token))
            self._at += len(self._utf8.decode(self._names.bytes(id) if seen else b""))


class _Reply(Frame):
    """What all chunks of one reply share; whole replies and chunks have the same name here."""

    def __init__(self, request: CompletionRequest, service: Service, jobs: list[Job], usage: bool = False) -> None:
        super().__init__("text_completion", "cmpl", request, service, usage)
        n, tokenizer = request.n or 1, service.tokenizer
        given = [text for text in prompts(request) for _ in range(n)]
        self.answers = [_Text(request, tokenizer, text, job.prompt_ids) for text, job in zip(given, jobs, strict=True)]
        self.prompt_tokens = sum(len(job.prompt_ids) for job in jobs[::n])

    def choice(self, index: int, piece: str) -> dict[str, Any]:
        """One answer, or a piece of it."""
        text = self.answers[index]
        said = {"index": index, "text": piece, "logprobs": text.take_logprobs(), "finish_reason": text.finish_reason}
        return said | text.take_extras()


async def complete(request: CompletionRequest, service: Service, jobs: list[Job]) -> dict[str, Any]:
    """The whole reply as one object."""
    reply = _Reply(request, service, jobs)
    async with service.answers(jobs) as answers:
        async for index, output in answers:
            reply.answers[index].feed(output)
            if output.finish_reason and index % (request.n or 1) == 0:
                reply.cached_tokens += coarse(output.request.cached_tokens)
    return reply.whole([reply.choice(i, text.text) for i, text in enumerate(reply.answers)])


async def stream(
    request: CompletionRequest, service: Service, jobs: list[Job], usage: bool = False
) -> AsyncGenerator[dict[str, Any], None]:
    """The reply in chunks; the last of a text says why it ended."""
    reply = _Reply(request, service, jobs, usage)
    scored = request.echo and request.logprobs is not None  # then the echo waits for what there is to say about it
    for index, text in enumerate(reply.answers):
        if text.echo and not scored:
            yield reply.chunk(reply.choice(index, text.echo))
    async with service.answers(jobs) as answers, aclosing(aiter(answers)) as outputs:
        async for index, output in outputs:
            text = reply.answers[index]
            first = scored and text.text == text.echo and not text.tokens
            piece = (text.echo if first else "") + text.feed(output)
            if piece or output.finish_reason:
                yield reply.chunk(reply.choice(index, piece))
    if reply.counts:
        yield reply.whole([])
