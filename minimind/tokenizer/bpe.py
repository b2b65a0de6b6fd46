"""Byte-level BPE: any Hugging Face tokenizer directory, encoded by `tiktoken` where that is provably the same.

A text is cut by a regular expression into pieces, each piece becomes its UTF-8 bytes, and the bytes are merged pair by
pair, lowest-ranked pair first (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; on bytes: GPT-2, Radford et al.
2019). `encode` never looks for added tokens: whatever a text says, it can not forge `<|im_start|>` or `<think>`.
Control ids come only from `control_id`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minimind import files
from minimind.errors import UserError
from minimind.fields import Fields
from minimind.text import read_json, well_formed
from minimind.tokenizer import fast

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

DEFAULT = Path(__file__).parent / "default"
# What else may lie beside the two files that we read; kept as it is, so that a saved tokenizer is the loaded one.
COMPANIONS = ("chat_template.jinja", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt")


MAX_IDS = 2**24


class Tokenizer:
    """A vocabulary with its merges, its added tokens and the files it came from. Pickles by content."""

    def __init__(self, contents: Mapping[str, str], source: str = "tokenizer") -> None:
        """Build from the texts of `tokenizer.json` and, if there, `tokenizer_config.json`; errors name `source`.

        Raises:
            UserError: a file is broken, or it is not a byte-level BPE.
        """
        self.files = dict(contents)
        self._source = source
        self._spec = spec = _read_json(contents["tokenizer.json"], f"{source}/tokenizer.json")
        where = f"{source}/tokenizer_config.json"
        config = Fields(_read_json(contents.get("tokenizer_config.json", "{}"), where), where)
        try:
            byte_level = (spec.get("model") or {}).get("type") == "BPE" and _is_byte_level(spec)
            vocabulary = {str(token): _id(id) for token, id in spec["model"]["vocab"].items()} if byte_level else {}
            added = [(str(t["content"]), _id(t["id"]), bool(t.get("special"))) for t in spec.get("added_tokens") or []]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise UserError(
                f"{source}/tokenizer.json is damaged ({what}); fetch or train the tokenizer again"
            ) from None
        if not vocabulary:
            raise UserError(
                f"{source}/tokenizer.json is not a byte-level BPE; MiniMind reads no other kind of tokenizer"
            )

        self.takes_long_space = True
        """Whether `encode` takes texts with a run of white space of `fast.MAX_SPACE` characters; servers do not."""
        self._added: dict[str, int] = {content: id for content, id, _ in added}
        self._special = {id for _, id, special in added if special}
        self._bytes = {id: fast.token_to_bytes(token) or token.encode() for token, id in vocabulary.items()}
        self._bytes |= {id: content.encode() for content, id in self._added.items()}
        self.vocab_size = max(self._bytes) + 1  # rows that an embedding needs: ids may have holes
        self.longest = max(map(len, self._bytes.values()))
        """Bytes of the longest token: a text has no fewer tokens than its characters divided by this."""

        self.bos_id = self._named(config, "bos_token")
        self.eos_id = self._named(config, "eos_token")
        self.pad_id = self._named(config, "pad_token")
        self.chat_template = contents.get("chat_template.jinja") or _chat_template(config)
        """The Jinja template that the directory brings for other programs; None without one."""
        identity = json.dumps([spec, self.bos_id, self.eos_id, self.pad_id], sort_keys=True)
        self.fingerprint = sha256(identity.encode("utf-8")).hexdigest()

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a tokenizer or model directory; `"default"` is the one that MiniMind ships.

        An adapter without a tokenizer has that of its base.

        Raises:
            UserError: no such directory, no tokenizer in it, or a broken file.
        """
        folder = DEFAULT if path == "default" else Path(path)
        adapter = folder / "adapter_config.json"
        if adapter.is_file() and not (folder / "tokenizer.json").is_file():
            base = str(files.read_json(adapter).get("base_model_name_or_path"))
            folder = next((place for place in (Path(base), folder / base) if place.is_dir()), Path(base))
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"{folder} has no tokenizer.json; name a tokenizer or model directory, or 'default'")
        names = ("tokenizer.json", "tokenizer_config.json", *COMPANIONS)
        return cls({name: files.read_text(folder / name) for name in names if (folder / name).is_file()}, str(folder))

    def save(self, path: str | Path) -> None:
        """Write the tokenizer's files, each complete or not at all, into the directory `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            files.write_text(folder / name, text)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self.files, self._source)

    @property
    def bos(self) -> list[int]:
        """What a text begins with: bos, where there is one."""
        return [] if self.bos_id is None else [self.bos_id]

    @property
    def eos(self) -> list[int]:
        """What it ends with: eos, where there is one."""
        return [] if self.eos_id is None else [self.eos_id]

    # Encoding

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text. No text can become a control or added token.

        Raises:
            UserError: a run of white space is too long, and `takes_long_space` is off.
        """
        if not self.takes_long_space and fast.has_long_space(text):
            raise UserError(f"a text has {fast.MAX_SPACE:,} characters of white space in a row: leave most of them out")
        if self._fast and not fast.is_unsure(text):
            return self._fast.encode_ordinary(text)
        return self._reference.encode(well_formed(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text as uint32, equal to `encode`'s, on one core and quickly."""
        if self._fast:
            return [self._encode_array(text) for text in texts]
        encodings = self._reference.encode_batch_fast([well_formed(t) for t in texts], add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.uint32) for encoding in encodings]

    def _encode_array(self, text: str) -> np.ndarray:
        if fast.is_unsure(text):
            return np.array(self.encode(text), dtype=np.uint32)
        assert self._fast is not None
        return self._fast.encode_to_numpy(text, disallowed_special=())

    @property
    def is_fast(self) -> bool:
        """Whether `tiktoken` was proved to give this tokenizer's ids and is used for it."""
        return self._fast is not None

    @cached_property
    def _fast(self) -> "tiktoken.Encoding | None":
        """`tiktoken` over the same merges, or None where its ids could differ."""
        try:
            pattern = fast.split_pattern(self._spec)
            ranks = fast.mergeable_ranks(self._spec) if pattern else None
        except (AttributeError, KeyError, TypeError, ValueError):
            return None  # not as such files are: the library says what is wrong
        if pattern is None or ranks is None:
            return None
        import tiktoken

        return tiktoken.Encoding("minimind", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})

    @cached_property
    def _reference(self) -> "tokenizers.Tokenizer":
        """The `tokenizers` object without its added tokens: it can not see them in a text."""
        import tokenizers

        plain = self._spec | {"added_tokens": [], "post_processor": None}
        try:
            return tokenizers.Tokenizer.from_str(json.dumps(plain))
        except Exception as error:  # the library raises bare Exception for everything
            raise UserError(f"{self._source}/tokenizer.json cannot be read: {error}") from error

    # Decoding and lookups

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Text of `ids`; incomplete UTF-8 becomes U+FFFD. `skip_special` leaves out special tokens."""
        kept = (id for id in ids if not (skip_special and id in self._special))
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", errors="replace")

    def token_bytes(self, id: int) -> bytes:
        """UTF-8 bytes that the token stands for; empty for an id that the vocabulary does not use."""
        return self._bytes.get(id, b"")

    def control_id(self, content: str) -> int | None:
        """Id of the added token written `content`, or None."""
        return self._added.get(content)

    def is_special(self, id: int) -> bool:
        """Whether the id is a special token (an added one need not be: `<think>` is not)."""
        return id in self._special

    @cached_property
    def merges(self) -> dict[tuple[bytes, bytes], int]:
        """Pairs of pieces that become one, with their rank: the lowest is merged first."""
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in self._spec["model"]["merges"])
        raw = ([fast.token_to_bytes(part) or part.encode() for part in pair] for pair in pairs)
        return {(left, right): rank for rank, (left, right) in enumerate(raw)}

    def _named(self, config: Fields, key: str) -> int | None:
        """Id of the token that `tokenizer_config.json` names as a string, as `{"content": ...}`, or not at all."""
        spelled = isinstance(config.given.get(key), dict)
        content = config.fields(key).text("content", None) if spelled else config.text(key, None)
        if content is None:
            return None
        id = self._added.get(content, self._spec["model"]["vocab"].get(content))
        if id is None:
            raise UserError(f"{self._source}/tokenizer_config.json: {key} {content!r} is not in the vocabulary")
        return id


def _read_json(text: str, name: str) -> dict[str, Any]:
    try:
        value = read_json(text)
    except ValueError as error:
        raise UserError(f"{name} is not valid JSON ({error}); fetch or train the tokenizer again") from error
    if not isinstance(value, dict):
        raise UserError(f"{name} is not a JSON object; fetch or train the tokenizer again")
    return value


def _chat_template(config: Fields) -> str | None:
    """The template in `tokenizer_config.json`: a string, or of a list with names the one for plain chats."""
    if not isinstance(config.given.get("chat_template"), list):
        return config.text("chat_template", None)
    named = [Fields(one, config.source) for one in config.items("chat_template") if isinstance(one, dict)]
    templates = {one.text("name", ""): one.text("template", None) for one in named}
    return templates.get("default", next(iter(templates.values()), None))


def _id(value: Any) -> int:
    if type(value) is not int or not 0 <= value < MAX_IDS:
        raise ValueError(f"a token id is {repr(value)[:30]}")
    return value


def _is_byte_level(spec: dict[str, Any]) -> bool:
    if spec["model"].get("continuing_subword_prefix"):  # what the library makes of it can end the process
        return False
    decoder = spec.get("decoder") or {}
    return any(step.get("type") == "ByteLevel" for step in [decoder, *(decoder.get("decoders") or [])])
