"""LoRA adapters on the disk: PEFT's directories, read and written without `peft`.

    adapter_config.json          rank, scale, which layers are changed, and of which base
    adapter_model.safetensors    base_model.model.LAYER.lora_A.weight, .lora_B.weight; for DoRA .lora_magnitude_vector
    base.json                    checksum of the base's weights; ours, PEFT does not look at it

LAYER is Hugging Face's name of it; each expert is a layer of its own there, in memory they are stacked.
"""

import copy
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from minimind.errors import UserError
from minimind.fields import Fields
from minimind.files import atomic_write, read_json, write_json
from minimind.model import lora
from minimind.model.files import open_safetensors, weights_checksum
from minimind.model.qwen3 import Transformer
from minimind.model.settings import LoraConfig

CONFIG, WEIGHTS, BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
FILES = (CONFIG, WEIGHTS, BASE)
PREFIX = "base_model.model."
PARTS = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
UNKNOWN = (
    *("rank_pattern", "alpha_pattern", "modules_to_save", "target_parameters", "lora_bias", "fan_in_fan_out"),
    *("alora_invocation_tokens", "layer_replication"),
)
"""What PEFT can do and we cannot, unless it is empty."""
OTHER_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin (`init_lora_weights`) that change the base too, again each time that PEFT loads the adapter."""


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter, not a model."""
    return (directory / CONFIG).is_file()


def base_of(directory: Path) -> Path:
    """The model directory that an adapter is a change of.

    Raises:
        UserError: it is not where the adapter says.
    """
    name = Fields(read_json(directory / CONFIG), directory / CONFIG).text("base_model_name_or_path", "no named model")
    for place in (Path(name), directory / name):
        if (place / "config.json").is_file():
            return place
    raise UserError(
        f"{directory} is an adapter of {name}, which is not there; put it there, or name the model that it was trained "
        f"on, as in: minimind chat MODEL --lora {directory}"
    )


def save_adapter(model: Transformer, weights: Mapping[str, Tensor], directory: Path) -> None:
    """Write the change of an adapted model; each file appears whole or not at all.

    Args:
        model: an adapted model.
        weights: its trained parameters by name, as whole tensors.
        directory: to write to.

    Raises:
        UserError: the directory cannot be written.
    """
    about = model.adaptation
    assert about
    tensors: dict[str, Tensor] = {}
    for name, value in weights.items():
        before, _, after = name.partition(".lora.")
        *matrix, part = after.split(".")  # of experts: which of their matrices
        stacked = ".".join([before, *matrix])
        layers = disk_layers(stacked, len(value) if matrix else 0)
        parts = value.cpu().unbind(0) if matrix else [value.cpu()]
        for layer, tensor in zip(layers, parts, strict=True):
            tensors[f"{PREFIX}{layer}.{PARTS[part]}"] = tensor.contiguous()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with atomic_write(directory / WEIGHTS) as temporary:
            save_file(tensors, temporary, metadata={"format": "pt"})
        for name, content in ((BASE, {"checksum": about.checksum}), (CONFIG, _peft_config(model, about))):
            write_json(directory / name, content)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write the adapter to {directory} ({error}); make room or choose another folder"
        ) from None


def disk_layers(matrix: str, experts: int) -> list[str]:
    """Hugging Face's names of a matrix's layers: one, or one an expert."""
    name = matrix if matrix.startswith("lm_head") else f"model.{matrix}"
    before, _, last = name.rpartition(".")
    return [f"{before}.{expert}.{last}" for expert in range(experts)] if experts else [name]


def _layers(model: Transformer) -> dict[str, tuple[str, int | None]]:
    """Every layer that can be adapted, by its name on the disk: the matrix, and which expert of it."""
    found: dict[str, tuple[str, int | None]] = {}
    for matrix, shape in lora.matrices(model).items():
        stacked = len(shape) == 3
        for i, layer in enumerate(disk_layers(matrix, shape[0] if stacked else 0)):
            found[layer] = (matrix, i if stacked else None)
    return found


def _peft_config(model: Transformer, about: lora.Adaptation) -> dict[str, Any]:
    config, layers = about.config, _layers(model)
    chosen = {layer for layer, (matrix, _) in layers.items() if matrix in about.names}
    # PEFT takes every layer whose name ends so: short names, where they mean exactly the same.
    ends = {layer.rpartition(".")[2] for layer in chosen}
    exact = chosen == {layer for layer in layers if layer.rpartition(".")[2] in ends}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": about.base.resolve().as_posix(),
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "target_modules": sorted(ends if exact else chosen),
        "bias": "none",
        "inference_mode": True,
    }


