"""Grammars made ready by `llguidance`, within limits; no torch here.

`python -m minimind.engine.grammar_compile` tries them in a process of its own. The library counts what most things
cost and gives up, but not all (a schema's `multipleOf` of a million takes a minute and a gigabyte): what comes from
strangers is tried where it can be stopped.
"""

import contextlib
import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from minimind.errors import UsageError

if TYPE_CHECKING:
    from minimind.tokenizer.bpe import Tokenizer

MAX_CHARACTERS = 2**18
"""Of a grammar; a schema with a thousand properties has a tenth of it."""
MEMORY = 512 * 2**20
"""Bytes that trying a grammar may take."""
# In the library's own units, some 10,000 to 50,000 a millisecond: a grammar in some ten, a token in a few.
_LIMITS: dict[str, Any] = {
    "initial_lexer_fuel": 100_000,
    "step_lexer_fuel": 20_000,
    "step_max_items": 10_000,
    "max_lexer_states": 10_000,
    "max_grammar_size": 50_000,
    "verbose_errors": False,
}
_SHOWN = re.compile(r"^ *\d+ \| ", re.MULTILINE)  # the lines of a grammar around what is wrong
_OF_SCHEMA = re.compile(r"at (\d+)\(\d+\): failed to compile JSON schema: ")
_OF_TOOL = re.compile(r'call_\d+: ("(?:[^"\\]|\\.)*") ')


def vocabulary_of(tokenizer: "Tokenizer", size: int) -> dict[str, Any]:
    """What the library has to know of a tokenizer for a model with `size` scores.

    Raises:
        UsageError: it has no end of text.
    """
    if tokenizer.eos_id is None:
        raise UsageError("a grammar needs a tokenizer with an end-of-text token")
    return {"tokenizer": tokenizer.files["tokenizer.json"], "n_vocab": size, "eos_token": tokenizer.eos_id}


def load(vocabulary: dict[str, Any]) -> Any:
    """The library's tokenizer.

    Raises:
        UsageError: the library is not there.
    """
    try:
        import llguidance
    except ImportError:
        raise UsageError("grammars need the package llguidance: pip install 'minimind[serve]'") from None
    return llguidance.LLTokenizer(**vocabulary)


def compile(tokenizer: Any, grammar: str) -> Any:
    """An `LLMatcher` at the beginning of an answer, which knows already what may come first.

    Raises:
        UsageError: the grammar is wrong or too large, nothing fits it, or it needs a control token that is not there.
    """
    import llguidance

    if len(grammar) > MAX_CHARACTERS:
        raise UsageError(f"the grammar cannot be used: it is longer than {MAX_CHARACTERS:,} characters")
    limits = llguidance.LLParserLimits(**_LIMITS)
    matcher = llguidance.LLMatcher(tokenizer, grammar, limits=limits, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if "NoExtension" in matcher.stop_reason() or "NoExtension" in matcher.get_error():
        raise UsageError("the grammar cannot be used: no text fits it")
    if matcher.is_error():
        raise UsageError(_blame(grammar, complaint(matcher)))
    return matcher


def complaint(matcher: Any) -> str:
    """What is wrong, in one line."""
    return " ".join(_SHOWN.split(matcher.get_error())[0].split())[:300]


def _blame(grammar: str, wrong: str) -> str:
    """A complaint of a grammar that names the schema in it; those who sent one have not seen the grammar."""
    schema = _OF_SCHEMA.match(wrong)
    if not schema:
        return f"the grammar cannot be used: {wrong}"
    tool = _OF_TOOL.match(grammar.split("\n")[int(schema[1]) - 1])
    of = f" of tool {json.loads(json.loads(tool[1]) + '{}}')['name']!r}" if tool else ""
    return f"the schema{of} cannot be used: {wrong[schema.end() :]}"


def main() -> None:
    """Answer questions from stdin: first a vocabulary, then grammars."""
    tokenizer: Any = None
    for line in sys.stdin:
        question = json.loads(line)
        error = ""
        if "vocabulary" in question:
            tokenizer = load(question["vocabulary"])
            _limit()
        else:
            try:
                compile(tokenizer, question["grammar"])
            except UsageError as wrong:
                error = str(wrong)
        print(json.dumps({"number": question["number"], "error": error}), flush=True)


def _limit() -> None:
    """From here on, so much more memory and no more; only Linux keeps to it."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
