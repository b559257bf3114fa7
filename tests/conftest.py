"""Test environment: eight virtual CPU devices, rank promotion is an error, real data through `data_root`."""

import collections
import functools
import gc
import gzip
import hashlib
import importlib.metadata
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The suite compiles many small programs and runs each a few times: compiling fast matters more than running
# fast. Measured on the tests of losses, in CPU seconds: no optimisation 3x less; XLA's older emitters, which
# make no MLIR context for each fusion, and one thread for each program 1.8x less. Subprocesses inherit it.
# Eight devices on two busy cores may be late for one another: by default XLA aborts after forty seconds.
_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_collective_call_terminate_timeout_seconds=600"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones have one set of emitters
    _FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ.setdefault("XLA_FLAGS", _FLAGS)
# Where an operation was called is not written into programs: 9 % less.
os.environ.setdefault("JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS", "false")

# Many tests train the same small models. A program that took a tenth of a second is compiled once in all
# (`pytest_configure`), which spares two thirds of the compilation in tests of the loop.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))


def pytest_configure(config: pytest.Config) -> None:
    """Sets up jax, where tests run: not in a process that only hands them out."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # in the first process; the others inherit it
        programs = tempfile.TemporaryDirectory(prefix="jaxpref-tests-", ignore_cleanup_errors=True)
        config.add_cleanup(programs.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = programs.name
    if getattr(config.option, "numprocesses", None):
        return
    import jax
    from jax._src.interpreters import mlir

    jax.config.update("jax_numpy_rank_promotion", "raise")
    # One MLIR context for all programs instead of one each, which is a quarter of the time of small ones.
    if hasattr(mlir, "make_ir_context"):
        mlir.make_ir_context = functools.cache(mlir.make_ir_context)
    # Tracing makes many short-lived objects: looked through less often, 4 % less.
    gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One process for each core, and none beside pytest's own where a single file or test is asked for."""
    one = len(config.args) == 1 and config.args[0].partition("::")[0].endswith(".py")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if one else cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first and then those with many, so that the processes end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    count = collections.Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -count[item.path]))


def _data_root() -> pathlib.Path | None:
    given = os.environ.get("JAXPREF_DATA_ROOT")
    candidate = pathlib.Path(given) if given else REPOSITORY.parent / "shared" / "data"
    return candidate.resolve() if candidate.is_dir() else None


@pytest.fixture(scope="session")
def data_root() -> pathlib.Path:
    """Folder of real data. CI has it, and there a missing folder is a failure, not a skip."""
    root = _data_root()
    if root is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have the real data: set JAXPREF_DATA_ROOT")
        pytest.skip("no real data: set JAXPREF_DATA_ROOT to a folder that holds hh_rlhf/ and stories260K/")
    return root


@pytest.fixture(scope="session")
def few_pairs(data_root: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A root with 250 dialogues of each real file of pairs, one at least of which is dropped for its prompts,
    and the real small model. Reading all dialogues takes 15 seconds; exhaustive tests of tests/data do."""
    from jaxpref.data.text.boundary import Drop
    from jaxpref.data.text.pairs import hh_pair

    def dropped(line: bytes) -> bool:
        row = json.loads(line)
        return isinstance(hh_pair(row["chosen"], row["rejected"]), Drop)

    root = tmp_path_factory.mktemp("few")
    (root / "hh_rlhf").mkdir()
    (root / "stories260K").symlink_to(data_root / "stories260K")
    sums = []
    for file in sorted((data_root / "hh_rlhf").glob("*.gz")):
        lines = gzip.decompress(file.read_bytes()).splitlines(keepends=True)
        kept = gzip.compress(b"".join([*lines[:249], next(filter(dropped, lines[249:]))]))
        (root / "hh_rlhf" / file.name).write_bytes(kept)
        sums.append(f"{hashlib.sha256(kept).hexdigest()}  hh_rlhf/{file.name}\n")
    (root / "SHA256SUMS").write_text("".join(sums))
    return root


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
    return REPOSITORY


@pytest.fixture
def one_device() -> Iterator[None]:
    """The loop sees a single device, as on a laptop."""
    import launch

    with launch.devices(1):
        yield


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared records go to a folder of this test session, never to the user's cache."""
    os.environ["JAXPREF_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Drops what a file has compiled: other files use little of it, and memory would grow with every file."""
    import jax

    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _own_path() -> Iterator[None]:
    """A command puts the folder of its experiment first on the path.

    No later test may find modules there, nor may a process that it starts: a folder with a `keyword.py` in it
    kept Python itself from starting.
    """
    before = list(sys.path)
    yield
    sys.path[:] = before
