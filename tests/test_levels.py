"""Who may import whom, and how long a function may be: read from the source, nothing is run."""

import ast
import functools
import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from graphlib import TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOLDERS = ("mamt_jax", "envs_jax", "experiments", "tests")
FILES = {str(path.relative_to(ROOT)): path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))}
LEVELS = [
    {
        *{"types", "active", "distributions", "divergence", "reparameterized_actions", "returns", "running_statistics"},
        *{"options", "precision", "presets", "renamed", "sharding", "validation", "xla_flags"},
    },
    {"networks", "losses"},
    {"algorithms"},
    {"training"},
    {"analysis"},
    {"api"},
    {"cli", "__main__"},
]
FROM_ENVS = {f"envs_jax.{name}" for name in ("environment", "registry", "native_spaces", "imports", "validation")}


class Import(NamedTuple):
    """One imported name: `from a import b` is "a.b" if that is a module of ours or of flax, else "a"."""

    name: str
    lazy: bool


def module_name(file: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_name(file): file for file in FILES}


def imported_names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [full_name(alias.name) for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module, "imports are absolute"
        module = full_name(node.module)
        whole = [f"{module}.{alias.name}" for alias in node.names]
        return [name if name in MODULES or module == "flax" else module for name in whole]
    return []


def full_name(name: str) -> str:
    """Scripts of experiments import what is beside them."""
    beside = (f"{folder}.{name}" for folder in ("experiments", "experiments.benchmark"))
    return next((each for each in beside if each in MODULES), name)


@functools.cache
def tree(file: str) -> ast.Module:
    return ast.parse(FILES[file].read_text())


@functools.cache
def functions(file: str) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef)]


@functools.cache
def imports(file: str) -> list[Import]:
    unrun = [node for node in ast.walk(tree(file)) if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    inside = {id(node) for part in (*functions(file), *unrun) for node in ast.walk(part)}
    return [Import(name, id(node) in inside) for node in ast.walk(tree(file)) for name in imported_names(node)]


def distributions(of: Iterable[Import]) -> set[str]:
    """What to install for these imports, the standard library and the repository itself aside."""
    modules = {each.name.split(".")[0] for each in of} - sys.stdlib_module_names - {*FOLDERS}
    installed = packages_distributions()
    return {name for module in modules for name in installed.get(module, [module])}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def is_door(file: str) -> bool:
    """Whether an import of `envs_jax` leaves the file alone, so that it may need more than the rest."""
    return file.startswith("envs_jax/adapters/")


def level(module: str) -> int:
    """Where a module stands: the levels of mamt_jax, then experiments on top; mamt_jax itself shows the names of `api`."""
    parts = module.split(".")
    if module == "mamt_jax":
        return level("mamt_jax.api")
    if parts[0] != "mamt_jax":
        return len(LEVELS)
    found = [i for i, names in enumerate(LEVELS) if parts[1] in names]
    assert found, f"{module} has no level: give it one in LEVELS"
    return found[0]


def offenders(folder: str, wrong: Callable[[str, Import], bool]) -> list[str]:
    """The imports of a folder that `wrong(file, import)` objects to, in words."""
    files = [file for file in FILES if file.startswith(f"{folder}/")]
    return [f"{file} imports {each.name}" for file in files for each in imports(file) if wrong(file, each)]


def test_the_source_is_found():
    assert len(FILES) > 20 and "mamt_jax" in MODULES and "envs_jax" in MODULES
    assert Import("envs_jax.environment", lazy=False) in imports("envs_jax/wrappers.py")


def test_environments_stand_alone():
    core = sys.stdlib_module_names | {"jax", "chex", "numpy", "PIL", "envs_jax"}

    def wrong(file: str, each: Import) -> bool:
        if each.name in MODULES and is_door(MODULES[each.name]) and not is_door(file):
            return True
        if each.name.split(".")[0] in core or within(each.name, "flax.struct"):
            return False
        return within(each.name, "mamt_jax") or not (is_door(file) or each.lazy)

    assert not offenders("envs_jax", wrong)


def test_no_module_imports_from_a_higher_level():
    def wrong(file: str, each: Import) -> bool:
        if within(each.name, "experiments"):
            return True
        return within(each.name, "mamt_jax") and level(each.name) > level(module_name(file))

    assert not offenders("mamt_jax", wrong)


def test_imports_are_acyclic():
    graph = {module: {each.name for each in imports(file)} & MODULES.keys() for module, file in MODULES.items()}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_mamt_jax_takes_the_contract_and_the_registry_of_envs_jax():
    def wrong(file: str, each: Import) -> bool:
        user = file.startswith(("mamt_jax/training/", "mamt_jax/api.py", "mamt_jax/cli/"))
        return within(each.name, "envs_jax") and each.name not in FROM_ENVS and not user

    assert not offenders("mamt_jax", wrong)


def test_only_networks_see_flax_and_only_one_file_sees_jraph():
    def wrong(file: str, each: Import) -> bool:
        networks = file.startswith("mamt_jax/networks/")
        flax = within(each.name, "flax") and not within(each.name, "flax.struct") and not networks
        return flax or within(each.name, "jraph") and file != "mamt_jax/networks/trust_region_network.py"

    assert not offenders("mamt_jax", wrong) + offenders("experiments", wrong)


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function after its docstring."""
    first = function.body[bool(ast.get_docstring(function)) and len(function.body) > 1]
    return (function.end_lineno or first.lineno) - first.lineno


def test_functions_are_short():
    assert not [(file, f.name) for file in FILES for f in functions(file) if lines_of_code(f) >= 80]


def test_declared_dependencies_are_the_imported_ones():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {Requirement(each).name for each in project["dependencies"]}
    extra = ("tests/", "envs_jax/adapters/")
    library = [each for file in FILES if not file.startswith(extra) for each in imports(file)]
    anywhere, at_once = (distributions(each for each in library if not (each.lazy and skip)) for skip in (False, True))
    assert at_once <= declared <= anywhere


def test_no_file_names_an_absolute_path():
    absolute = re.compile(r"""(?:^|[\s"'`=(])/(?!dev/null|usr/bin/env|bin/|proc/|sys/)[a-z][\w.-]*/[\w.-]+""")
    results = (ROOT / "experiments" / "results").rglob("*.json")
    texts = [*FILES.values(), *results, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), *ROOT.glob("*.txt"), ROOT / ".ci" / "run"]
    lines = [(path.name, line) for path in texts for line in path.read_text().splitlines()]
    assert not [(name, line) for name, line in lines if absolute.search(line)]
