"""What people generate with today: `transformers.generate`, and llama.cpp through xllamacpp."""

import json
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from minimind import runtime
from minimind.convert.gguf import export_gguf
from minimind.errors import optional

Prompts = list[list[int]]
GGUF_TYPES = {"float32": "f32", "bfloat16": "bf16", "int8": "q8_0"}


MISSING = (
    "the comparison needs {name}, which is not installed; get it with `pip install 'minimind[bench]'`, "
    "or leave the references out with --no-reference"
)


class Speed(NamedTuple):
    """Tokens per second of all rows together."""

    prefill: float
    decode: float


class Generator(Protocol):
    """Something that continues prompts of equal length greedily, each by exactly `new` tokens."""

    def run(self, prompts: Prompts, new: int) -> Speed:
        """Generate once, nothing cached from before."""


class Transformers:
    """`AutoModelForCausalLM.generate` with its default (growing) cache."""

    def __init__(self, directory: Path, dtype: str, on: torch.device) -> None:
        self._model, self._on = _their_model(directory, dtype, on), on

    def run(self, prompts: Prompts, new: int) -> Speed:
        """The prompt's time is that of generating a single token."""
        first, whole = self._seconds(prompts, 1), self._seconds(prompts, new)
        rows, tokens = len(prompts), sum(map(len, prompts))
        return Speed(tokens / first, rows * (new - 1) / (whole - first))

    def _seconds(self, prompts: Prompts, new: int) -> float:
        ids = torch.tensor(prompts, device=self._on)
        runtime.synchronize(self._on)
        start = time.perf_counter()
        with torch.inference_mode():
            self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=new,
                max_new_tokens=new,
                pad_token_id=0,
            )
        runtime.synchronize(self._on)
        return time.perf_counter() - start


class LlamaCpp:
    """llama.cpp's own server in this process, one slot a prompt, with as many threads as torch has."""

    def __init__(self, directory: Path, dtype: str, batch: int, context: int, folder: Path) -> None:
        with optional(MISSING):
            import xllamacpp
        file = folder / f"{dtype}.gguf"
        if not file.exists():
            export_gguf(directory, file, GGUF_TYPES[dtype])
        params = xllamacpp.CommonParams()
        params.model.path = str(file)
        params.n_parallel, params.fit_params = batch, False
        params.n_ctx = batch * (context + 256)  # shared by the slots
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        params.verbosity = -1
        self._server = xllamacpp.Server(params)

    def run(self, prompts: Prompts, new: int) -> Speed:
        """Its own timings; of several prompts at once, those of the slowest."""
        with ThreadPoolExecutor(len(prompts)) as pool:
            timings = list(pool.map(lambda prompt: self._complete(prompt, new), prompts))
        tokens = sum(t["prompt_n"] for t in timings), sum(t["predicted_n"] - 1 for t in timings)
        seconds = [max(t[name] for t in timings) / 1000 for name in ("prompt_ms", "predicted_ms")]
        return Speed(tokens[0] / seconds[0], tokens[1] / seconds[1])

    def _complete(self, prompt: list[int], new: int) -> dict[str, Any]:
        options = {"prompt": prompt, "n_predict": new, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        request = urllib.request.Request(
            self._server.listening_address + "/completion",
            json.dumps(options).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())["timings"]


def sampler(directory: Path, dtype: str, on: torch.device, at_once: bool) -> Callable[[Prompts, list[int]], None]:
    """Samples one answer to each prompt, of a given length, with log-probabilities: one by one, or as a padded batch.

    A batch goes on until its longest answer is through.
    """
    model = _their_model(directory, dtype, on)

    def generate(prompts: Prompts, new: int) -> None:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=on)
        seen = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=on)
        options = {"do_sample": True, "top_k": 0, "min_new_tokens": new, "max_new_tokens": new, "pad_token_id": 0}
        options |= {"return_dict_in_generate": True, "output_scores": True}
        with torch.inference_mode():
            done = model.generate(ids, attention_mask=seen, **options)
            model.compute_transition_scores(done.sequences, done.scores, normalize_logits=True)

    def run(prompts: Prompts, lengths: list[int]) -> None:
        if at_once:
            generate(prompts, max(lengths))
        else:
            for prompt, length in zip(prompts, lengths, strict=True):
                generate([prompt], length)

    return run


def _their_model(directory: Path, dtype: str, on: torch.device) -> Any:
    with optional(MISSING):
        import transformers
    transformers.logging.set_verbosity_error()
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
    return model.to(on)
