"""Programs that are installed are asked for real; then one that lies, one that fails and one that is absent."""

import importlib.util
import json
import sys
import types

import pytest
import torch

from minimind.cli import main
from minimind.config import PRESETS
from minimind.convert.gguf import export_gguf
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.parity import programs
from minimind.parity.exported import Mnn
from minimind.parity.measure import differs, measure
from minimind.parity.programs import PROGRAMS
from minimind.parity.prompts import PROMPTS
from minimind.tokenizer.bpe import Tokenizer

TOKENIZER = Tokenizer.load("default")
LENGTH = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    network = Transformer(PRESETS["tiny"].with_(vocab_size=TOKENIZER.vocab_size, num_hidden_layers=2))
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight *= 5
    directory = tmp_path_factory.mktemp("parity") / "model"
    save_model(network, directory, "float32")
    TOKENIZER.save(directory)
    return directory


def installed(name):
    return importlib.util.find_spec(PROGRAMS[name].package) is not None


def equal(row, limit=1e-4):
    asked = row["ids"]
    assert row["note"] is None
    assert asked is None or asked[0] == asked[1] > 0
    assert row["greedy"] == [len(PROMPTS)] * 2
    assert row["log_prob"] < limit
    assert row["kl"] is None or row["kl"] < limit


@pytest.mark.parametrize("name", ["server", "transformers"])
def test_the_same_numbers(model, name):
    pytest.importorskip(PROGRAMS[name].package)
    figures = measure(model, [name], length=LENGTH)
    (row,) = figures["rows"]
    equal(row)
    assert not differs(figures)
    assert (row["kl"] is None) == (name == "server"), "which reports the likeliest tokens only"


def test_a_quantised_file(model, tmp_path):
    pytest.importorskip("xllamacpp")
    export_gguf(model, tmp_path / "small.gguf", "q4_0")
    figures = measure(model, ["llamacpp"], [tmp_path / "small.gguf"], LENGTH)
    whole, small = figures["rows"]
    equal(whole)
    assert (small["program"], small["file"]) == ("llamacpp", str(tmp_path / "small.gguf"))
    assert whole["kl"] < 1e-5 < small["kl"]
    assert not differs(figures), "other weights may say other things"


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_that_is_installed(model, name):
    if not installed(name):
        pytest.skip(PROGRAMS[name].install)
    row = measure(model, [name])["rows"][0]
    if (row["note"] or "").startswith("no "):
        pytest.skip(row["note"])
    equal(row, 1e-3)


class Liar:
    """A program that renders one token too many, and believes in token 7."""

    package, install = "json", "pip install nothing"

    def __init__(self, model, scratch):
        assert not list(scratch.iterdir())

    def ids(self, prompt):
        return None if prompt.thinking else [*prompt.ids(TOKENIZER), 7]

    def greedy(self, ids, length):
        return [7] * length

    def log_probs(self, ids):
        return torch.full((TOKENIZER.vocab_size,), -9.0).index_fill(0, torch.tensor([7]), -0.9)


class Broken(Liar):
    package, install = "json", "pip install nothing"

    def greedy(self, ids, length):
        raise RuntimeError("no kernel\nfor this")


class Absent(Liar):
    package, install = "no_such_program", "pip install no-such-program"


@pytest.fixture
def fakes(monkeypatch):
    for name, kind in {"liar": Liar, "broken": Broken, "absent": Absent}.items():
        monkeypatch.setitem(programs.PROGRAMS, name, kind)
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: {"json": ["numpy"]})


def test_what_differs_is_said(model, fakes, capsys):
    assert main(["parity", str(model), "--with", "liar,absent", "--new", "4", "--json"]) == 1
    liar, absent = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert liar["ids"] == [0, 6]
    assert liar["greedy"] == [0, 8]
    assert liar["log_prob"] > 1
    assert liar["kl"] > 0.1
    assert absent["note"] == "not installed: pip install no-such-program"
    assert main(["parity", str(model), "--with", "absent", "--new", "4"]) == 0
    assert "absent: not installed: pip install no-such-program" in capsys.readouterr().err


def test_a_program_that_fails_does_not_stop_the_others(model, fakes):
    broken, absent = measure(model, ["broken", "absent"], length=2)["rows"]
    assert broken["note"] == "failed: no kernel"
    assert broken["greedy"] is None
    assert absent["note"].startswith("not installed")


def test_a_format_that_nobody_made_is_not_a_failure(model, fakes, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "MNN", types.ModuleType("MNN"))
    monkeypatch.setitem(sys.modules, "MNN.llm", types.ModuleType("MNN.llm"))
    monkeypatch.setattr(Mnn, "package", "json")
    assert main(["parity", str(model), "--with", "mnn", "--new", "2"]) == 0
    assert f"--path {model} --export mnn --quant_bit 16 --dst_path {model}-mnn" in capsys.readouterr().err


def test_an_unknown_program(model, capsys):
    assert main(["parity", str(model), "--with", "lamacpp"]) == 2
    assert "did you mean 'llamacpp'" in capsys.readouterr().err
