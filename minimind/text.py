"""Text at the edges of the program: one rule for every place where it is read, written or printed.

UTF-8 cannot hold half a surrogate pair (JSON's `"\\ud83d"` without its other half; bytes of the command line that are
no UTF-8), and not every byte sequence is UTF-8. What happens then is decided here alone:

- A lone surrogate becomes U+FFFD wherever it comes from; corpora count the lines in which that happened and say so.
- A byte of a *file* that is not UTF-8 is an error that names file and place (of a corpus: a bad line, which can be
  skipped and counted). The file is in another encoding, and guessing would spoil all of it.
- A byte of a *stream* (standard input, a server's answer, tokens of a model) that cannot be decoded becomes U+FFFD:
  one odd byte must not end a conversation.
- JSON that is written is strict: NaN and infinity, which JSON does not have, become null.
"""

import json
import math
import re
from typing import Any

_SUSPECT = re.compile(rb"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    rb"|(?P<lone>u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|.)",  # any other escape; of a backslash, so that what follows it is not taken for one
    re.DOTALL,
)


def well_formed(text: str) -> str:
    """The text with surrogate pairs joined to characters, and lone surrogates replaced by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def utf8(text: str) -> bytes:
    """UTF-8 bytes of any string."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return well_formed(text).encode("utf-8")


def mend_json(data: bytes) -> tuple[bytes, int]:
    """JSON text whose escapes form whole characters, as long as before, and how many lone surrogates were replaced."""
    if not _SUSPECT.search(data):
        return data, 0
    lone = 0

    def mended(escape: re.Match[bytes]) -> bytes:
        nonlocal lone
        if escape["lone"] is None:
            return escape[0]
        lone += 1
        return rb"\ufffd"

    return _ESCAPE.sub(mended, data), lone


def read_json(data: str | bytes) -> Any:
    """The value that JSON text from outside stands for, all of its strings well-formed.

    Raises:
        ValueError: not JSON, or nested too deeply.
    """
    data = utf8(data) if isinstance(data, str) else data
    try:
        return json.loads(mend_json(data)[0].decode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(value: Any, **layout: Any) -> str:
    """Strict JSON text of a value, well-formed; `layout` as in `json.dumps`."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, **layout)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, **layout)
    return utf8(text).decode("utf-8")


def _finite(value: Any) -> Any:
    """The value with null for every number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def write_toml(tree: dict[str, Any]) -> str:
    """TOML text of a dictionary; each dictionary in it becomes a section."""
    top, sections = [], []
    for key, value in tree.items():
        if isinstance(value, dict):
            sections += ["", f"[{key}]", *(f"{_key(name)} = {_toml(inner)}" for name, inner in value.items())]
        else:
            top.append(f"{_key(key)} = {_toml(value)}")
    return "\n".join([*top, *sections]) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    # Strings, booleans and numbers are spelled alike; only DEL may not stand in a string of TOML.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)
