"""Byte-level BPE: any Hugging Face tokenizer directory, encoded by `tiktoken` where that is provably the same.

A text is cut by a regular expression into pieces, each piece becomes its UTF-8 bytes, and the bytes are merged pair by
pair, lowest-ranked pair first (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909; on bytes: GPT-2, Radford et al.
2019). `encode` never looks for added tokens: whatever a text says, it can not forge `<|im_start|>` or `<think>`.
Control ids come only from `control_id`.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from minimind.errors import UserError
from minimind.tokenizer import fast

if TYPE_CHECKING:
    import tiktoken
    import tokenizers

DEFAULT = Path(__file__).parent / "default"
# What else may lie beside the two files that we read; kept as it is, so that a saved tokenizer is the loaded one.
COMPANIONS = ("chat_template.jinja", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt")


class Tokenizer:
    """A vocabulary with its merges, its added tokens and the files it came from. Pickles by content."""

    def __init__(self, files: Mapping[str, str], source: str = "tokenizer") -> None:
        """Build from the texts of `tokenizer.json` and, if there, `tokenizer_config.json`; errors name `source`.

        Raises:
            UserError: a file is broken, or it is not a byte-level BPE.
        """
        self.files = dict(files)
        self._source = source
        self._spec = spec = _read_json(files["tokenizer.json"], f"{source}/tokenizer.json")
        config = _read_json(files.get("tokenizer_config.json", "{}"), f"{source}/tokenizer_config.json")
        if spec.get("model", {}).get("type") != "BPE" or not _is_byte_level(spec):
            raise UserError(
                f"{source}/tokenizer.json is not a byte-level BPE; MiniMind reads no other kind of tokenizer"
            )

        added = spec.get("added_tokens") or []
        self._added: dict[str, int] = {token["content"]: token["id"] for token in added}
        self._special = {token["id"] for token in added if token["special"]}
        self._bytes = {id: fast.token_to_bytes(token) or token.encode() for token, id in spec["model"]["vocab"].items()}
        self._bytes |= {id: content.encode() for content, id in self._added.items()}
        self.vocab_size = max(self._bytes) + 1  # rows that an embedding needs: ids may have holes

        self.bos_id = self._named(config, "bos_token")
        self.eos_id = self._named(config, "eos_token")
        self.pad_id = self._named(config, "pad_token")
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
            content = _read_json(adapter.read_text(encoding="utf-8"), str(adapter))
            folder = Path(str(content.get("base_model_name_or_path")))
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"{folder} has no tokenizer.json; name a tokenizer or model directory, or 'default'")
        files = {}
        for name in ("tokenizer.json", "tokenizer_config.json", *COMPANIONS):
            if (folder / name).is_file():
                try:
                    files[name] = (folder / name).read_bytes().decode("utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(f"{folder / name} is not UTF-8 ({error.reason}); fetch the file again") from error
        return cls(files, str(folder))

    def save(self, path: str | Path) -> None:
        """Write the tokenizer's files, each complete or not at all, into the directory `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            unfinished = folder / f".{name}.{os.getpid()}"
            unfinished.write_bytes(text.encode("utf-8"))
            unfinished.replace(folder / name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self.files, self._source)

    # Encoding

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text. No text can become a control or added token."""
        if self._fast and not fast.is_unsure(text):
            return self._fast.encode_ordinary(text)
        return self._reference.encode(_well_formed(text), add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each text as uint32, equal to `encode`'s, on one core and quickly."""
        if self._fast:
            return [self._encode_array(text) for text in texts]
        encodings = self._reference.encode_batch_fast([_well_formed(t) for t in texts], add_special_tokens=False)
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
        pattern = fast.split_pattern(self._spec)
        ranks = fast.mergeable_ranks(self._spec) if pattern else None
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

    def _named(self, config: dict[str, Any], key: str) -> int | None:
        """Id of the token that `tokenizer_config.json` names as a string, as `{"content": ...}`, or not at all."""
        value = config.get(key)
        content = value.get("content") if isinstance(value, dict) else value
        if content is None:
            return None
        id = self._added.get(content, self._spec["model"]["vocab"].get(content))
        if id is None:
            raise UserError(f"{self._source}/tokenizer_config.json: {key} {content!r} is not in the vocabulary")
        return id


def _read_json(text: str, name: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{name} is not valid JSON ({error}); fetch or train the tokenizer again") from error
    if not isinstance(value, dict):
        raise UserError(f"{name} is not a JSON object; fetch or train the tokenizer again")
    return value


def _is_byte_level(spec: dict[str, Any]) -> bool:
    decoder = spec.get("decoder") or {}
    return any(step.get("type") == "ByteLevel" for step in [decoder, *decoder.get("decoders", [])])


def _well_formed(text: str) -> str:
    """The text with surrogates (JSON's broken `\\ud83d`) joined to characters, or replaced by U+FFFD where alone."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
