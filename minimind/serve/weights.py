"""New weights from a trainer elsewhere, and what it asks about them, in SGLang's words; only there with `--rollout`.

    /update_weights_from_disk           a model directory
    /update_weights_from_tensor         tensors in the request itself
    /update_weights_from_distributed    a broadcast over a process group, which /init_weights_update_group joins

Tensors have Hugging Face's names, and may come in several requests, some at a time. The forms are SGLang 0.5.23's.
"""

import asyncio
import base64
import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from torch import Tensor

import minimind
from minimind.engine.engine import Engine
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.model.hf_config import config_to_hf
from minimind.model.qwen3 import Transformer
from minimind.model.store import DTYPES, disk_names
from minimind.ranks import WeightGroup
from minimind.serve.bodies import described, read
from minimind.serve.errors import DESCRIBED, ApiError, Json, as_api_error
from minimind.serve.rollout_schema import (
    DistributedRequest,
    GroupName,
    GroupRequest,
    MemoryRequest,
    TensorRequest,
    UpdateRequest,
    VersionRequest,
    WeightRequest,
)
from minimind.serve.service import Job, Service

Named = Sequence[tuple[str, Tensor]]
HEALTH_SECONDS = 20.0
"""In which a healthy engine writes one token."""


class Weights:
    """What is done with the engine's weights, one thing at a time."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.groups: dict[str, WeightGroup] = {}
        self._updating = asyncio.Lock()
        self._labels: dict[int, str] = {}

    def label(self, version: int) -> str:
        """What the trainer calls the engine's weights of a version: its own name, or how many there were before."""
        return self._labels.get(version, str(version))

    @property
    def version(self) -> str:
        """What the trainer calls the present weights."""
        return self.label(self.service.engine.engine.version)

    def rename(self, label: str | None) -> None:
        """Call the present weights by the trainer's name, if it gave one."""
        if label is not None:
            self._labels[self.service.engine.engine.version] = label

    async def update(self, request: UpdateRequest, fetch: Callable[[], Transformer | Named]) -> Json:
        """Replace weights by what `fetch` returns, which works in a thread; running answers go on with the new ones."""
        engine = self.service.engine
        if request.abort_all_requests:
            self.service.abort()
        try:
            async with self._updating:
                new = await asyncio.to_thread(fetch)
                await engine.call(lambda engine: _update(engine, new))
                self.rename(request.weight_version)
        except (ApiError, UserError) as error:
            return failed(error)
        return Json({"success": True, "message": f"weights {self.version}", "num_paused_requests": 0})


def failed(error: Exception) -> Json:
    """SGLang's way to say no, with ours beside it."""
    api = as_api_error(error)
    return Json({"success": False, "message": str(error), **api.body}, api.status)


def _update(engine: Engine, new: Transformer | Named) -> None:
    engine.update_weights(new if isinstance(new, Transformer) else _placed(engine.model, new))


def _placed(model: Transformer, named: Named) -> dict[str, Tensor]:
    """Tensors by our names; an expert's matrix in the stack of all of them, the others as they are.

    Raises:
        UserError: a tensor has no place in the model.
    """
    places = _places(model)
    parameters = dict(model.named_parameters())
    placed: dict[str, Tensor] = {}
    for name, tensor in named:
        if name == "lm_head.weight" and name not in places:
            continue  # of a tied model; it is the embedding
        if name not in places:
            raise UserError(f"tensor {name!r} has no place in the model that is served")
        ours, expert = places[name]
        if expert is None:
            placed[ours] = tensor
            continue
        stack = placed.setdefault(ours, parameters[ours].detach().clone())
        if tensor.shape != stack[expert].shape:
            raise UserError(f"tensor {name!r} is {list(tensor.shape)}, where the model has {list(stack[expert].shape)}")
        stack[expert] = tensor
    return placed


def _places(model: Transformer) -> dict[str, tuple[str, int | None]]:
    """By Hugging Face's name of a tensor: the parameter, and which expert of it."""
    places: dict[str, tuple[str, int | None]] = {}
    for ours, parameter in model.named_parameters():
        names = disk_names(ours, parameter)
        places.update((name, (ours, i if parameter.ndim == 3 else None)) for i, name in enumerate(names))
    return places


# Tensors in a request

