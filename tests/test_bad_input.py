"""Every mistake of a user: exit code, one sentence that names the thing and the cure, nothing half-written."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from flags import without

CHAT = '{"conversations": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}'


def refused(ended, code, *words):
    """The command ended with `code` and said, last and in one sentence, something with all of `words`."""
    assert ended.code == code, ended.err
    sentence = " ".join(ended.err.split("minimind: ", 1)[1].split())
    assert ended.err.count("minimind: ") == 1
    assert ended.err.rstrip().count("\n") == ended.err[: ended.err.index("minimind: ")].count("\n"), "one line"
    assert "Traceback" not in ended.err
    for word in words:
        assert word in sentence, sentence


def state(folder: Path) -> dict[str, bytes | None]:
    """Every path below `folder` with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder, so that a default `--out` would show."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


BAD_TEXT = {
    "malformed": (b'{"text": "fine"}\n{"text": "cut', ["line 2", "not valid JSON", "--on-bad-line skip"]),
    "no field": (b'{"txt": "fine"}\n', ["line 1", "'text'", "'txt'"]),
    "no object": (b'["text"]\n', ["line 1", "not a JSON object"]),
    "not a string": (b'{"text": 3}\n', ["line 1", "'text'", "int"]),
    "not UTF-8": (b'{"text": "fine"}\n{"text": "\xff\xfe"}\n', ["line 2", "UTF-8"]),
    "no text": (b'{"text": " "}\n', ["line 1", "empty"]),
    "empty file": (b"", ["is empty", '{"text": "..."}']),
    "blank lines": (b"\n\n", ["no document"]),
}
BAD_CHATS = {
    "malformed": ("{", ["line 2", "not valid JSON"]),
    "no field": ('{"text": "words"}', ["line 2", "'conversations'", "'text'"]),
    "wrong role": (CHAT.replace("user", "usr"), ["line 2", "turn 1", "usr"]),
    "no role": ('{"conversations": [{"content": "hi"}]}', ["line 2", "turn 1", "role"]),
    "empty conversation": ('{"conversations": []}', ["line 2", "empty"]),
    "no answer": ('{"conversations": [{"role": "user", "content": "hi"}]}', ["line 2", "no assistant turn"]),
    "empty answer": (CHAT.replace("hello", ""), ["line 2", "empty"]),
    "no list": ('{"conversations": "hi"}', ["line 2", "must be a list"]),
    "content is no text": (CHAT.replace('"hi"', "3"), ["line 2", "turn 1", "content"]),
    "broken tools": (CHAT.replace('"content": "hi"', '"content": "hi", "tools": "{"'), ["line 2", "'tools'"]),
}


@pytest.mark.parametrize("case", BAD_TEXT)
@pytest.mark.parametrize("where", ["--data", "--valid"])
def test_bad_text_stops_before_training(minimind, pretrain_flags, here, case, where):
    content, words = BAD_TEXT[case]
    (here / "bad.jsonl").write_bytes(content)
    files = {"--data": "good.jsonl"} | {where: "bad.jsonl"}
    flags = [*without(pretrain_flags, "--data"), "--out", "run"]
    (here / "good.jsonl").write_text('{"text": "some words"}\n' * 9, encoding="utf-8")
    refused(minimind(*flags, *(part for file in files.items() for part in file)), 1, "bad.jsonl", *words)
    assert sorted(os.listdir()) == ["bad.jsonl", "good.jsonl"], "nothing half-written"


@pytest.mark.parametrize("case", BAD_CHATS)
def test_bad_conversations_stop_before_training(minimind, sft_flags, pretrained, here, case):
    line, words = BAD_CHATS[case]
    (here / "bad.jsonl").write_text(f"{CHAT}\n{line}\n", encoding="utf-8")
    flags = [*without(sft_flags, "--data"), "--init", pretrained / "model", "--data", "bad.jsonl", "--out", "run"]
    refused(minimind(*flags), 1, "bad.jsonl", *words)
    assert os.listdir() == ["bad.jsonl"]


