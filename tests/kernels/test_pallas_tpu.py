"""The TPU kernels in Pallas' interpreters, against float64. `test_tpu_compile` shows that they compile."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from x64 import enable_x64

from jaxpref.kernels.machines import MACHINES, Machine
from jaxpref.kernels.token_logps import linear_token_logps, token_logps
from jaxpref.kernels.token_logps.block_sizes import TPU_TILES, tpu_tiles
from jaxpref.kernels.token_logps.head import Head, Operands
from jaxpref.kernels.token_logps.pallas_tpu import interpreted, pallas_tpu_fold, row_fold

NAMES = ("logsumexp", "entropy", "log_sum_p2", "top1")
# The first pads tiles that hang over the end of an array with NaN, the second poisons what nobody wrote.
INTERPRETERS = {"hlo": True, "tpu": pltpu.InterpretParams(uninitialized_memory="nan")}


@pytest.fixture(params=INTERPRETERS)
def _interpreted(request):
    with interpreted(INTERPRETERS[request.param]):
        yield


def _run(c, dtype, *, names=NAMES, weight_dtype=None, **options):
    """Results by name and gradients by operand."""
    operands = {
        "hidden": jnp.asarray(c.hidden, dtype),
        "weight": jnp.asarray(c.weight, weight_dtype or dtype),
    }
    if c.bias is not None:
        operands["bias"] = jnp.asarray(c.bias, dtype)

    def total(operands):
        logps, found = linear_token_logps(
            operands["hidden"],
            operands["weight"],
            jnp.asarray(c.targets),
            bias=operands.get("bias"),
            soft_cap=c.soft_cap,
            temperature=c.temperature,
            statistics=names,
            implementation="pallas_tpu",
            **options,
        )
        results = {"logps": logps} | found
        return sum((results[name] * g.astype("f")).sum() for name, g in c.upstream.items()), results

    gradients, results = jax.jit(jax.grad(total, has_aux=True))(operands)
    return results, gradients


def _compare(given, expected, *, value=2e-5, gradient=1e-5):
    """Values absolutely, gradients relative to their size."""
    for name, x in given[0].items():
        np.testing.assert_allclose(x, expected[0][name], rtol=value, atol=value, err_msg=name)
    for name, x in given[1].items():
        error = np.asarray(x, np.float64) - expected[1][name]
        assert np.linalg.norm(error) < gradient * np.linalg.norm(expected[1][name]), name


SHAPES = {  # rows, width, vocabulary, block
    "one token in the vocabulary": (2, 8, 1, None),
    "whole tiles": (7, 16, 512, 128),
    "no tile divides": (130, 16, 5000, None),
    "two blocks of rows": (1024 + 3, 32, 1000, 384),
    "gpt2": (5, 8, 50_257, 8192),
    "two blocks of the width, the last one ragged": (9, 5000, 300, None),
}


# The second interpreter is the slower one: where tiles hang over.
RUNS = [("hlo", shape) for shape in SHAPES] + [("tpu", shape) for shape in SHAPES if "block" in shape]


@pytest.mark.parametrize(("interpreter", "shape"), [*RUNS, ("tpu", "no tile divides")])
def test_float32_equals_float64(interpreter, shape):
    rows, width, vocab, block = SHAPES[shape]
    c = oracle.case((rows,), width, vocab, bias=True, soft_cap=3.0, temperature=0.7, names=NAMES)
    with interpreted(INTERPRETERS[interpreter]):
        _compare(_run(c, "float32", block=block), oracle.solve(c))


@pytest.mark.parametrize("weight_dtype", ["bfloat16", "float32"])
def test_bfloat16_states_give_float32_log_probs(weight_dtype):
    c = oracle.case((40,), 48, 1300, names=NAMES).rounded("bfloat16")
    with interpreted():
        _compare(_run(c, "bfloat16", weight_dtype=weight_dtype), oracle.solve(c), gradient=1e-2)


@pytest.mark.parametrize("options", [{}, {"bias": True}, {"soft_cap": 30.0}, {"temperature": 1.3}], ids=str)
def test_options_one_by_one(options):
    c = oracle.case((3, 2), 16, 700, **options)
    with interpreted():
        _compare(_run(c, "float32", names=("entropy",), block=256), oracle.solve(c))


@pytest.mark.usefixtures("_interpreted")
def test_tokens_taken_out_by_a_bias_of_minus_infinity():
    c = oracle.case((5,), 16, 600, bias=True, names=NAMES)
    c.bias[:300] = -np.inf  # the first block and part of others; the last hangs over
    c.bias[590:] = -np.inf
    c.targets[:] = [300, 400, 420, 589, 500]
    with np.errstate(all="ignore"):
        expected = oracle.solve(c)
    _compare(_run(c, "float32", block=256), expected)
    c.targets[0] = 7
    assert _run(c, "float32", block=256)[0]["logps"][0] == -np.inf


@pytest.mark.usefixtures("_interpreted")
def test_masked_rows_are_exactly_zero_whatever_they_hold():
    c = oracle.case((6,), 16, 700, names=NAMES)
    where = np.array([True, False, True, False, False, True])
    c.hidden[~where] = [[np.nan], [np.inf], [-np.inf]]
    kept = oracle.Case(
        c.hidden[where],
        c.weight,
        c.targets[where],
        upstream={name: g[where] for name, g in c.upstream.items()},
    )
    results, gradients = _run(c, "float32", where=jnp.asarray(where))
    for x in (*results.values(), gradients["hidden"]):
        assert (np.asarray(x)[~where] == 0).all()
    results = {name: np.asarray(x)[where] for name, x in results.items()}
    _compare((results, gradients | {"hidden": gradients["hidden"][where]}), oracle.solve(kept))


@pytest.mark.usefixtures("_interpreted")
def test_targets_of_other_devices_hit_nothing():
    c = oracle.case((20,), 16, 2100)
    # Below, above, and above by so little that the last tile, hanging over, has a column there.
    targets = jnp.arange(20) + 2100 - 5
    hidden, weight = jnp.asarray(c.hidden, jnp.float32), jnp.asarray(c.weight, jnp.float32)
    for shift in (0, -5000):
        x = Operands(hidden, weight, targets + shift)
        logits = hidden @ weight.T
        for carry in (pallas_tpu_fold(Head(), x, 0)[0], row_fold((), logits, targets + shift)):
            expected = logits[np.arange(5), 2095 + np.arange(5)] if shift == 0 else np.zeros(5)
            np.testing.assert_allclose(carry["target"][:5, 0], expected, atol=1e-5)
            assert (carry["target"][5:] == 0).all()
            np.testing.assert_allclose(carry["top"][:, 0], logits.max(1), atol=1e-5)


MESHES = {"rows and vocabulary": (2, 2, 2), "vocabulary": (1, 1, 8), "rows": (4, 2, 1)}


def _mesh(data, fsdp, tensor):
    return jax.make_mesh((data, fsdp, tensor), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)


@pytest.mark.parametrize("name", MESHES)
@pytest.mark.parametrize("rows", [16, 13], ids=["divisible rows", "indivisible rows"])
def test_devices_agree_with_float64(name, rows):
    c = oracle.case((rows,), 16, 1200, bias=True, names=NAMES)
    c.bias[150:300] = -np.inf  # all that one of eight devices holds
    c.targets[c.targets // 150 == 1] = 0
    with np.errstate(all="ignore"):
        expected = oracle.solve(c)
    with interpreted(), jax.set_mesh(_mesh(*MESHES[name])):
        _compare(_run(c, "float32", block=128), expected)


ROW_CASES = [
    ((7, 512), "float32"),
    ((300, 2100), "float32"),
    ((40, 2100), "bfloat16"),
    ((40, 700), "float16"),
]


@pytest.mark.parametrize(("shape", "dtype"), ROW_CASES, ids=str)
@pytest.mark.usefixtures("_interpreted")
def test_rows_of_given_logits(shape, dtype):
    c, logits = _row_case(shape, dtype)
    _compare(_run_rows(c, logits), _solve_rows(c), gradient=1e-5 if dtype == "float32" else 1e-2)


@pytest.mark.parametrize("name", MESHES)
def test_rows_of_logits_over_devices(name):
    c, logits = _row_case((16, 1200), "float32")
    mesh = _mesh(*MESHES[name])
    logits = jax.device_put(logits, NamedSharding(mesh, P(("data", "fsdp"), "tensor")))
    with interpreted(), jax.set_mesh(mesh):
        _compare(_run_rows(c, logits), _solve_rows(c))


def _row_case(shape, dtype):
    """A head that is the identity: its states are the logits."""
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(size=shape) * 3, dtype)
    c = oracle.Case(
        np.asarray(logits, np.float64),
        np.eye(shape[1]),
        rng.integers(0, shape[1], shape[0]),
        upstream={name: rng.normal(size=shape[0]) for name in ("logps", *NAMES[:-1])},
    )
    return c, logits


def _solve_rows(c):
    results, gradients = oracle.solve(c)
    return results, {"logits": gradients["hidden"]}


def _run_rows(c, logits):
    def total(logits):
        logps, found = token_logps(
            logits, jnp.asarray(c.targets), statistics=NAMES, implementation="pallas_tpu"
        )
        results = {"logps": logps} | found
        return sum((results[name] * g.astype("f")).sum() for name, g in c.upstream.items()), results

    gradient, results = jax.jit(jax.grad(total, has_aux=True))(logits)
    assert gradient.dtype == logits.dtype
    return results, {"logits": gradient}


def test_other_platforms_and_dtypes_are_refused():
    hidden, weight, targets = jnp.ones((2, 8)), jnp.ones((4, 8)), jnp.zeros(2, jnp.int32)
    run = functools.partial(linear_token_logps, implementation="pallas_tpu")
    with pytest.raises(ValueError, match="pallas_tpu runs on TPU; this is cpu"):
        run(hidden, weight, targets)
    with pytest.raises(ValueError, match="pallas_tpu runs on TPU; this is cpu"):
        token_logps(hidden, targets, implementation="pallas_tpu")
    with interpreted(), pytest.raises(ValueError, match="not float16"):
        run(hidden.astype("float16"), weight, targets)
    with enable_x64(True), interpreted(), pytest.raises(ValueError, match="too little for float64"):
        token_logps(hidden.astype("float64"), targets, implementation="pallas_tpu")


KINDS = [m for m in MACHINES.values() if m.platform == "tpu"] + [Machine("TPU v99", "tpu", 1.0, 1.0, 0.0)]


@pytest.mark.parametrize("machine", KINDS, ids=lambda m: m.kind)
@pytest.mark.parametrize("sizes", [(2, 2), (2, 4), (4, 4)])
@pytest.mark.parametrize("width", [896, 4096, 5376, 8192])
def test_tiles_are_whole_registers(machine, sizes, width):
    tiles = tpu_tiles(machine, rows=8192, vocab=50_257, width=width, sizes=sizes)
    assert tiles.rows % 16 == tiles.vocab % 128 == 0
    assert tiles.width == width or tiles.width % 128 == 0
    assert min(tiles.rows, tiles.vocab) >= 128  # half the operands' traffic is the other one's
    assert tiles.vmem == TPU_TILES.get(machine.kind, TPU_TILES["tpu"]).vmem
    asked = tpu_tiles(machine, rows=8192, vocab=50_257, width=width, sizes=sizes, block=1000)
    assert asked.vocab == 1024


def test_small_operands_are_one_tile():
    tiles = tpu_tiles(MACHINES["TPU v5 lite"], rows=7, vocab=300, width=100, sizes=(2, 2), block=1000)
    assert (tiles.rows, tiles.vocab, tiles.width) == (7, 300, 100)


def test_both_cores_get_rows():
    machine = MACHINES["TPU v5"]
    for rows, expected in ((1000, 512), (8192, 1024), (9000, 912), (2, 2)):
        tiles = tpu_tiles(machine, rows=rows, vocab=50_257, width=896, sizes=(2, 2))
        assert tiles.rows == expected
