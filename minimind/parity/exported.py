"""Programs that read a model in a format of their own, which `minimind export` writes; classes as in `programs`."""

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minimind.convert import onnx, openvino
from minimind.errors import UserError
from minimind.model.store import load_config
from minimind.parity.prompts import Prompt


class OpenVino:
    """OpenVINO GenAI for ids and answers; its log-probabilities come from OpenVINO, which it is built on."""

    package, install = "openvino_genai", openvino.INSTALL

    def __init__(self, model: Path, scratch: Path) -> None:
        import openvino as ov
        import openvino_genai

        openvino.export_openvino(model, scratch / "model", "f32")
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        self._ov, self._genai = ov, openvino_genai
        self._pipeline: Any = openvino_genai.LLMPipeline(scratch / "model", "CPU", **exact)
        self._tokenizer = self._pipeline.get_tokenizer()
        self._model: Any = ov.Core().compile_model(scratch / "model" / "openvino_model.xml", "CPU", exact)

    def ids(self, prompt: Prompt) -> list[int]:
        """From the Jinja template, which it renders in C++."""
        text = prompt.text or self._tokenizer.apply_chat_template(
            list(prompt.messages),
            add_generation_prompt=True,
            tools=list(prompt.tools) or None,
            extra_context={"enable_thinking": prompt.thinking},
        )
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).input_ids.data[0].tolist()
        return ids

    def greedy(self, ids: Sequence[int], length: int) -> list[int]:
        """From `generate`."""
        given = self._ov.Tensor(np.array([ids], dtype=np.int64))
        mask = self._ov.Tensor(np.ones((1, len(ids)), dtype=np.int64))
        rules = self._genai.GenerationConfig(max_new_tokens=length, do_sample=False)
        rules.set_eos_token_id(self._tokenizer.get_eos_token_id())
        return list(self._pipeline.generate(self._genai.TokenizedInputs(given, mask), rules).tokens[0])

    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """From the logits."""
        names = {name for one in self._model.inputs for name in one.names}
        row = np.array([ids], dtype=np.int64)
        given = {"input_ids": row, "attention_mask": np.ones_like(row), "beam_idx": np.zeros(1, dtype=np.int32)}
        given["position_ids"] = np.arange(len(ids))[None]
        request = self._model.create_infer_request()
        logits = request.infer({name: value for name, value in given.items() if name in names})[0]
        return torch.from_numpy(logits[0, -1].copy()).float().log_softmax(-1)


class _Stepwise:
    """A program that is asked for one token after the other."""

    _ends: Collection[int | None]
    log_probs: Callable[[Sequence[int]], torch.Tensor]

    def greedy(self, ids: Sequence[int], length: int) -> list[int]:
        """At most `length` tokens, each the likeliest after the whole text before it."""
        answer: list[int] = []
        while len(answer) < length and not (answer and answer[-1] in self._ends):
            answer.append(int(self.log_probs([*ids, *answer]).argmax()))
        return answer


class OnnxRuntime(_Stepwise):
    """ONNX Runtime, which renders no prompts itself; transformers.js is built on it."""

    package, install = "onnxruntime", onnx.INSTALL

    def __init__(self, model: Path, scratch: Path) -> None:
        import onnxruntime

        onnx.export_onnx(model, scratch / "model")
        config = load_config(model)
        self._session: Any = onnxruntime.InferenceSession(scratch / "model" / "onnx" / "model.onnx")
        empty = np.zeros((1, config.num_key_value_heads, 0, config.head_dim), dtype=np.float32)
        names = [one.name for one in self._session.get_inputs()]
        self._cache = {name: empty for name in names if name.startswith("past")}
        self._ends = {config.eos_token_id, config.pad_token_id}

    def ids(self, prompt: Prompt) -> None:
        """Nothing: it is given tokens."""

    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """From the logits."""
        row = np.array([ids], dtype=np.int64)
        logits = self._session.run(["logits"], {"input_ids": row, "attention_mask": np.ones_like(row), **self._cache})
        return torch.from_numpy(logits[0][0, -1]).float().log_softmax(-1)


class OrtGenAi:
    """onnxruntime-genai."""

    package, install = "onnxruntime_genai", onnx.INSTALL

    def __init__(self, model: Path, scratch: Path) -> None:
        import onnxruntime_genai

        onnx.export_onnx(model, scratch / "model")
        self._genai = onnxruntime_genai
        self._model: Any = onnxruntime_genai.Model(str(scratch / "model"))
        self._tokenizer = onnxruntime_genai.Tokenizer(self._model)
        self._template = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")

    def ids(self, prompt: Prompt) -> list[int]:
        """From the Jinja template, which it renders in C++; that thinking is asked for stands before it."""
        text = prompt.text
        if not text:
            switch = f"{{%- set enable_thinking = {str(prompt.thinking).lower()} %}}"
            more = {"tools": json.dumps(prompt.tools)} if prompt.tools else {}
            text = self._tokenizer.apply_chat_template(
                json.dumps(prompt.messages), template_str=switch + self._template, add_generation_prompt=True, **more
            )
        ids: list[int] = self._tokenizer.encode(text).tolist()
        return ids

    def greedy(self, ids: Sequence[int], length: int) -> list[int]:
        """From its generator."""
        generator = self._begin(ids, length)
        while not generator.is_done():
            generator.generate_next_token()
        return [int(id) for id in generator.get_sequence(0)[len(ids) :]]

    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """From the logits."""
        logits = np.array(self._begin(ids, 1).get_logits())[0, -1]
        return torch.from_numpy(logits).float().log_softmax(-1)

    def _begin(self, ids: Sequence[int], length: int) -> Any:
        rules = self._genai.GeneratorParams(self._model)
        rules.set_search_options(do_sample=False, max_length=len(ids) + length)
        generator = self._genai.Generator(self._model, rules)
        generator.append_tokens(list(ids))
        return generator


class NotExportedError(UserError):
    """A program's own format of the model is not there, and no package holds what writes it."""


class Mnn(_Stepwise):
    """MNN, from the folder MODEL-mnn beside the model."""

    package, install = "MNN", "pip install MNN"

    def __init__(self, model: Path, scratch: Path) -> None:
        import MNN.llm

        model = model.resolve()
        folder = model.with_name(f"{model.name}-mnn")
        if not (folder / "config.json").is_file():
            raise NotExportedError(
                f"no {folder}; its exporter lies in its repository: python MNN/transformers/llm/export/llmexport.py "
                f"--path {model} --export mnn --quant_bit 16 --dst_path {folder}"
            )
        config = load_config(model)
        self._ends = {config.eos_token_id, config.pad_token_id}
        self._llm: Any = MNN.llm.create(str(folder / "config.json"))
        self._llm.set_config({"precision": "high", "memory": "high"})
        self._llm.load()

    def ids(self, prompt: Prompt) -> list[int] | None:
        """From the Jinja template, which it renders in C++ from messages alone: neither tools nor thinking."""
        if prompt.tools or prompt.thinking:
            return None
        text = prompt.text or self._llm.apply_chat_template(list(prompt.messages))
        ids: list[int] = list(self._llm.tokenizer_encode(text))
        return ids

    def log_probs(self, ids: Sequence[int]) -> torch.Tensor:
        """From the logits."""
        self._llm.reset()
        logits = self._llm.forward(list(ids)).read()
        return torch.from_numpy(np.array(logits).ravel()).float().log_softmax(-1)
