"""`minimind train STAGE RECIPE`: run one stage."""

import math
import shlex
from pathlib import Path
from typing import Annotated, Any

import tyro

from minimind import console, files, ranks, runtime
from minimind.commands.arguments import Integer, Number, Text, Texts, call, split_settings
from minimind.commands.sizing import RECIPE, TRIAL_SECONDS, TRIAL_SHARE, best, choices, peak_flops, trial
from minimind.errors import UsageError, did_you_mean
from minimind.recipe import Recipe, find, load, run_config
from minimind.train.folder import locked

STAGES = {
    "pretrain": "predict the next token of text",
    "sft": "learn to answer from conversations",
    "lora": "the same by a small change of some matrices: an adapter",
    "distill": "imitate a teacher's whole distribution over the next word",
    "dpo": "prefer the better of two answers (DPO, IPO, SimPO)",
    "reward": "score answers, as a reward for reinforcement learning",
    "ppo": "learn from the rewards of its own answers, with a critic",
    "grpo": "the same by comparing answers to one prompt (GRPO, DAPO, GSPO, CISPO)",
    "agent": "the same over episodes in which tools answer",
}

PRACTICE = ("ppo", "grpo", "agent")
"""Stages that learn from rollouts."""
CHANGES = ("model.rope_scaling",)
"""What a stage may change of the model that it starts from."""


