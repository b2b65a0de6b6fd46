"""The protocol by which reinforcement learning drives a server: SGLang's, the part of it that trainers use.

Prompts and answers are token ids, so that what was sampled is exactly what is trained on; every answer carries its
log-probabilities; weights are replaced in place. Only there with `--rollout`.
"""

import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from minimind.engine.grammar import Compiled
from minimind.engine.request import Output, Request
from minimind.model.store import load_model
from minimind.serve.bodies import described, read
from minimind.serve.errors import DESCRIBED, ApiError, Json
from minimind.serve.events import Stream, while_connected
from minimind.serve.rollout_schema import AbortRequest, DiskRequest, GenerateRequest, PauseRequest
from minimind.serve.service import Answers, Job, Service
from minimind.serve.weights import Weights


class _Reply:
    """The answers to one request as they are."""

    def __init__(self, request: GenerateRequest, weights: Weights, forms: Mapping[str, Compiled | None]) -> None:
        service = weights.service
        self.request, self.weights, self.start = request, weights, time.perf_counter()
        self.jobs: list[Job] = []
        self.rids: list[str] = []
        answers = sum(request.params(i).n for i in range(len(request.prompts)))
        if answers > service.settings.max_open:
            message = f"{answers:,} answers are asked for, the most of this server are {service.settings.max_open}"
            raise ApiError(400, message, "too_many_choices", "sampling_params")
        given = request.rid if isinstance(request.rid, list) else [request.rid] * len(request.prompts)
        for i, prompt in enumerate(request.prompts):
            service.check_length([prompt] if isinstance(prompt, str) else [])
            ids = service.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
            params = request.params(i)
            form = forms.get(params.form or "")
            sampling = params.sampling(request.top_logprobs_num, service.settings.max_tokens, form)
            self.jobs += [Job(ids, sampling, nth) for nth in range(params.n)]
            self.rids += [given[i] or uuid.uuid4().hex] * params.n
        self.single = request.single and len(self.jobs) == 1
        self.outputs: dict[int, Output] = {}
        """The newest of each job; its request holds everything before."""

    def result(self, job: int, last: bool = False) -> dict[str, Any]:
        """One answer so far; `last`: it has ended, and if it has no reason to, it was aborted."""
        output = self.outputs.get(job)
        request = output.request if output else None
        tokens = request.tokens if request else []
        meta: dict[str, Any] = {
            "id": self.rids[job],
            "finish_reason": (_finish(request) if request else None) or (_ABORTED if last else None),
            "prompt_tokens": len(self.jobs[job].prompt_ids),
            "completion_tokens": len(tokens),
            "cached_tokens": request.cached_tokens if request else 0,
            "weight_version": self.weights.label(tokens[-1].version) if tokens else self.weights.version,
            "e2e_latency": time.perf_counter() - self.start,
        }
        if self.request.return_logprob:
            meta["output_token_logprobs"] = [[token.logprob, token.id, None] for token in tokens]
            # Not SGLang's: under the distribution that was drawn from, and the weights that each token was drawn with.
            meta["output_policy_logprobs"] = [token.policy_logprob for token in tokens]
            meta["output_weight_versions"] = [self.weights.label(token.version) for token in tokens]
            if self.request.top_logprobs_num:
                meta["output_top_logprobs"] = [[[lp, id, None] for id, lp in token.top] for token in tokens]
        text = request.text if request else ""
        return {"text": text, "output_ids": [token.id for token in tokens], "meta_info": meta}


_ABORTED = {"type": "abort", "message": "aborted by /abort_request, /pause_generation or the end of the server"}


def _finish(request: Request) -> dict[str, Any] | None:
    match request.finish_reason:
        case "stop":
            return {"type": "stop", "matched": request.stop}
        case "length":
            return {"type": "length", "length": len(request.tokens)}
        case "error":
            return {"type": "abort", "message": request.error}
        case "abort":
            return _ABORTED
    return None


