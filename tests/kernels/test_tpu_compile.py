"""Ahead-of-time compiles for TPUs with libtpu: a kernel that its target refuses cannot land, nor one that
takes more memory than `tpu_memory.json` records. No TPU is needed, but the extra `tpu` (libtpu) is.

The table holds the figures of each program under the key of its lowered text and of the versions of jax and
libtpu: what has not changed is not compiled again, unless JAXPREF_COMPILE=1 asks for it. After a change:
JAXPREF_WRITE_GOLDEN=1 pytest tests/kernels/test_tpu_compile.py -m ''
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
import tpu_programs

pytestmark = pytest.mark.needs_libtpu

TABLE = pathlib.Path(__file__).with_name("tpu_memory.json")
GIB = 2**30
WRITE = "write its figures with JAXPREF_WRITE_GOLDEN=1 pytest tests/kernels/test_tpu_compile.py -m ''"
WRITING, ALL = (bool(os.environ.get(f"JAXPREF_{name}")) for name in ("WRITE_GOLDEN", "COMPILE"))

# The narrow and the wide end on v5e, one head on the others; the rest of the grid: -m exhaustive.
COVER = {
    "v5e": ("896x262144", "4096x128256"),
    "v5p": ("2304x256128",),
    "v6e": ("4096x128256",),
}
SCORING = [
    pytest.param(
        generation, f"scoring {head}", marks=[] if head in COVER[generation] else pytest.mark.exhaustive
    )
    for generation in tpu_programs.TOPOLOGIES
    for head in tpu_programs.HEADS
]
SCORING += [("v5e", f"scoring {name}") for name in ("every option", "few rows")]
SCORING += [
    pytest.param(g, f"scoring {name}", marks=pytest.mark.exhaustive)
    for g in ("v5p", "v6e")
    for name in ("every option", "few rows")
]
SCORING += [
    pytest.param("v5e", f"scoring {name}", marks=pytest.mark.exhaustive)
    for name in ("master weights", "wide", "asked block")
]
SCORING += [pytest.param("v5p", "scoring float32", marks=pytest.mark.exhaustive)]


@pytest.fixture(scope="module")
def compiled(request, tmp_path_factory):
    """`compiled(generation, program)`: its figures. Compiles at once what the selected tests will ask for,
    in as many processes as there are cores (up to four, which take about a gigabyte each)."""
    if importlib.util.find_spec("libtpu") is None:
        if os.environ.get("CI"):
            pytest.fail("CI must compile for TPUs: install the extra `tpu`")
        pytest.skip("no libtpu: install the extra `tpu`")
    items = [item for item in request.session.items if item.module is request.module]
    given = [item.callspec.params for item in items if hasattr(item, "callspec")]
    wanted = [f"{params['generation']}/{params['program']}" for params in given]
    workers = min(4, os.cpu_count() or 1, len(wanted))
    log = tmp_path_factory.mktemp("tpu") / "log"
    if not (WRITING or TABLE.exists()):
        pytest.fail(f"there is no {TABLE.name}: {WRITE}")
    table = "-" if WRITING or ALL else str(TABLE)
    running = [_start([table, *wanted[i::workers]], log) for i in range(workers)]
    try:
        lines = [line for process in running for line in process.communicate(timeout=1800)[0].splitlines()]
    finally:
        for process in running:
            process.kill()
    found = {(line["generation"], line["program"]): line for line in map(json.loads, lines)}
    if WRITING:
        _write(found)

    def figures(generation, program):
        assert (generation, program) in found, f"the compiler's process ended: {log.read_text()[-3000:]}"
        line = found[generation, program]
        assert "error" not in line, line["error"]
        return line

    figures.found = found
    return figures


def _start(arguments, log):
    root = pathlib.Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    environment.pop("XLA_FLAGS", None)  # the suite's: for its own small programs
    command = [sys.executable, str(pathlib.Path(tpu_programs.__file__)), *arguments]
    with log.open("a") as stderr:
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)


def _write(found):
    table = {"programs": {}} | (json.loads(TABLE.read_text()) if TABLE.exists() else {})
    table["versions"] = tpu_programs.versions()
    for (generation, program), line in found.items():
        if "error" not in line:
            kept = {
                k: v for k, v in line.items() if k not in ("generation", "program", "compiled", "cpu_seconds")
            }
            table["programs"].setdefault(generation, {})[program] = kept
    TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


def _check_memory(generation, program, temp):
    table = json.loads(TABLE.read_text())
    assert program in table["programs"].get(generation, {}), (
        f"{generation}/{program} is not in the table: {WRITE}"
    )
    recorded = table["programs"][generation][program]["temp"]
    assert temp <= 1.03 * recorded + 2**18, (
        f"{temp:,} bytes instead of {recorded:,} ({table['versions']}); if intended, see this file's head"
    )


@pytest.mark.parametrize(("generation", "program"), SCORING)
def test_scoring_takes_the_kernel_and_no_memory(compiled, generation, program):
    figures = compiled(generation, program)
    assert figures["kernels"] == 1
    assert not figures["logits"]
    assert figures["temp"] < 32 * 2**20  # of 2 to 8.6 GB of float32 logits
    assert figures["flops"] > 1e9
    _check_memory(generation, program, figures["temp"])


# v5p has room for these logits and is chosen to keep them; v6e's blocks of 5,632 columns take a little more.
NO_LOGITS = [
    ("v5e", "training chosen", 1, 0.25),
    ("v5e", "training vocab_scan", 0, 0.25),
]
NO_LOGITS += [
    pytest.param(*each, marks=pytest.mark.exhaustive)
    for each in (
        ("v5p", "training pallas_tpu", 1, 0.25),
        ("v6e", "training pallas_tpu", 1, 0.27),
        ("v5e", "training token_scan", 0, 2.0),  # carries a float32 gradient of the weights
    )
]


@pytest.mark.parametrize(("generation", "program", "kernels", "gib"), NO_LOGITS)
def test_training_stores_no_logits(compiled, generation, program, kernels, gib):
    figures = compiled(generation, program)
    assert not figures["logits"]
    assert figures["kernels"] == kernels
    assert figures["temp"] <= gib * GIB
    _check_memory(generation, program, figures["temp"])


LOGITS = [("v5e", "training materialized", 4.0)]
LOGITS += [pytest.param("v5e", "training naive", 7.9, marks=pytest.mark.exhaustive)]


@pytest.mark.parametrize(("generation", "program", "gib"), LOGITS)
def test_training_that_stores_logits(compiled, generation, program, gib):
    figures = compiled(generation, program)
    assert figures["logits"]
    assert 0.9 * gib < figures["temp"] / GIB < gib
    _check_memory(generation, program, figures["temp"])


SHARDED = [
    ("v5e", "training chosen, vocabulary over 4", 0),
    pytest.param("v5e", "training chosen, over 2 x 2", 1, marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize(("generation", "program", "gathers"), SHARDED)
def test_sharded_weights_are_gathered_once_or_never(compiled, generation, program, gathers):
    figures = compiled(generation, program)
    assert figures["kernels"] == 1
    assert not figures["logits"]
    assert (figures["gathers"], figures["gathers_in_loops"]) == (gathers, 0)
    assert figures["fusions_in_loops"]  # the loops were found
    _check_memory(generation, program, figures["temp"])


ROWS = [(g, f"rows {dtype}") for g in tpu_programs.TOPOLOGIES for dtype in ("bfloat16", "float32")]


@pytest.mark.parametrize(("generation", "program"), [*ROWS, ("v5e", "rows over 2 x 2")])
def test_rows_are_read_where_they_lie(compiled, generation, program):
    figures = compiled(generation, program)
    assert (figures["kernels"], figures["gathers"]) == (1, 0)
    assert figures["temp"] < 32 * 2**20
    _check_memory(generation, program, figures["temp"])


@pytest.mark.parametrize("generation", ["v5e"])
@pytest.mark.parametrize(("program", "size"), [("rows bfloat16, gradient", 2), ("rows float32, gradient", 4)])
def test_the_gradient_takes_the_place_of_the_logits(compiled, generation, program, size):
    figures = compiled(generation, program)
    assert figures["alias"] >= size * tpu_programs.N * tpu_programs.LLAMA3[1]
    assert figures["temp"] < 2**20
    _check_memory(generation, program, figures["temp"])


@pytest.mark.parametrize(("generation", "program"), [("v5e", "rows of a matmul, gradient")])
def test_one_buffer_holds_logits_and_their_gradient(compiled, generation, program):
    figures = compiled(generation, program)
    assert figures["temp"] < 1.01 * 2 * tpu_programs.N * tpu_programs.LLAMA3[1]
    _check_memory(generation, program, figures["temp"])


ATTENTION = [  # kernels, and GiB of temporaries: the dense form would take 2.6 of scores alone
    ("v5p", "attention", 1, 0.2),
    ("v5p", "attention, gradient", 3, 0.6),
    ("v5e", "attention, gradient, wide heads, cap", 3, 0.6),
    ("v5e", "attention, gradient, over 2 x 2", 3, 0.4),
    ("v5e", "attention by blocks, gradient", 0, 1.0),
]
ATTENTION += [pytest.param("v6e", "attention, gradient", 3, 0.6, marks=pytest.mark.exhaustive)]


@pytest.mark.parametrize(("generation", "program", "kernels", "gib"), ATTENTION)
def test_attention_makes_no_scores(compiled, generation, program, kernels, gib):
    figures = compiled(generation, program)
    assert figures["kernels"] == kernels
    assert figures["temp"] <= gib * GIB
    _check_memory(generation, program, figures["temp"])


def test_the_table_holds_the_programs_of_today(compiled):
    """A program that has changed passed the tests above, compiled; here the table asks to be written. All
    compiled (JAXPREF_COMPILE): the figures under a program's key are what its compiler says."""
    table = json.loads(TABLE.read_text())
    if table["versions"] != tpu_programs.versions():
        reason = f"the table is of {table['versions']}, so that all was compiled: {WRITE}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    changed = []
    for (generation, program), line in compiled.found.items():
        recorded = table["programs"].get(generation, {}).get(program, {})
        if recorded.get("key") != line.get("key"):
            changed.append(f"{generation}/{program}")
        else:
            assert recorded == {name: line[name] for name in recorded}, (generation, program)
    assert not changed, f"{changed} changed: {WRITE}"
