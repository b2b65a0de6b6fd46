"""The notebook: valid, in two languages, and every cell runs (with its own QUICK) as a notebook would run it."""

import ast
import os
import re
import shlex
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "minimind.ipynb"
nbformat = pytest.importorskip("nbformat")


@pytest.fixture(scope="module")
def cells():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook.cells


def test_it_explains_in_both_languages_and_holds_no_results(cells):
    for cell in cells:
        if cell.cell_type == "markdown":
            assert re.search("[\u4e00-\u9fff]", cell.source), cell.source
            assert re.search("[a-z]{3}", cell.source), cell.source
            for link in re.findall(r"\]\(([^):]+)\)", cell.source):
                assert (NOTEBOOK.parent / link).is_file(), link
        else:
            assert not cell.outputs
            assert cell.execution_count is None


def test_every_cell_runs(cells, minimind, tmp_path, monkeypatch, capsys):
    shown = types.ModuleType("IPython.display")
    shown.HTML = str
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.setenv("MINIMIND_COMPILE", "0")  # compiling takes longer than all the cells
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "__main__"}
    values = []
    for source in (cell.source for cell in cells if cell.cell_type == "code"):
        if source.startswith("!"):
            program, *argv = shlex.split(source[1:].format_map(space))
            assert program == "minimind"
            ended = minimind(*argv)
            assert ended.code == 0, ended.err
            continue
        source = re.sub("^%pip .*$", "", source, flags=re.MULTILINE).replace("QUICK = False", "QUICK = True")
        *body, last = ast.parse(source).body
        exec(compile(ast.Module(body, []), "cell", "exec"), space)
        if isinstance(last, ast.Expr):
            values.append(eval(compile(ast.Expression(last.value), "cell", "eval"), space))
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), space)
    assert "<svg" in "".join(filter(None, values)), "the curve"
    assert os.path.getsize("my-model.zip") > 1_000_000
    assert re.search(r"facts_en +\d+%", capsys.readouterr().out)
