"""Exports that other programs' own builders write; what those programs then say is `minimind parity`'s to compare."""

import json
import sys

import pytest
from small_models import SHAPES, TOKENIZER, random_model, write

from minimind.cli import main
from minimind.convert.onnx import export_onnx
from minimind.convert.openvino import export_openvino
from minimind.errors import UsageError, UserError

EXPORTS = {"onnx": export_onnx, "openvino": export_openvino}
MAKERS = {"onnx": "onnxruntime_genai", "openvino": "optimum"}


@pytest.mark.parametrize("name", EXPORTS)
def test_a_builder_that_is_not_installed_is_named(name, model_of, tmp_path, monkeypatch, capsys):
    for package in (MAKERS[name], "onnx_ir"):
        monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", name, str(model_of("dense")), str(tmp_path / "out")]) == 1
    assert "pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", EXPORTS)
def test_an_unknown_type_is_named(name, model_of, tmp_path):
    with pytest.raises(UsageError, match=r"f31.*f32"):
        EXPORTS[name](model_of("dense"), tmp_path / "out", "f31")


def test_a_mixture_is_refused_where_it_cannot_be_and_told_where_it_can(model_of, tmp_path):
    with pytest.raises(UserError, match="take export openvino"):
        export_onnx(model_of("moe"), tmp_path / "out")


def test_yarn_is_refused_where_a_builder_computes_it_otherwise(model_of, tmp_path):
    with pytest.raises(UserError, match="YaRN"):
        export_onnx(model_of("yarn"), tmp_path / "out")


@pytest.mark.slow
def test_the_onnx_folder_is_what_a_browser_and_a_phone_look_for(model_of, tmp_path):
    pytest.importorskip("onnxruntime_genai")
    onnx_ir = pytest.importorskip("onnx_ir")
    out = tmp_path / "out"
    assert export_onnx(model_of("dense"), out)["bytes"] > 0
    graph = onnx_ir.load(out / "onnx" / "model.onnx").graph
    caches = [one for one in (*graph.inputs, *graph.outputs) if one.name.startswith(("past", "present"))]
    assert caches
    assert {one.shape[-1] for one in caches} == {SHAPES["dense"].head_dim}, "concrete, not a name"
    assert json.loads((out / "genai_config.json").read_text())["model"]["decoder"]["filename"] == "onnx/model.onnx"
    assert json.loads((out / "config.json").read_text())["transformers.js_config"]["use_external_data_format"]
    assert not (out / "cache").exists()


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["dense", "moe"])
def test_the_openvino_folder_has_a_model_and_its_tokenizer(shape, tmp_path):
    pytest.importorskip("optimum.intel")
    write(random_model(SHAPES[shape]), tmp_path / "model")
    TOKENIZER.save(tmp_path / "model")
    export_openvino(tmp_path / "model", tmp_path / "out")
    assert {"openvino_model.xml", "openvino_tokenizer.xml"} <= {file.name for file in (tmp_path / "out").iterdir()}
