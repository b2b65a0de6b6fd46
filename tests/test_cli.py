import json
import subprocess
import sys

import pytest

from minimind import cli
from minimind.commands.arguments import split_settings
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
