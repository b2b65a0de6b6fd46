import pytest
import torch
from test_loop import make, recipe

from minimind import runtime
from minimind.errors import UserError
from minimind.train.failures import explained
from minimind.train.loop import run


def refuse(model, batch, compiled=False):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def test_no_memory_says_what_to_lower_and_by_how_much(tmp_path):
    job = make(loss=refuse)
    with pytest.raises(UserError, match=r"micro_batch_tokens from 64 to 32, or set train.activation_checkpointing"):
        run(job, recipe(), tmp_path)
    with pytest.raises(UserError, match=r"out of memory: lower train.micro_batch_tokens from 48 to 16;"):
        run(job, recipe(micro_batch_tokens=48, activation_checkpointing=True), tmp_path)
    with pytest.raises(UserError, match=r"shorten the rows \(data.sequence_length 16\)"):
        run(job, recipe(micro_batch_tokens=16, activation_checkpointing=True), tmp_path)


def test_torch_itself_out_of_memory_on_a_cpu(tmp_path):
    job = make(loss=lambda model, batch, compiled: torch.empty(1 << 60))
    with pytest.raises(UserError, match="micro_batch_tokens from 64 to 32"):
        run(job, recipe(), tmp_path)


def test_other_errors_are_bugs_and_stay_as_they_are(monkeypatch):
    with pytest.raises(RuntimeError, match="shapes"), explained(recipe()):
        raise RuntimeError("shapes do not match")
    for world, kind in ((1, RuntimeError), (2, UserError)):
        monkeypatch.setattr(runtime, "world_size", lambda world=world: world)
        with pytest.raises(kind), explained(recipe()):
            raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1234")


def test_memory_that_is_short_before_the_first_step_is_explained_too(minimind, dpo_flags, tmp_path, monkeypatch):
    monkeypatch.setattr("minimind.stages.dpo.run", refuse)
    ended = minimind(*dpo_flags, "--out", tmp_path / "run")
    assert (ended.code, "Traceback" in ended.err) == (1, False)
    assert "out of memory: lower train.micro_batch_tokens" in " ".join(ended.err.split())