def test_a_bad_line_can_be_skipped(minimind, pretrain_flags, here):
    (here / "bad.jsonl").write_bytes(b'{"text": "some words"}\n{"text": "\xff"}\n')
    ended = minimind(*without(pretrain_flags, "--data"), "--data", "bad.jsonl", "--out", "run", "--on-bad-line", "skip")
    assert ended.code == 0, ended.err
    assert "1 bad lines left out" in " ".join(ended.err.split())


@pytest.mark.parametrize("line", [b'{"text": ' + b"[" * 100_000, b'{"text": null}', b'{"text": "\xff"}'])
def test_no_vocabulary_is_learned_from_a_bad_line(minimind, here, line):
    (here / "bad.jsonl").write_bytes(b'{"text": "fine"}\n' + line)
    refused(minimind("tokenizer", "train", "--data", "bad.jsonl", "--out", "words"), 1, "bad.jsonl line 2")
    assert os.listdir() == ["bad.jsonl"]


MICRO = ["--set.train.micro_batch_tokens", "4096"]


READERS = {
    "bpb": (["eval", "bpb", "MODEL"], '{"text": "some words"}'),
    "length": (["eval", "length", "MODEL", "--lengths", "32", "--windows", "1"], json.dumps({"text": "words " * 99})),
    "tax": (["eval", "tax", "MODEL", "MODEL"], CHAT),
    "answers": (["data", "answers", "--teacher", "MODEL", "--out", "said.jsonl", "--max-new-tokens", "2"], CHAT),
    "prepare": (["data", "prepare", "--out", "shards"], '{"text": "some words"}'),
    "plan": (["plan", "laptop"], '{"text": "some words"}'),
}


@pytest.mark.parametrize(("argv", "good"), READERS.values(), ids=READERS.keys())
def test_a_command_that_stops_at_a_bad_line_can_skip_it(minimind, tuned, here, argv, good):
    (here / "bad.jsonl").write_text(good + '\n{"text": 3}\n', encoding="utf-8")
    argv = [tuned / "model" if word == "MODEL" else word for word in argv] + ["--data", "bad.jsonl"]
    refused(minimind(*argv), 1, "bad.jsonl line 2", "--on-bad-line skip")
    ended = minimind(*argv, "--on-bad-line", "skip")
    assert ended.code == 0, ended.err
    assert "1 bad lines left out" in " ".join(ended.err.split())


