"""Many clients at once, and strangers: `benchmarks/serve_load.py`, `serve_fuzz.py` for a moment, on a tiny model."""

import asyncio
import importlib
import random
from pathlib import Path

import pytest
import torch
from conftest import serving, wait_until

from minimind.engine.engine import NEAR_TIE


@pytest.fixture
def benchmark(monkeypatch):
    """Import one of the benchmarks."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module


def test_sixteen_clients_get_complete_streams_equal_to_those_alone(model, tokenizer, benchmark):
    serve_load = benchmark("serve_load")
    with serving(model, tokenizer) as (url, service):
        engine = service.engine
        outcome = asyncio.run(serve_load.load(url, 16, 1.0, NEAR_TIE[torch.float32], prompts=8))
        assert outcome.broken == []
        assert outcome.streams >= 16
        wait_until(lambda: (service._open, engine.open_requests, engine.engine.has_work) == (0, 0, False))
        assert not service.live
        assert not engine._sinks


def test_spoilt_bodies_are_refused_or_answered(model, tokenizer, benchmark, tmp_path):
    serve_fuzz = benchmark("serve_fuzz")
    with serving(model, tokenizer, max_tokens=4, rollout_root=tmp_path) as (url, service):
        seen = asyncio.run(serve_fuzz.fuzz(url, 300))
        assert seen.faults == []
        assert seen.statuses[200] > 30
        assert seen.statuses[400] > 100
        wait_until(lambda: (service._open, service.engine.open_requests) == (0, 0))


def test_the_same_seed_spoils_alike(benchmark):
    mutated = benchmark("serve_fuzz").mutated
    first, again, other = ([mutated(dice) for _ in range(20)] for dice in map(random.Random, (1, 1, 2)))
    assert first == again != other


def test_clients_that_misbehave_spoil_no_other_stream(model, tokenizer, benchmark):
    serve_fuzz = benchmark("serve_fuzz")
    with serving(model, tokenizer, max_tokens=16) as (url, _):
        seen, outcome = asyncio.run(serve_fuzz.soak(url, 2.0, NEAR_TIE[torch.float32]))
        assert (seen.faults, outcome.broken) == ([], [])
        assert outcome.streams > 0
        assert sum(seen.statuses.values()) > 0
