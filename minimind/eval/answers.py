"""A teacher's answers as conversations to train on: black-box distillation, for which only its words are needed.

The teacher may be of any size, kind and vocabulary, a model directory or a server. Each line is written when its answer
has come, so that whatever ends the work, the same command goes on with the prompts that have none yet.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from filelock import FileLock, Timeout

from minimind.console import track
from minimind.data.conversations import read_conversation
from minimind.data.prompts import Prompt
from minimind.engine.dialogue import ends_of_turn
from minimind.engine.engine import Engine
from minimind.engine.request import PromptTooLong, Request
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.eval.endpoint import Endpoint, Failures, RequestFailed, at_once
from minimind.model.qwen3 import Transformer
from minimind.model.rope import context_length
from minimind.text import read_json, write_json
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import normalize, render
from minimind.tokenizer.parse import parse

Said: TypeAlias = dict[str, Any] | RequestFailed | None
"""An answer: a message, None where it was cut off, or why there is none."""
Teacher = Callable[[Sequence[Prompt]], Iterator[tuple[int, Said]]]
"""Answers prompts, in whatever order they come: number and answer."""
BATCH_SIZE = 32
SAID = ("content", "reasoning_content", "tool_calls")
PATIENCE = 600.0
"""Seconds for one request to a server: a long answer of a large teacher takes minutes beside seven others."""


@dataclass
class Count:
    """What became of the prompts."""

    written: int = 0
    there: int = 0
    """Answered in the file before."""
    repeated: int = 0
    """Asked once already."""
    cut_off: int = 0
    """Without an end or without a word, or the prompt fills the teacher's context: left out."""
    failed: int = 0
    """The teacher refused them, or said what is no message: left out."""


def from_model(
    model: Transformer, tokenizer: Tokenizer, sampling: Sampling, dtype: torch.dtype, thinking: bool = False
) -> Teacher:
    """A model as teacher; `sampling.seed` + n is the seed of prompt n."""

    def answer(prompts: Sequence[Prompt]) -> Iterator[tuple[int, Said]]:
        asked = [
            render(prompt.messages, tokenizer, prompt.tools or None, thinking, add_generation_prompt=True)[0]
            for prompt in prompts
        ]
        longest = max(map(len, asked), default=0) + (sampling.max_new_tokens or context_length(model.config))
        engine = Engine(model, tokenizer, max_batch_size=BATCH_SIZE, context=longest, dtype=dtype)
        stop = tuple(ends_of_turn(tokenizer))
        running: dict[Request, int] = {}
        for number, ids in enumerate(asked):
            try:
                rules = replace(sampling, seed=(sampling.seed or 0) + number, stop_ids=stop)
                running[engine.submit(ids, rules)] = number
            except PromptTooLong:
                yield number, None
        for output in engine.run():
            if output.finish_reason:
                said = parse(output.request.ids, tokenizer, thinking)
                yield running[output.request], said if output.finish_reason == "stop" else None

    return answer


def from_server(endpoint: Endpoint, **options: Any) -> Teacher:
    """A server as teacher; `options` are fields of each request (`temperature`, `max_tokens`).

    Raises (the teacher):
        UserError: the server refuses any request.
    """

    def ask(prompt: Prompt) -> dict[str, Any] | None:
        offered = {"tools": prompt.tools} if prompt.tools else {}
        choice = endpoint.complete(_with_call_ids(prompt.messages), **options, **offered)
        if choice.get("finish_reason") == "length":
            return None
        try:
            return normalize({**choice["message"], "role": "assistant"})
        except UserError as error:
            raise RequestFailed(f"the teacher's answer is no message: {error}") from None

    return lambda prompts: at_once({number: partial(ask, prompt) for number, prompt in enumerate(prompts)})


def write_answers(prompts: Sequence[Prompt], teacher: Teacher, out: Path) -> Count:
    """Append to `out` a line of `messages` and `tools` for every prompt that has none there.

    A prompt that the teacher cannot answer is left out, and asked again the next time.

    Raises:
        UserError: `out` is no file of conversations, cannot be written or is being written by another process, or no
            prompt was answered; whatever the teacher raises.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with _alone_at(out):
            return _append_answers(prompts, teacher, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror}); make room or choose another --out") from None


@contextmanager
def _alone_at(out: Path) -> Iterator[None]:
    """Keep other processes from the file: each would ask for all that the other has not written yet."""
    hidden = out.with_name(f".{out.name}.lock")
    lock = FileLock(hidden)
    try:
        with suppress(NotImplementedError):  # some network disks have no locks
            lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{out}: another process is writing there; wait for its end, or choose another --out") from None
    try:
        yield
    finally:
        with suppress(PermissionError):  # Windows deletes it when it is released
            hidden.unlink(missing_ok=True)
        lock.release()


def _append_answers(prompts: Sequence[Prompt], teacher: Teacher, out: Path) -> Count:
    there = _answered(out)
    new: dict[str, Prompt] = {}
    count = Count()
    for prompt in prompts:
        key = _key(prompt.messages, prompt.tools)
        if key in there:
            count.there += 1
        elif key in new:
            count.repeated += 1
        else:
            new[key] = prompt
    asked, failures = list(new.values()), Failures()
    with out.open("a", encoding="utf-8", newline="\n") as file:
        for number, message in track(teacher(asked), "asking the teacher", len(asked)):
            if isinstance(message, RequestFailed):
                failures.add(message)
                continue
            failures.answer()
            said = {name: message[name] for name in SAID if message.get(name)} if message else {}
            if not said:
                count.cut_off += 1
                continue
            turns = [*asked[number].messages, {"role": "assistant", "content": "", **said}]
            row = {"messages": turns} | ({"tools": asked[number].tools} if asked[number].tools else {})
            file.write(write_json(row) + "\n")
            file.flush()
            count.written += 1
    failures.conclude("prompts", answered_before=count.there)
    count.failed = failures.count
    return count


def _with_call_ids(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation as the protocol wants it: arguments as JSON, and an id by which a result names its call."""
    turns: list[dict[str, Any]] = []
    waiting = deque[str]()
    for turn in messages:
        turn = dict(turn)
        if calls := turn.get("tool_calls"):
            ids = [f"call_{len(turns)}_{nth}" for nth in range(len(calls))]
            waiting = deque(ids)
            turn["tool_calls"] = [_with_id(call, id) for call, id in zip(calls, ids, strict=True)]
        elif turn["role"] == "tool" and waiting:
            turn["tool_call_id"] = waiting.popleft()
        turns.append(turn)
    return turns


def _with_id(call: dict[str, Any], id: str) -> dict[str, Any]:
    arguments = call["function"]["arguments"]
    arguments = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {"id": id, "type": "function", "function": {**call["function"], "arguments": arguments}}


def _answered(out: Path) -> set[str]:
    """The prompts that `out` holds an answer to; a last line that a crash has cut short is taken away."""
    if not out.exists():
        return set()
    try:
        content = out.read_bytes()
    except OSError as error:
        raise UserError(f"{out}: cannot be read ({error.strerror}); choose another --out") from None
    whole = content[: content.rfind(b"\n") + 1]
    keys = set()
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            conversation = read_conversation(read_json(line))
        except (ValueError, AttributeError, UserError):
            raise UserError(f"{out}, line {number}: no conversation; choose another --out for the answers") from None
        keys.add(_key(conversation.messages[:-1], conversation.tools))
    if len(whole) < len(content):
        with out.open("r+b") as file:
            file.truncate(len(whole))
    return keys


def _key(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> str:
    return json.dumps([messages, tools], sort_keys=True, ensure_ascii=False)