class Rollout:
    """The routes' common state: which request is where, so that it can be aborted."""

    def __init__(self, service: Service, root: Path) -> None:
        self.service, self.root = service, root.resolve()
        self._running: dict[str, list[tuple[Answers, int]]] = {}

    async def outputs(self, reply: _Reply) -> AsyncGenerator[int, None]:
        """Note the outputs of a request as they come; yield the job that each belongs to."""
        if taken := next((rid for rid in reply.rids if rid in self._running), None):
            raise ApiError(409, f"a request of the name {taken!r} is being answered already", "rid_in_use", "rid")
        async with self.service.answers(reply.jobs, partial=True) as answers, aclosing(aiter(answers)) as outputs:
            for job, rid in enumerate(reply.rids):
                self._running.setdefault(rid, []).append((answers, job))
            try:
                async for job, output in outputs:
                    reply.outputs[job] = output
                    yield job
            finally:
                for rid in reply.rids:
                    self._running.pop(rid, None)

    def abort(self, rid: str) -> None:
        """Abort the request of that name; an unknown one has ended already."""
        for answers, job in self._running.get(rid, []):
            answers.stop(job)

    async def complete(self, reply: _Reply) -> Any:
        """The whole answers."""
        async with aclosing(self.outputs(reply)) as outputs:
            async for _ in outputs:
                pass
        results = [reply.result(job, last=True) for job in range(len(reply.jobs))]
        return results[0] if reply.single else results

    async def stream(self, reply: _Reply) -> AsyncGenerator[dict[str, Any], None]:
        """The answers so far, each time that there is more of one; `index` says which."""
        ended = set()
        async with aclosing(self.outputs(reply)) as outputs:
            async for job in outputs:
                yield reply.result(job) | ({} if reply.single else {"index": job})
                if reply.outputs[job].finish_reason:
                    ended.add(job)
        for job in set(range(len(reply.jobs))) - ended:
            yield reply.result(job, last=True) | ({} if reply.single else {"index": job})

    def confined(self, path: str) -> Path:
        """The directory that a client names, if it and everything in it lie under the root, links followed.

        Raises:
            ApiError: 403, they do not.
        """
        try:
            folder = (self.root / path).resolve()
            inside = folder.is_relative_to(self.root) and folder.is_dir()
            files = [file.resolve() for file in folder.iterdir()] if inside else []
        except (ValueError, OSError):  # no path at all: a null character, a name that is too long
            files = []
        if not files or not all(file.is_relative_to(self.root) for file in files):
            raise ApiError(403, "model_path is no model directory under --rollout-root", "outside_root", "model_path")
        return folder


def router(weights: Weights, root: Path) -> APIRouter:
    """The protocol's routes, but for those of `weights`."""
    service = weights.service
    routes = APIRouter(tags=["rollout"], default_response_class=Json, responses=DESCRIBED)
    rollout = Rollout(service, root)

    @routes.post("/generate", **described(GenerateRequest))
    async def generate(http: HttpRequest) -> Response:
        """Continue token ids (or texts); answers ids and their log-probabilities."""
        request = await read(GenerateRequest, http, service.texts)
        check = service.engine.engine.check
        grammars = {request.params(i).form for i in range(len(request.prompts))}
        forms = {grammar: await service.form(grammar) for grammar in grammars if grammar}

        def prepare() -> _Reply:
            reply = _Reply(request, weights, forms)
            for job in reply.jobs:
                check(job.prompt_ids, job.sampling)
            return reply

        reply = await service.texts.run(prepare)
        release = service.take(reply.jobs)
        if request.stream:
            return Stream(rollout.stream(reply), service.settings.seconds, release)
        try:
            return Json(await while_connected(http, rollout.complete(reply)))
        finally:
            release()

    @routes.post("/update_weights_from_disk", **described(DiskRequest))
    async def update(http: HttpRequest) -> Response:
        """Replace the weights by those of a model directory; running answers go on with the new ones."""
        request = await read(DiskRequest, http, service.texts)
        dtype = service.engine.engine.dtype
        return await weights.update(request, lambda: load_model(rollout.confined(request.model_path), dtype=dtype))

    @routes.post("/flush_cache")
    @routes.get("/flush_cache", include_in_schema=False)
    async def flush() -> Response:
        """Forget every computed prefix."""
        await service.engine.call(lambda engine: engine.flush_cache())
        return Json({"success": True})

    @routes.post("/pause_generation", **described(PauseRequest))
    async def pause(http: HttpRequest) -> Response:
        """Stop generating until `/continue_generation`."""
        request = await read(PauseRequest, http, service.texts)
        service.engine.pause()
        if request.mode == "abort":
            service.abort()
        return Json({"success": True})

    @routes.post("/continue_generation")
    async def resume() -> Response:
        """Go on generating."""
        service.engine.resume()
        return Json({"success": True})

    @routes.post("/abort_request", **described(AbortRequest))
    async def abort(http: HttpRequest) -> Response:
        """Abort one request of `/generate`, or everything."""
        request = await read(AbortRequest, http, service.texts)
        if request.abort_all:
            service.abort()
        else:
            rollout.abort(request.rid)
        return Json({"success": True})

    return routes
