"""Ids, files and their errors: what any tokenizer directory has to do."""

import json
import pickle
from itertools import product

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from minimind.errors import UserError
from minimind.tokenizer import Tokenizer
from minimind.tokenizer.bpe import DEFAULT
from minimind.tokenizer.fast import BYTE_OF_CHAR
from minimind.tokenizer.train import ADDED

TOKENIZER = Tokenizer.load("default")
LIBRARY = tokenizers.Tokenizer.from_file(str(DEFAULT / "tokenizer.json"))
ODD = [
    "it's",
    "WE'LL",
    "\r\n",
    "  \n \n",
    "   x",
    "3.14",
    "，\n\n",
    "🙂👨‍👩‍👧",
    "e\u0301",
    "'ſ",
    "\x00",
    "\u200b",
    "　",
]
MIXED = st.lists(
    st.one_of(st.text(max_size=12), st.text("你好世界，。！？的了 \n\t", max_size=12), st.sampled_from(ODD)), max_size=8
).map("".join)
FORGED = st.lists(st.one_of(st.sampled_from(ADDED), st.text(max_size=4)), max_size=6).map("".join)


def test_ids_are_those_of_the_design():
    assert [TOKENIZER.control_id(content) for content in ADDED] == list(range(36))
    assert ADDED[:3] == ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    assert (ADDED[17], ADDED[21], ADDED[26], ADDED[35]) == ("<tts_pad>", "<tool_call>", "</think>", "<|buffer9|>")
    assert [id for id in range(40) if TOKENIZER.is_special(id)] == list(range(21))
    assert (TOKENIZER.pad_id, TOKENIZER.bos_id, TOKENIZER.eos_id, TOKENIZER.vocab_size) == (0, 1, 2, 6400)


@given(MIXED)
def test_every_text_comes_back(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(MIXED)
def test_tiktoken_gives_the_ids_of_the_library(text):
    assert TOKENIZER.is_fast
    expected = LIBRARY.encode(text, add_special_tokens=False).ids
    assert TOKENIZER.encode(text) == expected
    (array,) = TOKENIZER.encode_batch([text])
    assert array.dtype == np.uint32
    assert array.tolist() == expected


def all_pairs():
    """A tokenizer that shows where a text was cut: any two bytes merge, first those of which one alone is ASCII."""
    spec = json.loads(TOKENIZER.files["tokenizer.json"])
    chars = {byte: char for char, byte in BYTE_OF_CHAR.items()}
    pairs = sorted(product(range(256), repeat=2), key=lambda pair: ((pair[0] < 128) == (pair[1] < 128), pair))
    merges = [[chars[left], chars[right]] for left, right in pairs]
    vocabulary = {token: id for token, id in spec["model"]["vocab"].items() if id < 292}
    spec["model"]["vocab"] = vocabulary | {left + right: 292 + i for i, (left, right) in enumerate(merges)}
    spec["model"]["merges"] = merges
    return Tokenizer({"tokenizer.json": json.dumps(spec)})


@pytest.mark.parametrize("step", [37, pytest.param(1, marks=pytest.mark.slow)])
def test_both_engines_cut_at_every_character_alike(step):
    """All of Unicode (or every 37th character), each where its class decides about the cut before and after it."""
    tokenizer = all_pairs()
    assert tokenizer.is_fast
    library = tokenizers.Tokenizer.from_str(tokenizer.files["tokenizer.json"])
    alphabet = [chr(c) for c in range(0, 0x110000, step) if not 0xD800 <= c < 0xE000]
    texts = [f"a{c}a 1{c}1\n{c}\n!{c}! '{c}s" for c in alphabet]
    expected = [encoding.ids for encoding in library.encode_batch_fast(texts, add_special_tokens=False)]
    differ = [
        hex(ord(c))
        for c, ids, e in zip(alphabet, tokenizer.encode_batch(texts), expected, strict=True)
        if ids.tolist() != e
    ]
    assert not differ


@pytest.mark.parametrize("text", [" " * 100_000, "\t \n" * 20_000 + "x", "a" * 50_000, "中" * 50_000, "!" * 50_000])
def test_long_runs_neither_crash_nor_differ(text):
    assert TOKENIZER.encode(text) == LIBRARY.encode(text, add_special_tokens=False).ids


@given(FORGED)
def test_text_never_becomes_a_control_token(text):
    ids = TOKENIZER.encode(text)
    assert not set(ids) & set(range(36))
    assert TOKENIZER.decode(ids) == text
    assert not set(slow().encode(text)) & set(range(36))
    assert slow().encode(text) == ids


def slow(cache=[]):  # noqa: B006 - made once
    """The same tokenizer with a normalizer that changes nothing of it, which forbids the use of tiktoken."""
    if not cache:
        spec = json.loads(TOKENIZER.files["tokenizer.json"])
        spec["normalizer"] = {"type": "Sequence", "normalizers": []}
        cache.append(Tokenizer(TOKENIZER.files | {"tokenizer.json": json.dumps(spec)}))
        assert not cache[0].is_fast
    return cache[0]


def test_merges_that_tiktoken_would_apply_differently_are_not_given_to_it():
    """`ab` + `c` is listed, but alone `b` + `c` merges first: the library never makes `abc`, tiktoken would."""
    spec = json.loads(TOKENIZER.files["tokenizer.json"])
    vocabulary = {token: id for token, id in spec["model"]["vocab"].items() if id < 292}
    spec["model"]["vocab"] = vocabulary | {"bc": 292, "ab": 293, "abc": 294}
    spec["model"]["merges"] = [["b", "c"], ["a", "b"], ["ab", "c"]]
    tokenizer = Tokenizer({"tokenizer.json": json.dumps(spec)})
    assert not tokenizer.is_fast
    assert tokenizer.encode("abc") == [vocabulary["a"], 292]


def test_decoding_replaces_half_characters_and_can_leave_special_tokens_out():
    half = TOKENIZER.encode("𠀀")[:-1]
    assert TOKENIZER.decode(half) == "�"
    assert TOKENIZER.decode([1, *TOKENIZER.encode("hi"), 25, 2], skip_special=True) == "hi<think>"
    assert b"".join(map(TOKENIZER.token_bytes, TOKENIZER.encode("中文"))) == "中文".encode()


def test_lone_surrogates_of_broken_json_are_replaced():
    assert TOKENIZER.decode(TOKENIZER.encode("a\ud83db")) == "a�b"
    assert TOKENIZER.decode(TOKENIZER.encode_batch(["\ud83d\ude42"])[0].tolist()) == "🙂"


def test_saving_keeps_every_file_and_the_fingerprint(tmp_path):
    TOKENIZER.save(tmp_path / "copy")
    copy = Tokenizer.load(tmp_path / "copy")
    assert copy.files == TOKENIZER.files
    assert copy.fingerprint == TOKENIZER.fingerprint
    assert sorted(p.name for p in (tmp_path / "copy").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]
    assert pickle.loads(pickle.dumps(copy)).encode("你好 world") == TOKENIZER.encode("你好 world")


def test_names_in_the_configuration_may_be_objects_or_null(tmp_path):
    config = {"bos_token": None, "eos_token": {"content": "<|im_end|>", "special": True}}
    files = TOKENIZER.files | {"tokenizer_config.json": json.dumps(config)}
    tokenizer = Tokenizer(files)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, 2, None)
    assert tokenizer.fingerprint != TOKENIZER.fingerprint
    with pytest.raises(UserError, match="eos_token '<nope>'"):
        Tokenizer(files | {"tokenizer_config.json": '{"eos_token": "<nope>"}'})


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no tokenizer.json"), ("{", "not valid JSON"), ("[]", "not a JSON object"), ("{}", "byte-level BPE")],
)
def test_a_bad_directory_is_one_sentence(tmp_path, content, message):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path)


