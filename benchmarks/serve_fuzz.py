"""Strangers against one server: thousands of spoilt bodies, or clients that misbehave beside clients that do not.

    python benchmarks/serve_fuzz.py --bodies 10000
    python benchmarks/serve_fuzz.py --soak 600

The first changes valid bodies of every endpoint (types, sizes, depths, encodings; the same changes for the same
`--seed`) and sends them to a model of random weights; no answer may be a mistake of the server. The second lets eight
clients ask as in `serve_load.py`, each stream compared with what it gives alone, while eight others leave in the middle
of a stream, read slowly, send half a request, or what the first sends. Meanwhile `/health` is asked all the time.
"""

import argparse
import asyncio
import copy
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from serve_load import figures, load, started, tenths, watched

HI = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi 你好"}]
ADD = {
    "name": "add",
    "description": "Adds",
    "parameters": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
}
TOOL = {"type": "function", "function": ADD}
CALLED = [
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "add"}}],
    },
    {"role": "tool", "tool_call_id": "1", "content": "3"},
]
FORM = {"type": "object", "properties": {"x": {"enum": ["a", "b"]}}, "required": ["x"], "additionalProperties": False}
RULES = {
    **{"max_tokens": 4, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "seed": 7, "n": 2},
    **{"presence_penalty": 0.5, "frequency_penalty": 0.5, "repetition_penalty": 1.1, "stop": ["x", "yz"]},
    **{"logit_bias": {"40": 1, "哈": 2}, "stop_token_ids": [5]},
}
OLLAMA = {"model": "model", "options": {"num_predict": 3, "temperature": 0.5, "stop": ["x"], "seed": 1}}
VALID: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": HI, **RULES, "logprobs": True, "top_logprobs": 2, "return_token_ids": True}),
    ("/v1/chat/completions", {"messages": HI, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1/chat/completions", {"messages": [*HI, *CALLED], "tools": [TOOL], "tool_choice": "auto", "stream": True}),
    (
        "/v1/chat/completions",
        {"messages": HI, "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}},
    ),
    (
        "/v1/chat/completions",
        {"messages": HI, "response_format": {"type": "json_schema", "json_schema": {"name": "f", "schema": FORM}}},
    ),
    ("/v1/chat/completions", {"messages": HI, "structured_outputs": {"regex": "[ab]{3}"}, "open_thinking": True}),
    ("/v1/chat/completions", {"messages": HI, "prompt_logprobs": 1, "chat_template_kwargs": {"enable_thinking": True}}),
    ("/v1/completions", {"prompt": "once", **RULES, "logprobs": 2, "echo": True}),
    ("/v1/completions", {"prompt": [[1, 2, 3], [4]], "max_tokens": 2, "stream": True}),
    ("/v1/completions", {"prompt": ["a", "b"], "structured_outputs": {"choice": ["a", "b"]}}),
    ("/v1/embeddings", {"input": ["a", "b c"], "encoding_format": "base64"}),
    (
        "/v1/responses",
        {
            "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
            "instructions": "Be kind.",
            "tools": [{"type": "function", **ADD}],
            "stream": True,
            "reasoning": {"effort": "low"},
        },
    ),
    ("/v1/responses", {"input": "hi", "text": {"format": {"type": "json_schema", "name": "f", "schema": FORM}}}),
    (
        "/v1/messages",
        {
            "max_tokens": 4,
            "system": [{"type": "text", "text": "Be kind."}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
            "tools": [{"name": "add", "input_schema": ADD["parameters"]}],
            "tool_choice": {"type": "any"},
            "stop_sequences": ["x"],
            "stream": True,
        },
    ),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/api/chat", {**OLLAMA, "messages": HI, "tools": [TOOL], "think": True}),
    ("/api/chat", {**OLLAMA, "messages": HI, "format": FORM, "stream": False}),
    ("/api/generate", {**OLLAMA, "prompt": "hi", "system": "Be kind.", "raw": False}),
    ("/api/embed", {"model": "model", "input": ["a", "b"], "truncate": True}),
    ("/api/embeddings", {"model": "model", "prompt": "a"}),
    ("/api/show", {"model": "model"}),
    ("/tokenize", {"content": "a b", "with_pieces": True}),
    ("/tokenize", {"messages": [*HI, *CALLED], "tools": [TOOL]}),
    ("/detokenize", {"tokens": [40, 41, 42]}),
    ("/apply-template", {"messages": HI, "tools": [TOOL], "continue_final_message": False}),
    ("/tools/calculate_math", {"arguments": {"expression": "2 + 3 * 4"}}),
    (
        "/generate",
        {"input_ids": [[1, 2], [3]], "sampling_params": {"max_new_tokens": 2, "regex": "a*"}, "return_logprob": True},
    ),
    ("/generate", {"text": "a", "stream": True, "rid": "r", "sampling_params": {"n": 2, "stop": ["x"]}}),
    ("/update_weights_from_disk", {"model_path": "elsewhere"}),
    ("/tools/unit_converter", {"arguments": '{"value": 3, "from_unit": "km", "to_unit": "m"}'}),
]
DEEP = "@deep@"
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 3.5, 1e308, -1e39, 1e-320, 2**31, 2**63, -(2**64), 10**400),
    *(float("nan"), float("inf"), "", " ", "a", "\0", "\ud83d", "text\udfff", "a" * 20_000, " " * 60_000, "\n" * 3000),
    *("<|im_end|>", "<tool_call>" * 500, "<think>", "1e5", "null", "../../etc/passwd", "🙂" * 300, "(a+)+$", "(" * 400),
    *([], {}, [[]], [None], [1, "a"], list(range(5000)), ["a"] * 3000, [{}] * 3000, {"a": 1}, {"": None}),
    *({"type": "object"}, {"$ref": "#"}, {"type": "integer", "multipleOf": 1_000_003}, {"const": "x" * 5000}, DEEP),
]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container of a tree with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


def spoil(body: Any, dice: random.Random) -> None:
    """One change somewhere in a tree."""
    found = places(body)
    if not found:
        return
    where, key = dice.choice(found)
    match dice.choice(("odd", "odd", "odd", "delete", "double", "wrap", "rename", "swap", "grow")):
        case "odd":
            where[key] = copy.deepcopy(dice.choice(ODD))
        case "delete":
            del where[key]
        case "double" if isinstance(where, list):
            where.extend([copy.deepcopy(where[key])] * dice.choice((1, 3, 400)))
        case "wrap":
            where[key] = dice.choice(([where[key]], {"value": where[key]}, [[where[key]]], {key: where[key]}))
        case "rename" if isinstance(where, dict):
            where[dice.choice((f"{key}_", "model", "schema", "type", ""))] = where.pop(key)
        case "swap":
            other, its = dice.choice(found)
            where[key] = copy.deepcopy(other[its]) if its in range(len(other)) or its in other else None
        case _:
            one = where[key]
            where[key] = one[:20_000] * 50 if isinstance(one, str | list) else {"a": one, "b": one}


def mutated(dice: random.Random) -> tuple[str, bytes]:
    """A path, and a body that is nearly what the path takes."""
    path, valid = dice.choice(VALID)
    body = copy.deepcopy(valid)
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3, 6))):
        spoil(body, dice)
    depth = dice.choice((10, 90, 500, 3000, 200_000))
    text = json.dumps(body, ensure_ascii=dice.random() < 0.5).replace(f'"{DEEP}"', "[" * depth + "]" * depth)
    data = text.encode("utf-8", "surrogatepass")
    at = dice.randrange(len(data) + 1)
    match dice.randrange(20):
        case 0:
            data = data[:at]
        case 1:
            data = data[:at] + dice.randbytes(3) + data[at:]
        case 2:
            data = data.replace(b"}", b',"stream":true,"n":3,"messages":[],"messages":null}', 1)  # names given twice
        case 3:
            data = text.encode(dice.choice(("utf-16", "utf-32", "utf-8-sig", "gb18030")), "replace")
        case 4:
            data = dice.choice((b"", b"null", b"[]", b"1", b'"text"', b"\xff\xfe", b"{" * at, b'{"a":' * at))
        case 5:
            data = data.replace(b'"', b"'") if at % 2 else data + b" " * 500_000
    return path, data