def peft_trouble(model: Transformer) -> str | None:
    """Why `peft` (0.19 or newer) would not load the adapter of this model, or not rightly; None if it would.

    It keeps experts stacked, gate and up as one matrix, and adds the product of the factors to it. Older ones, with
    `transformers` 5, load no expert's factors at all, and say nothing.
    """
    about, shapes = model.adaptation, lora.matrices(model)
    assert about
    chosen = {name for name in about.names if len(shapes[name]) == 3}
    if not chosen:
        return None
    ends = {name.rpartition(".")[2] for name in chosen}
    config = about.config
    reasons = {
        "DoRA": config.dora,
        "rsLoRA": config.rslora,
        "dropout": config.dropout > 0,
        "gate_proj without up_proj": len(ends & {"gate_proj", "up_proj"}) == 1,
        "experts of some layers": any(
            name.rpartition(".")[2] in ends and (name not in about.names or len(shape) == 2)
            for name, shape in shapes.items()
        ),
    }
    return next((f"it has no {reason} for experts" for reason, there in reasons.items() if there), None)


def attach_adapter(model: Transformer, directory: Path, base: Path) -> None:
    """Put the adapter in `directory` on `model`, which was read from `base`.

    Raises:
        UserError: the adapter is broken or empty, of another base, or of a kind that there is no code for.
    """
    config = _lora_config(directory)
    path = directory / WEIGHTS
    if not path.is_file():
        raise UserError(f"{directory} has an {CONFIG} but no {WEIGHTS}; copy the adapter again, whole")
    with open_safetensors({path}) as handles:
        tensors = {name: handles[path].get_tensor(name) for name in list(handles[path].keys())}
    about = Fields(read_json(directory / BASE) if (directory / BASE).is_file() else {}, directory / BASE)
    checksum = about.integer("checksum", 0, most=2**32 - 1)
    if checksum and checksum != weights_checksum(base):
        raise UserError(
            f"{directory} is an adapter of other weights than those in {base}; name the model it belongs to"
        )
    parts = _stack(model, tensors, path, base)
    config.targets = list(parts)
    lora.attach(model, config, base, checksum)
    for name, update in lora.updates(model).items():
        given, own = parts[name.removesuffix(".weight")], dict(update.named_parameters())
        for part, value in own.items():
            if part not in given or given[part].shape != value.shape:
                got = list(given[part].shape) if part in given else "missing"
                raise UserError(
                    f"{path}: {PARTS[part]} of {name.removesuffix('.weight')} is {got}, where {base} needs "
                    f"{list(value.shape)}: the adapter is of another model"
                )
            value.data.copy_(given[part])


def adapted_copy(model: Transformer, directory: Path, base: Path) -> Transformer:
    """`model`, read from `base`, with an adapter merged into it, as another model: it shares what is not changed.

    Raises:
        UserError: as `attach_adapter`.
    """
    view = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    attach_adapter(view, directory, base)
    return lora.merged(view).to(model.output_weight.dtype)


def _stack(model: Transformer, tensors: Mapping[str, Tensor], path: Path, base: Path) -> dict[str, dict[str, Tensor]]:
    """The file's tensors by matrix and part; those of experts stacked."""
    layers = _layers(model)
    found: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    for layer, (matrix, _) in layers.items():  # in the order of the experts
        for part, suffix in PARTS.items():
            tensor = tensors.get(f"{PREFIX}{layer}.{suffix}")
            if tensor is not None:
                found[matrix][part].append(tensor)
    places = {f"{PREFIX}{layer}.{suffix}" for layer in layers for suffix in PARTS.values()}
    homeless = next((name for name in tensors if name not in places), None)
    if homeless:
        raise UserError(f"{path}: tensor {homeless!r} has no place in {base}: the adapter is of another model")
    if not found:
        raise UserError(f"{path} is empty: the adapter changes nothing")
    experts = {matrix: shape[0] for matrix, shape in lora.matrices(model).items() if len(shape) == 3}
    for matrix, parts in found.items():
        for part, values in parts.items():
            if len(values) != experts.get(matrix, 1) or len({value.shape for value in values}) > 1:
                raise UserError(f"{path}: {PARTS[part]} of {matrix} is not there alike for each of its experts")
    return {
        matrix: {part: torch.stack(values) if matrix in experts else values[0] for part, values in parts.items()}
        for matrix, parts in found.items()
    }


def _lora_config(directory: Path) -> LoraConfig:
    path = directory / CONFIG
    if not path.is_file():
        raise UserError(f"{directory} is no adapter: it has no {CONFIG}")
    spec = Fields(read_json(path), path)
    if (kind := spec.given.get("peft_type")) != "LORA":
        raise UserError(f"{path}: peft_type {kind!r} is not LORA, the only kind that MiniMind reads")
    strange = next((name for name in UNKNOWN if spec.given.get(name)), None)
    strange = strange or ("bias" if spec.text("bias", "none") != "none" else None)
    begun = spec.given.get("init_lora_weights")
    if isinstance(begun, str) and begun.startswith(OTHER_BASE):
        strange = f"init_lora_weights = {begun!r}"
    if strange:
        raise UserError(
            f"{path}: MiniMind has no {strange}; merge the adapter where it was made (peft: merge_and_unload) and use "
            f"the merged model"
        )
    return LoraConfig(
        rank=spec.integer("r", 8, 1),  # peft's own defaults, for both
        alpha=spec.number("lora_alpha", 8.0),
        dropout=spec.number("lora_dropout", 0.0, most=1),
        rslora=spec.flag("use_rslora"),
        dora=spec.flag("use_dora"),
    )
