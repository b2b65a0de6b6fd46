"""A folder that `ollama create` takes: the model as GGUF, and a Modelfile with the chat format as a Go template.

Not every version of ollama reads the Jinja template; `ollama.go.tmpl` says the same for all of them. It also tells them
what a model can do: `.Tools` makes it a user of tools, and the text around `.Thinking` and `.ToolCalls` names the tags
to look for in an answer.
"""

from pathlib import Path
from typing import Any

from minimind.convert.gguf import check_type, export_gguf
from minimind.convert.tensors import new_directory
from minimind.errors import UserError
from minimind.files import write_text
from minimind.model.hf_config import read_generation
from minimind.model.rope import context_length
from minimind.model.store import load_config
from minimind.tokenizer.bpe import Tokenizer

TEMPLATE = Path(__file__).with_name("ollama.go.tmpl")
MAX_CONTEXT = 8192
"""ollama reserves memory for the whole `num_ctx` at once."""
_STOPS = ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
# generation_config.json's names -> ollama's, and what is set where the file is silent.
_PARAMETERS = {
    "temperature": ("temperature", 0.7),
    "top_p": ("top_p", 0.9),
    "top_k": ("top_k", 50),
    "repetition_penalty": ("repeat_penalty", 1.0),
}


def export_ollama(model: Path, out: Path, kind: str = "q8_0") -> dict[str, Any]:
    """Write `out`/Modelfile and `out`/model.gguf; the folder appears whole or not at all.

    Returns:
        What `export_gguf` returns, `file` being the Modelfile.

    Raises:
        UsageError: no such type.
        UserError: the model is broken or has no equal in llama.cpp, or `out` is there already or cannot be written.
    """
    check_type(kind)
    modelfile = make_modelfile(model)
    with new_directory(out) as folder:
        figures = export_gguf(model, folder / "model.gguf", kind)
        write_text(folder / "Modelfile", modelfile)
    return figures | {"file": str(out / "Modelfile")}


def make_modelfile(model: Path) -> str:
    """The text of the Modelfile for a `model.gguf` beside it.

    Raises:
        UserError: not a model directory, or its tokenizer has no chat tokens.
    """
    config, tokenizer = load_config(model), Tokenizer.load(model)
    if tokenizer.control_id("<|im_start|>") is None or tokenizer.control_id("<|im_end|>") is None:
        raise UserError(f"{model}: the tokenizer has no <|im_start|> and <|im_end|>, which ollama's chat needs")
    chosen = read_generation(model)._asdict()
    lines = ["FROM ./model.gguf", f'TEMPLATE """{TEMPLATE.read_text(encoding="utf-8").rstrip()}"""']
    lines += [f'PARAMETER stop "{stop}"' for stop in _STOPS if tokenizer.control_id(stop) is not None]
    for ours, (theirs, usual) in _PARAMETERS.items():
        lines.append(f"PARAMETER {theirs} {usual if chosen[ours] is None else chosen[ours]}")
    lines += [f"PARAMETER num_ctx {min(context_length(config), MAX_CONTEXT)}"]
    return "\n".join(lines) + "\n"
