"""Training: the fixed ids, any size, the same text always the same tokenizer."""

import json
import os
import random
import signal
import sys
from queue import SimpleQueue
from threading import Event

import pytest

from minimind.errors import UserError
from minimind.tokenizer import Tokenizer
from minimind.tokenizer.train import ADDED, train_tokenizer

WORDS = random.Random(0)
TEXTS = [
    " ".join("".join(WORDS.choices("abcdefghij", k=WORDS.randint(1, 6))) for _ in range(30)) + "，你好世界。今天天气"
    for _ in range(200)
]


def test_the_same_text_gives_the_same_tokenizer(tmp_path):
    first, second = train_tokenizer(TEXTS, 600), train_tokenizer(iter(TEXTS), 600)
    assert first.files == second.files
    assert first.vocab_size == 600
    assert first.is_fast
    assert [first.control_id(content) for content in ADDED] == list(range(36))
    assert sorted(first.token_bytes(id) for id in range(36, 292)) == [bytes([byte]) for byte in range(256)]
    first.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.fingerprint == first.fingerprint
    assert loaded.decode(loaded.encode(TEXTS[0])) == TEXTS[0]
    assert len(loaded.encode(TEXTS[0])) < 0.6 * len(TEXTS[0].encode())
    assert "chat_template" in json.loads(loaded.files["tokenizer_config.json"])


def test_digits_stand_alone():
    assert len(train_tokenizer(["2024 2024 2024 "] * 50, 292).encode("2024")) == 4
    with pytest.raises(UserError, match="fill only"):
        train_tokenizer(["2024 2024 2024 "] * 50, 300)


def test_tokens_can_be_kept_short():
    tokenizer = train_tokenizer(TEXTS, 600, max_token_bytes=3)
    assert max(len(tokenizer.token_bytes(id)) for id in range(36, 600)) == 3


def test_too_small_or_too_large_a_vocabulary_is_one_sentence():
    with pytest.raises(UserError, match="--vocab-size 200: 292 or more"):
        train_tokenizer(TEXTS, 200)
    with pytest.raises(UserError, match=r"below 2\*\*24"):
        train_tokenizer(TEXTS, 10**30)


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal there")
def test_ctrl_c_is_heard_while_the_library_works(request):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    heard, in_time = Event(), SimpleQueue()

    def texts():
        yield TEXTS[0]
        os.kill(os.getpid(), signal.SIGINT)
        in_time.put(heard.wait(5))

    try:
        train_tokenizer(texts(), 292)
    except KeyboardInterrupt:
        heard.set()
    assert in_time.get(timeout=10)
