"""A model directory for OpenVINO and OpenVINO GenAI, by optimum-intel: dense or a mixture of experts."""

import importlib.metadata
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from minimind.console import hushed
from minimind.convert.tensors import folder_figures, new_directory
from minimind.errors import UsageError, did_you_mean, optional
from minimind.model.store import load_config

OPENVINO_TYPES = {"f32": "fp32", "f16": "fp16"}
INSTALL = "pip install optimum-intel openvino-genai, in an environment of its own (it wants transformers below 5.6)"


def export_openvino(model: Path, out: Path, kind: str = "f16") -> dict[str, Any]:
    """Write the folder `out`, which appears whole or not at all.

    Args:
        model: model directory with its tokenizer.
        out: folder to make.
        kind: one of OPENVINO_TYPES.

    Returns:
        `{"folder", "bytes", "type", "builder"}`.

    Raises:
        UsageError: no such type.
        UserError: optimum-intel is not installed, or `out` is there already or cannot be written.
    """
    if kind not in OPENVINO_TYPES:
        raise UsageError(f"--type {kind}: there is no such type here{did_you_mean(kind.lower(), OPENVINO_TYPES)}")
    load_config(model)
    with optional(f"exporting for OpenVINO needs {{name}}; {INSTALL}"):
        from optimum.exporters.openvino import main_export
        from optimum.intel import OVConfig
    with new_directory(out) as folder, hushed(), redirect_stdout(sys.stderr):
        main_export(
            str(model),
            folder,
            task="text-generation-with-past",
            ov_config=OVConfig(OPENVINO_TYPES[kind]),
            convert_tokenizer=True,
        )
    return folder_figures(out, kind, f"optimum-intel {importlib.metadata.version('optimum-intel')}")
