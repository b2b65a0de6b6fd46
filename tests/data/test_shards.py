import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event

import numpy as np
import pytest

from minimind.data import shards
from minimind.data.encoding import Options, in_pool
from minimind.data.shards import Shards, build, ensure, tell_of_losses
from minimind.errors import UserError
from minimind.tokenizer import chat
from minimind.tokenizer.bpe import Tokenizer

TEXTS = [f"Document {n} tells something. 第{n}篇文章。" for n in range(40)]
CHATS = [
    {"conversations": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n}"}]}
    for n in range(30)
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load("default")


@pytest.fixture
def corpus(write_jsonl):
    return write_jsonl("corpus.jsonl", [{"text": text} for text in TEXTS])


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_document_is_bos_text_eos(corpus, tokenizer, tmp_path):
    built = build([corpus], tokenizer, tmp_path / "out")
    expected = [[tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id] for text in TEXTS]
    assert [ids.tolist() for ids, _ in built] == expected
    assert all(mask.all() for _, mask in built)
    manifest = built.manifest
    assert manifest["documents"] == built.documents == 40
    assert manifest["tokens"] == built.tokens == sum(map(len, expected))
    assert manifest["bytes"] == sum(len(text.encode()) for text in TEXTS)
    assert built.bytes.tolist() == [len(text.encode()) for text in TEXTS]
    assert manifest["dtype"] == "<u2"


def test_a_tokenizer_without_bos_adds_only_eos(corpus, tokenizer, tmp_path):
    files = dict(tokenizer.files)
    config = json.loads(files["tokenizer_config.json"])
    files["tokenizer_config.json"] = json.dumps(config | {"bos_token": None})
    bare = Tokenizer(files)
    first, _ = next(iter(build([corpus], bare, tmp_path / "out")))
    assert first.tolist() == [*tokenizer.encode(TEXTS[0]), tokenizer.eos_id]


def test_conversations_carry_their_mask(write_jsonl, tokenizer, tmp_path):
    built = build([write_jsonl("c.jsonl", CHATS)], tokenizer, tmp_path / "out", Options("sft"))
    for (ids, mask), row in zip(built, CHATS, strict=True):
        assert (ids.tolist(), mask.tolist()) == chat.render(row["conversations"], tokenizer)
    assert built.manifest["supervised"] == sum(mask.sum() for _, mask in built)


def test_what_does_not_fit_is_counted(write_jsonl, tokenizer, tmp_path, capsys):
    long = [{"role": r, "content": "word " * 50} for r in ("user", "assistant")]
    rows = [*CHATS, {"messages": long}, {"messages": long + CHATS[0]["conversations"]}]
    built = build([write_jsonl("c.jsonl", rows)], tokenizer, tmp_path / "out", Options("sft", max_length=64))
    counts = {name: built.manifest[name] for name in ("documents", "dropped", "shortened", "dropped_turns")}
    assert counts == {"documents": 31, "dropped": 1, "shortened": 1, "dropped_turns": 2}
    assert built.lengths.max() <= 64
    tell_of_losses(built)
    assert "1 did not fit and were left out, 1 lost their oldest turns (2)" in capsys.readouterr().err


def test_what_is_left_out_is_said_whenever_it_is_used(write_jsonl, tokenizer, tmp_path, capsys):
    path = write_jsonl("c.jsonl", [*({"text": text} for text in TEXTS), {}])
    build([path], tokenizer, tmp_path / "out", Options(on_bad_line="skip"))
    how = {"on_bad_line": "skip", "cache": tmp_path / "cache"}
    for files, options in (([path], how), ([path], how), ([tmp_path / "out"], {})):
        capsys.readouterr()
        for side in ("train", "valid"):
            ensure(files, tokenizer, split=side, valid_fraction=0.3, **options)
        assert capsys.readouterr().err.count("1 bad lines left out") == 1


def test_augmentation_is_the_same_in_every_build(write_jsonl, tokenizer, tmp_path):
    options = Options("sft", random_system_prompt=0.5, drop_empty_think=0.5)
    one = build([write_jsonl("a.jsonl", CHATS)], tokenizer, tmp_path / "1", options)
    two = build([write_jsonl("b.jsonl", CHATS[::-1])], tokenizer, tmp_path / "2", options)
    assert sorted(ids.tobytes() for ids, _ in one) == sorted(ids.tobytes() for ids, _ in two)
    think = [tokenizer.control_id("<think>") in ids for ids, _ in one]
    assert 5 < sum(think) < 25


def test_workers_and_batches_change_nothing(corpus, tokenizer, tmp_path, monkeypatch):
    build([corpus], tokenizer, tmp_path / "one", workers=0)
    monkeypatch.setattr("minimind.data.corpus.read_batches.__defaults__", (shards.Position(), 400))
    build([corpus], tokenizer, tmp_path / "two", workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


KILLED = """
import sys, time
from pathlib import Path
from minimind.data import corpus, encoding, shards
from minimind.tokenizer.bpe import Tokenizer
corpus.read_batches.__defaults__ = (corpus.BEGINNING, 3000)
encode = encoding.Encoder.__call__
def slowly(self, batch):
    time.sleep(0.05)
    return encode(self, batch)
encoding.Encoder.__call__ = slowly
shards.build([sys.argv[1]], Tokenizer.load("default"), Path(sys.argv[2]), workers=0, shard_tokens=3000)
"""


def test_a_killed_build_goes_on_to_the_same_bytes(write_jsonl, tokenizer, tmp_path, monkeypatch):
    corpus = write_jsonl("c.jsonl", [{"text": f"{text} {n}"} for n in range(40) for text in TEXTS])
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(corpus), str(out)])
    deadline = time.monotonic() + 60
    while len(list(out.glob("tokens-*.bin"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("tokens-*.bin")}
    assert len(finished) >= 3
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="no finished token shards"):
        Shards.open(out)

    monkeypatch.setattr("minimind.data.corpus.read_batches.__defaults__", (shards.Position(), 3000))
    build([corpus], tokenizer, out, workers=0, shard_tokens=3000)
    build([corpus], tokenizer, tmp_path / "whole", workers=0, shard_tokens=3000)
    assert bytes_of(out) == bytes_of(tmp_path / "whole")
    kept = [name for name, date in finished.items() if (out / name).stat().st_mtime_ns == date]
    assert len(kept) >= 2  # went on, did not start over


def test_built_once_and_keyed_by_content(corpus, write_jsonl, tokenizer, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first = ensure([corpus], tokenizer, cache=cache)
    copy = write_jsonl("copy.jsonl", [{"text": text} for text in TEXTS])
    monkeypatch.setattr(shards, "_Build", lambda *_: pytest.fail("built again"))
    assert ensure([copy], tokenizer, cache=cache).folder == first.folder
    monkeypatch.undo()
    changed = write_jsonl("changed.jsonl", [{"text": text} for text in TEXTS[1:]])
    assert ensure([changed], tokenizer, cache=cache).folder != first.folder
    assert ensure([corpus], tokenizer, on_bad_line="skip", cache=cache).folder != first.folder


ORPHANS = """
from itertools import repeat
from minimind.data.corpus import BEGINNING, Batch
from minimind.data.encoding import Encoder, Options, in_pool
from minimind.tokenizer.bpe import Tokenizer
lines = repeat(Batch("c.jsonl", [(1, b'{"text": "a"}')], BEGINNING, 0))
for _ in in_pool(lines, Encoder(Tokenizer.load("default"), Options()), 1):
    print("working", flush=True)
"""


def test_workers_end_with_a_process_that_is_killed():
    process = subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"working\n"
    process.kill()
    process.communicate(timeout=30)  # their end of the pipe is closed too


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="Windows has no masks of signals")
def test_workers_are_not_interrupted():
    # Ctrl-C reaches a whole group of processes; one that is still importing would end in a traceback of its own.
    blocked = partial(signal.pthread_sigmask, signal.SIG_BLOCK)
    [(_, found)] = in_pool([[]], blocked, 1)
    assert (found, blocked([])) == ({signal.SIGINT}, set())


ASKING = """
import sys
from pathlib import Path
from minimind.data.shards import build
from minimind.tokenizer.bpe import Tokenizer
print(build([sys.argv[1]], Tokenizer.load("default"), Path(sys.argv[2])).tokens)
"""


def test_processes_that_ask_at_once_share_one_build(corpus, tmp_path):
    command = [sys.executable, "-c", ASKING, str(corpus), str(tmp_path / "out")]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate(timeout=60)[0] for process in asking}
    assert [process.returncode for process in asking] == [0, 0, 0]
    assert len(answers) == 1


