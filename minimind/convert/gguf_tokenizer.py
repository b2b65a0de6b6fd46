"""A tokenizer as GGUF metadata, and the question whether llama.cpp will cut texts as we do.

A GGUF file does not hold the regular expression that splits a text before BPE; it names one of those that are compiled
into llama.cpp (`tokenizer.ggml.pre`). The wrong name gives a model that runs and is quietly stupid, so the name is
chosen by encoding: a probe text, and every word of the vocabulary, must come out as the same ids.
"""

import json
import re
import unicodedata
from itertools import islice
from typing import Any

from minimind.errors import UserError
from minimind.tokenizer.bpe import Tokenizer

# llama.cpp's splits, written for the engine of `tokenizers` (llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_*).
PRE_TOKENIZERS = {
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
PROBE = (
    "Hello, World!  It's WE'LL they'Ve 'tis I'D\n\n\n don't\t\tstop...  \n  (x+1)*[y]!=2.50e-3; 12345 67 ١٢٣ ½ ⅷ²\r\n"
    "def f(a_b):\r\n\treturn 'it''s'  # $100,000.00 100% foo@bar.com http://a.b/c?d=e&f\n   \n \t \n"
    "你好，世界！今天是2024年12月31日。“引号”《书名》……——、；：？（括号）１２３ＡＢＣ ㊙ 𠮷野家\n"
    "Füße naïve Ünïcödé Ελληνικά Русский עברית العربية हिन्दी ไทย 日本語カタカナ 한국어 ﬁ Å\n"
    '🙂🙃👨‍👩‍👧‍👦🇨🇳 🤖!!! ###\u00a0\u3000\u2028 \u200b—end  \x00\x07 <tag> {"a": [1, null]} `x` ~~~\\\\ //'
)


def find_pre_tokenizer(tokenizer: Tokenizer) -> str:
    """The name of llama.cpp's pre-tokenizer that gives this tokenizer's ids.

    Raises:
        UserError: none of those that are known here does.
    """
    spec = _spec(tokenizer)
    texts = _probes(tokenizer, _added(spec))
    expected = [ids.tolist() for ids in tokenizer.encode_batch(texts)]
    for name, pattern in PRE_TOKENIZERS.items():
        if _encode(spec, pattern, texts) == expected:
            return name
    raise UserError(
        f"none of llama.cpp's pre-tokenizers known here ({', '.join(PRE_TOKENIZERS)}) gives this tokenizer's ids, so "
        "the exported model would not read what it was trained on; use a tokenizer that splits as Qwen2 or GPT-2 does"
    )


def _probes(tokenizer: Tokenizer, added: dict[int, str]) -> list[str]:
    """The probe, and the vocabulary's own words glued together: where the merges are, a different split shows."""
    decoded = (
        tokenizer.token_bytes(id).decode("utf-8", "ignore") for id in range(tokenizer.vocab_size) if id not in added
    )
    # Qwen's tokenizer composes characters before it splits (NFC), llama.cpp does not: no reason to refuse it.
    words = (word for word in decoded if word and unicodedata.is_normalized("NFC", word))
    glued: list[str] = []
    while chunk := list(islice(words, 500)):
        glued += ["".join(chunk), " ".join(chunk), "\n".join(chunk)]
    return [PROBE, *PROBE.splitlines(), *(text for text in glued if unicodedata.is_normalized("NFC", text))]


def _encode(spec: dict[str, Any], pattern: str, texts: list[str]) -> list[list[int]]:
    """What llama.cpp computes: this split, then the same merges; it knows no normalizer."""
    from tokenizers import Tokenizer as Library

    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    spec = spec | {"normalizer": None, "post_processor": None, "added_tokens": []}
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    library = Library.from_str(json.dumps(spec))
    return [encoding.ids for encoding in library.encode_batch(texts, add_special_tokens=False)]


def add_tokenizer(writer: Any, tokenizer: Tokenizer, rows: int, thinking: bool = True) -> str:
    """Put the vocabulary, merges, control tokens and chat template into a GGUF `writer`; return the pre-tokenizer.

    `rows` is the height of the embedding: ids that the tokenizer does not use become unused tokens. Without `thinking`
    the template does not listen to `enable_thinking`, so that every prompt holds the empty think block.

    Raises:
        UserError: llama.cpp would give other ids.
    """
    from gguf import TokenType

    pre = find_pre_tokenizer(tokenizer)
    spec = _spec(tokenizer)
    model, added = spec["model"], _added(spec)
    words = {id: word for word, id in model["vocab"].items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([added.get(id) or words.get(id) or f"[PAD{id}]" for id in range(rows)])
    control, plain = (TokenType.CONTROL, TokenType.USER_DEFINED), (TokenType.UNUSED, TokenType.NORMAL)
    types = [control[not tokenizer.is_special(id)] if id in added else plain[id in words] for id in range(rows)]
    writer.add_token_types(types)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    for name in ("bos", "eos", "pad"):
        id = getattr(tokenizer, f"{name}_id")
        if id is not None:
            getattr(writer, f"add_{name}_token_id")(id)
    writer.add_add_bos_token(False)
    if tokenizer.chat_template:
        switch = "" if thinking else "{%- set enable_thinking = false %}\n"
        writer.add_chat_template(switch + _plain_jinja(tokenizer.chat_template))
    return pre


def _plain_jinja(template: str) -> str:
    """The template without the `{% generation %}` tags of transformers, which llama-cpp-python refuses to parse.

    A condition that always holds takes the place of each, so that white space is trimmed as before.
    """
    return re.sub(
        r"\{%(-?)\s*(end)?generation\s*(-?)%\}",
        lambda tag: f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}",
        template,
    )


def _spec(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer.files["tokenizer.json"])


def _added(spec: dict[str, Any]) -> dict[int, str]:
    """Control and other added tokens, which no text is split into."""
    return {token["id"]: token["content"] for token in spec.get("added_tokens") or []}
