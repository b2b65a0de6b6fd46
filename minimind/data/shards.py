"""Token shards: a corpus as memory-mapped token ids, built once in parallel and read by every later run.

    manifest.json          what it was built from and what it holds; written last, so with it the shards are complete
    tokens-00000.bin       token ids, uint16 or uint32, little-endian, document after document
    documents-00000.bin    of each document: content hash, UTF-8 bytes, tokens
    mask-00000.bin         not of texts: 1 where a token is supervised; of pairs, also which answer it belongs to

The main process reads lines and writes shards, workers parse and encode. A shard ends with a batch of lines, and after
each the place where the next begins is recorded: a killed build goes on from there and gives the same bytes.
"""

import hashlib
import json
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from os.path import isfile
from pathlib import Path
from typing import Any, Literal

from minimind import runtime
from minimind.console import progress, say, warn
from minimind.data import datasets_hub
from minimind.data.corpus import (
    KINDS,
    MANIFEST,
    Batch,
    Kind,
    Position,
    expand,
    parse,
    read_batches,
    stopped_at,
    tell_of_lines,
)
from minimind.data.encoding import Counts, Encoded, Encoder, Options, in_pool, token_dtype
from minimind.data.shard_files import (
    FORMAT,
    LOCK,
    PROGRESS,
    ShardWriter,
    check_ours,
    read_json,
    remove_unfinished_build,
)
from minimind.data.shard_reader import Shards
from minimind.errors import UserError
from minimind.files import remove_drafts, sha256_of, write_json, writing_to
from minimind.tokenizer.bpe import Tokenizer

__all__ = ["Options", "Shards", "build", "ensure", "tell_of_losses"]

TEXT = Options()
RENDERING = ("too_long", "random_system_prompt", "drop_empty_think")
"""Options that recipes have too, as `data.*`, and that decide which tokens a conversation becomes."""
SHARD_TOKENS = 1 << 25
MAX_WORKERS = 4
"""Each holds some 70 MB, with a large vocabulary 100: more of them could take a build over 500 MB."""
WORTH_WORKERS = 8 << 20
"""Bytes of corpus below which starting processes takes longer than encoding."""


def ensure(
    files: Sequence[str | Path],
    tokenizer: Tokenizer,
    kind: Kind = "text",
    *,
    split: Literal["train", "valid"] | None = None,
    valid_fraction: float = 0.0,
    cache: Path | None = None,
    **options: Any,
) -> Shards:
    """Open the shards of a corpus, building them in `cache` unless they are there; `options` are `Options`' fields.

    A single folder that `minimind data prepare` made with these options is opened as it is. With `split` only that side
    is given: both come from the same shards. What these leave out is said, of both sides with the first.

    Raises:
        UserError: as `build` and `Shards.open`; prepared shards of another tokenizer, kind or rendering.
    """
    if _are_prepared(files):
        shards = Shards.open(files[0])
        _check_prepared(shards, tokenizer, kind, options)
    else:
        key = _key(expand(files), tokenizer, wanted := Options(kind=kind, **options))
        shards = build(files, tokenizer, (cache or runtime.cache_dir() / "shards") / key[:32], wanted)
    if split != "valid":
        tell_of_losses(shards)
    if split is None:
        return shards
    part = shards.split(split, valid_fraction)
    if split == "train" and not part.documents:
        raise UserError(f"{files[0]}: all documents fell into the validation split; add documents or name --valid FILE")
    return part


def kind_of(files: Sequence[str | Path]) -> Kind:
    """What prepared shards hold, or the first line that is anything: texts, conversations or pairs."""
    if _are_prepared(files):
        return Shards.open(files[0]).kind
    for batch in read_batches(expand(files)):
        for _, line in batch.lines:
            for kind in KINDS:
                try:
                    parse(line, kind)
                except UserError:
                    continue
                return kind
    return "text"


def _are_prepared(files: Sequence[str | Path]) -> bool:
    return len(files) == 1 and isfile(Path(files[0], MANIFEST))


