"""A model directory as ONNX, by onnxruntime-genai's model builder: one folder for it, ONNX Runtime and transformers.js.

onnx/model.onnx  onnx/model.onnx_data      the graph and its weights, where transformers.js looks for them
genai_config.json                          onnxruntime-genai's, which names that file
config.json  tokenizer.json  ...           transformers.js's
"""

import json
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from minimind.console import hushed
from minimind.convert.huggingface import add_companions
from minimind.convert.tensors import folder_figures, new_directory
from minimind.errors import UsageError, UserError, did_you_mean, optional
from minimind.files import write_json
from minimind.model.rope import yarn_factor
from minimind.model.store import load_config
from minimind.tokenizer.bpe import Tokenizer

ONNX_TYPES = {"f32": "fp32", "int8": "int8", "int4": "int4"}
INSTALL = "pip install onnxruntime-genai onnx-ir onnx transformers"


def export_onnx(model: Path, out: Path, kind: str = "f32") -> dict[str, Any]:
    """Write the folder `out`, which appears whole or not at all.

    Args:
        model: model directory with its tokenizer; dense.
        out: folder to make.
        kind: one of ONNX_TYPES; of the integers only the matrices are, in blocks with a scale each.

    Returns:
        `{"folder", "bytes", "type", "builder"}`.

    Raises:
        UsageError: no such type.
        UserError: the builder is not installed or computes such a model otherwise, or `out` is there already or cannot
            be written.
    """
    if kind not in ONNX_TYPES:
        raise UsageError(f"--type {kind}: there is no such type here{did_you_mean(kind.lower(), ONNX_TYPES)}")
    config = load_config(model)
    if config.num_experts:
        raise UserError(
            f"{model} is a mixture of experts, which onnxruntime-genai's builder has no layer for; take export "
            f"openvino or export gguf, or give the directory to vLLM or mlx-lm"
        )
    if yarn_factor(config) != 1:
        raise UserError(
            f"{model} stretches its positions by YaRN, which onnxruntime-genai's builder computes otherwise; take "
            f"export gguf, or rope_scaling out of config.json"
        )
    with optional(f"exporting ONNX needs {{name}}; {INSTALL}"):
        import onnx_ir
        import onnxruntime_genai
        from onnxruntime_genai.models.builder import create_model, parse_extra_options
    with new_directory(out) as folder, hushed(), redirect_stdout(sys.stderr):
        where = ("", str(model), str(folder), ONNX_TYPES[kind], "cpu", str(folder / "cache"))
        create_model(*where, **parse_extra_options(*where, []))
        graph = onnx_ir.load(folder / "model.onnx")
        for value in (*graph.graph.inputs, *graph.graph.outputs):
            if value.name.startswith(("past", "present")):  # transformers.js makes the first cache after these shapes
                value.shape = onnx_ir.Shape([*value.shape[:-1], config.head_dim])
        (folder / "onnx").mkdir()
        onnx_ir.save(graph, folder / "onnx" / "model.onnx", external_data="model.onnx_data")
        for draft in folder.glob("model.onnx*"):
            draft.unlink()
        shutil.rmtree(folder / "cache", ignore_errors=True)
        genai = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        genai["model"]["decoder"]["filename"] = "onnx/model.onnx"
        write_json(folder / "genai_config.json", genai)
        browser = {"use_external_data_format": True, "dtype": "fp32"}  # the name of the file; int4 is inside it
        own = json.loads((model / "config.json").read_text(encoding="utf-8"))
        write_json(folder / "config.json", own | {"transformers.js_config": browser})
        add_companions(folder, model, Tokenizer.load(model))
    return folder_figures(out, kind, f"onnxruntime-genai {onnxruntime_genai.__version__}")
