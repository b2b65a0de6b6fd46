import io
import json
import os
import subprocess
import sys

import pytest

from minimind import cli
from minimind.commands.arguments import Text, call, split_settings
from minimind.errors import UsageError


def run(*argv):
    return subprocess.run([sys.executable, "-m", "minimind", *argv], capture_output=True, text=True, encoding="utf-8")


def test_help_lists_the_commands(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert command in capsys.readouterr().out


def test_a_mistyped_command_is_a_usage_error(capsys):
    assert cli.main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


def test_a_mistyped_flag_is_a_usage_error_in_one_sentence():
    result = run("plan", "laptop", "--tokns", "3")
    assert result.returncode == 2
    assert "--tokns" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("eval bpb m --dat x.jsonl", "no flag --dat; did you mean '--data'?"),
        ("chat --temprature 0.5 m", "no flag --temprature; did you mean '--temperature'?"),
        ("train sft --inti m tiny", "no flag --inti; did you mean '--init'?"),
        ("eval bpb m x.jsonl", "missing: --data; not understood: x.jsonl"),
        ("train pretrain tiny --max-minutes 1m", "'1m' is no number"),
        ("chat m --seed one", "'one' is no whole number"),
        ("bench generate --batches", "--batches needs a value"),
        ("tokenizer report --tokenizer --data a", "--tokenizer needs a value"),
        ("serve m --grace inf", "--grace inf: must be at least 0 and below 2**31"),
        ("tokenizer train --data a --out b --max-token-bytes 4294967296", "must be at least 1 and below 2**31"),
    ],
)
def test_the_flag_that_is_wrong_is_named(words, told, capsys):
    assert cli.main(words.split()) == 2
    assert told in capsys.readouterr().err


def test_the_word_none_is_a_text_like_any_other():
    given = []

    def command(prompt: Text = "x") -> None:
        given.append(prompt)

    call(command, ["--prompt", "None"], "command")
    call(command, [], "command")
    assert given == ["None", "x"]


@pytest.mark.skipif(sys.platform == "win32", reason="another shell")
@pytest.mark.parametrize(("shell", "code"), [("| head -1", 0), (">&-", 0), ("<&-", 0)])
def test_a_stream_that_is_closed_is_no_failure(shell, code):
    plan = f"{sys.executable} -m minimind plan laptop --tokens 1e6 {shell}"
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {plan}"], capture_output=True, encoding="utf-8")
    assert "Traceback" not in ended.stderr
    assert ended.returncode == code, ended.stderr


def test_an_error_that_nobody_reads_is_still_an_error(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        assert cli.main(["trian"]) == 2


def test_plan_prints_json():
    result = run(
        "plan", "laptop", "--tokens", "1e6", "--tokens-per-second", "1000", "--price-per-hour", "3.6", "--json"
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout.splitlines()[-1])
    assert figures["parameters"] == 6_066_176
    assert figures["seconds"] == 1000
    assert figures["price"] == 1.0


def test_importing_the_package_does_not_import_torch():
    code = "import sys, minimind, minimind.cli, minimind.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_settings_are_taken_out_of_the_arguments():
    rest, settings = split_settings(["laptop", "--set.optim.lr", "1e-3", "--set.train.compile=never", "--json"])
    assert rest == ["laptop", "--json"]
    assert settings == {"optim.lr": 1e-3, "train.compile": "never"}
    with pytest.raises(UsageError, match="needs a value"):
        split_settings(["--set.optim.lr"])


@pytest.mark.parametrize("command", [["demo"], ["bench", "train"]])
def test_what_is_one_process_refuses_torchrun(minimind, monkeypatch, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("minimind.runtime.world_size", lambda: 2)
    ended = minimind(*command)
    assert (ended.code, "torchrun is for minimind train" in " ".join(ended.err.split())) == (2, True)
    assert not list(tmp_path.iterdir())
