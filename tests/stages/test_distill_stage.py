"""Distillation end to end: a student of another size and kind, exact under interruptions, and what cannot teach it."""

import json
import shutil

import pytest
import torch
from test_bad_input import refused, state
from test_exact import killed_again_and_again
from test_stages import figures

from minimind.model.qwen3 import Transformer
from minimind.model.store import load_model, save_model

TEACHER = "--set.distill.teacher"


@pytest.fixture(scope="module")
def flags(sft_flags, tuned):
    """A run of four steps, student and teacher the same model; add `--out`."""
    teacher = str(tuned / "model")
    return ["train", "distill", *sft_flags[2:], "--init", teacher, TEACHER, teacher, "--save-every", "2"]


def without_init(flags):
    place = flags.index("--init")
    return [*flags[:place], *flags[place + 2 :]]


@pytest.mark.parametrize("preset", ["tiny", "tiny-moe"])
def test_a_new_student_of_another_shape_comes_nearer_to_its_teacher(minimind, flags, tmp_path, preset):
    shape = ["--preset", preset, "--set.model.num_hidden_layers", "1", "--set.distill.alpha", "0"]
    ended = minimind(*without_init(flags), *shape, "--max-steps", "8", "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    lines = [line for line in figures(tmp_path / "run") if "loss" in line]
    assert lines[-1]["divergence"] < 0.9 * lines[0]["divergence"]
    assert lines[0]["loss"] == pytest.approx(4 * lines[0]["divergence"], rel=0.05), "T² times D"
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["num_hidden_layers"] == 1


def test_the_teacher_itself_has_nothing_to_learn_from_itself(minimind, flags, tmp_path):
    exact = ["--set.distill.alpha", "0", "--set.train.dtype", "float32", "--max-steps", "1", "--out", tmp_path / "run"]
    assert minimind(*flags, *exact).code == 0
    first = figures(tmp_path / "run")[0]
    assert first["divergence"] < 1e-3
    assert first["cross_entropy"] > 1


def test_alpha_one_is_sft(minimind, flags, sft_flags, tuned, tmp_path):
    alike = ["--init", tuned / "model", "--set.train.dtype", "float32", "--max-steps", "2"]
    assert minimind(*flags, *alike, "--set.distill.alpha", "1", "--out", tmp_path / "distill").code == 0
    assert minimind(*sft_flags, *alike, "--out", tmp_path / "sft").code == 0
    ours, plain = (figures(tmp_path / name) for name in ("distill", "sft"))
    for one, other in zip(ours, plain, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


@pytest.mark.parametrize("divergence", ["reverse", "js"])
def test_killed_at_any_instant(flags, tmp_path, divergence):
    argv = [*flags, "--set.distill.divergence", divergence, "--set.train.dtype", "bfloat16"]
    killed_again_and_again([*argv, "--max-steps", "4"], tmp_path, f"killed {divergence}")


def test_mistakes_are_one_sentence_and_leave_nothing(minimind, flags, tuned, tmp_path):
    other = shutil.copytree(tuned / "model", tmp_path / "other")
    words = json.loads((other / "tokenizer.json").read_text(encoding="utf-8"))
    words["model"]["merges"] = words["model"]["merges"][:-1]
    (other / "tokenizer.json").write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    argv = [*flags, "--out", tmp_path / "run"]
    before = state(tmp_path)
    refused(minimind(*argv, TEACHER, other), 1, str(other), "another tokenizer")
    refused(minimind(*argv, TEACHER, ""), 2, "--set.distill.teacher MODEL_DIR")
    refused(minimind(*argv, TEACHER, tmp_path / "nowhere"), 1, "nowhere")
    refused(minimind(*argv, "--set.distill.alpha", "2"), 2, "distill.alpha")
    refused(minimind(*argv, "--set.distill.temperature", "0"), 2, "distill.temperature")
    refused(minimind(*argv, "--set.distill.beta", "1"), 2, "distill.beta")
    assert state(tmp_path) == before


def test_rows_of_a_teacher_beyond_its_words_are_nothing_to_learn(minimind, flags, tuned, tmp_path):
    wide, narrow = tmp_path / "wide", tuned / "model"
    shutil.copytree(narrow, wide)
    model = load_model(narrow)
    padded = Transformer(model.config.with_(vocab_size=model.config.vocab_size + 64))
    weights = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in padded.named_parameters():
            weight.zero_()[: len(weights[name])] = weights[name]
    save_model(padded, wide, "float32")
    exact = ["--set.distill.alpha", "0", "--set.train.dtype", "float32", "--max-steps", "1", "--out", tmp_path / "run"]
    ended = minimind(*flags, TEACHER, wide, *exact)
    assert ended.code == 0, ended.err
    assert figures(tmp_path / "run")[0]["divergence"] < 1e-3
    refused(minimind(*flags, "--init", wide, "--out", tmp_path / "other"), 1, "the student has", "of one tokenizer")


ON_POLICY = [
    *("--set.distill.on_policy", "true", "--set.rl.groups", "4", "--set.rl.samples", "2", "--set.rl.epochs", "1"),
    *("--set.rl.max_new_tokens", "16", "--set.distill.divergence", "reverse", "--set.distill.temperature", "1"),
]


def test_on_policy_the_student_comes_nearer_in_its_own_words(minimind, flags, pretrained, tmp_path):
    argv = [*flags, *ON_POLICY, "--init", pretrained / "model", "--set.optim.lr", "3e-3"]
    ended = minimind(*argv, "--max-steps", "10", "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    lines = [line for line in figures(tmp_path / "run") if "loss" in line]
    assert sum(line["divergence"] for line in lines[-3:]) < 0.9 * sum(line["divergence"] for line in lines[:3])
    assert lines[0]["loss"] == pytest.approx(lines[0]["divergence"], rel=1e-5), "nothing else counts"
    assert lines[0]["reward_unfinished"] <= 0


def test_prompts_without_answers_are_practised_and_conversations_validate(minimind, flags, world, tmp_path):
    argv = [*flags, *ON_POLICY, "--data", world / "few_rl.jsonl", "--valid", world / "few_sft_valid.jsonl"]
    ended = minimind(*argv, "--max-steps", "1", "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert any("valid_bpb" in line for line in figures(tmp_path / "run"))


def test_on_policy_the_teacher_itself_has_nothing_to_learn(minimind, flags, tmp_path):
    exact = ["--set.train.dtype", "float32", "--max-steps", "1", "--out", tmp_path / "run"]
    ended = minimind(*flags, *ON_POLICY, *exact)
    assert ended.code == 0, ended.err
    assert figures(tmp_path / "run")[0]["divergence"] < 1e-3


def test_on_policy_killed_at_any_instant(flags, tmp_path):
    killed_again_and_again([*flags, *ON_POLICY, "--max-steps", "4"], tmp_path, "killed on policy")
