"""Model directories: Hugging Face's Qwen3 / Qwen3-MoE layout, read and written without `transformers`.

On disk a tensor is named as in `transformers` and experts are separate matrices; in memory names lack the
`model.` prefix and the experts of a layer are stacked `[expert, out, in]`. This file is the only one that knows.
"""

from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from minimind.config import ModelConfig
from minimind.errors import UserError
from minimind.files import atomic_write, read_json, write_json
from minimind.model.adapter import FILES as ADAPTER_FILES
from minimind.model.adapter import attach_adapter, base_of, is_adapter
from minimind.model.files import open_safetensors
from minimind.model.hf_config import config_from_hf, config_to_hf, scores_texts
from minimind.model.lora import merged
from minimind.model.qwen3 import Scorer, Transformer

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING = "model.embed_tokens.weight"
OTHER_HEAD = "lm_head.weight is not the embedding, as config.json says; set tie_word_embeddings to false there"
M = TypeVar("M", bound=Transformer)


def load_config(directory: str | Path, kind: type[Transformer] = Transformer) -> ModelConfig:
    """Read `config.json` of a model directory, of an adapter's the one of its base.

    Raises:
        UserError: not a model directory, or a model of another kind.
    """
    if is_adapter(Path(directory)):
        directory = base_of(Path(directory))
    path = Path(directory) / "config.json"
    if not path.is_file():
        raise UserError(f"{directory} is not a model directory: it has no config.json")
    content = read_json(path)
    if scores_texts(content) and kind is not Scorer:
        raise UserError(f"{directory} is a reward model: it scores texts and writes none; name a language model")
    return config_from_hf(content, str(path))


def load_model(
    directory: str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    adapter: str | Path | None = None,
) -> Transformer:
    """Read a model directory, with one `model.safetensors` or a sharded one; or an adapter's, merged into its base.

    Args:
        directory: written by `save_model`, by `transformers`, or (an adapter) by `save_adapter` or by `peft`.
        dtype: of the parameters in memory; None means float32, what training keeps whatever the file holds.
        device: where the parameters go.
        adapter: directory of an adapter to merge into this model.

    Raises:
        UserError: a file is missing or broken, a tensor is missing, unexpected or of another shape; no base for the
            adapter, or another one than it was trained on.
    """
    directory = Path(directory)
    if is_adapter(directory):
        if adapter:
            raise UserError(f"{directory} is an adapter itself; merge it first: minimind export merge-lora")
        directory, adapter = base_of(directory), directory
    if not adapter:
        return _load(Transformer, directory, dtype, device)
    model = _load(Transformer, directory, None, device)
    attach_adapter(model, Path(adapter), directory)
    return merged(model).to(dtype or torch.float32).eval()


def load_scorer(directory: str | Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> Scorer:
    """Read a reward model as `load_model` does, or begin one: a language model's body with a head of zeros.

    Raises:
        UserError: as `load_model`.
    """
    return _load(Scorer, Path(directory), dtype, device)


def _load(kind: type[M], directory: Path, dtype: torch.dtype | None, device: torch.device | str) -> M:
    config = load_config(directory, kind)
    files = weight_files(directory)
    _check_count(directory, config, len(files))
    with torch.device("meta"):
        model = kind(config)
    new = {"score.weight"} if kind is Scorer and "score.weight" not in files else set()
    _check_tensors(directory, model, files, new)
    with open_safetensors(set(files.values())) as handles:

        def read(name: str) -> Tensor:
            tensor = handles[files[name]].get_tensor(name)
            return tensor.to(device=device, dtype=dtype or torch.float32, copy=True)

        state = {}
        for name, parameter in model.named_parameters():
            disk = disk_names(name, parameter)
            if name in new:
                state[name] = torch.zeros(parameter.shape, dtype=dtype or torch.float32, device=device)
                continue
            state[name] = torch.stack([read(n) for n in disk]) if _is_stacked(name, parameter) else read(disk[0])
    model.load_state_dict(state, assign=True)
    return model.eval()


def save_model(model: Transformer, directory: str | Path, dtype: str = "bfloat16") -> None:
    """Write weights (in `dtype`), `config.json` and `generation_config.json`; each file appears whole or not at all.

    The tokenizer's files are written by the tokenizer.

    Raises:
        UserError: the directory cannot be written.
    """
    directory = Path(directory)
    assert model.adaptation is None, "its change is an adapter; or merge it first"
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        value = parameter.detach().to("cpu", DTYPES[dtype])
        parts = value.unbind(0) if _is_stacked(name, parameter) else [value]
        tensors.update((n, part.contiguous()) for n, part in zip(disk_names(name, parameter), parts, strict=True))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_write(directory / WEIGHTS) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write the model to {directory} ({error}); make room or choose another folder"
        ) from None
    for left in (INDEX, *ADAPTER_FILES):  # of a sharded model, or an adapter, that was here before
        (directory / left).unlink(missing_ok=True)
    save_config(model.config, directory, dtype, model.task)


