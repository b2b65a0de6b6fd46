"""`eval`, `plan` and `demo` as a user calls them."""

import json
import math
import re
import shutil
import subprocess
import sys
import time

import pytest

from minimind import cli, recipe
from minimind.commands import demo, pipeline
from minimind.config import PRESETS


def last_json(ended):
    assert ended.code == 0, ended.err
    return json.loads(ended.out.splitlines()[-1])


CPU = ("--device", "cpu", "--max-new-tokens", "6")


def test_eval_bpb(minimind, pretrained, world):
    data = world / "few_pretrain_valid.jsonl"
    figures = last_json(minimind("eval", "bpb", pretrained / "model", "--data", data, "--device", "cpu", "--json"))
    texts = [json.loads(line)["text"] for line in data.read_text(encoding="utf-8").splitlines()]
    assert figures["bytes"] == sum(len(text.encode("utf-8")) for text in texts)
    assert figures["bpb"] == pytest.approx(
        figures["loss"] * figures["tokens"] / figures["bytes"] / math.log(2), rel=1e-6
    )
    ended = minimind("eval", "bpb", pretrained / "model", "--data", data, "--device", "cpu")
    assert ended.code == 0
    assert "bpb" in ended.out


def test_eval_generate(minimind, pretrained, tuned):
    argv = ["eval", "generate", pretrained / "model", "--prompts", "Once upon", "从前", *CPU]
    texts = last_json(minimind(*argv, "--json"))["texts"]
    assert [text["prompt"] for text in texts] == ["Once upon", "从前"]
    assert f"Once upon | {texts[0]['text']}" in minimind(*argv).out
    warm = [*argv, "--temperature", "2", "--json"]
    assert last_json(minimind(*warm)) == last_json(minimind(*warm)), "the seed decides"
    assert last_json(minimind(*warm)) != last_json(minimind(*warm, "--seed", "1"))
    answer = last_json(minimind("eval", "generate", tuned / "model", "--chat", "--prompts", "hi", *CPU, "--json"))
    assert set(answer["texts"][0]) == {"model", "prompt", "text"}


@pytest.mark.parametrize("preset", PRESETS)
def test_plan_knows_every_recipe(minimind, preset):
    argv = ["plan", preset, "--tokens", "1e6", "--tokens-per-second", "2000", "--price-per-hour", "7.2", "--json"]
    figures = last_json(minimind(*argv))
    config = recipe.model_config(recipe.load(recipe.Recipe, recipe.find(preset, "pretrain")), 6400)
    assert figures["parameters"] == config.parameters() >= figures["active_parameters"]
    assert figures["flops_per_token"] > 5 * figures["active_parameters"]
    assert figures["memory_bytes"] > 12 * figures["parameters"]
    assert figures["seconds"] == 500
    assert figures["price"] == 1.0


def test_plan_follows_the_recipe_and_its_changes(minimind):
    fixed = ["--tokens-per-second", "4096", "--json"]
    plain = last_json(minimind("plan", "tiny", *fixed))
    assert plain["tokens"] == 700 * 4096
    assert plain["seconds"] == 700
    assert "0:11:40" in minimind("plan", "tiny", *fixed[:2]).out
    deep = last_json(minimind("plan", "tiny", *fixed, "--set.model.num_hidden_layers", "12"))
    assert deep["parameters"] > plain["parameters"]
    assert deep["memory_bytes"] > plain["memory_bytes"]
    ended = minimind("plan", "tiny", "--stage", "sft", "--device", "cpu")
    assert ended.code == 0, ended.err
    assert "active parameters" in ended.out


@pytest.fixture(scope="module")
def quick(tmp_path_factory, minimind):
    """A quick demo, and how long it took in this process's own time, however busy the machine is."""
    folder = tmp_path_factory.mktemp("demo") / "demo"
    start = time.process_time()
    ended = minimind("demo", "--quick", "--out", folder, "--device", "cpu")
    assert ended.code == 0, ended.err
    return folder, ended, time.process_time() - start


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_quick_demo_is_quick_and_says_what_it_is_worth(quick):
    folder, ended, seconds = quick
    assert seconds < 300  # under 60 by itself on the slowest of our machines, which slow down further when shared
    assert "scores mean nothing" in " ".join(ended.err.split())
    unwrapped = "".join(ended.err.split())
    assert f"minimindchat{folder / 'agent' / 'model'}" in unwrapped, "the command to go on with"
    assert ended.out.count("\n> ") == 5, "five sample exchanges"


