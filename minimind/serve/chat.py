"""`/v1/chat/completions`: a conversation in, one or several answers out, whole or as they are written."""

import json
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from minimind.engine.dialogue import ends_of_turn
from minimind.engine.grammar import Compiled
from minimind.engine.request import Output, Request
from minimind.engine.text import MessageReader
from minimind.serve.errors import ApiError
from minimind.serve.frame import Frame
from minimind.serve.logprobs import TokenNames, check_scored
from minimind.serve.sampled import limit
from minimind.serve.schema import ChatRequest
from minimind.serve.service import Job, Service, coarse
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render
from minimind.tokenizer.parse import Delta, MessageParser


def jobs(request: ChatRequest, service: Service, form: Compiled | None) -> list[Job]:
    """What the engine has to do for a request; takes a while for a long conversation. `form` is `grammar`, made ready.

    Raises:
        ApiError, UserError: the request asks for something that cannot be.
    """
    settings, tokenizer = service.settings, service.tokenizer
    if (request.n or 1) > settings.max_choices:
        raise ApiError(400, f"n is {request.n}, more than {settings.max_choices}", "too_many_choices", "n")
    if request.add_generation_prompt is False and not request.continue_final_message:
        message = "without add_generation_prompt nothing is asked: use continue_final_message"
        raise ApiError(400, message, "invalid_value", "add_generation_prompt")
    prompt_ids = prompt(request, service)
    check_scored([prompt_ids] * (request.n or 1), request.prompt_logprobs)
    sampling = request.sampling(
        service.tokenizer,
        max_new_tokens=limit(request.max_completion_tokens or request.max_tokens, settings.max_tokens),
        stop_ids=[*(request.stop_token_ids or []), *([] if request.ignore_eos else ends_of_turn(tokenizer))],
        top_logprobs=request.top_logprobs or 0,
        prompt_logprobs=request.prompt_logprobs,
        grammar=form,
    )
    variant = service.variant(request.model)
    return [Job(prompt_ids, sampling, index, variant, request.cache_salt or "") for index in range(request.n or 1)]


def prompt(request: ChatRequest, service: Service) -> list[int]:
    """What the model reads.

    Raises:
        ApiError, UserError: the conversation is too long, or cannot be rendered.
    """
    if len(request.messages) > service.settings.max_messages:
        message = f"the conversation has {len(request.messages)} messages, more than {service.settings.max_messages}"
        raise ApiError(400, message, "too_many_messages", "messages")
    tools = [tool.model_dump(exclude_none=True) for tool in request.tools or [] if request.callable]
    turns = [message.turn() for message in request.messages]
    service.check_length(turn["content"] for turn in turns)
    goes_on = bool(request.continue_final_message)
    last = turns.pop() if goes_on and request.thinks else {}  # then its thought goes on
    asks = bool(last) if goes_on else request.add_generation_prompt is not False
    ids, _ = render(turns, service.tokenizer, tools or None, request.thinks, add_generation_prompt=asks, blocks=False)
    if last:
        return ids + service.tokenizer.encode(last["reasoning_content"])
    end = service.tokenizer.control_id("<|im_end|>")
    return ids[: max(i for i, id in enumerate(ids) if id == end)] if goes_on else ids


