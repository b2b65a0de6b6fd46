import sys
import time
from importlib.util import find_spec

import pytest
from test_loop import WALL_CLOCK, make, recipe

from minimind.errors import UserError
from minimind.train import metrics
from minimind.train.loop import run


def test_tensorboard_shows_what_the_log_holds(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(KeyboardInterrupt):
        run(make(fail_at=5), recipe(tracker="tensorboard", valid_every=2), tmp_path)
    run(make(), recipe(tracker="tensorboard", valid_every=2), tmp_path)  # from step 4: the fifth is drawn once
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    lines = metrics.read(tmp_path / "metrics.jsonl")
    assert len([line for line in lines if "loss" in line]) == 6
    for name in ("loss", "grad_norm", "lr", "tokens_per_second", "valid_bpb"):
        logged = {line["step"]: line[name] for line in lines if name in line}
        drawn = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in drawn] == list(logged)
        if name not in WALL_CLOCK:
            assert dict(drawn) == pytest.approx(logged, rel=1e-6)


@pytest.mark.parametrize(("tool", "files"), [("wandb", "*.wandb"), ("swanlab", "*.swanlab"), ("trackio", "*.db*")])
def test_the_others_write_below_the_run_without_an_account(tmp_path, monkeypatch, tool, files):
    if find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed")
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    run(make(steps=2), recipe(tracker=tool), tmp_path)
    end = time.monotonic() + 20  # wandb's own process may still be writing
    while not any(b"grad_norm" in file.read_bytes() for file in (tmp_path / tool).rglob(files)):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_tracker_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'"wandb" is not installed: pip install "minimind\[track\]"'):
        run(make(), recipe(tracker="wandb"), tmp_path)
