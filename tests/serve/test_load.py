"""Many clients at once: `benchmarks/serve_load.py` for a moment, on a tiny model."""

import asyncio
import importlib.util
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import serving

from minimind.engine.engine import NEAR_TIE


@pytest.fixture
def serve_load():
    path = Path(__file__).parents[2] / "benchmarks" / "serve_load.py"
    spec = importlib.util.spec_from_file_location("serve_load", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["serve_load"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["serve_load"]


def test_sixteen_clients_get_complete_streams_equal_to_those_alone(model, tokenizer, serve_load):
    with serving(model, tokenizer) as (url, service):
        engine = service.engine
        outcome = asyncio.run(serve_load.load(url, 16, 1.0, NEAR_TIE[torch.float32], prompts=8))
        assert outcome.broken == []
        assert outcome.streams >= 16
        time.sleep(0.1)
        assert (service._open, engine.open_requests, engine.engine.has_work) == (0, 0, False), "everything is released"
        assert not service._live
        assert not engine._sinks