def save_config(config: ModelConfig, directory: str | Path, dtype: str = "bfloat16", task: str = "CausalLM") -> None:
    """Write `config.json` and `generation_config.json` only."""
    ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    generation = {"do_sample": True, **{name: value for name, value in ids.items() if value is not None}}
    for name, content in (("config.json", config_to_hf(config, dtype, task)), ("generation_config.json", generation)):
        path = Path(directory) / name
        try:
            write_json(path, content)
        except OSError as error:
            raise UserError(f"cannot write {path}: {error}") from None


def disk_names(name: str, parameter: Tensor) -> list[str]:
    """Names on disk of the parameter `name`: one, or one an expert."""
    if _is_stacked(name, parameter):
        prefix, matrix = name.rsplit(".", 1)
        return [f"model.{prefix}.{expert}.{matrix}.weight" for expert in range(len(parameter))]
    return [name if name.startswith(("lm_head.", "score.")) else f"model.{name}"]


def _is_stacked(name: str, parameter: Tensor) -> bool:
    return ".mlp.experts." in name and parameter.ndim == 3


def weight_files(directory: Path) -> dict[str, Path]:
    """Map each tensor name to the file that holds it."""
    single, index = directory / WEIGHTS, directory / INDEX
    if single.is_file():
        with open_safetensors({single}) as handles:
            return dict.fromkeys(handles[single].keys(), single)
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict):
            raise UserError(f"{index} has no weight_map: download the model again")
        return {name: directory / str(file) for name, file in weight_map.items()}
    if is_adapter(directory):
        raise UserError(
            f"{directory} is an adapter; make a model of it first: minimind export merge-lora {directory} OUT"
        )
    raise UserError(f"{directory} is not a model directory: it has neither {WEIGHTS} nor {INDEX}")


def _check_count(directory: Path, config: ModelConfig, tensors: int) -> None:
    """Refuse a model of more layers or experts than there are tensors, before its millions of modules are made."""
    experts = config.num_experts * sum(map(config.is_sparse, range(config.num_hidden_layers)))
    if max(config.num_hidden_layers, experts) > tensors:
        asked = f"{config.num_hidden_layers:,} layers with {experts:,} experts"
        raise UserError(f"{directory}: config.json calls for {asked}, but the weights have only {tensors:,} tensors")


def _check_tensors(directory: Path, model: Transformer, files: dict[str, Path], new: set[str]) -> None:
    """Refuse tensors that are missing (but `new` ones), unexpected or of another shape."""
    expected: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        shape = parameter.shape[1:] if _is_stacked(name, parameter) else parameter.shape
        expected.update((n, list(shape)) for n in disk_names(name, parameter) if n not in new)
    missing = next((name for name in expected if name not in files), None)
    if missing:
        raise UserError(f"{directory}: tensor {missing!r}, which config.json calls for, is missing from the weights")
    # Some tools write the head of a tied model too; it is the embedding. A scorer leaves the head of words out.
    head = files.pop("lm_head.weight", None) if model.config.tie_word_embeddings else None
    for name in files:
        if name not in expected:
            raise UserError(f"{files[name]}: tensor {name!r} has no place in the model that config.json describes")
    with open_safetensors({*files.values(), *filter(None, [head])}) as handles:
        if head and model.task == "CausalLM":
            embedding = handles[files[EMBEDDING]].get_tensor(EMBEDDING)
            if not torch.equal(handles[head].get_tensor("lm_head.weight"), embedding):
                raise UserError(f"{head}: {OTHER_HEAD}")
        for name, wanted in expected.items():
            try:
                shape = handles[files[name]].get_slice(name).get_shape()
            except SafetensorError as error:
                raise UserError(f"{files[name]}: cannot read tensor {name!r}: {error}") from None
            if list(shape) != wanted:
                raise UserError(
                    f"{files[name]}: tensor {name!r} has shape {list(shape)}, but config.json makes it {wanted}"
                )