def main(argv: list[str]) -> int:
    """Read the stage and the `--set` flags, then the others."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: minimind train STAGE RECIPE [options]\n")
        for name, what in STAGES.items():
            print(f"  {name:<10} {what}")
        print("\nminimind train STAGE --help says more.")
        return 0 if argv else 2
    stage = argv[0]
    if stage not in STAGES:
        raise UsageError(f"train: no stage {stage!r}{did_you_mean(stage, STAGES)}")
    rest, settings = split_settings(argv[1:])

    def train(
        recipe: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="RECIPE")]],
        data: Texts = None,
        valid: Texts = None,
        init: Text = None,
        out: Text = None,
        tokenizer: Text = None,
        preset: Text = None,
        max_steps: Integer = None,
        max_minutes: Number = None,
        minutes: Number = None,
        save_every: Integer = None,
        seed: Integer = None,
        device: Text = None,
        on_bad_line: Text = None,
        replay: Text = None,
        resume: str = "auto",
        json: bool = False,
    ) -> None:
        """Train one stage of a recipe; any other field of it is changed by --set.SECTION.FIELD VALUE.

        Examples:
            minimind train pretrain laptop --data corpus.jsonl --out runs/laptop
            minimind train pretrain auto --minutes 60 --data corpus.jsonl
            minimind train sft laptop --data chats.jsonl --init runs/laptop/model --set.optim.lr 5e-4
            torchrun --nproc-per-node 8 -m minimind train pretrain minimind-3 --data corpus.jsonl

        Args:
            recipe: name (`laptop`) or path of a recipe; `auto` chooses model, steps and rate for --minutes.
            data: JSON Lines files (.gz, .zst too) or globs; replaces the recipe's.
            valid: held-out files; without them a part of the data is held out.
            init: model directory to start from (needed by all stages after pretraining).
            out: run directory; the result is RUN_DIR/model. Default: runs/RECIPE-STAGE.
            tokenizer: model or tokenizer directory, or `default`.
            preset: another architecture than the recipe's.
            max_steps: optimizer steps instead of epochs; 0: as many as the epochs need.
            max_minutes: stop after this long, saved; the result then depends on the machine's speed. 0: never.
            minutes: with `auto`: how long to train.
            save_every: steps between checkpoints; 0: only at the end.
            seed: of weights and data order.
            device: auto, cpu, cuda or mps.
            on_bad_line: stop (default) at a malformed line, or skip it and count.
            replay: learn from the rollouts that an earlier run kept there (--set.rl.dump DIR), without an engine.
            resume: auto continues what is in RUN_DIR; never starts anew.
            json: print one line of JSON at the end.
        """
        if resume not in ("auto", "never"):
            raise UsageError(f"--resume {resume}: choose auto or never")
        changes = {
            "data.files": None if data is None else list(data),
            "data.valid": None if valid is None else list(valid),
            "data.on_bad_line": on_bad_line,
            "init": init,
            "tokenizer": tokenizer,
            "preset": preset,
            "train.max_steps": max_steps,
            "train.max_minutes": max_minutes,
            "train.save_every": save_every,
            "train.seed": seed,
            "train.device": device,
            "rl.replay": replay,
        }
        if replay and stage not in PRACTICE:
            raise UsageError(f"train {stage}: --replay has no effect here; it is for {', '.join(PRACTICE)}")
        given: dict[str, Any] = {name: value for name, value in changes.items() if value is not None}
        if init:
            fixed = [f"--{name}" for name in ("preset", "tokenizer") if given.get(name)]
            fixed += [f"--set.{name}" for name in settings if name.startswith("model.") and name not in CHANGES]
            if fixed:
                raise UsageError(f"{fixed[0]} has no effect with --init: {init} brings its own; leave one of them out")
        if recipe == "auto":
            path, chosen = _choose(stage, minutes, given | settings, Path(out or "runs/auto-pretrain"), resume)
            given = chosen | given
        elif minutes is not None:
            raise UsageError("--minutes goes with the recipe auto; --max-minutes stops another one after so long")
        else:
            path = find(recipe, stage)
        folder = Path(out or f"runs/{'auto' if recipe == 'auto' else path.parent.name}-{stage}")
        _run(stage, load(Recipe, path, given | settings), path, folder, resume, json)

    return call(train, rest, f"minimind train {stage}")


def _choose(
    stage: str, minutes: float | None, settings: dict[str, Any], out: Path, resume: str
) -> tuple[Path, dict[str, Any]]:
    """Recipe and settings that reach the lowest loss in the time, by the scaling law; once begun, they stay.

    In runs that are long enough the speed is that of some real steps, so that the schedule ends with the time.
    """
    data = settings.get("data.files")
    if stage != "pretrain" or minutes is None or not 0 < minutes < math.inf or not data:
        raise UsageError("the recipe auto needs: minimind train pretrain auto --minutes M --data FILE, M above 0")
    if runtime.world_size() > 1 or settings.get("init"):
        raise UsageError("the recipe auto is for one process and a new model; `minimind plan --minutes M` names one")
    told, device = out / "auto.json", settings.get("train.device", "auto")
    if resume == "auto" and any((out / "checkpoints").glob("step-*")):
        before = files.read_json(told).get("minutes") if told.is_file() else None
        if before != minutes:
            was = "by another recipe" if before is None else f"for {before:g} minutes"
            raise UsageError(
                f"--minutes {minutes:g}: {out} holds a run that was begun {was}; continue that as it was begun, use "
                f"another --out, or start anew with --resume never"
            )
        return out / "recipe.toml", {}
    peak = peak_flops(device)
    chosen = best(choices(minutes, settings, data, device, peak))
    if TRIAL_SHARE * 60 * minutes > TRIAL_SECONDS:
        pace = trial(chosen, settings) / chosen.tokens_per_second
        chosen = best(choices(minutes, settings, data, device, peak * pace))
    console.say(
        f"{minutes:g} minutes: {chosen.preset}, {chosen.parameters / 1e6:.1f} M parameters, {chosen.steps:,} steps of "
        f"{chosen.tokens_per_step:,} tokens at a rate of {chosen.lr:g}, weight decay {chosen.weight_decay:g} "
        f"(embedding {chosen.embedding_decay:g}); on mixed web text that reaches {chosen.bpb:.2f} ± "
        f"{chosen.bpb_error:.2f} bits per byte. {chosen.repeats(minutes)}"
    )
    with locked(out), files.writing_to(out):  # a run that is going on there must not be told that it began otherwise
        files.write_json(told, {"minutes": minutes})
    return find(RECIPE, stage), chosen.settings()


def _run(stage: str, recipe: Recipe, path: Path, out: Path, resume: str, json: bool) -> None:
    if recipe.stage != stage:
        raise UsageError(f"{path} is a recipe for {recipe.stage}, not for {stage}")
    if not recipe.data.files:
        raise UsageError(f"train {stage}: name the training text with --data FILE (or data.files in {path})")
    ranks.join(recipe.train.device)
    from minimind.stages import agent, distill, dpo, grpo, lora, ppo, pretrain, reward, sft
    from minimind.train.failures import explained

    stages = {"pretrain": pretrain, "sft": sft, "lora": lora, "dpo": dpo, "reward": reward, "ppo": ppo, "grpo": grpo}
    stages |= {"distill": distill, "agent": agent}
    with explained(run_config(recipe)):  # much is computed before the first step: shards, a reference's scores
        model = stages[stage].run(recipe, out, resume == "auto")
    ranks.leave()
    if json:
        console.print_json({"model": str(model), "run": str(out)})
    else:
        console.say(
            "Done: ",
            console.bold(model),
            "" if stage == "reward" else f"\nTalk to it:  minimind chat {shlex.quote(str(model))}",
        )