def _check_prepared(shards: Shards, tokenizer: Tokenizer, kind: str, options: dict[str, Any]) -> None:
    if shards.manifest["tokenizer"] != tokenizer.fingerprint:
        raise UserError(f"{shards.folder} was prepared with another tokenizer; prepare it again with this one")
    if shards.kind != kind:
        raise UserError(f"{shards.folder} holds {shards.kind} documents, but {kind} ones are needed")
    prepared = shards.manifest["options"]
    if differ := [name for name in RENDERING if name in options and options[name] != prepared[name]]:
        flags = " ".join(f"--{name.replace('_', '-')} {options[name]}" for name in differ)
        raise UserError(
            f"{shards.folder} was prepared with other settings than the recipe's; prepare it with {flags}, or train "
            f"with {' '.join(f'--set.data.{name} {prepared[name]}' for name in differ)}"
        )


def build(
    files: Sequence[str | Path],
    tokenizer: Tokenizer,
    out: Path,
    options: Options = TEXT,
    *,
    workers: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
) -> Shards:
    """Encode a corpus into token shards in `out`, or open them where they are already; a killed build goes on.

    Processes that build in one folder at the same time wait for each other; the first does the work.

    workers: processes beside this one; 0 encodes in this one. By default as many as cores and 500 MB allow.

    Raises:
        UserError: a missing or empty file, a bad line (unless skipped), no document at all, other shards or files in
            `out`, a full disk, a folder that cannot be written.
    """
    names = expand(files)
    key = _key(names, tokenizer, options)
    if found := _finished(out, key):
        return found
    if workers is None:
        size = sum(Path(name).stat().st_size for name in names if not datasets_hub.is_dataset(name))
        workers = min(runtime.cpu_count(), MAX_WORKERS) if size > WORTH_WORKERS or not size else 0
    with _alone_in(out):
        return _finished(out, key) or _Build(names, tokenizer, out, options, key, shard_tokens).run(workers)