_ALLOWED: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch.storage", "_load_from_bytes"): lambda data: torch.load(io.BytesIO(data), weights_only=True),
    ("torch", "Size"): torch.Size,
    ("collections", "OrderedDict"): OrderedDict,
    ("sglang.srt.weight_sync.tensor_bucket", "FlattenedTensorMetadata"): SimpleNamespace,
}
_ALLOWED |= {("torch", name): dtype for name, dtype in DTYPES.items()}


class _Unpickler(pickle.Unpickler):
    """Builds tensors, lists and names, and nothing else: a pickle can otherwise call any function."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module.startswith(("torch.multiprocessing", "multiprocessing", "sglang.srt.utils.patch_torch")):
            raise UserError(
                "the tensors are handles of shared memory; send them by value (pickle.dumps), or broadcast them: "
                "/update_weights_from_distributed"
            )
        raise UserError(f"serialized_named_tensors names {module}.{name}, which no tensor is made of")


def unpacked(payload: str, flattened: bool) -> list[tuple[str, Tensor]]:
    """Names and tensors from SGLang's form: base64 of a pickle, with them one by one or `flattened` into one.

    Raises:
        UserError: it is something else.
    """
    try:
        content = _Unpickler(io.BytesIO(base64.b64decode(payload, validate=True))).load()
        if flattened:
            bytes_ = content["flattened_tensor"]
            content = [
                (one.name, bytes_[one.start_idx : one.end_idx].view(one.dtype).reshape(one.shape))
                for one in content["metadata"]
            ]
        named = [(name, tensor.detach()) for name, tensor in content]
    except UserError:
        raise
    except Exception as error:  # a pickle can fail in any way
        raise UserError(f"serialized_named_tensors is no pickle of names and tensors ({error})") from None
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in named):
        raise UserError("serialized_named_tensors is no pickle of names and tensors")
    return named


def _broadcast(group: WeightGroup, request: DistributedRequest, device: torch.device) -> Named:
    """What the trainer broadcasts: every tensor, or the bytes of all of them as one."""
    shapes = [(DTYPES[dtype], shape) for dtype, shape in zip(request.dtypes, request.shapes, strict=True)]
    if request.load_format != "flattened_bucket":
        tensors = [torch.empty(shape, dtype=dtype, device=device) for dtype, shape in shapes]
        group.receive(tensors)
        return list(zip(request.names, tensors, strict=True))
    sizes = [torch.Size(shape).numel() * dtype.itemsize for dtype, shape in shapes]
    bucket = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
    group.receive([bucket])
    parts = zip(bucket.split(sizes), shapes, strict=True)
    return list(zip(request.names, (part.view(d).reshape(shape) for part, (d, shape) in parts), strict=True))


def router(weights: Weights) -> APIRouter:
    """The routes, but for the one that reads a directory."""
    routes = APIRouter(tags=["rollout"], default_response_class=Json, responses=DESCRIBED)
    service = weights.service

    @routes.post("/update_weights_from_tensor", **described(TensorRequest))
    async def from_tensor(http: HttpRequest) -> Response:
        """Replace some weights by tensors that the request holds."""
        request = await read(TensorRequest, http, service.texts)
        flattened = request.load_format == "flattened_bucket"
        return await weights.update(request, lambda: unpacked(request.serialized_named_tensors[0], flattened))

    @routes.post("/init_weights_update_group", **described(GroupRequest))
    async def join(http: HttpRequest) -> Response:
        """Join the process group over which a trainer, its rank 0, will broadcast."""
        request = await read(GroupRequest, http, service.texts)
        if request.group_name in weights.groups:
            return failed(ApiError(409, f"there is a group {request.group_name!r} already", "group_exists"))
        address = f"tcp://{request.master_address}:{request.master_port}"
        where = (request.rank_offset, request.world_size, service.settings.seconds)
        try:
            group = await asyncio.to_thread(WeightGroup, address, request.group_name, request.backend, *where)
        except UserError as error:
            return failed(error)
        weights.groups[request.group_name] = group
        return Json({"success": True, "message": f"joined {request.group_name}"})

    @routes.post("/destroy_weights_update_group", **described(GroupName))
    async def leave(http: HttpRequest) -> Response:
        """Leave the process group."""
        name = (await read(GroupName, http, service.texts)).group_name
        if name not in weights.groups:
            return failed(_no_group(name))
        await asyncio.to_thread(weights.groups.pop(name).leave)
        return Json({"success": True, "message": f"left {name}"})

    @routes.post("/update_weights_from_distributed", **described(DistributedRequest))
    async def from_distributed(http: HttpRequest) -> Response:
        """Replace some weights by what the trainer broadcasts now, in the order of `names`."""
        request = await read(DistributedRequest, http, service.texts)
        group, device = weights.groups.get(request.group_name), service.engine.engine.device
        if group is None:
            return failed(_no_group(request.group_name))
        return await weights.update(request, lambda: _broadcast(group, request, device))

    @routes.post("/update_weight_version", **described(VersionRequest))
    async def rename(http: HttpRequest) -> Response:
        """Call the present weights by another name."""
        request = await read(VersionRequest, http, service.texts)
        if request.abort_all_requests:
            service.abort()
        weights.rename(request.new_version)
        return Json({"success": True, "message": f"weights {weights.version}", "new_version": request.new_version})

    @routes.get("/get_weight_version")
    async def version() -> Response:
        """Say what the present weights are called."""
        return Json({"weight_version": weights.version})

    @routes.post("/get_weights_by_name", **described(WeightRequest))
    @routes.get("/get_weights_by_name", include_in_schema=False)
    async def by_name(http: HttpRequest) -> Response:
        """Show the first rows of one tensor, to compare."""
        request = await read(WeightRequest, http, service.texts)

        def look(engine: Engine) -> list[Any]:
            ours, expert = _places(engine.model)[request.name]
            tensor = dict(engine.model.named_parameters())[ours].detach()
            rows = (tensor if expert is None else tensor[expert])[: request.truncate_size]
            values: list[Any] = rows.float().cpu().tolist()
            return values

        if request.name not in _places(service.engine.engine.model):
            raise ApiError(404, f"there is no tensor {request.name!r}", "no_tensor", "name")
        return Json(await service.engine.call(look))

    @routes.post("/release_memory_occupation", **described(MemoryRequest))
    async def release(http: HttpRequest) -> Response:
        """Give memory to the trainer; requests wait until it is resumed."""
        request = await read(MemoryRequest, http, service.texts)
        await service.engine.call(lambda engine: engine.release_memory(*request.parts))
        return Json({"success": True})

    @routes.post("/resume_memory_occupation", **described(MemoryRequest))
    async def resume(http: HttpRequest) -> Response:
        """Take memory again."""
        request = await read(MemoryRequest, http, service.texts)
        await service.engine.call(lambda engine: engine.resume_memory(*request.parts))
        return Json({"success": True})

    @routes.get("/health_generate")
    async def health() -> Response:
        """Say whether tokens are written: 200 where some are, one could be, or it was told to pause; else 503."""
        engine = service.engine
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                if not (engine.paused or await engine.call(lambda engine: engine.has_work or engine.released)):
                    async with service.answers([Job([0], Sampling(temperature=0.0, max_new_tokens=1))]) as answers:
                        async for _ in answers:
                            pass
        except TimeoutError:
            raise ApiError(503, f"no token came within {HEALTH_SECONDS:g} s", "unhealthy") from None
        return Json({"status": "ok"})

    async def model_info() -> Response:
        """Describe the model."""
        config = config_to_hf(service.engine.engine.model.config)
        name = service.settings.model
        return Json(
            {
                **{"model_path": name, "served_model_name": name, "tokenizer_path": name},
                **{"is_generation": True, "preferred_sampling_params": None, "weight_version": weights.version},
                **{"has_image_understanding": False, "has_audio_understanding": False},
                **{"model_type": config["model_type"], "architectures": config["architectures"]},
            }
        )

    async def server_info() -> Response:
        """Describe the server: one device, how many requests, how long."""
        engine, name = service.engine.engine, service.settings.model
        size = {"tp_size": 1, "pp_size": 1, "dp_size": 1, "ep_size": 1, "num_gpus": 1}
        room = {"max_running_requests": engine.max_batch_size, "context_length": engine.context}
        room["max_total_num_tokens"] = engine.cache_size[0]
        states = [{"weight_version": weights.version, "running": engine.running}]
        about = {"model_path": name, "served_model_name": name, "version": minimind.__version__}
        return Json({**about, **size, **room, "dtype": str(engine.dtype).rpartition(".")[2], "internal_states": states})

    for path, tell in (("model_info", model_info), ("server_info", server_info)):
        routes.get(f"/{path}")(tell)
        routes.get(f"/get_{path}", include_in_schema=False)(tell)
    return routes


def _no_group(name: str) -> ApiError:
    message = f"there is no group {name!r}: join one by /init_weights_update_group"
    return ApiError(404, message, "no_group", "group_name")
