"""The process in which a file's tools run: `python -m minimind.tools.worker FILE LIMITS`, one JSON line a call.

What it may not do is said in `minimind/tools/sandbox.py`.
"""

import contextlib
import importlib.util
import inspect
import json
import os
import signal
import sys
import zoneinfo
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from minimind.tools.registry import describe

_REFUSED = (
    *("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate"),
    *("os.listdir", "os.scandir", "os.walk", "os.kill", "os.putenv", "os.utime", "os.chdir", "os.add_dll_directory"),
    *("shutil.", "tempfile.", "glob.", "ctypes.", "ftplib.", "http.", "imaplib.", "poplib.", "smtplib.", "urllib."),
    *("webbrowser.", "sqlite3.connect", "winreg.", "mmap.", "pty.", "signal.", "fcntl.", "syslog.", "os.setxattr"),
    *("os.getxattr", "os.listxattr", "os.removexattr", "os.chflags", "os.lchmod", "os.fwalk", "os.lockf", "resource."),
)
# What Python tells no hook of, taken away by name.
_UNHEARD_OF = (
    *("mkfifo", "mknod", "chroot", "setuid", "setgid", "seteuid", "setegid", "setreuid", "setregid", "setresuid"),
    *("setresgid", "setgroups", "initgroups", "setpgid", "setsid", "setpriority", "nice", "statvfs", "access"),
    *("readv", "preadv", "pread", "sendfile", "copy_file_range", "memfd_create", "pidfd_open", "sched_setaffinity"),
)
_LISTING = ("os.listdir", "os.scandir")  # what finding a module to import does, inside Python's own folders
_READ_ONLY = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def main() -> None:
    """Answer questions from stdin until it is closed."""
    file, limits = Path(sys.argv[1]), json.loads(sys.argv[2])
    # Questions and answers go through copies: what tools print must not be taken for an answer.
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(0, 1)
    sys.dont_write_bytecode = True
    # Ctrl-C reaches every process of a terminal. It is for the one that asks: a run finishes its step before it saves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit(limits)
    functions, complaint = _import(file)
    _guard([sys.prefix, sys.base_prefix, Path(__file__).parents[1], *zoneinfo.TZPATH])
    for line in questions:
        question = json.loads(line)
        if "describe" in question:
            answer = _describe(functions) if complaint is None else {"error": complaint}
        else:
            answer = _call(functions.get(question["name"]), question["arguments"], limits["characters"])
        answers.write("\n" + json.dumps({"number": question["number"], **answer}) + "\n")
        answers.flush()


def _limit(limits: dict[str, Any]) -> None:
    """Limits of the operating system, where there are any."""
    try:
        import resource
    except ImportError:
        return
    memory = limits["memory_mb"] * 2**20
    for name, value in (("RLIMIT_AS", memory), ("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0)):
        with contextlib.suppress(ValueError, OSError):  # macOS knows the names and refuses the values
            resource.setrlimit(getattr(resource, name), (value, value))


def _import(file: Path) -> tuple[dict[str, Any], str | None]:
    """The public functions that the file itself defines, or what is wrong with it."""
    try:
        spec = importlib.util.spec_from_file_location("minimind_tools", file)
        assert spec
        assert spec.loader
        module: ModuleType = importlib.util.module_from_spec(spec)
        sys.modules["minimind_tools"] = module
        spec.loader.exec_module(module)
    except BaseException as error:
        return {}, f"cannot be imported ({type(error).__name__}: {error})"
    found = {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == "minimind_tools" and not name.startswith("_")
    }
    return found, None if found else "has no function that could be a tool"


def _describe(functions: dict[str, Any]) -> dict[str, Any]:
    try:
        tools = [describe(function) for function in functions.values()]
        return {"schemas": [tool.schema for tool in tools]}
    except (TypeError, NameError) as error:
        return {"error": str(error)}


def _call(function: Any, arguments: dict[str, Any], characters: int) -> dict[str, Any]:
    """Run one function. Whatever happens in it is an answer."""
    try:
        text = json.dumps(function(**arguments), ensure_ascii=False, default=str)
        if len(text) > characters:
            return {"result": f"{text[:characters]}… (cut, it had {len(text)} characters)"}
        return {"result": json.loads(text)}
    except MemoryError:
        return {"error": "the tool used more memory than it is allowed"}
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}"[:characters]}


def _refuse(*_: Any, **__: Any) -> None:
    raise PermissionError("tools may not do this")


def _guard(readable: Sequence[str | Path]) -> None:
    """Refuse files, network and other processes from now on. A hook cannot be removed."""
    for module in (os, sys.modules.get("posix")):
        for name in _UNHEARD_OF:
            if hasattr(module, name):
                setattr(module, name, _refuse)
    folders = tuple(os.path.join(os.path.realpath(folder), "") for folder in readable)

    def inside(path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return os.path.realpath(os.fsdecode(path)).startswith(folders)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            reads = not (flags or 0) & _READ_ONLY and (mode is None or not set(mode) & set("wax+"))
            if not (reads and inside(path)):
                raise PermissionError(f"tools may not open files: {path}")
        elif event in _LISTING and inside(arguments[0]):
            return
        elif event.startswith(_REFUSED):
            raise PermissionError(f"tools may not do this: {event}")

    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
