import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minimind.data.packing import IGNORE, PackedStream, best_fit
from minimind.errors import UserError

quick = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
lengths = st.lists(st.integers(1, 40), min_size=1, max_size=40)


def numbered(sizes):
    """Documents in which every token of the corpus is another number."""
    ends = np.cumsum(sizes) + 1
    return [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]


def pieces(batch):
    """(row, ids, positions, labels) of every document in a batch."""
    for row in range(len(batch.input_ids)):
        documents = batch.document_ids[row]
        for document in range(int(documents.max()) + 1):
            here = documents == document
            yield row, batch.input_ids[row][here], batch.positions[row][here], batch.labels[row][here]


def one_epoch(stream):
    return stream.next_batch(stream.rows_per_epoch)


@quick
@given(sizes=lengths, length=st.integers(2, 17), seed=st.integers(0, 5))
def test_every_token_of_every_document_once_an_epoch(make_shards, sizes, length, seed):
    stream = PackedStream(make_shards(numbered(sizes)), length, seed)
    for _ in range(2):
        batch = one_epoch(stream)
        ids = batch.input_ids[batch.document_ids >= 0]
        assert sorted(ids.tolist()) == list(range(1, sum(sizes) + 1))
    assert stream.state_dict()["position"][0] <= 2


@quick
@given(sizes=lengths, length=st.integers(2, 17))
def test_documents_stay_apart(make_shards, sizes, length):
    documents = numbered(sizes)
    owner = {int(id): n for n, ids in enumerate(documents) for id in ids}
    batch = one_epoch(PackedStream(make_shards(documents), length, 3))
    for _, ids, positions, labels in pieces(batch):
        assert len({owner[int(id)] for id in ids}) == 1
        assert torch.equal(ids, torch.arange(int(ids[0]), int(ids[0]) + len(ids)))  # whole and in order
        assert torch.equal(positions, torch.arange(len(ids)))
        assert labels.tolist() == [*ids[1:].tolist(), IGNORE]
        whole = documents[owner[int(ids[0])]]
        if len(whole) <= length:
            assert len(ids) == len(whole)  # only what is longer than a row is cut
    padding = batch.document_ids < 0
    assert (batch.labels[padding] == IGNORE).all()
    assert (batch.input_ids[padding] == 0).all()


@quick
@given(data=st.data())
def test_only_supervised_tokens_are_labels(make_shards, data):
    sizes = data.draw(st.lists(st.integers(1, 16), min_size=1, max_size=20))
    documents = numbered(sizes)
    masks = [np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n))) for n in sizes]
    supervised = {int(id) for ids, mask in zip(documents, masks, strict=True) for id in ids[1:][mask[1:]]}
    batch = one_epoch(PackedStream(make_shards(documents, masks), 16, 1))
    assert sorted(batch.labels[batch.labels != IGNORE].tolist()) == sorted(supervised)


@quick
@given(sizes=lengths, window=st.integers(1, 9), before=st.integers(0, 7), rows=st.integers(1, 5))
def test_resume_gives_the_rows_of_an_uninterrupted_run(make_shards, sizes, window, before, rows):
    shards = make_shards(numbered(sizes))
    whole, resumed = PackedStream(shards, 16, 7, window), PackedStream(shards, 16, 7, window)
    for _ in range(before):
        whole.next_batch(rows)
    resumed.load_state_dict(whole.state_dict())
    for _ in range(4):
        for a, b in zip(whole.next_batch(rows)[:4], resumed.next_batch(rows)[:4], strict=True):
            assert torch.equal(a, b)


@quick
@given(sizes=lengths, rows=st.integers(1, 4))
def test_any_number_of_ranks_reads_the_same_order(make_shards, sizes, rows):
    shards = make_shards(numbered(sizes))
    alone, ranks = PackedStream(shards, 16, 7), [PackedStream(shards, 16, 7) for _ in range(2)]
    for _ in range(4):
        whole = alone.next_batch(2 * rows).input_ids
        parts = [stream.next_batch(rows, rank, 2).input_ids for rank, stream in enumerate(ranks)]
        assert torch.equal(whole, torch.cat(parts))


def test_order_depends_on_seed_and_epoch(make_shards):
    shards = make_shards(numbered([3, 5, 7, 4, 6] * 20))
    first, second = PackedStream(shards, 16, 1), PackedStream(shards, 16, 2)
    epoch, other_seed = one_epoch(first).input_ids, one_epoch(second).input_ids
    next_epoch = one_epoch(first).input_ids
    assert not torch.equal(epoch, other_seed)
    assert not torch.equal(epoch, next_epoch)


def test_rows_are_full(make_shards):
    sizes = np.random.default_rng(0).lognormal(5, 0.7, 4000).astype(int).clip(2, 3000).tolist()
    stream = PackedStream(make_shards([np.zeros(n) for n in sizes], per_shard=1000), 512, 0)
    batch = one_epoch(stream)
    assert (batch.document_ids >= 0).float().mean() > 0.99


def test_rows_per_epoch_is_estimated_within_two_percent(make_shards):
    sizes = np.random.default_rng(0).integers(5, 200, 2000).tolist()
    shards = make_shards([np.zeros(n) for n in sizes], per_shard=500)
    stream, exact = PackedStream(shards, 128, 0, window=500), 0
    while stream.state_dict()["position"][0] == 0:
        stream.next_batch(1)
        exact += 1
    assert abs(PackedStream(shards, 128, 0, window=500).rows_per_epoch / exact - 1) < 0.02


@quick
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(30, 50))
def test_no_row_is_overfilled_and_none_could_take_a_later_piece(sizes, size):
    row_of = best_fit(sizes, size)
    rows = [
        sorted(length for length, row in zip(sizes, row_of, strict=True) if row == n) for n in range(max(row_of) + 1)
    ]
    assert all(0 < sum(row) <= size for row in rows)
    for n, row in enumerate(rows):
        assert all(length > size - sum(row) for later in rows[n + 1 :] for length in later)


def test_two_pieces_that_fill_a_row_exactly_are_found():
    sizes = [6, 5, 3, 4]  # longest first alone: 6 + 3 of 10, then 5 + 4
    assert sorted(best_fit(sizes, 10).tolist()) == [0, 0, 1, 1]
    assert best_fit(sizes, 10)[0] == best_fit(sizes, 10)[3]
    assert len(set(best_fit([5, 3, 4], 10).tolist())) == 2  # a piece is not its own partner


def test_a_conversation_longer_than_a_row_is_refused(make_shards):
    shards = make_shards([np.arange(20)], [np.ones(20)])
    with pytest.raises(UserError, match=r"20 tokens.*--max-length 16"):
        PackedStream(shards, 16)


def test_a_state_of_other_data_is_refused(make_shards):
    shards = make_shards(numbered([3, 4]))
    with pytest.raises(UserError, match="other data"):
        PackedStream(shards, 16, seed=1).load_state_dict(PackedStream(shards, 16, seed=2).state_dict())
