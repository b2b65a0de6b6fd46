import json

import numpy as np
import pytest

from minimind.data.corpus import MANIFEST
from minimind.data.encoding import DOCUMENT, Counts, Encoded
from minimind.data.shard_files import FORMAT, ShardWriter
from minimind.data.shards import Shards
from minimind.files import write_json


@pytest.fixture(scope="session")
def make_shards(tmp_path_factory):
    """Write documents of given ids (and masks) as shards, a few documents a shard."""

    def make(documents, masks=None, per_shard=3):
        folder = tmp_path_factory.mktemp("shards")
        entries = []
        for begin in range(0, len(documents), per_shard):
            part = documents[begin : begin + per_shard]
            table = np.zeros(len(part), DOCUMENT)
            table["length"] = [len(ids) for ids in part]
            mask = None if masks is None else np.concatenate(masks[begin : begin + per_shard]).astype(np.uint8)
            writer = ShardWriter(folder, len(entries))
            writer.add(Encoded(np.concatenate(part).astype("<u2"), mask, table, Counts()))
            entries.append(writer.finish())
        kind = "text" if masks is None else "sft"
        manifest = {"format": FORMAT, "key": "made", "dtype": "<u2", "options": {"kind": kind}, "shards": entries}
        write_json(folder / MANIFEST, manifest)
        return Shards.open(folder)

    return make


@pytest.fixture
def write_jsonl(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        path.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))
        return path

    return write
