"""The house rules: who imports whom, one list of packages, documented and typed functions."""

import ast
import doctest
import importlib
import re
import stat
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from course_utils.core import PROJECT

PACKAGE = PROJECT / "course_utils"
MODULES = sorted(PACKAGE.rglob("*.py"))

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
ROOMS = PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
WITHOUT_TORCH = ("core", "plotting", "runner", "cli")  # `core` but for three modules that compute
COMPUTES = {"core/validation.py", "core/parallel.py", "core/vision.py"}
MAY_PRINT = {"cli"}


@cache
def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def subject(path):
    """Return the module's name, "exercises" for all files of that folder."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path):
    """Yield (dotted name, node) for each import in a file, relative ones written out from course_utils."""
    package = ("course_utils", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += (node.module or "").split(".") if node.module else []
            if base in (["course_utils"], ["course_utils", "exercises"]):
                yield from ((".".join([*base, alias.name]), node) for alias in node.names)
            else:
                yield ".".join(base), node


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


every_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


def test_every_folder_is_a_room():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(ROOMS)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_says_which_files_it_has(room):
    """Files of one subject each (demos and exercises) need not be listed one by one."""
    text = ast.get_docstring(tree(PACKAGE / room / "__init__.py"))
    files = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
    named = {name for name in files if f"`{name}`" in text}
    assert named == files or "one file for the" in text, sorted(files - named)


@every_module
def test_only_vision_imports_torchvision(path):
    names = {name.split(".")[0] for name, _ in imports(path)}
    assert name_of(path) == "core/vision.py" or "torchvision" not in names


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_no_torch_at_import(room):
    files = [p for p in (PACKAGE / room).rglob("*.py") if name_of(p) not in COMPUTES]
    modules = [".".join(p.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__") for p in files]
    code = f"import sys\nfor m in {modules}: __import__(m)\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@every_module
def test_weights_are_loaded_as_data_only(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert given.get("weights_only") == "True", f"line {node.lineno}"


@every_module
def test_the_library_does_not_print(path):
    calls = [n for n in ast.walk(tree(path)) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]
    assert subject(path) in MAY_PRINT or not calls, [n.lineno for n in calls]


def public_functions(path):
    """Return the functions of a module and the methods of its classes that no underscore hides."""
    for node in tree(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_"))


def is_command(node):
    return any("option" in ast.unparse(d) or "command" in ast.unparse(d) for d in node.decorator_list)


def is_override(path, node):
    """A method of a class with a foreign base explains itself there: forward, for one."""
    classes = [c for c in tree(path).body if isinstance(c, ast.ClassDef) and node in c.body]
    return any(c.bases for c in classes)


@every_module
def test_public_functions_are_documented_and_typed(path):
    missing = []
    for node in public_functions(path):
        if ast.get_docstring(node) is None and not is_override(path, node):
            missing.append(f"{node.name}: docstring")
        if isinstance(node, ast.ClassDef):
            continue
        a = node.args
        arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        missing += [f"{node.name}({x.arg})" for x in arguments if x.annotation is None and x.arg not in ("self", "cls")]
        if node.returns is None:
            missing.append(f"{node.name} ->")
    assert not missing


@every_module
def test_functions_are_short(path):
    long = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            text = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) else 0
            if node.end_lineno - node.lineno + 1 - text > 60:
                long.append(node.name)
    assert not long, "at most 60 lines without the docstring"


@every_module
def test_modules_are_documented(path):
    assert ast.get_docstring(tree(path))


# packages


def project():
    return PYPROJECT["project"]


def ranges():
    texts = project()["dependencies"] + [t for extra in project()["optional-dependencies"].values() for t in extra]
    return {canonicalize_name(Requirement(text).name): Requirement(text) for text in texts}


def pins(path="requirements.txt"):
    lines = (line.partition("#")[0].strip() for line in (PROJECT / path).read_text(encoding="utf-8").splitlines())
    return {canonicalize_name(r.name): r for r in map(Requirement, filter(None, lines))}


EXAMPLES = [path for path in MODULES if ">>>" in path.read_text(encoding="utf-8") and subject(path) != "exercises"]


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_examples_print_what_they_say(path):
    module = importlib.import_module(".".join(path.relative_to(PROJECT).with_suffix("").parts))
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("path", ["requirements.txt", "tests/extras.txt"])
def test_every_package_is_pinned_exactly(path):
    for pin in pins(path).values():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), pin


def test_the_ranges_admit_every_pin():
    for name, pin in pins().items():
        version = str(pin.specifier).removeprefix("==")
        assert ranges()[name].specifier.contains(version), f"{name} {version}"


def test_what_the_package_needs_is_pinned():
    direct = {name for name in ranges() if Requirement(str(ranges()[name])).name}
    optional = {
        canonicalize_name(Requirement(t).name)
        for k, v in project()["optional-dependencies"].items()
        if k != "test"
        for t in v
    }
    assert direct - optional <= set(pins())
    assert set(pins()) <= direct


def test_what_is_imported_is_declared():
    known = {"ipython": "ipykernel", "traitlets": "jupyterlab", "zmq": "ipykernel", "jupyter-client": "ipykernel"}
    known |= {
        "nbclient": "nbconvert",
        "yaml": "pyyaml",
        "sklearn": "scikit-learn",
        "pil": "pillow",
    }
    names = {name.split(".")[0] for path in MODULES for name, _ in imports(path)}
    foreign = {canonicalize_name(n) for n in names - set(sys.stdlib_module_names) - {"course_utils", ""}}
    undeclared = {n for n in foreign if known.get(n, n) not in ranges()}
    assert not undeclared


def test_conda_installs_the_same_list():
    environment = yaml.safe_load((PROJECT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert pip == {"pip": ["-r requirements.txt", "-e ."]}
    assert [line.partition("=")[0] for line in conda] == ["python", "pip"]
    version = conda[0].partition("=")[2]
    assert Requirement(f"python{project()['requires-python']}").specifier.contains(version)


def test_every_test_run_uses_the_same_command():
    workflow = yaml.safe_load((PROJECT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    runs = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert runs == [".ci/run"]
    assert (PROJECT / ".ci" / "run").stat().st_mode & stat.S_IXUSR
    assert "make test" in (PROJECT / ".ci" / "run").read_text(encoding="utf-8")


def test_make_lists_its_targets():
    text = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", text, re.MULTILINE))
    phony = set(re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)[1].split())
    assert targets == phony
    assert targets >= {"help", "course", "lab", "test", "check", "demo", "html", "student", "build", "clean"}


def test_the_git_ignored_folders_hold_nothing_of_the_repository():
    ignored = (PROJECT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".venv/", "build/", "data/cache/"} <= set(ignored)
    assert not Path(PROJECT / "data" / "cache").is_file()


def test_every_file_of_the_package_is_installed_with_it():
    setuptools = PYPROJECT["tool"]["setuptools"]
    installed = {
        path
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for path in PROJECT.joinpath(*package.split(".")).glob(pattern)
    }
    found = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert found == installed