class Choice:
    """One answer as it is read: token by token into the deltas of a message, in OpenAI's words."""

    def __init__(self, request: ChatRequest, tokenizer: Tokenizer) -> None:
        self.finish_reason: str | None = None
        self.tokens = self.reasoning_tokens = self.calls = 0
        self.engine_request: Request | None = None
        self.begun = 0.0
        """When its first token came, by `time.perf_counter`."""
        self._parser = MessageParser(tokenizer, request.thinks, request.callable)
        # Where a call is demanded, content is what came of one that was cut off.
        self._reader = MessageReader(self._parser, () if request.must_call else request.stops)
        self._names = TokenNames(tokenizer) if request.logprobs else None
        self._logprobs: dict[str, list[Any]] = {}
        self._ids: list[int] | None = [] if request.return_token_ids else None
        self._one_call, self._must_call = request.parallel_tool_calls is False, request.must_call

    @property
    def stop(self) -> str | None:
        """The stop string that ended it."""
        return self._reader.found

    def feed(self, output: Output) -> list[Delta]:
        """Take one output of the engine; return what it adds. `finish_reason` is set with the last."""
        self.engine_request = output.request
        deltas: list[Delta] = []
        self.begun = self.begun or time.perf_counter()
        if output.token:
            self.tokens += 1
            if self._ids is not None:
                self._ids.append(output.token.id)
            before = self._parser.field
            for delta in self._reader.feed(output.token.id):
                deltas += self._visible(delta)
            self._count(output, before)
        if self.stop is not None:
            self.finish_reason = "stop"
        elif self._one_call and self.calls:
            self.finish_reason = "tool_calls"
        elif output.finish_reason:
            for delta in self._reader.finish():
                deltas += self._visible(delta)
            ended = "stop" if self.stop is not None else output.finish_reason
            self.finish_reason = "tool_calls" if self.calls and ended == "stop" else ended
        return deltas

    def take_logprobs(self) -> dict[str, Any] | None:
        """Log-probabilities of the tokens since the last call, by the field of the message that they belong to."""
        if self._names is None:
            return None
        taken, self._logprobs = self._logprobs, {}
        return {"content": taken.pop("content", []), "refusal": None, **taken}

    def take_ids(self) -> dict[str, Any]:
        """The token ids since the last call, for who asked for them."""
        if self._ids is None:
            return {}
        taken, self._ids = self._ids, []
        return {"token_ids": taken}

    def _visible(self, delta: Delta) -> list[Delta]:
        """One of the reader's deltas in OpenAI's words."""
        if (self._one_call and self.calls) or ("content" in delta and self._must_call):
            return []
        if "reasoning_content" in delta:
            return [{**delta, "reasoning": delta["reasoning_content"]}]
        return [part for call in delta.get("tool_calls", []) for part in self._call(call["function"])] or [delta]

    def _call(self, function: dict[str, Any]) -> list[Delta]:
        """A call in two pieces, as OpenAI streams it: who is called, then with what."""
        arguments = function["arguments"]
        written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        index, self.calls = self.calls, self.calls + 1
        head = {"index": index, "id": f"call_{uuid.uuid4().hex[:24]}", "type": "function"}
        return [
            {"tool_calls": [{**head, "function": {"name": function["name"], "arguments": ""}}]},
            {"tool_calls": [{"index": index, "function": {"arguments": written}}]},
        ]

    def _count(self, output: Output, before: str) -> None:
        """Note to which field a token belonged: a marker like `</think>`, and the newlines behind it, to its field."""
        assert output.token
        field = before if before != "content" else self._parser.field
        message = self._parser.message
        if field == "content" and not message["content"] and "reasoning_content" in message and self._names:
            field = "content" if self._names.bytes(output.token.id).strip(b"\n") else "reasoning_content"
        self.reasoning_tokens += field == "reasoning_content"
        if self._names and not self._parser.done:
            self._logprobs.setdefault(field, []).append(self._names.entry(output.token))