def test_the_demo_names_every_ability_in_full_on_80_columns(quick):
    _, ended, _ = quick
    for ability in ("facts_en", "facts_zh", "thinking_t1", "calculator", "distill"):
        assert f"{ability} " in ended.out, ended.out


def test_the_demo_writes_its_report(quick):
    folder, _, _ = quick
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert list(report["stages"]) == ["random", "pretrain", "sft", "distill", "lora", "dpo", "grpo", "agent"]
    for name, stage in report["stages"].items():
        assert {"seconds", "tokens", "bpb", "scores", "model"} <= set(stage)
        assert {"facts_en", "facts_zh", "arithmetic", "tools", "persona", "polite"} <= set(stage["scores"])
        assert all(0 <= score <= 1 for score in stage["scores"].values())
        weights = "adapter_model.safetensors" if name == "lora" else "model.safetensors"
        assert (folder / name / "model" / weights).is_file()
        assert stage["seconds"] > 0 or name == "random"
    assert report["model"] == report["stages"]["agent"]["model"] == str(folder / "agent" / "model")
    assert report["stages"]["pretrain"]["bpb"] < report["stages"]["random"]["bpb"] - 0.5
    assert report["stages"]["random"]["tokens"] == 0 < report["stages"]["pretrain"]["tokens"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "pretrain" in page
    assert "<svg" in page


def test_the_demos_model_chats(quick, minimind):
    ended = minimind("chat", quick[0] / "sft" / "model", "--prompt", "hi", *CPU)
    assert ended.code == 0, ended.err


def test_a_second_demo_reuses_everything(quick, minimind, monkeypatch):
    folder, first, _ = quick
    report, before = (folder / "report.json").read_bytes(), files(folder)
    ended = minimind("demo", "--quick", "--out", folder, "--device", "cpu")
    assert ended.code == 0, ended.err
    assert ended.err.count("finished before") == 10
    assert ended.out == first.out
    assert (folder / "report.json").read_bytes() == report
    changed = {path.name for path, when in files(folder).items() if before.get(path) != when}
    assert changed <= {"demo.json", "report.json", "report.html"}


def test_a_demo_until_a_stage_ends_there_and_a_later_one_goes_on(quick, minimind, tmp_path):
    folder = shutil.copytree(quick[0], tmp_path / "demo")
    ended = minimind("demo", "--quick", "--out", folder, "--device", "cpu", "--until", "sft")
    assert ended.code == 0, ended.err
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert list(report["stages"]) == ["random", "pretrain", "sft"]
    assert report["model"] == report["stages"]["sft"]["model"]
    assert "You can talk to it now" not in ended.err, "that is said at the end anyway"
    ended = minimind("demo", "--quick", "--out", folder, "--device", "cpu", "--until", "stf")
    assert ended.code == 2
    assert "did you mean 'sft'" in ended.err


def test_the_first_model_that_answers_is_announced(quick):
    words = " ".join(quick[1].err.split())
    examined = re.search(r"sft: \d+ s", words)
    assert examined
    assert words.index("You can talk to it now") < examined.start(), "before it is examined"


def test_what_cannot_answer_yet_is_asked_little(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(demo.Pipeline, "_random", lambda self, tokenizer: "random")
    monkeypatch.setattr(demo.Pipeline, "_train", lambda self, name, *rest: name)
    monkeypatch.setattr(demo.Pipeline, "_measure", lambda self, model, most: asked.update({model: most}) or {})
    made = demo.Pipeline(tmp_path, False, "cpu")
    for name in pipeline.STAGES:
        made.stage(name, tmp_path)
    assert asked == dict.fromkeys(pipeline.STAGES) | {"random": pipeline.FEW, "pretrain": pipeline.FEW}


def test_a_damaged_marker_is_one_sentence(minimind, tmp_path):
    (tmp_path / "demo.json").write_text("{", encoding="utf-8")
    ended = minimind("demo", "--quick", "--out", tmp_path, "--device", "cpu")
    assert ended.code == 1
    assert "demo.json is not readable JSON" in ended.err
    assert "start over with --fresh" in " ".join(ended.err.split())


def test_a_demo_that_was_stopped_goes_on_with_the_stage_it_was_in(quick, minimind, tmp_path, monkeypatch):
    folder = shutil.copytree(quick[0], tmp_path / "demo")
    finished = folder / "sft" / "finished.json"
    measured = json.loads(finished.read_text(encoding="utf-8"))
    weights = (folder / "sft" / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(folder / "sft" / "model")
    for path in (finished, folder / "report.json"):
        path.unlink()
    trained = []
    train = demo.Pipeline._train
    monkeypatch.setattr(demo.Pipeline, "_train", lambda self, *which: trained.append(which[0]) or train(self, *which))
    monkeypatch.setattr(demo.Pipeline, "_measure", lambda self, model, most: measured)
    ended = minimind("demo", "--quick", "--out", folder, "--device", "cpu")
    assert ended.code == 0, ended.err
    assert trained == ["sft"]
    steps = pipeline.QUICK["sft"]["train.max_steps"]
    assert f"step {steps} of {steps}" in " ".join(ended.err.split()), "from its checkpoint"
    assert (folder / "sft" / "model" / "model.safetensors").read_bytes() == weights
    assert finished.is_file()
    assert (folder / "report.json").is_file()


def test_a_demo_with_seeds_says_between_which_scores_they_lie(quick, minimind, tmp_path, monkeypatch):
    folder = shutil.copytree(quick[0], tmp_path / "demo")
    first = json.loads((folder / "sft" / "finished.json").read_text(encoding="utf-8"))
    first["scores"]["facts_en"] = 0.5
    (folder / "sft" / "finished.json").write_text(json.dumps(first), encoding="utf-8")
    trained = []

    def train(self, name, tokenizer, run, seed):
        trained.append((name, self._recipe(name, tokenizer, seed).train.seed, run.parent.name))
        return run

    measured = first | {"scores": {**first["scores"], "facts_en": 0.875}}
    monkeypatch.setattr(demo.Pipeline, "_train", train)
    monkeypatch.setattr(demo.Pipeline, "_measure", lambda self, model, most: measured)
    ended = minimind("demo", "--quick", "--out", folder, "--device", "cpu", "--seeds", "3")
    assert ended.code == 0, ended.err
    stages = ["sft", "distill", "lora", "dpo", "grpo", "agent"]
    assert trained == [(name, seed, "seeds") for name in stages for seed in (1, 2)], "pretraining is done once"
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert [other["facts_en"] for other in report["stages"]["sft"]["again"]] == [0.875, 0.875]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<td>50%<small>50–88%</small></td>" in page
    assert "3 seeds" in page
    ended = minimind("demo", "--seeds", "0")
    assert ended.code == 2
    assert "--seeds 0" in ended.err


def test_a_folder_that_no_demo_made_is_left_alone(minimind, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sft.jsonl").write_text("mine", encoding="utf-8")
    for flags in ((), ("--fresh",)):
        ended = minimind("demo", "--quick", "--out", tmp_path, "--device", "cpu", *flags)
        assert ended.code == 1
        assert "is no demo's" in ended.err
    assert (tmp_path / "data" / "sft.jsonl").read_text(encoding="utf-8") == "mine"


def test_a_fresh_demo_deletes_its_own_files_only(quick, minimind, tmp_path, monkeypatch):
    folder = shutil.copytree(quick[0], tmp_path / "demo")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    monkeypatch.setattr(demo.Pipeline, "data", lambda self: sys.exit(9))  # stop where the work would begin
    with pytest.raises(SystemExit):
        minimind("demo", "--fresh", "--out", folder, "--device", "cpu")
    assert sorted(path.name for path in folder.iterdir()) == ["demo.json", "notes.txt"]
    assert json.loads((folder / "demo.json").read_text(encoding="utf-8")) == {"quick": False}


def test_every_command_is_there():
    assert {"demo", "data", "tokenizer", "train", "chat", "eval", "plan"} <= set(cli.COMMANDS)


def test_questions_come_through_a_real_pipe(minimind, tuned):
    assert minimind("chat", tuned / "model", "--prompt", "hi", *CPU).code == 0  # the first time, it says what it builds
    command = [sys.executable, "-m", "minimind", "chat", str(tuned / "model"), *CPU]
    ended = subprocess.run(command, input="hi\n你是谁？\n".encode(), capture_output=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == b"", "only answers, for the next command in the pipe"
    assert ended.stdout.decode("utf-8").count("\n") >= 2
