"""When `tiktoken` gives exactly the ids of a `tokenizer.json`, at several times the speed.

`tokenizers` merges the pairs that its list names; `tiktoken` knows no pairs, it merges any two neighbours whose
concatenation is a token, lowest rank first, and looks a whole piece up before it merges. Both agree on every input when
each token, merged alone with only lower-ranked tokens, ends in exactly the pair that the list names for it: where
`tiktoken` joins two neighbours to a token, no merge has crossed their outer ends, so what happened between them is what
happens in isolation, and there the only such pair is the listed one.
"""

import re
from typing import Any

# GPT-2's printable stand-ins for the 256 bytes, by which tokenizer.json spells its tokens.
_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in set(_PRINTABLE)]
BYTE_OF_CHAR = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}

# Texts that the two regular-expression engines may cut differently: characters that only newer Unicode tables call
# letters or digits (all rare planes but emoji and the first ideographic extension stand in for the long list) and lone
# surrogates.
_UNSURE = re.compile(
    "[\u0558\u058b\u058c\u088f\u0c5c\u0cdc\u208f\u209d-\u209f\ua7ce-\ua7e2\ua7f1\uab6c\uab6d\ud800-\udfff"
    "\U00010000-\U0001efff\U0001fb00-\U0001ffff\U0002a6e0-\U0010ffff]"
)
# A run of white space so long that tiktoken's engine may run out of stack, which holds a million places (200,000
# characters were seen to pass). Sought at the beginning of runs alone: at every place of one, it would take for ever.
MAX_SPACE = 50_000
_LONG_SPACE = re.compile(rf"(?<!\s)\s{{{MAX_SPACE}}}")


def is_unsure(text: str) -> bool:
    """Whether this text has to go through the `tokenizers` library."""
    return _UNSURE.search(text) is not None or has_long_space(text)


def has_long_space(text: str) -> bool:
    """Whether it holds a run of white space of `MAX_SPACE` characters, which takes microseconds for each of them."""
    return len(text) >= MAX_SPACE and _LONG_SPACE.search(text) is not None


def token_to_bytes(token: str) -> bytes | None:
    """Bytes of a token as `tokenizer.json` spells it; None where a character stands for no byte."""
    if any(char not in BYTE_OF_CHAR for char in token):
        return None
    return bytes(BYTE_OF_CHAR[char] for char in token)


def split_pattern(spec: dict[str, Any]) -> str | None:
    """The regular expression of a parsed `tokenizer.json` that is Split + ByteLevel and nothing more, else None."""
    steps = (spec.get("pre_tokenizer") or {}).get("pretokenizers") or []
    if spec.get("normalizer") is not None or [step.get("type") for step in steps] != ["Split", "ByteLevel"]:
        return None
    split, byte_level = steps
    plain = split.get("behavior") == "Isolated" and not split.get("invert") and "Regex" in split["pattern"]
    if not plain or byte_level.get("use_regex", True) or byte_level.get("add_prefix_space", True):
        return None
    pattern = split["pattern"]["Regex"]
    return pattern if isinstance(pattern, str) else None


def mergeable_ranks(spec: dict[str, Any]) -> dict[bytes, int] | None:
    """Token bytes -> id, which is also the rank, of a parsed `tokenizer.json`; None where ids could differ.

    The byte tokens come first whatever their ids; the merges must be listed in the order of their ids.
    """
    model = spec["model"]
    odd = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges", "byte_fallback")
    if any(model.get(option) for option in odd):
        return None
    vocabulary = model["vocab"]
    if any(char not in vocabulary for char in BYTE_OF_CHAR):
        return None
    ranks = {bytes([byte]): vocabulary[char] for char, byte in BYTE_OF_CHAR.items()}
    last = -1
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        token, rank = token_to_bytes(left + right), vocabulary[left + right]
        pair = [token_to_bytes(left), token_to_bytes(right)]
        if token is None or rank <= last or _merge_alone(token, ranks) != pair:
            return None
        ranks[token] = last = rank
    return ranks


def _merge_alone(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """Merge the bytes of `token` with the tokens in `ranks` (all lower than its own), as BPE does."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 1:
        found = [(ranks[parts[i] + parts[i + 1]], i) for i in range(len(parts) - 1) if parts[i] + parts[i + 1] in ranks]
        if not found:
            break
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts
