"""What the end-to-end tests share: a small world, and one model of each stage trained on it."""

import io
import itertools
import os
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from chromium import BROWSER, FLAGS

# Two test processes with two threads each would fight for two cores; also inherited by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

with suppress(ImportError):  # few tests need it
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "minimind", derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("minimind")

SMALL = [
    *("--device", "cpu", "--set.train.compile", "never", "--set.train.log_every", "1", "--set.train.valid_every", "0"),
    *("--set.data.sequence_length", "64", "--set.train.tokens_per_step", "256"),
    *("--set.train.micro_batch_tokens", "128", "--set.data.valid_fraction", "0"),
]
"""Flags that make any stage of `tiny` a matter of seconds."""
TWO_LAYERS = ["--set.model.num_hidden_layers", "2"]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def minimind(*argv) -> Ended:
    """Run the command line in this process."""
    from minimind.cli import main

    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([str(part) for part in argv])
    return Ended(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session", name="minimind")
def command_line():
    return minimind


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIMIND_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A small world's files, and `few_*.jsonl`: the first lines of each."""
    folder = tmp_path_factory.mktemp("world")
    assert minimind("data", "synth", "--out", folder, "--size-mb", "0.3", "--json").code == 0
    for path in list(folder.glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            short = (line for line in lines if "dpo" not in path.name or '"tools"' not in line)  # schemas are long
            few = "".join(itertools.islice(short, 40))
        (folder / f"few_{path.name}").write_text(few, encoding="utf-8", newline="\n")
    return folder


@pytest.fixture(scope="session")
def pretrain_flags(world) -> list[str]:
    """A pretraining of eight steps; add `--out`."""
    flags = ["--data", str(world / "pretrain.jsonl"), "--max-steps", "8", "--save-every", "4"]
    return ["train", "pretrain", "tiny", *SMALL, *TWO_LAYERS, *flags]


@pytest.fixture(scope="session")
def sft_flags(world) -> list[str]:
    """A fine-tuning of four steps; add `--init` and `--out`."""
    longer = [
        "--set.data.sequence_length",
        "512",
        "--set.train.tokens_per_step",
        "1024",
    ]  # than 64: the last --set wins
    longer += ["--set.train.micro_batch_tokens", "512"]
    return ["train", "sft", "tiny", "--data", str(world / "few_sft.jsonl"), "--max-steps", "4", *SMALL, *longer]


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory, pretrain_flags) -> Path:
    """The run folder of a pretraining."""
    run = tmp_path_factory.mktemp("pretrain") / "run"
    ended = minimind(*pretrain_flags, "--out", run)
    assert ended.code == 0, ended.err
    return run


@pytest.fixture(scope="session")
def tuned(tmp_path_factory, sft_flags, pretrained) -> Path:
    """The run folder of a fine-tuning of `pretrained`."""
    run = tmp_path_factory.mktemp("sft") / "run"
    ended = minimind(*sft_flags, "--init", pretrained / "model", "--out", run)
    assert ended.code == 0, ended.err
    return run


@pytest.fixture(scope="session")
def dpo_flags(world, tuned) -> list[str]:
    """Six steps of DPO from `tuned`; add `--out`."""
    longer = ["--set.data.sequence_length", "256", "--set.train.tokens_per_step", "1024", "--save-every", "2"]
    longer += ["--set.train.micro_batch_tokens", "512", "--set.train.valid_every", "6", "--set.train.dtype", "float32"]
    files = ["--data", str(world / "few_dpo.jsonl"), "--valid", str(world / "few_dpo_valid.jsonl")]
    longer += ["--set.dpo.sft_coef", "0", "--set.optim.lr", "1e-4"]
    return ["train", "dpo", "tiny", *files, "--init", str(tuned / "model"), "--max-steps", "6", *SMALL, *longer]


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=30_000)  # a busy machine is no failure
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()
