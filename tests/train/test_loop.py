import math
import os
from dataclasses import replace
from functools import partial

import pytest
import torch

from minimind import runtime
from minimind.config import ModelConfig
from minimind.data.packing import Batch
from minimind.data.settings import DataConfig
from minimind.errors import UserError
from minimind.losses.lm import linear_cross_entropy
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.optim.groups import make_optimizers
from minimind.optim.settings import OptimConfig
from minimind.recipe import Recipe, run_config
from minimind.train import checkpoint, metrics, parallel, resume
from minimind.train.job import Halt, Job, Loss, Rehearsal
from minimind.train.loop import run
from minimind.train.resume import check_recipe
from minimind.train.settings import TrainConfig

SHAPE = ModelConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
)
WALL_CLOCK = {"tokens_per_second", "mfu"}


class Counting:
    """A stream whose batches depend on its position alone; `fail_at` raises there, as a crash would."""

    def __init__(self, fail_at=None, at=0):
        self.at, self.fail_at = at, fail_at

    def dry_batch(self, *shape):
        return self.next_batch(*shape)

    def next_batch(self, rows, rank=0, world=1):
        if self.at == self.fail_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(self.at)
        self.at += 1
        share, rows = slice(rank * rows, (rank + 1) * rows), rows * world
        ids = torch.randint(0, 50, (rows, 16), generator=generator)
        labels = ids.roll(-1, 1)
        labels[:, -1] = -100
        labels[0, :11] = -100  # rows with unequal numbers of supervised tokens
        whole = Batch(ids, labels, torch.arange(16).repeat(rows, 1), torch.zeros(rows, 16, dtype=torch.int32))
        return Batch(*(tensor[share] for tensor in whole[:4]))

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def lm_loss(model, batch, compiled=False):
    states = model(batch.input_ids, Segments(batch.document_ids, batch.positions)).states
    total = linear_cross_entropy(states, model.output_weight, batch.labels)
    return Loss(total, {"loss": total})


def write(path):
    if runtime.is_main():
        (path / "model.txt").write_text("model", encoding="utf-8")


def make(fail_at=None, steps=6, loss=lm_loss, config=SHAPE, optim="muon", kind="ddp", embedding_lr=1.0):
    torch.manual_seed(0)
    model = Transformer(config)
    parallel.shard(model, model.layers, TrainConfig(parallel=kind))
    if optim == "sgd":  # its update is the gradient itself; the others may turn a rounding error into a whole step
        optimizers = [torch.optim.SGD(model.parameters())]
    else:
        optimizers = make_optimizers(model, OptimConfig(matrices=optim, embedding_lr=embedding_lr))
    figures = {"bpb": 2.0}
    return Job(model, optimizers, Counting(fail_at), loss, steps, 1e6, write, lambda: figures, list, lambda: None)


def recipe(**train):
    defaults = {"tokens_per_step": 64, "micro_batch_tokens": 64, "log_every": 1, "save_every": 2, "dtype": "float32"}
    train = TrainConfig(**(defaults | {"compile": "never"} | train))
    return run_config(Recipe(data=DataConfig(sequence_length=16), train=train))


def weights(job):
    return {name: p.detach().clone() for name, p in job.model.named_parameters()}


def test_many_runs_of_one_process_are_compiled(tmp_path, monkeypatch):
    """As in the demo: torch gives up on a function after so many versions, and earlier models have had theirs."""
    monkeypatch.setattr(resume, "can_compile", lambda device: True)
    with torch._dynamo.config.patch(recompile_limit=2, fail_on_recompile_limit_hit=True):
        for width in (32, 48, 64):
            job = make(steps=1, config=replace(SHAPE, intermediate_size=width))
            job.compile = partial(job.model.compile_blocks, backend="eager")
            run(job, recipe(compile="always"), tmp_path / str(width))


def test_accumulation_changes_nothing(tmp_path):
    whole, pieces = make(), make()
    run(whole, recipe(), tmp_path / "a")
    run(pieces, recipe(micro_batch_tokens=16), tmp_path / "b")
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weight, weights(pieces)[name], atol=2e-3, rtol=0, msg=name)  # Muon's bf16
    a, b = (metrics.read(tmp_path / x / "metrics.jsonl") for x in "ab")
    assert next(line["loss"] for line in a if "loss" in line) == pytest.approx(b[0]["loss"], rel=1e-6)
    assert a[0]["grad_norm"] == pytest.approx(b[0]["grad_norm"], rel=1e-5)


