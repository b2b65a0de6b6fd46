"""Our models under EleutherAI's lm-eval (extra `eval`): all its tasks, computed by our own scorer.

    python -m minimind.eval.lm_eval run --model minimind --model_args pretrained=runs/laptop/model --tasks arc_easy

is `lm_eval` with one more model. Which tokens are scored is decided by lm-eval (`TemplateLM`), as for its `hf` model.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from lm_eval import utils
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model

from minimind import runtime
from minimind.engine.generate import complete
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.eval.choice import Tree, log_likelihoods
from minimind.model.store import load_model
from minimind.tokenizer.bpe import Tokenizer

ANSWER = 256
"""Longest answer in tokens, where a task does not say."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@register_model("minimind")
class MiniMindLM(TemplateLM):
    """A model directory as lm-eval sees it."""

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_length: int | None = None,
    ) -> None:
        """Load the model directory `pretrained`.

        Args:
            pretrained: model directory.
            device: auto (default), cpu, cuda or mps; cuda:0 means auto.
            dtype: of weights and products: float32, bfloat16, float16, or auto, what the device is fast at.
            batch_size: not used: texts are batched by their length.
            max_batch_size: not used.
            max_length: longest text in tokens, if it should be shorter than the model's context.
        """
        super().__init__()
        if dtype != "auto" and dtype not in DTYPES:
            raise UserError(f"dtype={dtype}: choose auto, {', '.join(DTYPES)}")
        # Without --device lm-eval's command line says cuda:0, whether or not there is one.
        self._device = runtime.device("auto" if device in (None, "cuda:0") else device)
        format = DTYPES.get(dtype) or runtime.compute_dtype(self._device)
        self.model = load_model(pretrained, format, self._device).eval()
        self.text = Tokenizer.load(pretrained)
        self.max_length = max_length or self.model.config.max_position_embeddings

    @property
    def eot_token_id(self) -> int:
        """The end of a text."""
        if self.text.eos_id is None:
            raise UserError("the tokenizer has no eos token, which lm-eval needs")
        return self.text.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: bos, or eos where there is none."""
        return self.eot_token_id if self.text.bos_id is None else self.text.bos_id

    @property
    def tokenizer_name(self) -> str:
        """Part of the name of lm-eval's cache of requests."""
        return self.text.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Plain text to ids; no bos is added, and no text becomes a control token."""
        return self.text.encode(string)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """Score (texts, context, continuation) triples; neighbours with the same context share its computation."""
        trees = [
            Tree(context, [continuation for _, _, continuation in group])
            for context, group in groupby(requests, key=lambda request: request[1])
        ]
        scores = log_likelihoods(self.model, trees, self.max_length, title="loglikelihood")
        answers = [(score.logprob, score.greedy) for of_tree in scores for score in of_tree]
        for (texts, *_), answer in zip(requests, answers, strict=True):
            if texts is not None:  # a window of a longer text has no entry of its own in lm-eval's cache
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in lm-eval's windows: each token once, with all the context there is."""
        windows: list[tuple[int, tuple[None, list[int], list[int]]]] = []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            for window in utils.get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, context_len=1):
                windows.append((number, (None, *utils.make_disjoint_window(window))))
        totals = [0.0] * len(requests)
        scores = self._loglikelihood_tokens([window for _, window in windows])
        for (number, _), (logprob, _) in zip(windows, scores, strict=True):
            totals[number] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each context up to one of its stop strings; the stop string is cut off."""
        answers = [""] * len(requests)
        for options, numbers in _alike(requests):
            until, limit, sampling = _generation(options)
            room = self.max_length - limit
            if room < 1:
                raise UserError(f"max_gen_toks={limit} leaves no room in a context of {self.max_length} tokens")
            prompts = [self.tok_encode(requests[n].args[0])[-room:] or [self.prefix_token_id] for n in numbers]
            replies = complete(self.model, prompts, sampling, [self.eot_token_id], limit)
            for number, ids in zip(numbers, replies, strict=True):
                text = self.text.decode(ids, skip_special=True)
                answers[number] = text[: min((at for stop in until if (at := text.find(stop)) >= 0), default=None)]
                self.cache_hook.add_partial("generate_until", requests[number].args, answers[number])
        return answers


def _alike(requests: list[Instance]) -> list[tuple[dict[str, Any], list[int]]]:
    """Which requests share their options and can be generated together."""
    groups: dict[str, list[int]] = {}
    for number, request in enumerate(requests):
        groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=repr), []).append(number)
    return [(requests[numbers[0]].args[1], numbers) for numbers in groups.values()]


def _generation(options: dict[str, Any]) -> tuple[list[str], int, Sampling]:
    """Stop strings, longest answer and sampling of a task's `generation_kwargs`; greedy unless it says `do_sample`."""
    until = options.get("until") or []
    sampled = bool(options.get("do_sample", False))
    names = ("top_k", "top_p", "min_p", "repetition_penalty")
    chosen = {name: options[name] for name in names if name in options}
    temperature = float(options.get("temperature", 1.0)) if sampled else 0.0
    limit = options.get("max_gen_toks", ANSWER)
    return [until] if isinstance(until, str) else list(until), limit, Sampling(temperature=temperature, **chosen)


if __name__ == "__main__":
    cli_evaluate()
