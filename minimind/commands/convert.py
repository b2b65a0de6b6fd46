"""`minimind export KIND MODEL OUT`, `minimind import SOURCE OUT`, `minimind push MODEL DEST`."""

from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import tyro

from minimind.commands.arguments import Json, ModelPath, Text, Texts, call, call_one_of
from minimind.console import print_json, say, table

Model = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MODEL")]]
Out = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
Folder = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT", help="folder to make.")]]
Kept = Literal["keep", "bfloat16", "float16", "float32"]
Dtype = Annotated[Kept, tyro.conf.arg(help="bfloat16, float16, float32, or keep.")]
ShardSize = Annotated[str, tyro.conf.arg(help="most bytes of a weight file.")]


def export_main(argv: list[str]) -> int:
    """Run one of the exports."""
    return call_one_of((gguf, ollama, onnx, openvino, hf, merge_lora), argv, "minimind export")


def import_main(argv: list[str]) -> int:
    """Run the import."""
    return call(import_, argv, "minimind import")


def push_main(argv: list[str]) -> int:
    """Run the upload."""
    return call(push, argv, "minimind push")


def gguf(model: ModelPath, out: Out, type: str = "f16", thinking: bool = True, json: Json = False) -> None:
    """Write one GGUF file, for llama.cpp and what is built on it.

    Examples:
        minimind export gguf runs/demo/sft/model model.gguf
        minimind export gguf runs/demo/sft/model model.gguf --type q8_0
        minimind export gguf runs/demo/sft/model model.gguf --no-thinking

    Args:
        out: file to write, ending in .gguf.
        type: f32, bf16, f16, q8_0, q6_k, q5_1, q5_0, q4_k_m, q4_1 or q4_0.
        thinking: whether its chat template can open a think block, which llama.cpp does unless it is told not to.
    """
    from minimind.convert.gguf import export_gguf

    _show(export_gguf(model, out, type, thinking), json, f"Try it:  llama-cli -m {out} --jinja")


def ollama(model: ModelPath, out: Folder, type: str = "q8_0", json: Json = False) -> None:
    """Write a folder for `ollama create`: a Modelfile with the chat format, and the model as GGUF.

    Examples:
        minimind export ollama runs/demo/sft/model my-ollama
        ollama create minimind -f my-ollama/Modelfile

    Args:
        type: f32, bf16, f16, q8_0, q6_k, q5_1, q5_0, q4_k_m, q4_1 or q4_0.
    """
    from minimind.convert.ollama import export_ollama

    figures = export_ollama(model, out, type)
    _show(figures, json, f"Next:  ollama create minimind -f {quote(str(out / 'Modelfile'))} && ollama run minimind")


def onnx(model: Model, out: Folder, type: str = "f32", json: Json = False) -> None:
    """Write a folder for ONNX Runtime, onnxruntime-genai and transformers.js (browsers, Node.js).

    Examples:
        minimind export onnx runs/demo/sft/model my-onnx
        minimind export onnx runs/demo/sft/model my-onnx --type int4

    Args:
        model: model directory; dense, for onnxruntime-genai's builder has no mixture of experts.
        type: f32, int8 or int4.
    """
    from minimind.convert.onnx import export_onnx

    _show(export_onnx(model, out, type), json, "Try it:  docs/en/programs.md has a page for browsers")


def openvino(model: Model, out: Folder, type: str = "f16", json: Json = False) -> None:
    """Write a folder for OpenVINO and OpenVINO GenAI (Intel's CPUs, GPUs and NPUs).

    Examples:
        minimind export openvino runs/demo/sft/model my-openvino
        minimind export openvino runs/demo/sft/model my-openvino --type f32

    Args:
        model: model directory, dense or a mixture of experts.
        type: f32 or f16; optimum-cli export openvino --weight-format makes integers.
    """
    from minimind.convert.openvino import export_openvino

    _show(export_openvino(model, out, type), json, f"Try it:  openvino_genai.LLMPipeline('{out}', 'CPU')")


def hf(
    model: ModelPath,
    out: Folder,
    dtype: Dtype = "keep",
    max_shard_size: ShardSize = "4GB",
    questions: Texts = None,
    json: Json = False,
) -> None:
    """Copy a model directory for others: number format, shards, and a model card filled in from its run.

    Examples:
        minimind export hf runs/demo/sft/model my-model
        minimind export hf runs/demo/sft/model my-model --dtype float32 --max-shard-size 500MB

    Args:
        questions: what the card's conversation asks; by default a Chinese and an English question.
    """
    from minimind.convert.huggingface import QUESTIONS, export_hf

    figures = export_hf(model, out, dtype, max_shard_size, QUESTIONS if questions is None else questions)
    _show(figures, json, f"Read {out / 'README.md'}, then:  minimind push {out} hf:USER/NAME --dry-run")


def merge_lora(
    adapter: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="ADAPTER")]],
    out: Folder,
    base: Path | None = None,
    dtype: Dtype = "keep",
    json: Json = False,
) -> None:
    """Make a model of a LoRA adapter and its base: whatever takes a model, takes it.

    Examples:
        minimind export merge-lora runs/tiny-lora/model my-model
        minimind export merge-lora their-adapter my-model --base their-base

    Args:
        adapter: directory of an adapter, ours or one of peft's.
        base: the model that it was trained on, if that is no longer where the adapter says.
    """
    from minimind.convert import huggingface

    _show(huggingface.merge_lora(adapter, out, base, dtype), json, f"Talk to it:  minimind chat {quote(str(out))}")


def import_(
    source: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="SOURCE")]],
    out: Folder,
    tokenizer: Text = None,
    dtype: Dtype = "keep",
    max_shard_size: ShardSize = "4GB",
    json: Json = False,
) -> None:
    """Make a model directory of what others have written: MiniMind-3's .pth files and directories, any Qwen3.

    Examples:
        minimind import full_sft_768.pth my-model --tokenizer minimind/model
        minimind import Qwen3-0.6B my-model
        minimind import hf:Qwen/Qwen3-0.6B my-model

    Args:
        source: a .pth state dict, a model directory, or a hub's as hf:user/name or modelscope:user/name.
        tokenizer: tokenizer directory; by default the source's own.
    """
    from minimind.convert.hub import download, place
    from minimind.convert.minimind_pth import import_model

    where = place(source)
    here = download(where) if where else Path(source)
    _show(
        import_model(here, out, tokenizer, dtype, max_shard_size), json, f"Talk to it:  minimind chat {quote(str(out))}"
    )


def push(
    model: ModelPath,
    destination: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DEST")]],
    private: bool = False,
    dry_run: bool = False,
    json: Json = False,
) -> None:
    """Upload a model directory to Hugging Face or ModelScope.

    Examples:
        minimind push my-model hf:user/name --dry-run
        minimind push my-model modelscope:user/name --private

    Args:
        destination: hf:user/name or modelscope:user/name.
        private: make a new repository private.
        dry_run: check the model, say what would be sent, and send nothing.
    """
    from minimind.convert.hub import push as send

    figures = send(model, destination, private, dry_run)
    if json:
        print_json(figures)
        return
    table(figures["address"], ["file", "bytes"], list(figures["files"].items()))
    if "README.md" not in figures["files"]:
        say("It has no model card; minimind export hf writes one.")
    say("Nothing was sent." if dry_run else f"Sent: {figures['address']}")


def _show(figures: dict[str, Any], json: bool, next_step: str) -> None:
    if json:
        print_json(figures)
    else:
        rows = [(name.replace("_", " "), value) for name, value in figures.items()]
        table(str(rows[0][1]), ["figure", "value"], rows[1:])
        say(next_step)
