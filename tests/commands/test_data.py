import json
import os
import sys

import pytest

from minimind.cli import main
from minimind.commands.arguments import split_settings
from minimind.data.shards import RENDERING, Shards
from minimind.recipe import Recipe, find, load


def run(capsys, *argv):
    code = main(["data", *map(str, argv)])
    return code, capsys.readouterr()


def last_json(output):
    return json.loads(output.out.splitlines()[-1])


def test_synth_prepare_stats(capsys, tmp_path):
    code, output = run(capsys, "synth", "--out", tmp_path / "world", "--size-mb", "0.3", "--seed", "1", "--json")
    assert code == 0
    files = last_json(output)["files"]
    for name, one in files.items():
        assert (tmp_path / "world" / name).stat().st_size == one["bytes"]

    text = tmp_path / "world" / "pretrain.jsonl"
    code, output = run(capsys, "prepare", "--data", text, "--out", tmp_path / "shards", "--json")
    assert code == 0
    prepared = last_json(output)
    assert prepared["documents"] == files["pretrain.jsonl"]["rows"]
    assert {"documents", "tokens", "bytes", "seconds", "bad_lines"} <= set(prepared)
    assert Shards.open(tmp_path / "shards").tokens == prepared["tokens"]

    valid = tmp_path / "world" / "pretrain_valid.jsonl"
    code, output = run(capsys, "stats", "--data", text, "--against", valid, "--json")
    assert code == 0
    assert last_json(output)["tokens"] == prepared["tokens"]
    assert str(valid) in last_json(output)["contamination"]


def test_tables_for_people(capsys, tmp_path):
    (tmp_path / "c.jsonl").write_text('{"text": "some words"}\n')
    for argv in (["stats"], ["prepare", "--out", tmp_path / "shards"]):
        code, output = run(capsys, *argv, "--data", tmp_path / "c.jsonl")
        assert code == 0
        assert "documents" in output.out


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_the_training_that_is_advised_takes_the_shards(capsys, tmp_path, kind):
    asked, said = {"role": "user", "content": "hi"}, [{"role": "assistant", "content": word} for word in ("yes", "no")]
    pair = {"conversations": [asked, said[0]], "chosen": [asked, said[0]], "rejected": [asked, said[1]]}
    (tmp_path / "c.jsonl").write_text(json.dumps(pair) + "\n")
    flags = ["--too-long", "skip", "--drop-empty-think", "0.1"]
    code, output = run(
        capsys, "prepare", "--kind", kind, "--data", tmp_path / "c.jsonl", "--out", tmp_path / "out", *flags
    )
    advised = "".join(output.err.partition("minimind train")[2].splitlines())
    _, settings = split_settings(advised.split())
    data = vars(load(Recipe, find("laptop", kind), settings).data)
    options = Shards.open(tmp_path / "out").manifest["options"]
    assert code == 0
    assert {name: data[name] for name in RENDERING} == {name: options[name] for name in RENDERING}


@pytest.mark.parametrize("command", ["synth", "download", "prepare", "stats"])
def test_help_has_an_example(capsys, command):
    code, output = run(capsys, command, "--help")
    assert code == 0
    assert f"minimind data {command} --" in output.out


@pytest.mark.parametrize(
    ("argv", "code", "what"),
    [
        (["prepare", "--data", "none.jsonl", "--out", "x"], 1, "none.jsonl: there is no such file"),
        (["prepare", "--data", "none.jsonl", "--out", "x", "--tokenizer", "none"], 1, "no tokenizer.json"),
        (["prepare", "--out", "x"], 2, "--data"),
        (["stats", "--data", "none.jsonl"], 1, "none.jsonl: there is no such file"),
        (["download", "--name", "mimi"], 2, "did you mean 'mini'"),
        (["prepair"], 2, "did you mean 'prepare'"),
    ],
)
def test_mistakes_are_one_sentence(capsys, argv, code, what):
    result, output = run(capsys, *argv)
    assert result == code
    assert what in output.err
    assert "Traceback" not in output.err


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a folder that the user cannot write")
def test_read_only_output(capsys, tmp_path):
    (tmp_path / "c.jsonl").write_text('{"text": "some words"}\n')
    (tmp_path / "locked").mkdir(mode=0o500)
    code, output = run(capsys, "prepare", "--data", tmp_path / "c.jsonl", "--out", tmp_path / "locked" / "out")
    assert code == 1
    assert "cannot be written" in output.err
