"""Reading command lines: `tyro` turns a function's annotated parameters into flags."""

import contextlib
import functools
import inspect
import io
import re
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import tyro

from minimind import limits
from minimind.errors import UsageError, did_you_mean, optional
from minimind.recipe import parse_value


@dataclass(frozen=True)
class RopeFlags:
    """The flags of commands that may stretch a model's context."""

    rope_scaling: Literal["model", "none", "yarn"] = "model"
    """positions as the model says, without any stretching, or stretched by YaRN to a longer context."""
    factor: float = 16.0
    """with --rope-scaling yarn: how many times longer the context becomes."""
    original_context: int = 0
    """with --rope-scaling yarn: tokens that the model has learned at a time; 0: 2,048, or its context if shorter."""

    def scaling(self, model: str | Path) -> dict[str, Any] | None:
        """The `rope_scaling` for a model directory: None leaves the model's own, `{}` is none.

        Raises:
            UserError: no model directory; a factor or a context that cannot be.
        """
        if self.rope_scaling != "yarn":
            if self != RopeFlags(self.rope_scaling):
                raise UsageError("--factor and --original-context need --rope-scaling yarn beside them")
            return {} if self.rope_scaling == "none" else None
        from minimind.model.rope import yarn
        from minimind.model.store import load_config

        if not 1 <= self.factor <= MAX_STRETCHED:
            raise UsageError(f"--factor {self.factor:g}: must be from 1 to {MAX_STRETCHED:,}")
        if self.original_context:
            at_least(8, original_context=self.original_context)
        return yarn(load_config(model), self.factor, self.original_context)


# What several commands have, with the line of their help pages about it.
Model = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL", help="model directory.")]]
ModelPath = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="MODEL", help="model directory.")]]
Device = Annotated[str, tyro.conf.arg(help="auto, cpu, cuda or mps.")]
Json = Annotated[bool, tyro.conf.arg(help="print one line of JSON instead of a table.")]
_BAD_LINE = tyro.conf.arg(help="stop (default) at a malformed line, or skip it and count.")
OnBadLine = Annotated[Literal["stop", "skip"], _BAD_LINE]
FLAG = re.compile(r"^\W{1,4}(?:-\w, )?(--[a-z][\w-]*)(?: (\S+))?", re.MULTILINE)
"""A line of a help page that describes a flag, with what its value looks like, if it takes one."""


def _read_as(kind: type, words: str, metavar: str) -> tyro.constructors.PrimitiveConstructorSpec[Any]:
    """One value of a kind; tyro itself would take the word None for no value."""

    def read(given: list[str]) -> Any:
        try:
            return kind(given[0])
        except ValueError:
            raise ValueError(f"{given[0]!r} is no {words}") from None

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


# Flags that may be absent: None is not given, and 0 or an empty text is a value like any other.
_HINT = {"help_behavior_hint": ""}
Integer = Annotated[int | None, _read_as(int, "whole number", "INT"), tyro.conf.arg(**_HINT)]
Number = Annotated[float | None, _read_as(float, "number", "FLOAT"), tyro.conf.arg(**_HINT)]
Text = Annotated[str | None, _read_as(str, "text", "STR"), tyro.conf.arg(**_HINT)]
Texts = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[STR [STR ...]]", **_HINT)]
Rope = Annotated[RopeFlags, tyro.conf.arg(name="")]
AS_THE_MODEL = RopeFlags()
MAX_STRETCHED = 1024