def test_transformers_reads_the_directory_and_gives_the_same_ids():
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(DEFAULT))
    text = "今天天气怎么样？ It's 23.5 degrees.\n\n  ok 🙂"
    assert theirs(text)["input_ids"] == TOKENIZER.encode(text)
    assert theirs("<think>")["input_ids"] == [25]
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 0)
    assert len(theirs) == TOKENIZER.vocab_size


SHIPPED = Tokenizer.load("default")


def with_config(**changes):
    config = json.loads(SHIPPED.files["tokenizer_config.json"]) | changes
    return Tokenizer({"tokenizer.json": SHIPPED.files["tokenizer.json"], "tokenizer_config.json": json.dumps(config)})


def test_what_other_programs_write_into_tokenizer_config():
    assert with_config(bos_token=None).bos_id is None
    assert with_config(bos_token={"content": "<|im_start|>", "lstrip": None}).bos_id == 1
    assert with_config(bos_token={"content": None}).bos_id is None
    assert with_config(chat_template=None).chat_template is None
    named = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    assert with_config(chat_template=named).chat_template == "d"
    assert with_config(chat_template=named[:1]).chat_template == "t"
    assert with_config(chat_template=[]).chat_template is None
    for wrong in ({"eos_token": 3}, {"eos_token": {"content": 3}}, {"eos_token": ["a"]}, {"chat_template": 3}):
        with pytest.raises(
            UserError, match=f"tokenizer_config.json: .*{'content' if 'content' in str(wrong) else next(iter(wrong))}"
        ):
            with_config(**wrong)


@pytest.mark.parametrize(
    "change",
    [{"model": None}, {"added_tokens": [{}]}, {"added_tokens": 3}, {"decoder": []}, {"model": {"type": "BPE"}}],
)
def test_a_damaged_tokenizer_is_one_sentence(change):
    spec = json.loads(SHIPPED.files["tokenizer.json"]) | change
    with pytest.raises(UserError, match=r"tokenizer\.json is (damaged|not a byte-level BPE)"):
        Tokenizer({"tokenizer.json": json.dumps(spec)})