class _Reply(Frame):
    """What all chunks of one reply share, and its counts."""

    def __init__(self, kind: str, request: ChatRequest, service: Service, jobs: list[Job], usage: bool = False) -> None:
        super().__init__(kind, "chatcmpl", request, service, usage)
        self.start, self._request, self._names = time.perf_counter(), request, TokenNames(service.tokenizer)
        self.prompt_ids, self.prompt_tokens = jobs[0].prompt_ids, len(jobs[0].prompt_ids)
        self.answers = [Choice(request, service.tokenizer) for _ in jobs]

    def ids(self) -> dict[str, Any]:
        """The prompt's token ids, for who asked for them."""
        return {"prompt_token_ids": list(self.prompt_ids)} if self._request.return_token_ids else {}

    def scores(self) -> dict[str, Any]:
        """How likely the prompt is, for who asked."""
        first = self.answers[0].engine_request
        if first is None or self._request.prompt_logprobs is None:
            return {}
        return {"prompt_logprobs": self._names.prompt(first.prompt_tokens)}

    def timings(self, choice: Choice) -> dict[str, Any]:
        """How long one answer took so far, in llama.cpp's words; `prompt_ms` also holds the wait for its turn."""
        read, wrote = (choice.begun - self.start) * 1e3, (time.perf_counter() - choice.begun) * 1e3
        cached = coarse(choice.engine_request.cached_tokens) if choice.engine_request else 0
        told: dict[str, Any] = {"cache_n": cached}
        for name, tokens, ms in (
            ("prompt", self.prompt_tokens - cached, read),
            ("predicted", choice.tokens, wrote),
        ):
            told |= {f"{name}_n": tokens, f"{name}_ms": ms, f"{name}_per_token_ms": ms / max(1, tokens)}
            told[f"{name}_per_second"] = tokens / max(1e-3, ms) * 1e3
        return told

    def usage(self) -> dict[str, Any]:
        """Tokens read and written, and those of thoughts."""
        first = self.answers[0].engine_request
        self.cached_tokens = coarse(first.cached_tokens) if first else 0
        thought = sum(choice.reasoning_tokens for choice in self.answers)
        return super().usage() | {"completion_tokens_details": {"reasoning_tokens": thought}}


async def complete(request: ChatRequest, service: Service, jobs: list[Job]) -> dict[str, Any]:
    """The whole reply as one object."""
    reply = _Reply("chat.completion", request, service, jobs)
    messages = [{"role": "assistant", "content": None, "refusal": None} for _ in jobs]
    async with service.answers(jobs) as answers:
        async for index, output in answers:
            choice = reply.answers[index]
            for delta in choice.feed(output):
                _add(messages[index], delta)
            if choice.finish_reason and not output.finish_reason:
                answers.stop(index)
    choices = []
    for index, (choice, message) in enumerate(zip(reply.answers, messages, strict=True)):
        if message["content"] is None and not choice.calls:
            message["content"] = ""
        shared = {"finish_reason": choice.finish_reason, "logprobs": choice.take_logprobs(), "stop_reason": choice.stop}
        choices.append({"index": index, "message": message, **shared, **choice.take_ids()})
    return reply.whole(choices) | {"timings": reply.timings(reply.answers[0]), **reply.ids(), **reply.scores()}


def _add(message: dict[str, Any], delta: Delta) -> None:
    for key, value in delta.items():
        if key != "tool_calls":
            message[key] = (message.get(key) or "") + value
            continue
        calls = message.setdefault("tool_calls", [])
        for call in value:
            if call["index"] == len(calls):
                calls.append({key: call[key] for key in ("id", "type")} | {"function": dict(call["function"])})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]


async def stream(
    request: ChatRequest, service: Service, jobs: list[Job], usage: bool = False
) -> AsyncGenerator[dict[str, Any], None]:
    """The reply in chunks: the role, what is added, why it ended; at last, with `usage` or if asked, the usage."""
    reply = _Reply("chat.completion.chunk", request, service, jobs, usage)

    def chunk(index: int, delta: Delta, logprobs: Any = None, finish: str | None = None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        choice |= reply.answers[index].take_ids()
        if finish:
            choice["stop_reason"] = reply.answers[index].stop
        return reply.chunk(choice)

    for index in range(len(jobs)):
        yield chunk(index, {"role": "assistant", "content": ""}) | (reply.ids() if index == 0 else {})
    async with service.answers(jobs) as answers, aclosing(aiter(answers)) as outputs:
        async for index, output in outputs:
            choice = reply.answers[index]
            for delta in choice.feed(output):
                yield chunk(index, delta, choice.take_logprobs())
            if choice.finish_reason:
                last = chunk(index, {}, choice.take_logprobs(), choice.finish_reason)
                yield last | {"timings": reply.timings(choice)}
                if not output.finish_reason:
                    answers.stop(index)
    if reply.counts:
        yield reply.whole([]) | {"timings": reply.timings(reply.answers[0])}
