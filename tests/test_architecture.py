"""The house itself: light imports, layers, small files, and a README that tells the truth."""

import ast
import collections
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SOURCES = ROOT / "jaxpref"
HEAVY = ("tensorflow", "seqio", "tensorflow_datasets", "torch")


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_import_loads_no_tensorflow():
    modules = ("jaxpref", "jaxpref.commands", "jaxpref.data", "jaxpref.training.run")
    code = f"import importlib, sys\nfor name in {modules}:\n    importlib.import_module(name)\n"
    code += f"    print(name, [m for m in {HEAVY} if m in sys.modules])"
    assert _python(code).splitlines() == [f"{name} []" for name in modules]


@pytest.mark.exhaustive  # two seconds each
@pytest.mark.parametrize("package", sorted(p.parent.name for p in SOURCES.glob("*/__init__.py")))
def test_each_package_may_be_imported_first(package):
    """A circle of imports shows only where one begins."""
    _python(f"import jaxpref.{package}")


def test_import_takes_under_three_seconds():
    """CPU seconds, which other work on the machine hardly stretches; the best of up to three."""
    code = "import time, jaxpref.commands; print(time.process_time())"
    assert any(float(_python(code).split()[-1]) < 3 for _ in range(3))


def test_layer_contract(repository):
    tool = shutil.which("lint-imports", path=str(pathlib.Path(sys.executable).parent))
    if tool is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("import-linter is not installed (extra `dev`)")
    done = subprocess.run([tool, "--no-cache"], cwd=repository, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]


def test_files_stay_small(repository):
    lengths = {p: len(p.read_text().splitlines()) for p in SOURCES.rglob("*.py")}
    assert max(lengths.values()) <= 400, max(lengths, key=lengths.__getitem__)
    assert statistics.median(n for n in lengths.values() if n) < 120


def test_functions_stay_short():
    """Of fewer than 60 lines, docstring and signature included."""
    long = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 59:
                long.add(f"{path.relative_to(SOURCES)}:{node.name}")
    assert not long


def test_only_training_names_meshes(repository):
    pattern = re.compile(r"\b(NamedSharding|PartitionSpec|make_mesh|process_index\(\)|process_count\(\))")
    for path in SOURCES.rglob("*.py"):
        inside = path.relative_to(SOURCES).parts
        # `commands` asks which process prints; a kernel with a loop says what each device does in it; `aot`
        # lays out shapes as `training` does arrays; and `bench load` measures what that does with a mesh.
        if inside[0] in ("training", "commands", "kernels", "aot") or inside == ("benchmarks", "load.py"):
            continue
        assert not pattern.search(path.read_text()), path


def test_names_in_the_markdown_exist(repository):
    """Files that the documents point to are there."""
    pages = (*repository.glob("*.md"), *repository.glob("jaxpref/**/*.md"), *repository.glob("tests/**/*.md"))
    for page in pages:
        for target in re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page}: {target}"


def test_no_two_test_files_share_a_name():
    """pytest imports them by name alone, so a second one would stop the whole run."""
    names = collections.Counter(path.name for path in pathlib.Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