@pytest.mark.parametrize("micro_batch_tokens", [16, 64])
def test_a_rehearsal_adds_its_mean_times_its_weight(tmp_path, micro_batch_tokens):
    def mean(job, at, rows):
        batch = Counting(at=at).next_batch(rows)
        return lm_loss(job.model, batch).total / batch.num_items

    job, by_hand = (make(steps=1, optim="sgd") for _ in range(2))
    job.rehearsal = Rehearsal(Counting(at=1000), lm_loss, rows=2, weight=0.5)
    settings = recipe(micro_batch_tokens=micro_batch_tokens)
    settings.optim.lr, settings.optim.warmup, settings.optim.decay, settings.optim.clip = 0.5, 0.0, 0.0, 0.0
    run(job, settings, tmp_path)

    own, again = mean(by_hand, 0, 4), mean(by_hand, 1000, 2)
    (own + 0.5 * again).backward()
    for name, weight in by_hand.model.named_parameters():
        torch.testing.assert_close(job.model.get_parameter(name), weight - 0.5 * weight.grad, atol=1e-6, rtol=0)
    line = metrics.read(tmp_path / "metrics.jsonl")[0]
    assert line["loss"] == pytest.approx(own.item(), rel=1e-5)
    assert line["rehearsal_loss"] == pytest.approx(again.item(), rel=1e-5)
    assert line["tokens"] == (4 + 2) * 16


def test_an_interrupted_run_goes_on_rehearsing_where_it_was(tmp_path):
    def rehearsing(**changes):
        job = make(**changes)
        job.rehearsal = Rehearsal(Counting(at=1000), lm_loss, rows=2, weight=0.5)
        return job

    straight, resumed = rehearsing(), rehearsing()
    run(straight, recipe(), tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(rehearsing(fail_at=5), recipe(), tmp_path / "broken")
    run(resumed, recipe(), tmp_path / "broken")
    assert resumed.rehearsal.stream.at == 1006
    assert all(torch.equal(weight, weights(resumed)[name]) for name, weight in weights(straight).items())

    now = recipe().recipe
    with pytest.raises(UserError, match="rehearses from its first step to its last, or never"):
        check_recipe(tmp_path, now, now | {"rehearsal": now["rehearsal"] | {"files": ["chats.jsonl"]}})
    with pytest.raises(UserError, match=r"rehearsal\.weight was 1\.0 and is 2\.0 now"):
        check_recipe(tmp_path, now, now | {"rehearsal": now["rehearsal"] | {"weight": 2.0}})
    check_recipe(tmp_path, {name: value for name, value in now.items() if name != "rehearsal"}, now)


@pytest.mark.parametrize(("optim", "embedding_lr"), [("muon", 1), ("adamw", 1), ("muon", 6)])
@pytest.mark.parametrize("experts", [0, 2])
def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path, optim, embedding_lr, experts):
    config = replace(SHAPE, num_experts=experts)
    straight = make(config=config, optim=optim, embedding_lr=embedding_lr)
    run(straight, recipe(), tmp_path / "straight")
    with pytest.raises(KeyboardInterrupt):
        run(make(fail_at=5, config=config, optim=optim, embedding_lr=embedding_lr), recipe(), tmp_path / "broken")
    torch.manual_seed(99)
    resumed = make(config=config, optim=optim, embedding_lr=embedding_lr)
    run(resumed, recipe(), tmp_path / "broken")
    for name, weight in weights(straight).items():
        assert torch.equal(weight, weights(resumed)[name]), name
    a, b = (metrics.read(tmp_path / x / "metrics.jsonl") for x in ("straight", "broken"))
    strip = lambda lines: [{k: v for k, v in line.items() if k not in WALL_CLOCK} for line in lines]  # noqa: E731
    assert strip(a) == strip(b)


def test_a_checkpoint_goes_on_where_a_field_is_newer_than_it(tmp_path):
    now = recipe().recipe
    before = now | {"optim": {name: value for name, value in now["optim"].items() if name != "embedding_lr"}}
    check_recipe(tmp_path, before, now)
    with pytest.raises(UserError, match=r"optim\.embedding_lr was 1\.0 and is 6\.0 now"):
        check_recipe(tmp_path, before, now | {"optim": now["optim"] | {"embedding_lr": 6.0}})