def test_who_waits_goes_on_when_the_first_has_failed(tokenizer, tmp_path, monkeypatch):
    out, waits, bad = tmp_path / "out", Event(), tmp_path / "bad.jsonl"
    bad.write_text("nonsense\n")
    monkeypatch.setattr(shards, "say", lambda text: waits.set())
    with ThreadPoolExecutor() as pool:
        with shards._alone_in(out):
            built = pool.submit(build, [bad], tokenizer, out)
            assert waits.wait(30)
        with pytest.raises(UserError, match="not valid JSON"):
            built.result(timeout=60)
    assert not out.exists(), "nor does the second leave anything"


@pytest.mark.parametrize("name", ["progress.json", "tokens-00042.bin", ".notes.tmp", "thesis.txt"])
def test_files_of_someone_else_are_left_alone(corpus, tokenizer, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text('{"day": 3}')
    with pytest.raises(UserError, match=rf"mine holds other files \(as {name}\); choose a new folder"):
        build([corpus], tokenizer, tmp_path / "mine")
    assert bytes_of(tmp_path / "mine") == {name: b'{"day": 3}'}


def test_the_split_is_a_partition_that_growth_does_not_change(corpus, write_jsonl, tokenizer, tmp_path):
    def sides(file):
        both = (
            ensure([file], tokenizer, split=side, valid_fraction=0.3, cache=tmp_path / "cache")
            for side in ("train", "valid")
        )
        return [{tokenizer.decode(ids, skip_special=True) for ids, _ in part} for part in both]

    train, valid = sides(corpus)
    assert train | valid == set(TEXTS)
    assert not train & valid
    assert 4 <= len(valid) <= 20
    grown_train, grown_valid = sides(write_jsonl("grown.jsonl", [{"text": t} for t in ["new", *TEXTS, *TEXTS, "x"]]))
    assert train <= grown_train
    assert valid <= grown_valid
    assert not grown_train & grown_valid


def test_prepared_shards_are_opened_as_they_are(corpus, tokenizer, tmp_path):
    build([corpus], tokenizer, tmp_path / "out")
    assert ensure([tmp_path / "out"], tokenizer).folder == tmp_path / "out"
    with pytest.raises(UserError, match="holds text documents, but sft"):
        ensure([tmp_path / "out"], tokenizer, "sft")
    files = dict(tokenizer.files)
    files["tokenizer_config.json"] = json.dumps(json.loads(files["tokenizer_config.json"]) | {"bos_token": None})
    with pytest.raises(UserError, match="prepared with another tokenizer"):
        ensure([tmp_path / "out"], Tokenizer(files))


def test_prepared_shards_say_what_the_recipe_says(write_jsonl, corpus, tokenizer, tmp_path):
    build([write_jsonl("c.jsonl", CHATS)], tokenizer, tmp_path / "out", Options("sft", drop_empty_think=0.2))
    own = {"too_long": "drop_oldest", "random_system_prompt": 0.0, "drop_empty_think": 0.2}
    both = partial(ensure, [tmp_path / "out"], tokenizer, "sft", max_length=512, on_bad_line="skip")
    assert both(**own).documents == len(CHATS)
    cures = {
        "--too-long skip, or train with --set.data.too_long drop_oldest": {"too_long": "skip"},
        "--random-system-prompt 0.1, or train with --set.data.random_system_prompt 0.0": {"random_system_prompt": 0.1},
        "--too-long skip --drop-empty-think 0, or train": {"too_long": "skip", "drop_empty_think": 0},
    }
    for cure, other in cures.items():
        with pytest.raises(UserError, match=f"other settings than the recipe's; prepare it with {cure}"):
            both(**own | other)


def test_damage_is_found(corpus, tokenizer, tmp_path, minimind):
    build([corpus], tokenizer, tmp_path / "out")
    path = tmp_path / "out" / "tokens-00000.bin"
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)
    ended = minimind("data", "prepare", "--data", corpus, "--out", tmp_path / "out")
    assert (ended.code, "tokens-00000.bin is damaged (its checksum" in " ".join(ended.err.split())) == (1, True)
    path.write_bytes(data[:-2])
    with pytest.raises(UserError, match=r"tokens-00000\.bin is damaged .*delete the folder .*out"):
        Shards.open(tmp_path / "out")
    (tmp_path / "out" / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        Shards.open(tmp_path / "out")


def test_bad_lines_stop_or_are_counted(tmp_path, tokenizer, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\nnonsense\n{"text": "b"}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl line 2: not valid JSON"):
        build([path], tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    built = build([path], tokenizer, tmp_path / "out", Options(on_bad_line="skip"))
    assert built.manifest["bad_lines"] == 1
    assert built.documents == 2
    tell_of_losses(built)
    assert "line 2" in capsys.readouterr().err


def test_a_late_bad_line_leaves_nothing(write_jsonl, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("minimind.data.corpus.read_batches.__defaults__", (shards.Position(), 100))
    path = write_jsonl("bad.jsonl", [*({"text": text} for text in TEXTS), {"text": 1}])
    with pytest.raises(UserError, match="line 41"):
        build([path], tokenizer, tmp_path / "out", shard_tokens=100)
    assert not (tmp_path / "out").exists()


def test_no_document_at_all(tmp_path, tokenizer):
    path = tmp_path / "nothing.jsonl"
    path.write_text("\n\n{}\n")
    with pytest.raises(UserError, match="no document to learn from; the first bad line"):
        build([path], tokenizer, tmp_path / "out", Options(on_bad_line="skip"))
    assert not (tmp_path / "out").exists()


def test_other_shards_are_not_overwritten(corpus, write_jsonl, tokenizer, tmp_path):
    build([corpus], tokenizer, tmp_path / "out")
    before = bytes_of(tmp_path / "out")
    with pytest.raises(UserError, match="holds the shards of other data"):
        build([write_jsonl("o.jsonl", [{"text": "other"}])], tokenizer, tmp_path / "out")
    assert bytes_of(tmp_path / "out") == before


def test_a_full_disk_is_one_sentence(corpus, tokenizer, tmp_path, monkeypatch):
    def full(self, batch):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("minimind.data.shards.ShardWriter.add", full)
    with pytest.raises(UserError, match="out: the disk is full; free some space"):
        build([corpus], tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cache_that_cannot_be_written_names_its_variable(corpus, tokenizer, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MINIMIND_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be written .*MINIMIND_CACHE"):
        ensure([corpus], tokenizer)


def test_output_that_cannot_be_written(corpus, tokenizer, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        build([corpus], tokenizer, tmp_path / "file" / "out")


def test_workers_load_no_torch():
    code = "import sys, minimind.data.shards, minimind.data.stats; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_large_vocabularies_take_four_bytes(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "vocab_size", 151_936)
    built = build([corpus], tokenizer, tmp_path / "out")
    assert built.manifest["dtype"] == "<u4"
    assert next(iter(built))[0].dtype == np.uint32
