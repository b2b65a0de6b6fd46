"""install.py: what it installs is what the package needs."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import install

ROOT = Path(__file__).parents[1]
SYSTEMS = (
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
)


def needed(requirement, seen):
    """Add the names of a requirement and of all that it needs in turn, on any system, to `seen`."""
    name = canonicalize_name(requirement.name)
    if name in seen or name.startswith(("nvidia-", "cuda-", "triton")):  # of torch for CUDA, which pins them itself
        return
    seen.add(name)
    for one in map(Requirement, importlib.metadata.requires(name) or ()):
        if one.marker is None or any(one.marker.evaluate({**system, "extra": ""}) for system in SYSTEMS):
            needed(one, seen)


def test_the_demo_gets_exactly_what_the_core_dependencies_need():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = set()
    for dependency in project["dependencies"]:
        needed(Requirement(dependency), names)
    pins = [Requirement(pin) for pin in install.demo_packages()]
    assert {canonicalize_name(pin.name) for pin in pins} == names
    assert all(str(pin.specifier).startswith("==") for pin in pins)
    wanted = {canonicalize_name(r.name): r.specifier for r in map(Requirement, project["dependencies"])}
    for pin in pins:
        version = str(pin.specifier).removeprefix("==")
        assert version in wanted.get(canonicalize_name(pin.name), pin.specifier)


@pytest.mark.parametrize(
    ("system", "gpu", "index", "options"),
    [
        ("linux", None, True, ["--no-deps", "--extra-index-url", install.CPU_INDEX]),
        ("linux", None, False, ["-c", "constraints.txt"]),
        ("linux", "/usr/bin/nvidia-smi", True, ["-c", "constraints.txt"]),
        ("darwin", None, True, ["--no-deps"]),
        ("win32", "nvidia-smi.exe", True, ["--no-deps"]),
    ],
)
def test_torch_is_the_build_for_the_machine(monkeypatch, capsys, system, gpu, index, options):
    ran = []
    monkeypatch.setattr(install.sys, "platform", system)
    monkeypatch.setattr(install.shutil, "which", lambda name: gpu)
    monkeypatch.setattr(install, "reachable", lambda url: index)
    monkeypatch.setattr(install.subprocess, "run", lambda command, check: ran.append(command))
    install.install_torch("torch==2.13.0")
    assert ran == [[*install.PIP, *options, "torch==2.13.0"]]
    assert capsys.readouterr().out.startswith("[2/4] torch==2.13.0")


def test_an_index_that_is_not_there_is_no_error():
    assert not install.reachable("http://127.0.0.1:9/")


def test_a_failed_step_shows_what_pip_said(capsys):
    command = [install.sys.executable, "-c", "print('Collecting a'); print('no such package'); raise SystemExit(3)"]
    with pytest.raises(install.subprocess.CalledProcessError):
        install.counted(command)
    assert "no such package" in capsys.readouterr().err


def test_a_wrong_word_is_wrong_usage(capsys):
    assert install.main(["everything"]) == 2
    assert "usage" in capsys.readouterr().err
