"""TAB: what is offered at each place of a command line, and the script in a real bash."""

import shlex
import shutil
import subprocess
import sys

import pytest

from minimind.commands import COMMANDS
from minimind.commands.completion import SCRIPTS, candidates
from minimind.recipe import find, known

OFFERED = {
    "tra": ["train"],
    "train pre": ["pretrain"],
    "train pretrain lap": ["laptop"],
    "train sft minimind-3/sft-source-m": ["minimind-3/sft-source-mini"],
    "train pretrain laptop --dev": ["--device"],
    "train pretrain laptop --device ": ["auto", "cpu", "cuda", "mps"],
    "train pretrain laptop --json --max-st": ["--max-steps"],
    "train pretrain laptop --set.train.compile n": ["never"],
    "train pretrain laptop --set.optim.mom": ["--set.optim.momentum"],
    "train pretrain laptop --set.model.num_exp": ["--set.model.num_experts", "--set.model.num_experts_per_tok"],
    "train pretrain laptop --data ": [],  # a file: the shell's own
    "plan lap": ["laptop"],
    "export gg": ["gguf"],
    "export hf model out --dtype b": ["bfloat16"],
    "completion f": ["fish"],
    "chat ": [],
    "no-such-command ": [],
    "train no-such-stage ": [],
}


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")


@pytest.mark.parametrize("line", OFFERED)
def test_what_is_offered(line):
    assert candidates(line.split(" ")) == OFFERED[line]


def test_every_command_offers_its_flags_or_its_parts():
    assert set(COMMANDS) <= set(candidates([""]))
    for command in COMMANDS:
        parts = [part for part in candidates([command, ""]) if part.isalpha()]
        for words in [[command, part] for part in parts] if command in ("export", "eval", "train") else [[command]]:
            assert "--help" in candidates([*words, "--"]), words


def test_every_recipe_that_is_offered_is_there():
    for stage in ("pretrain", "sft"):
        assert known(stage)
        assert all(find(name, stage).is_file() for name in known(stage))


@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("bash"), reason="needs bash")
def test_bash_completes(tmp_path):
    script = f"""
        minimind() {{ {shlex.quote(sys.executable)} -m minimind "$@"; }}
        eval "$(minimind completion bash)"
        complete -p minimind
        COMP_WORDS=(minimind train sft lap) COMP_CWORD=3
        _minimind
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, encoding="utf-8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["complete -o bashdefault -o default -F _minimind minimind", "laptop"]


@pytest.mark.parametrize("shell", SCRIPTS)
def test_every_shell_has_a_script_that_asks(minimind, shell):
    ended = minimind("completion", shell)
    assert ended.code == 0
    assert "minimind completion words" in ended.out


def test_another_shell_is_a_usage_error(minimind):
    ended = minimind("completion", "tcsh")
    assert ended.code == 2
    assert "bash" in ended.err
