"""The arrows between the parts: who may import whom, read from the sources.

A rule names files and the modules they must not import; a module stands for all below it, and `*`
in it for one name. Imports are found anywhere in a file, inside functions and type-checking blocks
too, relative ones and `importlib.import_module("...")` included; `top_only` rules look at what runs
when the module is imported.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("ctr", "kernels", "datasets", "remote", "tools")


@dataclass(frozen=True)
class Rule:
    """Files matching `files` (as in Path.glob) must not import any of `forbidden`."""

    files: str
    forbidden: tuple[str, ...]
    top_only: bool = False


RULES = (
    Rule("kernels/**/*.py", ("ctr", "datasets", "remote", "hydra", "torchrec")),
    Rule("kernels/*/reference.py", ("triton", "kernels.*.kernel")),
    Rule("kernels/**/__init__.py", ("triton", "kernels.*.kernel"), top_only=True),
    Rule("kernels/*/op.py", ("triton", "kernels.*.kernel"), top_only=True),
    Rule("ctr/schema.py", ("torch", "torchrec")),
    Rule("ctr/config/**/*.py", ("torch", "torchrec")),
    Rule("ctr/data/**/*.py", ("ctr.model", "kernels", "ctr.trainer")),
    Rule(
        "ctr/model/**/*.py",
        (
            "hydra",
            "omegaconf",
            "ctr.data.loader",
            "ctr.trainer",
            "ctr.metrics",
            "kernels.*.kernel",
        ),
    ),
    Rule("ctr/trainer.py", ("hydra", "ctr.model", "kernels")),
    Rule("ctr/step.py", ("hydra", "ctr.model", "kernels")),
    Rule("ctr/validation.py", ("hydra", "ctr.model", "kernels")),
    Rule("ctr/evaluate.py", ("ctr.optim", "ctr.trainer")),
    Rule("datasets/**/*.py", ("torch", "ctr", "kernels")),
    Rule("ctr/**/*.py", ("tests", "tools", "datasets")),
    Rule("kernels/**/*.py", ("tests", "tools")),
    Rule("datasets/**/*.py", ("tests", "tools")),
    Rule("remote/**/*.py", ("ctr", "datasets", "kernels", "tests", "tools", "torch")),
    Rule("remote/**/*.py", ("fsspec",), top_only=True),
    Rule("tools/**/*.py", ("tests",)),
)

# A trainer that knows one of these no longer trains any model on any data.
FEATURE_NAMES = {
    "age",
    "brand",
    "category",
    "city",
    "gender",
    "item_id",
    "liked",
    "price",
    "province",
    "seller",
    "shop",
    "user_id",
}

RAW_COLUMN = re.compile(r"\b(129_1|130_[1-5]|150_2_180|151_2_180|205_c|label_0)\b")
RAW_COLUMN_HOMES = (
    "datasets/taobao_mm.py",
    "tests/datasets/test_taobao_mm.py",
    "tests/test_imports.py",
)


def nodes(tree: ast.Module, top_only: bool) -> Iterator[ast.AST]:
    """Every node, or those that run on import: no function bodies, no type-checking blocks."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if top_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if top_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)


