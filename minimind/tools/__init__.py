"""Tools that a model may call: a registry, and the eight built-in ones (no torch here)."""

from minimind.tools import builtin as _builtin  # importing it registers the tools
from minimind.tools.registry import Context, Tool, by_name, call, is_error, names, schemas, tool

BUILTIN: tuple[str, ...] = _builtin.NAMES

__all__ = ["BUILTIN", "Context", "Tool", "by_name", "call", "is_error", "names", "schemas", "tool"]