USAGE = {
    "stage": (["train", "pretrian", "tiny"], ["pretrian", "did you mean 'pretrain'"]),
    "recipe": (["train", "pretrain", "tinny"], ["tinny", "did you mean 'tiny'"]),
    "recipe file": (["train", "pretrain", "none.toml"], ["none.toml", "no such recipe file"]),
    "recipe of another stage": (["train", "sft", "PRETRAIN.toml"], ["PRETRAIN.toml", "pretrain, not for sft"]),
    "section": ([..., "--set.optm.lr", "1"], ["--set.optm.lr", "did you mean 'optim'"]),
    "field": ([..., "--set.optim.lrr", "1"], ["optim.lrr", "did you mean 'lr'"]),
    "type": ([..., "--set.optim.lr", "fast"], ["optim.lr", "float"]),
    "model field": ([..., "--set.model.hiden_size", "8"], ["hiden_size", "did you mean 'hidden_size'"]),
    "model value": ([..., "--set.model.hidden_size", "wide"], ["hidden_size", "int"]),
    "model range": ([..., "--set.model.num_hidden_layers", "0"], ["num_hidden_layers", "at least 1"]),
    "heads": ([..., "--set.model.num_key_value_heads", "3"], ["num_key_value_heads", "num_attention_heads"]),
    "experts": (
        [..., "--set.model.num_experts", "2", "--set.model.num_experts_per_tok", "3"],
        ["num_experts_per_tok", "num_experts"],
    ),
    "preset": ([..., "--preset", "tinny"], ["tinny", "did you mean 'tiny'"]),
    "device": ([..., "--device", "gpu"], ["device", "gpu", "auto, cpu, cuda, mps"]),
    "resume": ([..., "--resume", "maybe"], ["--resume maybe", "auto or never"]),
    "flag": ([..., "--max-step", "3"], ["--max-step"]),
    "number": ([..., "--max-steps", "many"], ["--max-steps", "many"]),
    "no value": ([..., "--set.optim.lr"], ["--set.optim.lr", "needs a value"]),
    "rows too short": ([..., "--set.data.sequence_length", "2"], ["data.sequence_length = 2", "at least 8"]),
    "rows too long": (
        [..., "--set.data.sequence_length", "4096", "--set.train.tokens_per_step", "4096", *MICRO],
        ["data.sequence_length", "4096", "2048", "max_position_embeddings"],
    ),
    "step too small": ([..., "--set.train.tokens_per_step", "32"], ["train.tokens_per_step = 32", "at least"]),
    "rate": ([..., "--set.optim.lr", "inf"], ["optim.lr = inf", "above 0"]),
    "beta": ([..., "--set.optim.beta1", "1.5"], ["optim.beta1 = 1.5", "[0, 1)"]),
    "clip": ([..., "--set.optim.clip", "-1"], ["optim.clip = -1.0", "at least 0"]),
    "seed": ([..., "--seed", "-5"], ["train.seed = -5", "at least 0"]),
    "save": ([..., "--save-every", "-5"], ["train.save_every = -5", "at least 0"]),
    "rope": ([..., "--set.model.rope_scaling", "3"], ["model.rope_scaling = 3", "yarn"]),
    "rope without a type": ([..., "--set.model.rope_scaling", "{ factor = 4.0 }"], ["model.rope_scaling", "rope_type"]),
    "odd heads": ([..., "--set.model.head_dim", "5"], ["model.head_dim = 5", "even"]),
    "norm": ([..., "--set.model.rms_norm_eps", "-1"], ["model.rms_norm_eps = -1.0", "above 0"]),
    "negative steps": ([..., "--max-steps", "-3"], ["train.max_steps = -3", "at least 0"]),
    "no vocabulary": ([..., "--set.model.vocab_size", "100"], ["6400", "100", "tokenizer"]),
    "no data": (["train", "pretrain", "tiny"], ["--data FILE"]),
    "no init": (["train", "sft", "tiny", "--data", "chats.jsonl"], ["--init MODEL_DIR"]),
    "no model to evaluate": (["eval", "generate"], ["model directory"]),
    "measurement": (["eval", "bbp", "MODEL"], ["bbp", "did you mean 'bpb'"]),
    "plan's recipe": (["plan", "laptpo"], ["laptpo", "did you mean 'laptop'"]),
    "plan's preset": (["plan", "tiny", "--set.preset", "tinny"], ["tinny", "did you mean 'tiny'"]),
    "plan's tokens": (["plan", "tiny", "--set.train.max_steps", "0"], ["--tokens N"]),
    "chat's device": (["chat", "MODEL", "--device", "gpu", "--prompt", "hi"], ["--device gpu", "cuda"]),
    "chat's length": (["chat", "MODEL", "--max-new-tokens", "0"], ["--max-new-tokens 0", "at least 1"]),
    "eval's length": (
        ["eval", "generate", "MODEL", "--prompts", "a", "--max-new-tokens", "0"],
        ["--max-new-tokens 0", "at least 1"],
    ),
    "chat's temperature": (["chat", "MODEL", "--prompt", "a", "--temperature", "-1"], ["temperature", "-1.0"]),
    "eval's data": (["eval", "bpb", "MODEL"], ["--data"]),
    "plan's stage": (["plan", "tiny", "--stage", "pretrian"], ["--stage pretrian", "did you mean 'pretrain'"]),
    "plan's price": (["plan", "tiny", "--price-per-hour", "-1"], ["--price-per-hour -1", "above 0"]),
    "demo's device": (["demo", "--device", "gpu"], ["device", "gpu", "cuda"]),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_mistakes(minimind, pretrain_flags, pretrained, here, case):
    argv, words = USAGE[case]
    (here / "PRETRAIN.toml").write_text('stage = "pretrain"', encoding="utf-8")
    if argv[0] is ...:
        argv = [*pretrain_flags, "--out", "run", *argv[1:]]
    before = state(here)
    refused(
        minimind(*(pretrained / "model" if a == "MODEL" else a for a in argv)),
        (1 if case == "no vocabulary" else 2),
        *words,
    )
    assert state(here) == before


def broken_model(kind: str, model: Path, folder: Path) -> Path:
    """A copy of `model` with one thing wrong."""
    copy = folder / "broken"
    shutil.copytree(model, copy)
    weights, config = copy / "model.safetensors", copy / "config.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    if kind == "no directory":
        shutil.rmtree(copy)
    elif kind == "empty directory":
        shutil.rmtree(copy)
        copy.mkdir()
    elif kind == "no weights":
        weights.unlink()
    elif kind == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "weights that are no weights":
        weights.write_bytes(b"not a safetensors file")
    elif kind == "other shape":
        config.write_text(json.dumps(settings | {"hidden_size": 96}), encoding="utf-8")
    elif kind == "more layers":
        layers = {"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}
        config.write_text(json.dumps(settings | layers), encoding="utf-8")
    elif kind == "config that is no JSON":
        config.write_text("{", encoding="utf-8")
    elif kind == "another architecture":
        config.write_text(json.dumps(settings | {"model_type": "bert"}), encoding="utf-8")
    elif kind == "no tokenizer":
        (copy / "tokenizer.json").unlink()
    elif kind == "tokenizer that is no JSON":
        (copy / "tokenizer.json").write_text("{", encoding="utf-8")
    elif kind == "tokenizer too large":
        path = copy / "tokenizer.json"
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        extra = tokenizer["added_tokens"][-1] | {"id": 6400, "content": "<one_more>"}
        tokenizer["added_tokens"].append(extra)
        path.write_text(json.dumps(tokenizer), encoding="utf-8")
    return copy


BAD_MODELS = {
    "no directory": ["config.json"],
    "empty directory": ["config.json"],
    "no weights": ["model.safetensors"],
    "cut weights": ["model.safetensors", "not a readable safetensors file"],
    "weights that are no weights": ["model.safetensors", "not a readable safetensors file"],
    "other shape": ["shape", "config.json"],
    "more layers": ["layers.2", "missing"],
    "config that is no JSON": ["config.json", "JSON"],
    "another architecture": ["config.json", "bert"],
    "no tokenizer": ["tokenizer.json"],
    "tokenizer that is no JSON": ["tokenizer.json"],
    "tokenizer too large": ["6401", "6400", "tokenizer"],
}


@pytest.mark.parametrize("kind", BAD_MODELS)
@pytest.mark.parametrize("command", ["chat", "eval bpb", "train sft"])
def test_a_directory_that_is_no_model(minimind, sft_flags, pretrained, world, here, kind, command):
    model = broken_model(kind, pretrained / "model", here)
    before = state(here)
    argv = {
        "chat": ["chat", model, "--prompt", "hi"],
        "eval bpb": ["eval", "bpb", model, "--data", world / "few_pretrain_valid.jsonl"],
        "train sft": [*sft_flags, "--init", model, "--out", "run"],
    }[command]
    words = BAD_MODELS[kind]
    if command == "train sft" and kind in ("no directory", "empty directory"):
        words = ["broken"]  # what is missed first there is the tokenizer
    refused(minimind(*argv), 1, *words)
    assert state(here) == before


@pytest.mark.parametrize("command", ["train", "demo", "data synth", "data prepare", "tokenizer train"])
def test_output_below_a_file(minimind, pretrain_flags, world, here, command):
    (here / "file").write_text("precious", encoding="utf-8")
    argv = {
        "train": pretrain_flags,
        "demo": ["demo", "--quick"],
        "data synth": ["data", "synth", "--size-mb", "0.3"],
        "data prepare": ["data", "prepare", "--data", world / "few_pretrain.jsonl"],
        "tokenizer train": ["tokenizer", "train", "--data", world / "few_pretrain.jsonl"],
    }[command]
    refused(minimind(*argv, "--out", "file/run"), 1, "file", "cannot be written", "another")
    refused(minimind(*argv, "--out", "file"), 1, "file", "cannot be written", "another")
    assert state(here) == {"file": b"precious"}


@pytest.mark.parametrize("place", ["file/result.svg", "folder.svg"])
@pytest.mark.parametrize(
    ("command", "work"), [("generate", "generate.answers"), ("tax", "tax.sweep"), ("length", "length.measure")]
)
def test_a_place_for_the_result_is_tried_before_the_work(
    minimind, pretrained, world, here, monkeypatch, command, work, place
):
    (here / "file").write_text("precious", encoding="utf-8")
    (here / "folder.svg").mkdir()
    (here / "folder.svg" / "precious").write_text("too", encoding="utf-8")
    before, model = state(here), pretrained / "model"

    def begun(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(f"minimind.eval.{work}", begun)
    argv = {
        "generate": ["eval", "generate", model, "--out", place],
        "tax": ["eval", "tax", model, model, "--data", world / "few_sft_valid.jsonl", "--limit", "2", "--out", place],
        "length": ["eval", "length", model, "--data", world / "few_pretrain_valid.jsonl", "--plot", place],
    }[command]
    refused(minimind(*argv), 1, place.split("/")[0])
    assert state(here) == before


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a folder that the user cannot write")
def test_output_in_a_read_only_folder(minimind, pretrain_flags, here):
    (here / "locked").mkdir(mode=0o500)
    refused(minimind(*pretrain_flags, "--out", "locked/run"), 1, "locked/run", "cannot be written", "another")


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files, which stands for a full disk")
@pytest.mark.parametrize(("room", "file"), [(10, "run"), (200, "metrics.jsonl"), (100_000, "step-00000020")])
def test_a_full_disk(minimind, pretrain_flags, pretrained, here, room, file):
    import resource

    run = here / "run"
    flags = [*pretrain_flags, "--max-steps", "40", "--save-every", "20", "--out", "run"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    room += (pretrained / "recipe.toml").stat().st_size if room > 10 else 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        ended = minimind(*flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(ended, 1, file, "be written (", "File too large")
    assert not (run / "model").exists()
    assert not list(run.glob("checkpoints/*"))
    assert minimind(*flags, "--max-steps", "2").code == 0, "with room it works"


def test_a_disk_that_fills_up_at_the_end(minimind, pretrain_flags, pretrained, here, monkeypatch):
    from minimind.tokenizer.bpe import Tokenizer

    def full(self, path):
        raise OSError(28, "No space left on device")

    run = shutil.copytree(pretrained, here / "run")
    monkeypatch.setattr(Tokenizer, "save", full)
    refused(minimind(*pretrain_flags, "--out", "run"), 1, "run", "No space left on device", "make room")
    assert (run / "checkpoints" / "step-00000008" / "complete").is_file(), "the same command goes on from here"


def test_a_log_that_is_none(minimind, pretrain_flags, pretrained, here):
    run = shutil.copytree(pretrained, here / "run")
    log = run / "metrics.jsonl"
    with log.open("ab") as file:
        file.write(b'{"step": 9, "loss": \xe4')  # cut short by a crash, inside a character
    assert minimind(*pretrain_flags, "--out", "run").code == 0
    assert log.read_bytes() == (pretrained / "metrics.jsonl").read_bytes()
    log.write_text('{"text": "mine"}\n', encoding="utf-8")
    refused(minimind(*pretrain_flags, "--out", "run"), 1, "metrics.jsonl", "another --out")
    assert log.read_text(encoding="utf-8") == '{"text": "mine"}\n'


def test_an_error_leaves_an_earlier_run_as_it_was(minimind, pretrain_flags, pretrained, here):
    run = shutil.copytree(pretrained, here / "run")
    before = state(run)
    (here / "bad.jsonl").write_text("{", encoding="utf-8")
    flags = [*pretrain_flags, "--out", "run"]
    refused(minimind(*without(flags, "--data"), "--data", "bad.jsonl"), 1, "bad.jsonl")
    again = ["may not change", "another --out", "--resume never"]
    for change in (
        ("--set.model.hidden_size", "96", "unset"),
        ("--set.optim.matrices", "adamw", "muon"),
        ("--set.optim.embedding_lr", "6.0", "4.0"),
        ("--set.optim.embedding_decay", "1.5", "0.0"),
        ("--seed", "7", "42"),
        ("--set.data.sequence_length", "32", "64"),
        ("--set.train.tokens_per_step", "512", "256"),
    ):
        flag, new, old = change
        name = flag.removeprefix("--set.").replace("--seed", "train.seed")
        refused(minimind(*flags, flag, new), 1, str(Path("run/checkpoints")), name, old, new, *again)
    (here / "other.jsonl").write_text('{"text": "Other words."}\n', encoding="utf-8")
    refused(
        minimind(*without(flags, "--data"), "--data", "other.jsonl"),
        1,
        "other data",
        "pretrain.jsonl'] → ['other.jsonl']",
    )
    assert state(run) == before


def test_a_run_goes_on_only_from_the_weights_that_it_started_from(minimind, sft_flags, pretrained, tuned, here):
    run, moved = shutil.copytree(tuned, here / "run"), shutil.copytree(pretrained / "model", here / "moved")
    flags = [*sft_flags, "--init", moved, "--out", "run"]
    assert minimind(*flags).code == 0
    before = state(run)
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (moved / "model.safetensors").write_bytes(weights)
    refused(minimind(*flags), 1, str(moved), "other weights", "another --out", "--resume never")
    assert state(run) == before


def test_a_conversation_too_long_for_the_row(minimind, sft_flags, pretrained, here):
    (here / "long.jsonl").write_text(CHAT.replace("hi", "hi " * 600) + "\n", encoding="utf-8")
    flags = [*without(sft_flags, "--data"), "--init", pretrained / "model", "--data", "long.jsonl", "--out", "run"]
    refused(minimind(*flags), 1, "long.jsonl", "1 conversations do not fit")
    with (here / "long.jsonl").open("a", encoding="utf-8") as file:
        file.write(CHAT + "\n")
    ended = minimind(*flags)
    assert ended.code == 0, ended.err
    assert "1 did not fit and were left out" in " ".join(ended.err.split())


def test_a_question_too_long_for_the_model(minimind, tuned, here):
    refused(minimind("chat", tuned / "model", "--prompt", "hi " * 3000), 2, "2048", "shorten the prompt")
    flags = ["--prompt", "hi " * 300, "--context", "256"]
    refused(minimind("chat", tuned / "model", *flags), 2, "the context is 256")


def test_a_context_that_memory_has_no_room_for(minimind, tuned, monkeypatch):
    zeros = torch.zeros

    def refusing(shape, **options):
        if isinstance(shape, tuple) and len(shape) == 5:  # that of the cache
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:130] DefaultCPUAllocator: can't allocate memory")
        return zeros(shape, **options)

    monkeypatch.setattr(torch, "zeros", refusing)
    refused(minimind("chat", tuned / "model", "--prompt", "hi"), 1, "GiB", "shorter context")


@pytest.mark.parametrize(
    ("field", "value"),
    [("pad_token_id", -3), ("rope_scaling", '{rope_type="yarn",factor="4"}')],
)
def test_a_shape_that_could_not_be_read_again_is_not_trained(minimind, pretrain_flags, here, field, value):
    refused(minimind(*pretrain_flags, "--out", "run", f"--set.model.{field}", value), 1, field)


def test_a_demo_of_the_other_size(minimind, here):
    (here / "runs" / "demo").mkdir(parents=True)
    (here / "runs" / "demo" / "demo.json").write_text('{"quick": false}', encoding="utf-8")
    before = state(here)
    refused(minimind("demo", "--quick"), 1, str(Path("runs/demo")), "--fresh", "--out")
    assert state(here) == before


@pytest.mark.parametrize(
    "extra", [["--preset", "laptop"], ["--tokenizer", "default"], ["--set.model.num_hidden_layers", "3"]]
)
def test_what_the_initial_model_decides_cannot_be_asked_for(minimind, sft_flags, pretrained, here, extra):
    ended = minimind(*sft_flags, "--init", pretrained / "model", "--out", "run", *extra)
    assert ended.code == 2
    assert extra[0] in ended.err
    assert "--init" in ended.err
    assert not (here / "run").exists()


def test_ranks_without_torchrun(minimind, pretrain_flags, here, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    monkeypatch.setenv("RANK", "0")
    refused(minimind(*pretrain_flags, "--out", "run"), 2, "torchrun", "MASTER_ADDR")
    assert not (here / "run").exists()