def imports(path: Path, root: Path, top_only: bool = False) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of whatever the file imports, names of a `from` included."""
    package = path.relative_to(root).parent.parts
    for node in nodes(ast.parse(path.read_text(encoding="utf-8")), top_only):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("import_module", "__import__"):
                yield node.lineno, str(node.args[0].value)


def covers(forbidden: str, module: str) -> bool:
    """Whether `module` is `forbidden` or lies below it."""
    parts, found = forbidden.split("."), module.split(".")
    return len(found) >= len(parts) and all(
        fnmatchcase(name, part) for name, part in zip(found, parts, strict=False)
    )


def violations(root: Path) -> list[str]:
    """Each forbidden import below `root`, as `file:line imports module (rule)`."""
    return [
        f"{path.relative_to(root)}:{line} imports {module} ({rule.files} must not: {forbidden})"
        for rule in RULES
        for path in sorted(root.glob(rule.files))
        for line, module in imports(path, root, rule.top_only)
        for forbidden in rule.forbidden
        if covers(forbidden, module)
    ]


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_names(*patterns: str) -> list[str]:
    """Dotted names of the modules whose files match."""
    paths = (path for pattern in patterns for path in sorted(ROOT.glob(pattern)))
    names = (".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths)
    return [name.removesuffix(".__init__") for name in names]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240
    )


def circles(paths: list[Path], root: Path) -> list[list[str]]:
    """Files that import one another, in the order of such a way round.

    Imports within functions count. A package's own `__init__.py` may gather what lies below it.
    """
    files = {path.relative_to(root): path for path in paths if path.name != "__init__.py"}
    names = {".".join(name.with_suffix("").parts): name for name in files}

    def needed(name: Path) -> set[Path]:
        found = {module for _, module in imports(files[name], root)}
        # The module itself, or that of an imported name.
        found |= {module.rpartition(".")[0] for module in found}
        return {names[module] for module in found if module in names} - {name}

    graph = {name: needed(name) for name in files}
    found: list[list[str]] = []
    done: set[Path] = set()

    def walk(name: Path, way: list[Path]) -> None:
        if name in way:
            found.append([part.as_posix() for part in way[way.index(name) :]])
        elif name not in done:
            for other in sorted(graph[name]):
                walk(other, [*way, name])
            done.add(name)

    for name in sorted(graph):
        walk(name, [])
    return found


def test_no_files_import_one_another(tmp_path: Path) -> None:
    for name, code in (
        ("a/one.py", "from a.two import x"),
        ("a/two.py", "def f():\n    from a import three"),
        ("a/three.py", "import a.one"),
        ("a/apart.py", "from a.one import y"),
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(code + "\n")
    planted = sorted(tmp_path.rglob("*.py"))
    assert circles(planted, tmp_path) == [["a/one.py", "a/two.py", "a/three.py"]]
    assert circles(sources(), ROOT) == []


def test_no_source_imports_what_it_must_not() -> None:
    assert len(sources()) > 0
    assert violations(ROOT) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.files)
def test_every_rule_finds_a_planted_import(rule: Rule, tmp_path: Path) -> None:
    name = rule.files.replace("**/", "").replace("*", "planted")
    for forbidden in rule.forbidden:
        path = tmp_path / forbidden / name
        path.parent.mkdir(parents=True)
        module = forbidden.replace("*", "cosine_topk")
        above, _, last = module.rpartition(".")
        forms = {f"import {module}", f"from {module} import name", f"import {module}.below"}
        if above:
            forms.add(f"from {above} import {last}")
        if not rule.top_only:
            forms.add(f"def f():\n    import {module}")
            forms.add(f"import importlib\nimportlib.import_module('{module}')")
        for form in forms:
            path.write_text(form + "\n")
            found = [line for line in violations(tmp_path / forbidden) if f"({rule.files} " in line]
            assert found, f"not found: {form!r} in {name}"


@pytest.mark.parametrize(
    ("name", "code", "allowed"),
    [
        ("kernels/cosine_topk/op.py", "from .kernel import launch", False),
        ("kernels/cosine_topk/op.py", "from . import kernel", False),
        (
            "kernels/cosine_topk/op.py",
            "try:\n    import triton\nexcept ImportError:\n    pass",
            False,
        ),
        ("kernels/cosine_topk/op.py", "def f():\n    from .kernel import launch", True),
        ("kernels/cosine_topk/op.py", "if TYPE_CHECKING:\n    import triton", True),
        ("kernels/cosine_topk/kernel.py", "import triton", True),
        ("ctr/data/batch.py", "from ..model import gsu", False),
        ("ctr/data/batch.py", "from ctr import model", False),
        ("ctr/data/batch.py", "from ctr import modelling", True),
        ("ctr/config/run.py", "import omegaconf", True),
        ("ctr/model/gsu.py", "from kernels.cosine_topk import op", True),
    ],
)
def test_relative_lazy_and_lookalike_imports(
    name: str, code: str, allowed: bool, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(code + "\n")
    assert (violations(tmp_path) == []) is allowed


def feature_words(code: str) -> set[str]:
    """Feature names that the code spells as a string, an attribute, an argument or a variable."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Constant(value=str(word)) | ast.Attribute(attr=word) | ast.Name(id=word):
                found.add(word)
            case ast.keyword(arg=str(word)) | ast.arg(arg=word):
                found.add(word)
    return found & FEATURE_NAMES


def test_the_trainer_knows_no_feature() -> None:
    assert feature_words("batch['category'], row.brand, f(city=age)") == {
        "category",
        "brand",
        "city",
        "age",
    }
    for name in ("trainer", "step", "validation"):
        source = (ROOT / "ctr" / f"{name}.py").read_text(encoding="utf-8")
        assert feature_words(source) == set(), name


def test_raw_column_ids_live_in_one_file() -> None:
    assert RAW_COLUMN.search('row["150_2_180"]')
    files = (*sources(), *(ROOT / "tests").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml"))
    strays = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        if path.relative_to(ROOT).as_posix() not in RAW_COLUMN_HOMES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if RAW_COLUMN.search(line)
    ]
    assert strays == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_ours(package: str) -> None:
    """`datasets` and `kernels` are names of well-known packages too."""
    if not (ROOT / package).is_dir():
        pytest.skip(f"{package}/ does not exist")
    module = importlib.import_module(package)
    assert Path(str(module.__file__)) == ROOT / package / "__init__.py"


def test_torch_stays_out_of_modules_that_do_without() -> None:
    """What the sources say directly, the interpreter confirms for all that they pull in."""
    names = module_names("datasets/**/*.py", "remote/*.py", "ctr/schema.py", "ctr/config/**/*.py")
    assert len(names) > 0
    done = run_python(f"import sys, {', '.join(names)}; print('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False", f"one of {names} brings torch in"


def test_kernels_import_on_a_machine_without_triton() -> None:
    names = module_names("kernels/**/__init__.py", "kernels/*/op.py", "kernels/*/reference.py")
    assert len(names) > 0
    done = run_python("import sys; sys.modules['triton'] = None; import " + ", ".join(names))
    assert done.returncode == 0, done.stderr
