"""Test environment: eight virtual CPU devices, rank promotion is an error, real data through `data_root`."""

import os
import pathlib
import sys
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The suite compiles many small programs and runs each a few times: compiling fast matters more than
# running fast (3x less compile time, measured). Subprocesses inherit it.
# Eight devices on two busy cores may be late for one another: by default XLA aborts after forty seconds.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_collective_call_terminate_timeout_seconds=600",
)

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")


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
def repository() -> pathlib.Path:
    return REPOSITORY


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prepared records go to a folder of this test session, never to the user's cache."""
    os.environ["JAXPREF_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Drops what a file has compiled: each program keeps its MLIR context, and the more there are, the longer
    the next one takes (a trivial one 40 ms at first and 60 ms after two thousand, measured)."""
    yield
    jax.clear_caches()
