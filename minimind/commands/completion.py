"""`minimind completion SHELL`: TAB completes commands, stages, recipes, flags, their values and settings.

The script that a shell reads asks `minimind completion words ...` at each TAB. What may follow is read off the help
pages, so that there is no second list of flags which could be forgotten.
"""

import contextlib
import io
import re
import typing
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import tyro

from minimind import recipe
from minimind.commands import COMMANDS, main_of
from minimind.commands.arguments import FLAG, call
from minimind.config import PRESETS, ModelConfig

# COLUMNS keeps a help page from being broken into lines; where nothing fits, each shell offers files.
SCRIPTS = {
    "bash": r"""
_minimind() {
    local IFS=$'\n'
    COMPREPLY=($(COLUMNS=1000 minimind completion words "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o bashdefault -o default -F _minimind minimind
""",
    "zsh": r"""
_minimind() {
    local -a found
    found=(${(f)"$(COLUMNS=1000 minimind completion words "${(@)words[2,CURRENT]}" 2>/dev/null)"})
    if (( $#found )); then compadd -a found; else _files; fi
}
compdef _minimind minimind
""",
    "fish": r"""
function __minimind
    set -l before (commandline -opc)
    COLUMNS=1000 minimind completion words $before[2..] (commandline -ct | string collect --allow-empty) 2>/dev/null
end
complete -c minimind -a '(__minimind)'
""",
}
VALUES = {"--device": ("auto", "cpu", "cuda", "mps"), "--preset": tuple(PRESETS), "--resume": ("auto", "never")}
"""Choices that a help page spells out in words."""


def main(argv: list[str]) -> int:
    """Print a script, or answer it."""
    if argv[:1] == ["words"]:
        print("\n".join(candidates(argv[1:])))
        return 0
    return call(completion, argv, "minimind completion")


def completion(shell: tyro.conf.Positional[Literal["bash", "zsh", "fish"]]) -> None:
    """Print the script that makes TAB complete commands, recipes, flags and their values.

    Examples:
        echo 'eval "$(minimind completion bash)"' >> ~/.bashrc
        echo 'eval "$(minimind completion zsh)"' >> ~/.zshrc       (below compinit)
        minimind completion fish > ~/.config/fish/completions/minimind.fish

    Args:
        shell: bash, zsh or fish.
    """
    print(SCRIPTS[shell].strip())


def candidates(words: list[str]) -> list[str]:
    """What the last of `words`, unfinished or empty, may become; nothing where a file is wanted."""
    *before, start = words or [""]
    return [word for word in _possible(before, start) if word.startswith(start)]


def _possible(before: list[str], start: str) -> list[str]:
    if not before:
        return [*COMMANDS, "--help", "--version"]
    if before[0] not in COMMANDS:
        return []
    page = _help(before[:1])
    names = re.findall(r"^  ([a-z][\w-]*)  ", page, re.MULTILINE)
    if names and len(before) == 1:
        return [*names, "--help"]
    if names:
        if before[1] not in names:
            return []
        page = _help(before[:2])
    flags = dict(FLAG.findall(page))
    if flags.get(before[-1]):  # a flag that waits for its value
        return list(VALUES.get(before[-1], _listed(flags[before[-1]])))
    settings = _settings() if "--set." in page else {}
    if before[-1] in settings:
        return [str(value) for value in typing.get_args(settings[before[-1]]) if isinstance(value, str)]
    if start.startswith("-"):
        return [*flags, *settings]
    if "RECIPE" in page.split("\n")[0]:
        stage = before[1] if before[0] == "train" else "pretrain"
        return recipe.known(stage)
    return _listed(page.split("\n")[0].rsplit(" ", 1)[-1])


def _help(command: list[str]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as page:
        main_of(command[0])([*command[1:], "--help"])
    return page.getvalue()


def _listed(choices: str) -> list[str]:
    """`{a,b}` as a help page writes it."""
    return choices.strip("{}").split(",") if choices.startswith("{") and "|" not in choices else []


def _settings() -> dict[str, Any]:
    """Every field of a recipe as the flag that changes it, with its type."""
    found: dict[str, Any] = {}
    for name, kind in typing.get_type_hints(recipe.Recipe).items():
        inner = {"model": ModelConfig}.get(name, kind)
        if is_dataclass(inner):
            hints = typing.get_type_hints(inner)
            found |= {f"--set.{name}.{field.name}": hints[field.name] for field in fields(inner)}
        else:
            found[f"--set.{name}"] = kind
    return found