def head(url: str, path: str, length: int) -> bytes:
    """The head of a request with a body."""
    lines = (f"POST {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}", "Content-Type: application/json")
    return "\r\n".join((*lines, "Connection: close", f"Content-Length: {length}", "", "")).encode()


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection of its own."""
    where = urlsplit(url)
    return await asyncio.open_connection(where.hostname, where.port)


async def exchange(url: str, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer; 0, if there is none."""
    reader, writer = await connect(url)
    try:
        writer.write(request)
        answer = await reader.read()
    finally:
        writer.close()
    status = answer[9:12]
    return int(status) if status.isdigit() else 0, answer.partition(b"\r\n\r\n")[2]


@dataclass
class Seen:
    """What came back."""

    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """Mistakes of the server, each with the body that caused it."""
    slowest: float = 0.0
    """Seconds, an answer."""
    health: float = 0.0
    """Seconds, an answer of `/health`."""


async def attack(url: str, dice: random.Random, seen: Seen) -> None:
    """Send one spoilt body."""
    path, data = mutated(dice)
    start = time.monotonic()
    try:
        status, answer = await exchange(url, head(url, path, len(data)) + data)
    except OSError as error:
        status, answer = 0, repr(error).encode()
    seen.slowest = max(seen.slowest, time.monotonic() - start)
    seen.statuses[status] += 1
    if not 200 <= status < 500 or b'"internal_error"' in answer:
        seen.faults.append(f"{status} {path} {data[:2000]!r}: {answer[:300]!r}")


