"""Ask our engine and other programs the same prompts, and say how far apart they are."""

import importlib.metadata
import importlib.util
import math
import sys
import tempfile
from collections.abc import Collection, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch

import minimind.api
from minimind.console import hushed, say, warn
from minimind.engine.generate import complete
from minimind.engine.sampling import GREEDY
from minimind.errors import UsageError, UserError, did_you_mean
from minimind.parity.exported import NotExportedError
from minimind.parity.programs import CONTEXT, PROGRAMS, Program
from minimind.parity.prompts import PROMPTS

ENDS = ("<|im_end|>", "<|endoftext|>")


class _Ours:
    """Our answers, worked out once: prompts, the greedy continuation of each, log-probabilities in two places."""

    def __init__(self, model: Path, length: int) -> None:
        lm = minimind.api.load(model, "cpu")
        self._tokenizer = lm.tokenizer
        chat = lm.tokenizer.control_id("<|im_start|>") is not None
        self.prompts = [prompt for prompt in PROMPTS if chat or prompt.text]
        self.rendered = [prompt.ids(lm.tokenizer) for prompt in self.prompts]
        pairs = zip(self.prompts, self.rendered, strict=True)
        self.given = [lm.tokenizer.bos + ids if prompt.text else ids for prompt, ids in pairs]
        if max(map(len, self.given)) + length > CONTEXT:
            raise UserError(f"{model}: its tokenizer makes a prompt too long; parity reads at most {CONTEXT} tokens")
        ends = {lm.tokenizer.control_id(end) for end in ENDS} | {lm.tokenizer.eos_id}
        self._ends = {end for end in ends if end is not None}
        answers = complete(lm.model, self.given, GREEDY, sorted(self._ends), length)
        self.answers = [self.cut(answer) for answer in answers]
        halves = zip(self.given, self.answers, strict=True)
        self.places = [ids for given, answer in halves for ids in (given, given + answer[: (len(answer) + 1) // 2])]
        self.log_probs = [lm.logits(ids)[-1].double().log_softmax(-1) for ids in self.places]

    def cut(self, answer: Sequence[int]) -> list[int]:
        """An answer without what ends it, which some programs report and others do not."""
        ends = [place for place, id in enumerate(answer) if id in self._ends]
        return list(answer[: ends[0]] if ends else answer)


def measure(model: Path, names: Collection[str] = (), gguf: Sequence[Path] = (), length: int = 32) -> dict[str, Any]:
    """Compare programs with our engine in float32 on a CPU.

    Args:
        model: model directory.
        names: some of PROGRAMS; empty for all.
        gguf: GGUF files of the same model, read by llama.cpp besides the one in float32 that is made for it.
        length: most tokens of a greedy answer.

    Returns:
        `{"model", "prompts", "rows": [...]}`, a row being `{"program", "file", "version", "ids", "greedy", "log_prob",
        "kl", "note"}`. `ids` and `greedy` count the prompts that are equal, as `[equal, asked]`; `log_prob` is the
        largest difference (nats) in what both report, `kl` the largest KL(ours ‖ theirs) in nats, None where a program
        reports only the likeliest. `file` is the GGUF file, `note` says why a row is empty.

    Raises:
        UsageError: no such program.
        UserError: `model` is broken.
    """
    for name in names:
        if name not in PROGRAMS:
            raise UsageError(f"--with {name}: there is no such program here{did_you_mean(name, PROGRAMS)}")
    ours, rows = _Ours(model, length), []
    for name, file in [*((name, None) for name in names or PROGRAMS), *(("llamacpp", file) for file in gguf)]:
        row: dict[str, Any] = {"program": name, "file": file and str(file)}
        row |= dict.fromkeys(("version", "ids", "greedy", "log_prob", "kl", "note"))
        rows.append(row | _row(PROGRAMS[name], file or model, ours, length))
    return {"model": str(model), "prompts": [prompt.name for prompt in ours.prompts], "rows": rows}


def _row(kind: type[Program], model: Path, ours: _Ours, length: int) -> dict[str, Any]:
    if importlib.util.find_spec(kind.package) is None:
        return {"note": f"not installed: {kind.install}"}
    version = importlib.metadata.version(importlib.metadata.packages_distributions()[kind.package][0])
    say(f"asking {kind.package} {version}")
    try:
        with tempfile.TemporaryDirectory() as scratch, hushed(), redirect_stdout(sys.stderr):
            return {"version": version} | _compare(kind(model, Path(scratch)), ours, length)
    except NotExportedError as error:
        return {"version": version, "note": str(error)}
    except Exception as error:  # of any program, and what it raises is its own; the others go on
        warn(f"{kind.package}: {type(error).__name__}: {error}")
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return {"version": version, "note": f"failed: {reason}"}


def _compare(program: Program, ours: _Ours, length: int) -> dict[str, Any]:
    rendered = [(program.ids(prompt), ids) for prompt, ids in zip(ours.prompts, ours.rendered, strict=True)]
    same = [theirs == ids for theirs, ids in rendered if theirs is not None]
    answers = [
        ours.cut(program.greedy(ids, length)) == answer for ids, answer in zip(ours.given, ours.answers, strict=True)
    ]
    gaps, divergences = zip(*map(_distance, ours.log_probs, map(program.log_probs, ours.places)), strict=True)
    return {
        "ids": [sum(same), len(same)] if same else None,
        "greedy": [sum(answers), len(answers)],
        "log_prob": max(gaps),
        "kl": None if any(map(math.isnan, divergences)) else max(divergences),
    }


def _distance(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[float, float]:
    """Largest difference of what both report, and KL(ours ‖ theirs), NaN where `theirs` is not whole."""
    theirs = theirs[: len(ours)].double()
    told = theirs.isfinite()
    gap = (ours[: len(theirs)] - theirs)[told].abs().max().item() if told.any() else math.nan
    whole = told.all() and len(theirs) == len(ours)
    return gap, (ours.exp() * (ours - theirs)).sum().clamp(min=0).item() if whole else math.nan


def differs(figures: dict[str, Any]) -> bool:
    """Whether a program failed, or answered otherwise than we do; one with a file of its own, quantised maybe, may."""
    return any(_failed(row) or (not row["file"] and _unequal(row)) for row in figures["rows"])


def _failed(row: dict[str, Any]) -> bool:
    return (row["note"] or "").startswith("failed")


def _unequal(row: dict[str, Any]) -> bool:
    return any(pair and pair[0] < pair[1] for pair in (row["ids"], row["greedy"]))