def call(function: Callable[..., int | None], argv: Sequence[str], prog: str) -> int:
    """Call `function` with the flags in `argv`, and return its exit code (None: 0).

    Its docstring and parameters are the `--help` page.

    Raises:
        UsageError: flags that the function does not have, or of the wrong type.
    """
    hints = typing.get_type_hints(function, include_extras=True)
    read = functools.partial(
        tyro.cli,
        _deferred(function),
        prog=prog,
        description=(inspect.getdoc(function) or "").split("\nArgs:")[0],
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    with contextlib.redirect_stderr(io.StringIO()) as complaint:
        try:
            ready = read(args=_joined(argv, _lists(function)))
        except SystemExit as stop:
            if stop.code in (0, None):
                return 0
            with contextlib.redirect_stdout(io.StringIO()) as page, contextlib.suppress(SystemExit):
                read(args=["--help"])
            wrong = _unknown(argv, page.getvalue()) or _plain(complaint.getvalue())
            raise UsageError(f"{wrong} (see {prog} --help)") from None
    for item in argv:
        name = item.removeprefix("--").replace("-", "_")
        if item.startswith("--") and ready.keywords.get(name) in ((), []) and hints.get(name) != Texts:
            raise UsageError(f"{item} needs a value (see {prog} --help)")
    return ready() or 0


def _unknown(argv: Sequence[str], page: str) -> str:
    """The first flag that is not on the help page: tyro may complain of what is missing instead."""
    known = [flag for flag, _ in FLAG.findall(page)]
    for item in argv[: argv.index("--") if "--" in argv else None]:
        flag = item.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and flag not in known:
            return f"no flag {flag}{did_you_mean(flag, known)}"
    return ""


def call_one_of(functions: Sequence[Callable[..., int | None]], argv: Sequence[str], prog: str) -> int:
    """Call the function that `argv` begins with the name of."""
    commands = {function.__name__.replace("_", "-"): function for function in functions}
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {prog} {{{','.join(commands)}}} [options]\n")
        for name, function in commands.items():
            print(f"  {name:<10} {(function.__doc__ or '').strip().splitlines()[0]}")
        print(f"\n{prog} NAME --help says more.")
        return 0 if argv else 2
    if argv[0] not in commands:
        raise UsageError(f"{prog}: no {argv[0]!r}{did_you_mean(argv[0], commands)}")
    return call(commands[argv[0]], argv[1:], f"{prog} {argv[0]}")


def split_settings(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take `--set.section.field VALUE` (or `=VALUE`) out of `argv`; values are read as in TOML.

    Raises:
        UsageError: a setting without a value.
    """
    rest, settings = [], {}
    items = iter(argv)
    for item in items:
        if not item.startswith("--set."):
            rest.append(item)
            continue
        name, equals, value = item.removeprefix("--set.").partition("=")
        if not equals:
            following = next(items, None)
            if following is None:
                raise UsageError(f"{item} needs a value, as in {item} 0.001")
            value = following
        settings[name.replace("-", "_")] = parse_value(value)
    return rest, settings


def _lists(function: Callable[..., Any]) -> set[str]:
    """The flags of a function that take several values."""
    found = set()
    for name, hint in typing.get_type_hints(function).items():
        kinds = [hint, *typing.get_args(hint)]  # the list itself, or `list | None`
        if name != "return" and any(typing.get_origin(kind) in (list, tuple) for kind in kinds):
            found.add(f"--{name.replace('_', '-')}")
    return found


def _joined(argv: Sequence[str], lists: set[str]) -> list[str]:
    """A list flag that is given several times means all of its values; the parser would keep the last ones alone."""
    parts: list[list[str]] = [[]]
    first: dict[str, list[str]] = {}
    for item in argv:
        if item == "--" or not item.startswith("--"):
            parts[-1].append(item)
            continue
        flag, equals, value = item.partition("=")
        flag = flag.replace("_", "-")
        if flag not in lists:
            parts.append([item])
            continue
        part = first.setdefault(flag, [flag])
        part += [value] if equals else []
        parts.append(part)
    kept = {id(part): part for part in parts}  # each at its first place
    return [item for part in kept.values() for item in part]


def _deferred(function: Callable[..., int | None]) -> Callable[..., Callable[[], int | None]]:
    """The same signature, but calling it only remembers the arguments: so parsing errors stay apart from others."""

    @functools.wraps(function)
    def remember(*args: Any, **kwargs: Any) -> Callable[[], int | None]:
        return functools.partial(function, *args, **kwargs)

    return remember


def at_least(least: float, **flags: float) -> None:
    """Refuse flags below `least`, or absurdly large.

    Raises:
        UsageError: naming the flag.
    """
    limit = limits.at_least(least)
    for name, value in flags.items():
        if not limit.fine(value):
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be {limit.words}")


def server_for(port: int) -> ModuleType:
    """The module that serves, for a command with `--port`.

    Raises:
        UsageError: there is no such port.
        UserError: the libraries of a server are not installed.
    """
    at_least(0, port=port)
    if port > 65535:
        raise UsageError(f"--port {port}: ports end at 65535")
    with optional("the server needs {name}; install it with: pip install 'minimind[serve]'"):
        from minimind.serve import server
    return server


def choose_tools(wanted: str) -> tuple[str, ...]:
    """The tools that `--tools` names, with commas between: `all` built-in ones, names, or Python files of one's own.

    Raises:
        UsageError: there is no such tool.
        UserError: a file holds none.
    """
    from minimind import tools
    from minimind.tools import sandbox

    names: list[str] = []
    for part in filter(None, map(str.strip, wanted.split(","))):
        if part == "all":
            names += tools.BUILTIN
        elif part.endswith(".py"):
            names += sandbox.load(part)
        elif part in tools.names():
            names.append(part)
        else:
            raise UsageError(f"--tools {part}: no such tool{did_you_mean(part, tools.names())}")
    return tuple(dict.fromkeys(names))


def _plain(box: str) -> str:
    """The sentence inside tyro's drawn box, without its title and its repetition of the help page.

    Where stdout cannot show the box's lines, it is drawn with hyphens alone and its title stands above the first.
    """
    if "Required options" in box:  # each stands by itself on a line, its description indented below it
        missing, _, more = box.split("For full helptext")[0].partition("Unrecognized options:")
        names, spare = (", ".join(re.findall(r"^[│ ] {5}([^ ]+)", part, re.MULTILINE)) for part in (missing, more))
        return f"missing: {names}" + (f"; not understood: {spare}" if spare else "")
    words: list[str] = []
    opened = False
    for line in box.splitlines():
        line = line.strip("│ ")
        if line and (line[0] in "╭╰" or set(line) <= set("─-")):
            if opened and words:
                break
            opened, words = True, []
        elif line and not line.startswith("Missing from"):
            words.append(line)
    return " ".join(words) or "the arguments could not be read"