@asynccontextmanager
async def asking_health(url: str, seen: Seen) -> AsyncIterator[None]:
    """Ask `/health` four times a second."""
    request = f"GET /health HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nConnection: close\r\n\r\n".encode()

    async def ask() -> None:
        while True:
            start = time.monotonic()
            status, answer = await exchange(url, request)
            seen.health = max(seen.health, time.monotonic() - start)
            if status != 200:
                seen.faults.append(f"{status} /health: {answer!r}")
            await asyncio.sleep(0.25)

    asking = asyncio.create_task(ask())
    yield
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking  # which raises what went wrong


async def fuzz(url: str, bodies: int, seed: int = 0, clients: int = 4) -> Seen:
    """Send so many spoilt bodies."""
    seen, dice = Seen(), random.Random(seed)

    async def client(each: random.Random, count: int) -> None:
        for _ in range(count):
            await attack(url, each, seen)

    async with asking_health(url, seen):
        parts = [(random.Random(dice.random()), len(range(i, bodies, clients))) for i in range(clients)]
        await asyncio.gather(*(client(*part) for part in parts))
    return seen


async def misbehave(url: str, dice: random.Random, seen: Seen) -> None:
    """Something that no client should do."""
    body = json.dumps({"messages": HI, "stream": True, "max_tokens": 200, "logprobs": True, "n": 2}).encode()
    manner = dice.choice(("leave", "read slowly", "half a head", "half a body", "spoilt", "spoilt"))
    if manner == "spoilt":
        await attack(url, dice, seen)
        return
    reader, writer = await connect(url)
    request = head(url, "/v1/chat/completions", len(body)) + body
    try:
        if manner == "half a head":
            writer.write(request[:40])
            await asyncio.sleep(3 * dice.random())
        elif manner == "half a body":
            writer.write(request[:-20])
            await asyncio.sleep(3 * dice.random())
        else:
            writer.write(request)
            for _ in range(dice.randrange(40)):
                await reader.read(100)
                await asyncio.sleep(0.2 if manner == "read slowly" else 0)
    finally:
        writer.transport.abort()


async def soak(url: str, seconds: float, near_tie: float, seed: int = 0) -> tuple[Seen, Any]:
    """Eight clients of either kind; what the bad ones saw, and the good ones."""
    seen, end = Seen(), time.monotonic() + seconds

    async def bad(dice: random.Random) -> None:
        while time.monotonic() < end:
            await misbehave(url, dice, seen)

    async with asking_health(url, seen):
        good = load(url, 8, seconds, near_tie)
        outcome, *_ = await asyncio.gather(good, *(bad(random.Random(f"{seed} {i}")) for i in range(8)))
    return seen, outcome


async def run(url: str, process: int, options: argparse.Namespace) -> dict[str, Any]:
    """The figures of one of both."""
    import torch

    from minimind.engine.engine import NEAR_TIE

    more: dict[str, Any] = {}
    async with watched(process) as memory:
        if options.soak:
            seen, outcome = await soak(url, options.soak, NEAR_TIE[torch.bfloat16], options.seed)
            more = figures(outcome, options.soak)
        else:
            seen = await fuzz(url, options.bodies, options.seed)
    return {
        "statuses": dict(sorted(seen.statuses.items())),
        "faults": len(seen.faults),
        "fault_examples": seen.faults[:5],
        "slowest_seconds": round(seen.slowest, 2),
        "slowest_health_seconds": round(seen.health, 2),
        "memory_mb": tenths(memory),
        **more,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--soak", type=float, default=0, help="seconds of mixed clients in place of --bodies")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    flags = ["--context", "1024", "--max-tokens", "64" if options.soak else "8", "--tools", "all", "--rollout"]
    with (
        tempfile.TemporaryDirectory() as weights,
        started("tiny", *flags, "--rollout-root", weights) as (url, process),
    ):
        told = asyncio.run(run(url, process, options))
    print(json.dumps(told, ensure_ascii=False))
    sys.exit(bool(told["faults"] or told.get("broken") or told["slowest_health_seconds"] > 2))


if __name__ == "__main__":
    main()