def test_a_damaged_checkpoint_is_passed_over(tmp_path, capsys):
    straight = make()
    run(straight, recipe(keep=4, save_every=1), tmp_path)
    folder = tmp_path / "checkpoints"
    newest = checkpoint.newest(folder)
    assert newest[1]["step"] == 6
    victim = next((newest[0] / "trainer").glob("*.distcp"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert checkpoint.newest(folder)[1]["step"] == 5
    (folder / "step-00000005" / "complete").unlink()
    assert checkpoint.newest(folder)[1]["step"] == 4
    os.truncate(folder / "step-00000004" / "trainer" / ".metadata", 100)
    assert checkpoint.newest(folder)[1]["step"] == 3
    assert capsys.readouterr().err.count("damaged") >= 2
    again = make()
    run(again, recipe(), tmp_path)
    assert all(torch.equal(w, weights(again)[n]) for n, w in weights(straight).items())


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    run(make(), recipe(), tmp_path)
    with pytest.raises(UserError, match="another model"):
        run(make(config=replace(SHAPE, hidden_size=48)), recipe(), tmp_path)


def test_old_checkpoints_go_the_best_stays(tmp_path):
    job = make(steps=10)
    values = iter([5.0, 1.0, 3.0, 4.0, 5.0])
    job.validate = lambda: {"bpb": next(values)}
    run(job, recipe(valid_every=2), tmp_path)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000008", "step-00000010"]


def test_the_best_that_is_kept_is_one_that_was_saved(tmp_path):
    job = make(steps=8)
    values = iter([5.0, 2.0, 1.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    job.validate = lambda: {"bpb": next(values)}
    assert run(job, recipe(valid_every=1), tmp_path).best_step == 2
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000002", "step-00000006", "step-00000008"]


def test_what_the_optimizer_is_set_to_may_change(tmp_path):
    sizes = []
    for decay in (0.0, 50.0):
        out = tmp_path / str(decay)
        run(make(steps=2), recipe(), out)
        job = make()
        for optimizer in job.optimizers:
            for group in optimizer.param_groups:
                group["weight_decay"] = decay
        run(job, recipe(), out)
        sizes.append(sum(w.square().sum() for w in weights(job).values()))
    assert sizes[1] < sizes[0] / 2


def test_a_loss_that_was_nan_does_not_keep_a_run_from_going_on(tmp_path):
    losses = iter([math.nan, 1.0])

    def once(model, batch, compiled=False):
        loss = lm_loss(model, batch)
        factor = next(losses, 1.0)
        return Loss(loss.total * factor, {"loss": loss.total * factor})

    run(make(loss=once, steps=3), recipe(), tmp_path)
    assert run(make(steps=6), recipe(), tmp_path).step == 6


def test_a_run_that_has_ended_keeps_the_recipe_that_it_was_made_by(tmp_path):
    run(make(), recipe(), tmp_path)
    made_by = (tmp_path / "recipe.toml").read_text(encoding="utf-8")
    run(make(), recipe(max_minutes=7.0), tmp_path)
    assert (tmp_path / "recipe.toml").read_text(encoding="utf-8") == made_by


def test_a_spoiled_gradient_is_left_out(tmp_path):
    def spoiled(model, batch, compiled=False):
        loss = lm_loss(model, batch)
        factor = math.nan if batch.labels[0, -2] % 2 else 1.0
        return Loss(loss.total * factor, loss.figures)

    job = make(loss=spoiled)
    run(job, recipe(), tmp_path)
    norms = [line["grad_norm"] for line in metrics.read(tmp_path / "metrics.jsonl") if "grad_norm" in line]
    assert None in norms, "JSON has no NaN"
    assert any(norm is not None for norm in norms)
    assert all(torch.isfinite(p).all() for p in job.model.parameters())


def test_a_run_that_stays_spoiled_ends_in_a_sentence(tmp_path):
    def always(model, batch, compiled=False):
        loss = lm_loss(model, batch)
        return Loss(loss.total * math.nan, loss.figures)

    job = make(loss=always, steps=50)
    with pytest.raises(UserError, match=r"lower optim\.lr"):
        run(job, recipe(), tmp_path)


def test_a_full_disk_leaves_the_earlier_checkpoints(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    run(make(steps=2), recipe(), tmp_path)
    monkeypatch.setattr(checkpoint.dcp, "save", full)
    with pytest.raises(UserError, match="No space left on device"):
        run(make(steps=4), recipe(), tmp_path)
    assert checkpoint.newest(tmp_path / "checkpoints")[1]["step"] == 2
    assert not list((tmp_path / "checkpoints").glob("*.tmp"))


def test_a_validation_that_ends_a_run_loses_nothing(tmp_path):
    def gone():
        raise Halt("the server is gone")

    job = make()
    with pytest.raises(UserError, match=r"the server is gone\. Saved at step 6"):
        run(replace(job, validate=gone), recipe(save_every=0), tmp_path)
    assert run(make(), recipe(save_every=0), tmp_path).step == 6
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000006"]


def test_a_time_budget_stops_with_a_checkpoint(tmp_path):
    at = run(make(steps=1000), recipe(max_minutes=1e-6, save_every=0, valid_every=0), tmp_path)
    assert 0 < at.step < 1000
    assert checkpoint.newest(tmp_path / "checkpoints")[1]["step"] == at.step


def test_it_learns(tmp_path):
    def one_answer(model, batch, compiled=False):
        return lm_loss(model, batch._replace(labels=torch.where(batch.labels == -100, -100, 7)))

    run(make(steps=60, loss=one_answer), recipe(save_every=0), tmp_path)
    lines = [line["loss"] for line in metrics.read(tmp_path / "metrics.jsonl") if "loss" in line]
    assert lines[-1] < 0.5 * lines[0]
