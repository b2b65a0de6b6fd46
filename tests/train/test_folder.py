import os

import pytest
from filelock import FileLock

from minimind.errors import UserError
from minimind.train.folder import locked


def test_two_runs_cannot_write_to_one_folder(tmp_path):
    with locked(tmp_path / "run"):
        other = FileLock(tmp_path / "run" / ".lock")
        assert not other.is_locked
        with pytest.raises(UserError, match="another run is writing there"), locked(tmp_path / "run"):
            pass
    with locked(tmp_path / "run"):
        pass


def test_the_command_says_so_and_leaves_the_other_run_alone(minimind, pretrain_flags, tmp_path):
    run = tmp_path / "run"
    with locked(run):
        before = sorted(os.listdir(run))
        ended = minimind(*pretrain_flags, "--out", run)
        assert (ended.code, sorted(os.listdir(run))) == (1, before)
        assert "another run is writing there; wait for its end" in ended.err