def _finished(out: Path, key: str) -> Shards | None:
    manifest = read_json(out / MANIFEST)
    if manifest is None:
        return None
    if manifest.get("key") != key:
        raise UserError(f"{out} holds the shards of other data, options or tokenizer; delete it or choose another")
    return Shards.open(out)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Make the folder, and keep other builds out of it; if nothing was put into it, it is taken away again."""
    from filelock import FileLock, Timeout

    lock = FileLock(out / LOCK)
    with writing_to(out), suppress(NotImplementedError):  # some network disks have no locks
        while not (lock.is_locked and (out / LOCK).exists()):  # a build that failed has taken lock and folder away
            lock.release()
            out.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                check_ours(out)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    say(f"{out}: waiting for another process, which builds these shards")
                    lock.acquire()
    try:
        yield
    finally:
        if [path.name for path in out.iterdir()] == [LOCK]:
            with suppress(PermissionError):  # Windows deletes it when it is released
                (out / LOCK).unlink()
        lock.release()
        with suppress(OSError):  # it is not empty
            out.rmdir()


def tell_of_losses(shards: Shards) -> None:
    """Warn of what the corpus held and the shards do not: whoever uses them, not only who built them, has to know."""
    counts = Counts(**{name: shards.manifest[name] for name in vars(Counts()) if name in shards.manifest})
    tell_of_lines(counts.bad_lines, next(iter(counts.first_bad), ""), counts.mended)
    if counts.dropped or counts.shortened:
        warn(
            f"of {counts.documents + counts.dropped:,} conversations {counts.dropped:,} did not fit "
            f"and were left out, {counts.shortened:,} lost their oldest turns ({counts.dropped_turns:,})"
        )


class _Build:
    """One build: what is finished so far, and the loop that goes on from there."""

    def __init__(
        self, names: list[str], tokenizer: Tokenizer, out: Path, options: Options, key: str, shard_tokens: int
    ) -> None:
        self.names, self.tokenizer, self.out, self.options = names, tokenizer, out, options
        self.shard_tokens = shard_tokens
        self.identity = {"format": FORMAT, "key": key, "shard_tokens": shard_tokens}
        remove_drafts(out)
        done = read_json(out / PROGRESS) or {}
        if any(done.get(name) != value for name, value in self.identity.items()):
            remove_unfinished_build(out)
            done = {}
        self.shards: list[dict[str, Any]] = done.get("shards", [])
        self.counts = Counts(**done.get("counts", {}))
        self.position = Position(*done.get("position", ()))

    def run(self, workers: int) -> Shards:
        writer = ShardWriter(self.out, len(self.shards))
        try:
            with writing_to(self.out):
                self._record()  # before anything else is there: the folder is known by it
            with closing(self._encoded(workers)) as pairs:
                for batch, encoded in pairs:
                    if encoded.counts.bad_lines and self.options.on_bad_line == "stop":
                        raise self._hopeless(writer, stopped_at(encoded.counts.first_bad[0]))
                    self.counts += encoded.counts
                    with writing_to(self.out):
                        writer.add(encoded)
                        self.position = batch.end
                        if writer.tokens >= self.shard_tokens:
                            self._finish(writer)
                            writer = ShardWriter(self.out, len(self.shards))
            if not self.counts.documents:
                raise self._hopeless(writer, self._nothing())
            with writing_to(self.out):
                if writer.documents or not self.shards:
                    self._finish(writer)
                write_json(self.out / MANIFEST, self._manifest(), indent=1)
                (self.out / PROGRESS).unlink()
        except BaseException:
            writer.abandon()
            if not self.shards:
                remove_unfinished_build(self.out)
            raise
        return Shards.open(self.out)

    def _encoded(self, workers: int) -> Generator[tuple[Batch, Encoded], None, None]:
        """Batches in the order of the corpus, with a bounded number of them on their way."""
        on_disk = [Path(name).stat().st_size for name in self.names if not datasets_hub.is_dataset(name)]
        left = None if self.position != (0, 0, 0) else sum(on_disk)
        batches = read_batches(self.names, self.position)
        with progress("tokenizing", left) as bar:
            encoder = Encoder(self.tokenizer, self.options)
            here = ((batch, encoder(batch)) for batch in batches)
            for batch, encoded in in_pool(batches, encoder, workers) if workers else here:
                yield batch, encoded
                bar.advance(batch.disk_bytes, f"{self.counts.tokens:,} tokens")

    def _finish(self, writer: ShardWriter) -> None:
        self.shards.append(writer.finish())
        self._record()

    def _record(self) -> None:
        done = {"shards": self.shards, "counts": asdict(self.counts), "position": self.position}
        write_json(self.out / PROGRESS, self.identity | done, indent=1)

    def _hopeless(self, writer: ShardWriter, error: UserError) -> UserError:
        """Leave nothing behind: with this corpus and these options no build ends well."""
        writer.abandon()
        remove_unfinished_build(self.out)
        return error

    def _nothing(self) -> UserError:
        bad = f"; the first bad line: {self.counts.first_bad[0]}" if self.counts.first_bad else ""
        too_long = f"; {self.counts.dropped} conversations do not fit" if self.counts.dropped else ""
        return UserError(f"{', '.join(self.names[:3])}: no document to learn from{bad}{too_long}")

    def _manifest(self) -> dict[str, Any]:
        return {
            **self.identity,
            "tokenizer": self.tokenizer.fingerprint,
            "vocab_size": self.tokenizer.vocab_size,
            "dtype": token_dtype(self.tokenizer).str,
            "options": asdict(self.options),
            "sources": self.names,
            **asdict(self.counts),
            "shards": self.shards,
        }


def _key(names: list[str], tokenizer: Tokenizer, options: Options) -> str:
    """What the shards depend on: format, tokenizer, options and the content of every file, not its name.

    A dataset that is streamed from the hub is known by its name alone.
    """
    contents = []
    for name in names:
        paths = datasets_hub.local_files(name) if datasets_hub.is_dataset(name) else [Path(name)]
        contents.append([_content_hash(str(path), *_stamp(path)) for path in paths] or [name])
    identity = json.dumps([FORMAT, tokenizer.fingerprint, asdict(options), contents])
    return hashlib.sha256(identity.encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


@lru_cache(maxsize=4096)
def _content_hash(path: str, size: int, modified: int) -> str:
    """Hash a file once in a process, as long as its size and date stay."""
    return sha256_of(Path(path))
