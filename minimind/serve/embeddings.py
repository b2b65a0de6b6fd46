"""`/v1/embeddings` and ollama's: the mean of the model's last states over a text, at length 1.

The model was trained to continue texts, not to compare them: such vectors tell topics and languages apart, no more.
"""

import base64
import struct
import time
from typing import Any

from minimind.engine.sampling import Sampling
from minimind.serve.completions import prompts
from minimind.serve.errors import ApiError
from minimind.serve.schema import EmbeddingsRequest
from minimind.serve.service import Job, Service

MAX_INPUTS = 256
"""Texts in one request."""
Vector = list[float]


def jobs(request: EmbeddingsRequest, service: Service, form: None = None) -> list[Job]:
    """What the engine has to do: read each text.

    Raises:
        ApiError, UserError: the request asks for something that cannot be.
    """
    texts, engine, tokenizer = prompts(request), service.engine.engine, service.tokenizer
    if len(texts) > min(MAX_INPUTS, service.settings.max_open):
        most = min(MAX_INPUTS, service.settings.max_open)
        raise ApiError(400, f"{len(texts)} texts are more than {most} in one request", "too_many_inputs", "input")
    width = engine.model.config.hidden_size
    if request.dimensions not in (None, width):
        message = f"dimensions is {request.dimensions}, but this model's vectors have {width} and cannot be cut shorter"
        raise ApiError(400, message, "invalid_value", "dimensions")
    all_ids = []
    for text in texts:
        if request.truncate and isinstance(text, str):
            text = text[: engine.context * tokenizer.longest]
        elif isinstance(text, str):
            service.check_length([text])
        ids = tokenizer.bos + tokenizer.encode(text) if isinstance(text, str) else text
        all_ids.append(ids[: engine.context - 1] if request.truncate else ids)
    return [Job(ids, Sampling(max_new_tokens=0, embed=True), 0, service.variant(request.model)) for ids in all_ids]


async def vectors(service: Service, jobs: list[Job]) -> list[Vector]:
    """One vector of length 1 a job."""
    found: list[Vector] = [[] for _ in jobs]
    async with service.answers(jobs) as answers:
        async for index, output in answers:
            total = output.request.state_sum
            assert total is not None
            found[index] = (total / total.norm().clamp(min=1e-12)).tolist()
    return found


async def complete(request: EmbeddingsRequest, service: Service, jobs: list[Job]) -> dict[str, Any]:
    """The reply."""
    found = await vectors(service, jobs)
    packed = request.encoding_format == "base64"
    tokens = sum(len(job.prompt_ids) for job in jobs)
    data = [
        {"object": "embedding", "index": i, "embedding": _packed(vector) if packed else vector}
        for i, vector in enumerate(found)
    ]
    model = request.model or service.settings.model
    return {
        **{"object": "list", "data": data, "model": model},
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _packed(vector: Vector) -> str:
    """Little-endian float32, as OpenAI's client asks for unless told otherwise."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


async def ollama(request: EmbeddingsRequest, service: Service, jobs: list[Job]) -> dict[str, Any]:
    """The reply to `/api/embed`."""
    start = time.perf_counter_ns()
    found = await vectors(service, jobs)
    return {
        **{"model": request.model, "embeddings": found, "load_duration": 0},
        "total_duration": time.perf_counter_ns() - start,
        "prompt_eval_count": sum(len(job.prompt_ids) for job in jobs),
    }


async def ollama_single(request: EmbeddingsRequest, service: Service, jobs: list[Job]) -> dict[str, Any]:
    """The reply to `/api/embeddings`, its older form."""
    return {"embedding": (await vectors(service, jobs))[0]}
