import math

import pytest
import torch
from test_loop import lm_loss, make, recipe, weights

from minimind import runtime
from minimind.errors import UserError
from minimind.train import checkpoint, metrics
from minimind.train.job import Loss
from minimind.train.loop import run
from minimind.train.precision import DOUBLE_AFTER, Precision

CPU = torch.device("cpu")


def saved(out):
    return checkpoint.newest(out / "checkpoints")[1]["precision"]


def test_only_float16_needs_a_scale():
    assert Precision(CPU, "auto").dtype == runtime.compute_dtype(CPU)
    for name in ("float32", "bfloat16"):
        precision = Precision(CPU, name)
        precision.update(finite=False)
        assert precision.scale == 1
    assert Precision(CPU, "float16").scale == 2**16


def test_the_scale_is_halved_at_once_and_doubled_after_long():
    precision = Precision(CPU, "float16")
    precision.update(finite=False)
    assert precision.scale == 2**15
    for _ in range(DOUBLE_AFTER):
        assert precision.scale == 2**15
        precision.update(finite=True)
    assert precision.scale == 2**16
    for _ in range(100):
        precision.update(finite=False)
    assert precision.scale == 1


def test_float16_trains_as_float32_does(tmp_path):
    wide, narrow = make(steps=4), make(steps=4)
    run(wide, recipe(), tmp_path / "wide")
    run(narrow, recipe(dtype="float16"), tmp_path / "narrow")
    lines = [
        [line for line in metrics.read(tmp_path / x / "metrics.jsonl") if "loss" in line] for x in ("wide", "narrow")
    ]
    for a, b in zip(*lines, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=2e-3)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=2e-2), "unscaled before it is measured and clipped"
    assert lines[0][0]["loss"] != lines[1][0]["loss"], "it does compute in float16"
    assert saved(tmp_path / "narrow") == {"scale": 2.0**16, "good_steps": 4}


def test_an_overflow_costs_one_update_and_is_not_spoken_of(tmp_path, capsys):
    def large(model, batch, compiled=False):
        loss = lm_loss(model, batch)
        return Loss(loss.total * 64, loss.figures)

    job = make(loss=large, steps=6)
    run(job, recipe(dtype="float16"), tmp_path)
    norms = [line["grad_norm"] for line in metrics.read(tmp_path / "metrics.jsonl") if "grad_norm" in line]
    skipped = norms.count(None)
    assert 0 < skipped < 6
    assert saved(tmp_path) == {"scale": 2.0 ** (16 - skipped), "good_steps": 6 - skipped}
    assert "left out" not in capsys.readouterr().err


def test_an_interrupted_float16_run_goes_on_with_its_scale(tmp_path):
    straight = make(steps=6)
    run(straight, recipe(dtype="float16"), tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(make(fail_at=5), recipe(dtype="float16"), tmp_path / "broken")
    resumed = make()
    run(resumed, recipe(dtype="float16"), tmp_path / "broken")
    assert all(torch.equal(weight, weights(resumed)[name]) for name, weight in weights(straight).items())
    assert saved(tmp_path / "broken") == saved(tmp_path / "straight")


def test_float16_that_stays_spoiled_gives_up(tmp_path):
    def never(model, batch, compiled=False):
        loss = lm_loss(model, batch)
        return Loss(loss.total * math.inf, loss.figures)

    with pytest.raises(UserError, match="train in float32"):
        run(make(loss=never, steps=50), recipe(dtype="float16", save_every=0), tmp_path)


@pytest.fixture
def _deterministic_only_here():
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_deterministic_only_here")
def test_deterministic_runs(minimind, pretrain_flags, tmp_path, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    flags = [*pretrain_flags, "--max-steps", "1", "--set.train.deterministic", "true", "--out", tmp_path]
    assert minimind(*flags).code == 0
    assert torch.are_deterministic_algorithms_enabled()
    assert runtime.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
