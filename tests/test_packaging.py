"""What leaves the repository: the wheel, the image, compose, the continuous integration, the Slurm script."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minimind"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def read(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built of nothing but what `.dockerignore` lets into an image."""
    pytest.importorskip("hatchling")
    context, out = tmp_path_factory.mktemp("context"), tmp_path_factory.mktemp("dist")
    for name in re.findall("^!(.+)$", read(".dockerignore"), re.MULTILINE):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, context / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=context, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_every_file_of_the_package_and_the_recipes(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    files = {p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    recipes = set((ROOT / "recipes").rglob("*.toml"))
    wanted = {f"minimind/{p.relative_to(PACKAGE).as_posix()}" for p in files}
    wanted |= {f"minimind/recipes/{p.relative_to(ROOT / 'recipes').as_posix()}" for p in recipes}
    assert wanted <= names
    for name in ("serve/page/index.html", "engine/decode.cpp", "tokenizer/default/tokenizer.json"):
        assert f"minimind/{name}" in wanted
    strangers = {name for name in names if not name.startswith(("minimind/", "minimind-"))}
    assert not strangers


def test_the_wheel_works_far_from_the_repository(wheel, tmp_path):
    """Installed into an environment of its own, which borrows the libraries of this one."""
    home, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    venv.create(home, with_pip=False)
    where = {"base": str(home), "platbase": str(home)}
    suffix = ".exe" if sys.platform == "win32" else ""
    scripts, packages = (Path(sysconfig.get_path(name, "venv", where)) for name in ("scripts", "purelib"))
    install = ["-m", "pip", "--python", str(scripts / f"python{suffix}"), "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([sys.executable, *install, str(wheel)], check=True)
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program: str, *argv: str) -> str:
        command = [str(scripts / f"{program}{suffix}"), *argv]
        options = {"cwd": elsewhere, "env": environment, "capture_output": True, "encoding": "utf-8"}
        done = subprocess.run(command, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    code = "import minimind.recipe as r; print(r.__file__); print(r.recipe_folder())"
    module, recipes = run("python", "-c", code).splitlines()
    assert Path(module).is_relative_to(packages)
    assert Path(recipes).is_relative_to(packages)
    assert "minimind COMMAND" in run("minimind", "--help")
    fixed = ["--tokens", "1e6", "--tokens-per-second", "1000", "--json"]
    assert json.loads(run("minimind", "plan", "laptop", *fixed))["parameters"] == 6_066_176
    assert "laptop" in run("minimind", "completion", "words", "plan", "lap")


def test_the_pinned_versions_lie_within_the_claimed_ranges():
    """And a package that several extras ask for is asked for in the same words."""
    pinned = dict(line.split("==") for line in read("constraints.txt").splitlines() if "==" in line)
    versions = {canonicalize_name(name): version for name, version in pinned.items()}
    lists = [PYPROJECT["build-system"]["requires"], PYPROJECT["project"]["dependencies"], *EXTRAS.values()]
    ranges: dict[str, SpecifierSet] = {}
    for claim in map(Requirement, itertools.chain.from_iterable(lists)):
        name = canonicalize_name(claim.name)
        assert any(part.operator == ">=" for part in claim.specifier), f"{claim} has no oldest version"
        assert versions[name] in claim.specifier, f"{claim}, but constraints.txt has {versions[name]}"
        assert ranges.setdefault(name, claim.specifier) == claim.specifier, f"two ranges for {name}"


def test_the_image_asks_for_what_there_is():
    text = read("Dockerfile")
    (wanted,) = re.findall(r'"\.\[(.+)\]"', text)
    assert set(wanted.split(",")) <= set(EXTRAS)
    (python,) = re.findall(r"^FROM python:3\.(\d+)", text, re.MULTILINE)
    assert int(python) >= 11
    let_through = set(re.findall("^!(.+)$", read(".dockerignore"), re.MULTILINE))
    for sources in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
        assert set(sources.split()) <= let_through


def test_compose_starts_a_server_that_only_this_machine_reaches(minimind, tmp_path, monkeypatch):
    yaml = pytest.importorskip("yaml")
    services = yaml.safe_load(read("compose.yaml"))["services"]
    server = services["server"]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"]), "as there is no key"
    folder = re.search(r"^VOLUME (\S+)$", read("Dockerfile"), re.MULTILINE)[1]
    assert f"models:{folder}" in server["volumes"]
    assert services["server-cuda"]["extends"] == "server"
    (argument,) = services["server-cuda"]["build"]["args"]
    assert f"ARG {argument}=" in read("Dockerfile")
    monkeypatch.chdir(tmp_path)
    command, model, *flags = server["command"]
    assert model == "${MODEL:-demo/sft/model}"
    ended = minimind(command, "none", *flags)
    assert ended.code == 1, "the flags are right"
    assert "none is not a model directory" in ended.err


def test_the_continuous_integration_runs_make_test_everywhere():
    yaml = pytest.importorskip("yaml")
    text = read(".github", "workflows", "test.yml")
    workflow = yaml.safe_load(text)
    assert "secrets" not in text
    assert workflow["permissions"] == {"contents": "read"}
    job = workflow["jobs"]["test"]
    assert set(job["strategy"]["matrix"]["python"]) == {"3.11", "3.13"}
    assert {name.split("-")[0] for name in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}
    assert any(step.get("run", "").startswith("make test") for step in job["steps"])


def test_the_slurm_script_is_the_one_that_the_page_shows():
    script = read("examples", "train.slurm")
    for language in ("en", "zh"):
        assert f"```sh\n{script}```" in read("docs", language, "10-distributed.md")
