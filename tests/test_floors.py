"""Imports go strictly downward, never sideways between the folders of one floor."""

import ast
from pathlib import Path

import minimind

PACKAGE = Path(minimind.__file__).parent
FLOORS = [
    {
        "errors",
        "text",
        "console",
        "compiler",
        "config",
        "fields",
        "files",
        "limits",
        "runtime",
        "ranks",
    },
    {"model", "tokenizer", "losses", "optim", "tools"},
    {"data", "engine", "train"},
    {"eval", "convert", "plan"},
    {"rl"},
    {"recipe"},
    {"stages"},
    {"inspect", "report", "serve", "bench"},
    {"api"},
    {"parity"},
    {"commands"},
    {"cli"},
    {"__main__", "__init__"},
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
HEAVY = {"torch", "transformers", "peft", "trl"}
MEASURED_AGAINST = {
    "bench/reference.py": {"transformers"},
    "bench/rivals.py": {"transformers"},
    "parity/programs.py": {"transformers"},
}
LIGHT = (
    "tokenizer",
    "tools",
    "data/corpus",
    "data/conversations",
    "data/shards",
    "data/smallworld",
    "data/stats",
    "data/preferences",
    "recipe",
    "limits",
)


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE), ast.parse(path.read_text(encoding="utf-8"))


def room(path):
    return path.parts[0].removesuffix(".py")


def imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module, node


def test_every_room_has_a_floor():
    assert {room(path) for path, _ in modules()} <= set(FLOOR)


def test_imports_go_down():
    for path, tree in modules():
        if room(path) == "__init__":
            continue  # the lazy front door names what it re-exports
        for name, node in imports(tree):
            if not name.startswith("minimind."):
                continue
            target, here = name.split(".")[1], room(path)
            same_room = target == here
            ground = FLOOR[here] == FLOOR[target] == 0
            assert same_room or ground or FLOOR[target] < FLOOR[here], f"{path}:{node.lineno} imports {name}"


SPECIAL_CASES = {("agent", "grpo"), ("lora", "sft")}
SHARED = {"setup", "setup_rl", "guard"}
"""What begins and ends stages, and is none."""


def test_a_stage_imports_only_the_stage_that_it_is_a_special_case_of():
    for path, tree in modules():
        if room(path) == "stages":
            names = {
                alias.name
                for _, node in imports(tree)
                if getattr(node, "module", "") == "minimind.stages"
                for alias in node.names
            }
            others = {(path.stem, name) for name in names - SHARED} - SPECIAL_CASES
            assert not others, f"{path} imports {others}"


def test_recipes_are_known_in_stages_and_above_only():
    """Rooms below know their own section, beside what it configures."""
    for path, tree in modules():
        if FLOOR[room(path)] < FLOOR["recipe"]:
            names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            assert not names & {"Recipe", "recipes"}, path


def test_no_circles_between_files():
    """Imports at the top of files; one inside a function breaks a circle only where it hides one."""
    graph = {}
    for path, tree in modules():
        name = "minimind." + ".".join(path.with_suffix("").parts)
        graph[name] = {
            f"{module}.{alias.name}" if hasattr(node, "module") else module
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
            for module in [getattr(node, "module", None) or alias.name]
        } | {getattr(node, "module", "") for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    done: set[str] = set()

    def visit(name, trail):
        assert name not in trail, " → ".join([*trail[trail.index(name) :], name])
        if name in done:
            return
        for target in graph[name] & graph.keys():
            visit(target, [*trail, name])
        done.add(name)

    for name in graph:
        visit(name, [])


def test_the_core_needs_no_reference_library():
    for path, tree in modules():
        for name, node in imports(tree):
            allowed = {"torch", *MEASURED_AGAINST.get(path.as_posix(), ())}
            assert name.split(".")[0] not in HEAVY - allowed, f"{path}:{node.lineno} imports {name}"


def test_what_is_measured_against_is_imported_when_it_is_asked_for():
    for path, tree in modules():
        for node in tree.body if path.as_posix() in MEASURED_AGAINST else []:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not {name.split(".")[0] for name, _ in imports(node)} & MEASURED_AGAINST[path.as_posix()]


def test_workers_stay_light():
    """What data workers import must not pull in torch (200 MB in each process), nor what TAB and --help wait for."""
    for path, tree in modules():
        if path.as_posix().startswith(LIGHT) or path.name == "settings.py":
            for name, node in imports(tree):
                assert name.split(".")[0] != "torch", f"{path}:{node.lineno} imports torch"


def test_environment_variables_are_read_in_one_place():
    for path, tree in modules():
        if path.name != "runtime.py":
            for node in ast.walk(tree):
                bad = isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
                assert not bad, f"{path}:{node.lineno} reads the environment"
