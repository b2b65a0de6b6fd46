"""Asking a model questions whose answers are known: the share that it answers exactly right."""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from minimind.console import track
from minimind.data.smallworld import Question
from minimind.engine.engine import Engine
from minimind.engine.sampling import GREEDY, Sampling
from minimind.model.qwen3 import Transformer
from minimind.text import read_json
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render
from minimind.tokenizer.parse import parse

LONGEST_ANSWER = 96
BATCH_SIZE = 64


def score(
    model: Transformer,
    tokenizer: Tokenizer,
    questions: Mapping[str, Sequence[Question]],
    dtype: torch.dtype,
    sampling: Sampling = GREEDY,
) -> tuple[dict[str, float], dict[str, list[dict[str, Any]]]]:
    """Answer every question, by default with the likeliest words.

    Returns:
        The fraction right of each ability, and each answer as `{"question", "expected", "answer", "ok"}`.
    """
    asked = [(ability, question) for ability, items in questions.items() for question in items]
    prompts = [
        render(question.messages, tokenizer, question.tools, question.open_thinking, add_generation_prompt=True)[0]
        for _, question in asked
    ]
    context = max(map(len, prompts), default=1) + LONGEST_ANSWER
    engine = Engine(model, tokenizer, max_batch_size=min(BATCH_SIZE, len(prompts)), context=context, dtype=dtype)
    requests = [
        engine.submit(prompt, replace(sampling, max_new_tokens=LONGEST_ANSWER, seed=number))
        for number, prompt in enumerate(prompts)
    ]
    ended = (output for output in engine.run() if output.finish_reason)
    deque(track(ended, "asking held-out questions", len(requests), BATCH_SIZE), maxlen=0)
    answers: dict[str, list[dict[str, Any]]] = {ability: [] for ability in questions}
    for (ability, question), request in zip(asked, requests, strict=True):
        message = parse(request.ids, tokenizer, question.open_thinking)
        answers[ability].append(
            {
                "question": question.messages[-1]["content"],
                "expected": question.answer,
                "answer": message["content"],
                "ok": is_right(question, message),
            }
        )
    return {ability: sum(a["ok"] for a in given) / max(1, len(given)) for ability, given in answers.items()}, answers


def is_right(question: Question, message: Mapping[str, Any]) -> bool:
    """Whether a message is exactly the expected answer, has the expected shape, or makes the expected calls."""
    if question.pattern is not None:
        return re.fullmatch(question.pattern, message["content"].strip()) is not None
    if question.calls is None:
        return message["content"].strip() == question.answer
    missing = list(question.calls)
    for call in map(called, message.get("tool_calls", [])):
        if call not in missing:
            return False
        missing.remove(call)
    return not missing


def called(call: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message's tool call as `{"name", "arguments"}`, the arguments read where they are JSON."""
    function = call["function"]
    arguments = function["arguments"]
    return {"name": function["name"], "arguments": read_json(arguments) if isinstance(arguments, str) else arguments}
