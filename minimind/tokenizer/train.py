"""Train a byte-level BPE: the vocabulary of DESIGN's fixed ids, the 256 bytes, then merges by frequency.

Sennrich et al. 2016 (https://arxiv.org/abs/1508.07909): start from single symbols and join, again and again, the pair
that occurs most often. The `tokenizers` library counts and merges; what is fixed here is everything around it.
"""

import json
from collections.abc import Iterable
from concurrent.futures import Future
from pathlib import Path
from threading import Thread

from minimind.errors import UserError
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.fast import BYTE_OF_CHAR

# Qwen2's split. GGUF's `qwen2` pre-tokenizer is the same, so exported models cut texts as we do. Digits stand alone.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# fmt: off
_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>", "<tts_pad>",
    "<tts_text_bos>", "<tts_text_eod>", "<tts_text_bos_single>",
)
_NOT_SPECIAL = (
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>",
    *(f"<|buffer{i}|>" for i in range(1, 10)),
)
# fmt: on
ADDED = (*_SPECIAL, *_NOT_SPECIAL)  # ids 0, 1, 2, ...
SMALLEST = len(ADDED) + 256


def train_tokenizer(texts: Iterable[str], vocab_size: int = 6400, max_token_bytes: int | None = None) -> Tokenizer:
    """Learn `vocab_size` entries from `texts`; the same texts always give the same tokenizer.

    `max_token_bytes` bounds the length of a token: on text made from templates, short tokens keep a name the same
    tokens wherever it stands.

    Raises:
        UserError: `vocab_size` is below 292 or absurd, or the texts hold too few different pairs to fill it.
    """
    from tokenizers import Regex, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Library

    if not SMALLEST <= vocab_size < 2**24:  # the library takes memory for all of them at once
        raise UserError(
            f"--vocab-size {vocab_size}: {SMALLEST} or more ({len(ADDED)} control tokens and 256 bytes), below 2**24"
        )
    library = Library(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(ADDED),
        initial_alphabet=sorted(BYTE_OF_CHAR),
        max_token_length=max_token_bytes and max_token_bytes + 1,  # the library's bound is exclusive
        show_progress=False,
    )
    learned: Future[None] = Future()

    def learn() -> None:
        try:
            library.train_from_iterator(texts, trainer)
            learned.set_result(None)
        except BaseException as error:
            learned.set_exception(error)

    Thread(target=learn, daemon=True).start()
    learned.result()  # where Ctrl-C is heard: the library does not ask for it
    if library.get_vocab_size() < vocab_size:
        raise UserError(
            f"the texts fill only {library.get_vocab_size()} entries of --vocab-size {vocab_size}; "
            "give more text or ask for fewer"
        )
    return Tokenizer({"tokenizer.json": _tokenizer_json(library.to_str()), "tokenizer_config.json": _config_json()})


def _tokenizer_json(trained: str) -> str:
    spec = json.loads(trained)
    for token in spec["added_tokens"]:
        token["special"] = token["id"] < len(_SPECIAL)
    spec["decoder"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return json.dumps(spec, ensure_ascii=False, indent=1) + "\n"


# How transformers reads an answer back into a message (`parse_response`); TRL refuses GRPO with tools without it.
_RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"},
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}


def _config_json() -> str:
    """`tokenizer_config.json` for transformers and everything built on it."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
        "chat_template": (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8"),
        "response_template": _RESPONSE,
    }
    return json.dumps(config, ensure_ascii=False, indent=2) + "\n"
