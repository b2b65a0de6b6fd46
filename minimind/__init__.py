"""MiniMind: a complete, readable language-model laboratory.

`import minimind` is cheap: torch and everything that needs it are imported on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minimind.api import LanguageModel, load
    from minimind.config import PRESETS, ModelConfig

__version__ = "0.1.0"
__all__ = ["PRESETS", "LanguageModel", "ModelConfig", "__version__", "load"]

_HOME = {"load": "api", "LanguageModel": "api", "PRESETS": "config", "ModelConfig": "config"}


def __getattr__(name: str) -> Any:
    """Import a public name from its module the first time somebody asks for it (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'minimind' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"minimind.{_HOME[name]}"), name)
