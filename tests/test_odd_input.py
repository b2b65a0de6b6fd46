"""Input that is legal and odd, in every place where it can come in: none of it ends a command."""

import json
import os
import subprocess
import sys
from shlex import quote

import pytest
from flags import without

HALF = '{"text": "half \\ud83d here"}\n{"text": "some more words"}\n'
CHAT = '{"messages": [{"role": "user", "content": "half \\ud83d"}, {"role": "assistant", "content": "so \\ude42"}]}\n'
PAIR = (
    '{"chosen": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "a"}],'
    ' "rejected": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "b \\ude42"}]}\n'
)
ODD_NAMES = ["out [/run]", "我的 数据 [v1]", "exp:v:1", "a[bold]b"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in {"text": HALF, "chat": CHAT * 3, "pair": PAIR}.items():
        (tmp_path / f"{name}.jsonl").write_text(content, encoding="utf-8")
    return tmp_path


def process(*argv, stdin=b"", **environment):
    """The command in a process of its own, whose standard streams are real ones."""
    own = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    own = {name: value for name, value in own.items() if value is not None}
    command = [sys.executable, "-m", "minimind", *map(str, argv)]
    return subprocess.run(command, input=stdin, capture_output=True, env=own)


# Text that a strict codec refuses

COMMANDS = {
    "stats": ["data", "stats", "--data", "text.jsonl"],
    "stats of chats": ["data", "stats", "--data", "chat.jsonl"],
    "prepare": ["data", "prepare", "--data", "text.jsonl", "--out", "shards"],
    "prepare chats": ["data", "prepare", "--data", "chat.jsonl", "--kind", "sft", "--out", "shards"],
    "prepare pairs": ["data", "prepare", "--data", "pair.jsonl", "--kind", "dpo", "--out", "shards"],
    "tokenizer": ["tokenizer", "report", "--tokenizer", "default", "--data", "text.jsonl"],
    "bpb": ["eval", "bpb", "MODEL", "--data", "text.jsonl"],
    "answers": ["data", "answers", "--data", "chat.jsonl", "--teacher", "MODEL", "--out", "o", "--max-new-tokens", "4"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_half_a_surrogate_pair_is_replaced_counted_and_said(minimind, tuned, here, name):
    argv = [str(tuned / "model") if part == "MODEL" else part for part in COMMANDS[name]]
    ended = minimind(*argv)
    assert ended.code == 0, ended.err
    if name.startswith("stats"):
        assert json.loads(minimind(*argv, "--json").out)["mended_lines"] == (3 if "chats" in name else 1)
    elif name != "tokenizer":
        assert "hold half a surrogate pair" in ended.err
    if name == "bpb":
        figures = json.loads(minimind(*argv, "--json").out)
        assert figures["bytes"] == len("half \ufffd heresome more words".encode())


def test_training_on_it(minimind, pretrain_flags, here):
    ended = minimind(*without(pretrain_flags, "--data"), "--data", "text.jsonl", "--max-steps", "1", "--out", "run")
    assert ended.code == 0, ended.err
    assert "1 lines hold half a surrogate pair" in ended.err


LOCALES = {"UTF-8": {"LC_ALL": "C.UTF-8"}, "C": {"LC_ALL": "C"}, "GBK": {"PYTHONIOENCODING": "gbk"}}


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("bytes", [b"\xc4\xe3", b"\xff\xfe\x80", b"\xed\xa0\xbd"])
def test_any_bytes_may_be_piped_into_a_chat(tuned, locale, bytes):
    argv = ("chat", tuned / "model", "--device", "cpu", "--max-new-tokens", "4")
    ended = process(*argv, stdin=b"hello\n" + bytes + b"\nbye\n", **LOCALES[locale])
    assert ended.returncode == 0, ended.stderr.decode()
    assert len(ended.stdout.decode("utf-8").split("\n")) >= 4, "three answers"
    readable = locale == "GBK" and bytes == b"\xc4\xe3"
    assert (b"line 2 of the input is not" in ended.stderr) == (not readable), ended.stderr.decode()


def test_a_conversation_with_odd_text_is_saved_and_loaded(tuned, here):
    odd = b"\xc4\xe3"
    argv = [os.fsencode(part) for part in ("chat", tuned / "model", "--device", "cpu", "--max-new-tokens", "4")]
    own = os.environ | {"LC_ALL": "C.UTF-8"}
    command = [os.fsencode(sys.executable), b"-m", b"minimind", *argv, b"--system", odd, b"--prompt", odd]
    ended = subprocess.run(command, capture_output=True, env=own)
    assert ended.returncode == 0, ended.stderr.decode()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_file_name_that_is_no_utf8(pretrain_flags, here):
    name = os.fsdecode(b"\xc4\xe3.jsonl")
    os.link("text.jsonl", name)
    flags = [*without(pretrain_flags, "--data"), "--data", name, "--max-steps", "1", "--out", "run"]
    ended = process(*flags)
    assert ended.returncode == 0, ended.stderr.decode()
    assert (here / "run" / "recipe.toml").read_text(encoding="utf-8")


# Text that would be markup


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_shown_as_they_are(minimind, pretrain_flags, here, name):
    (here / name).mkdir(parents=True)
    (here / name / "data.jsonl").write_text('{"text": "some words"}\n' * 9, encoding="utf-8")
    flags = [*without(pretrain_flags, "--data"), "--data", f"{name}/data.jsonl".replace("[", "[[]"), "--max-steps", "1"]
    ended = minimind(*flags, "--out", f"{name}/run")
    assert ended.code == 0, ended.err
    assert f"Done: {name}/run/model\n" in ended.err
    assert "minimind chat " + quote(f"{name}/run/model") in ended.err
    ended = minimind("data", "stats", "--data", f"{name}/data.jsonl".replace("[", "[[]"))
    assert ended.out.startswith(f"{name}/data.jsonl".replace("[", "[[]"))
    ended = minimind("eval", "bpb", f"{name}/run/model", "--data", "text.jsonl", "--device", "cpu")
    assert ended.out.startswith(f"{name}/run/model\n")
    ended = minimind("eval", "bpb", name, "--data", "text.jsonl")
    assert (ended.code, name in ended.err) == (1, True)


def test_lines_into_a_pipe_are_not_broken(minimind, pretrain_flags, here):
    long = "a" * 60 + "/" + "b" * 60
    ended = minimind(*without(pretrain_flags, "--data"), "--data", "text.jsonl", "--max-steps", "1", "--out", long)
    assert f"Done: {long}/model\n" in ended.err
    shown = minimind("eval", "bpb", f"{long}/model", "--data", "text.jsonl")
    assert f"{long}/model\n" in shown.out


@pytest.mark.parametrize("name", ["a[/b]", "exp:v:1", "[red]x"])
def test_a_served_model_may_have_any_name(tuned, name):
    from minimind import console

    console.say(console.bold(name), " is being loaded.")
    with console.progress(name, 3) as bar:
        bar.advance(1, name)


# Whether a flag was given


def test_a_repeated_list_flag_joins(minimind, pretrain_flags, here):
    (here / "b.jsonl").write_text('{"text": "other words"}\n', encoding="utf-8")
    both = json.loads(minimind("data", "stats", "--data", "text.jsonl", "--data=b.jsonl", "--json").out)
    assert both["documents"] == 3
    kept = [*without(pretrain_flags, "--data"), "--max-steps", "1", "--out", "run"]
    ended = minimind("train", "pretrain", "tiny", "--data", "text.jsonl", *kept[3:], "--data", "b.jsonl")
    assert "3 documents" in ended.err


def test_a_repeated_prompt_joins(minimind, tuned):
    texts = json.loads(
        minimind(
            *("eval", "generate", tuned / "model", "--prompts", "One", "--max-new-tokens", "2", "--device", "cpu"),
            *("--prompts", "Two", "Three", "--json"),
        ).out
    )["texts"]
    assert [one["prompt"] for one in texts] == ["One", "Two", "Three"]


def test_zero_is_a_value(minimind, pretrain_flags, here):
    kept = without(pretrain_flags, "--data", "--save-every", "--max-steps")
    argv = [*kept, "--data", "text.jsonl", "--save-every", "0", "--max-steps", "0", "--set.train.epochs", "3"]
    assert minimind(*argv, "--seed", "0", "--max-minutes", "0", "--out", "run").code == 0
    saved = (here / "run" / "recipe.toml").read_text(encoding="utf-8")
    for line in ("save_every = 0\n", "max_steps = 0\n", "seed = 0\n", "max_minutes = 0.0\n"):
        assert line in saved
    ended = minimind("chat", "MODEL", "--prompt", "")
    assert (ended.code, "--prompt is empty" in ended.err) == (2, True)
    ended = minimind("plan", "tiny", "--tokens", "0")
    assert (ended.code, "must be above 0" in ended.err) == (2, True)


# Whom it runs for


def test_the_reader_of_the_output_may_leave(tuned):
    for argv in (["--help"], ["train", "--help"], ["train", "pretrain", "--help"], ["completion", "bash"]):
        command = [sys.executable, "-m", "minimind", *argv]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        writer.stdout.read(1)
        writer.stdout.close()
        assert writer.stderr.read() == b""
        assert writer.wait() in (0, 141)


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="only root can become nobody")
def test_a_user_without_a_home_directory():
    """As containers start programs: `docker run --user 12345`."""
    script = (
        "import os; from minimind import runtime; os.setgid(12345); os.setuid(12345); "
        "print(runtime.cache_dir()); runtime.cache_dir().mkdir(exist_ok=True)"
    )
    unset = ("HOME", "MINIMIND_CACHE", "LOGNAME", "USER", "LNAME", "USERNAME")
    own = {name: value for name, value in os.environ.items() if name not in unset}
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=own)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split("\n")[0].endswith("minimind-12345")
