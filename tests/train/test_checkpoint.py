"""Checkpoints: what goes wrong while one is written or read is called by its name."""

import errno

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter

from minimind.errors import UserError
from minimind.train import checkpoint


@pytest.fixture
def save(tmp_path):
    return lambda model: checkpoint.save(
        tmp_path, 1, model, [torch.optim.AdamW(model.parameters())], {}, lambda _: None
    )


def load(folder, model):
    checkpoint.load(folder, model, [torch.optim.AdamW(model.parameters())])


def failing(error):
    def fail(*_):
        raise error

    return fail


def test_an_interrupt_is_no_full_disk(save, monkeypatch):
    monkeypatch.setattr(FileSystemWriter, "write_data", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        save(nn.Linear(2, 2))
    monkeypatch.setattr(FileSystemWriter, "write_data", failing(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match=r"could not be written \(No space left on device; .* make room"):
        save(nn.Linear(2, 2))


def test_only_another_model_is_called_one(save, monkeypatch):
    saved = save(nn.Linear(2, 2))
    with pytest.raises(UserError, match="another model or optimizer"):
        load(saved, nn.Linear(2, 3))
    monkeypatch.setattr(FileSystemReader, "read_data", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        load(saved, nn.Linear(2, 2))
    monkeypatch.setattr(FileSystemReader, "read_data", failing(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(UserError, match=r"could not be read \(Input/output error\)"):
        load(saved, nn.Linear(2, 2))
