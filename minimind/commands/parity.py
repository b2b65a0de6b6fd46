"""`minimind parity MODEL`: do other programs give our numbers?"""

from pathlib import Path
from typing import Annotated, Any

import tyro

from minimind.commands.arguments import Json, ModelPath, at_least, call
from minimind.console import print_json, say, table
from minimind.errors import UserError


def main(argv: list[str]) -> int:
    """Run the comparison."""
    return call(parity, argv, "minimind parity")


def parity(
    model: ModelPath,
    with_: Annotated[tuple[str, ...], tyro.conf.arg(name="with")] = (),
    gguf: tuple[Path, ...] = (),
    new: int = 32,
    json: Json = False,
) -> int:
    """Ask our engine and other programs the same prompts: ids, greedy answers, log-probabilities.

    Plain text, chat, thinking and tools, in both languages; all in float32 on the CPU. Exit code 1 says that a
    program with the same weights answered otherwise than we do.

    Examples:
        minimind parity runs/demo/sft/model
        minimind parity runs/demo/sft/model --with llamacpp transformers
        minimind parity runs/demo/sft/model --with llamacpp --gguf model-q8_0.gguf model-q4_k_m.gguf

    Args:
        with_: programs to ask: server, transformers, llamacpp, vllm, mlx, ctranslate2, openvino, onnxruntime, ortgenai,
            mnn; by default all.
        gguf: GGUF files of the same model, quantised or not, that llama.cpp reads too.
        new: most tokens of a greedy answer.
    """
    from minimind.parity.measure import differs, measure

    at_least(1, new=new)
    if missing := next((file for file in gguf if not file.is_file()), None):
        raise UserError(f"--gguf {missing}: there is no such file")
    figures = measure(model, [name for names in with_ for name in names.split(",")], gguf, new)
    if json:
        print_json(figures)
    else:
        columns = ("program", "version", "same ids", "same greedy", "Δ log p", "KL")
        table(f"parity {model}", columns, [_cells(row) for row in figures["rows"] if not row["note"]])
        for row in figures["rows"]:
            if row["note"]:
                say(f"{row['program']}: {row['note']}")
    return int(differs(figures))


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    pairs = [None if row[name] is None else f"{row[name][0]} of {row[name][1]}" for name in ("ids", "greedy")]
    program = row["program"] if not row["file"] else f"{row['program']} {Path(row['file']).name}"
    return program, row["version"], *pairs, row["log_prob"], row["kl"]
