"""`jaxpref bench logprobs`: its answers are right, it sees wrong ones, and it measures what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from x64 import enable_x64

from jaxpref.benchmarks.logprobs import measure, oracle, run, table, variants
from jaxpref.benchmarks.logprobs.case import Case, dpo_like, inputs

NAMES = variants.names("cpu", tokamax=False)
LINEAR = [name for name in NAMES if not variants.is_row_pass(name)]
ROWS = [name for name in NAMES if variants.is_row_pass(name)]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def prepared(request):
    case = Case(24, 8, 500, request.param)
    given = inputs(case)
    with enable_x64(True):
        answer = oracle.expected(case, given)
    return case, [jnp.asarray(x) for x in given], answer


@pytest.mark.parametrize("name", LINEAR)
def test_every_variant_gives_the_float64_answer(name, prepared):
    case, given, answer = prepared
    loss, (hidden, weight) = jax.value_and_grad(variants.linear_loss(name, case), (0, 1))(*given)
    found = {"loss": loss, "hidden": hidden, "weight": weight}
    error, right = oracle.error(case, answer, found)
    assert right, error
    for wrong in ({"loss": loss * 1.01}, {"hidden": hidden * 1.03}, {"weight": weight.at[given[2]].set(0)}):
        assert not oracle.error(case, answer, found | wrong)[1], wrong.keys()
    assert not oracle.error(case, answer, {"loss": loss + jnp.nan})[1]


@pytest.mark.parametrize("name", ROWS)
def test_every_row_pass_gives_the_float64_answer(name, prepared):
    case, (hidden, weight, targets), answer = prepared
    logits = variants.float32_logits(hidden, weight).astype(case.dtype)
    loss, gradient = jax.value_and_grad(variants.row_loss(name, case))(logits, targets)
    error, right = oracle.error(case, answer, {"rows_loss": loss, "logits": gradient})
    assert right, error
    assert not oracle.error(case, answer, {"logits": gradient.at[0, targets[0]].mul(0)})[1]


def test_the_answer_is_autodiff_s_in_float64():
    case = Case(600, 4, 50)  # more rows than a block of the oracle
    given = inputs(case)
    with enable_x64(True):
        answer = oracle.expected(case, given)
        hidden, weight = (jnp.asarray(x, jnp.float64) for x in given[:2])
        loss, gradients = jax.value_and_grad(
            lambda h, w: dpo_like(case, variants._naive(h @ w.T, jnp.asarray(given[2]))), (0, 1)
        )(hidden, weight)
    np.testing.assert_allclose(answer["loss"], loss, rtol=1e-12)
    for name, gradient in zip(("hidden", "weight"), gradients, strict=True):
        np.testing.assert_allclose(answer[f"{name}_norm"], np.linalg.norm(gradient), rtol=1e-12)
        sampled = np.asarray(gradient)[tuple(answer[f"{name}_index"])]
        np.testing.assert_allclose(answer[f"{name}_sample"], sampled, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("allocator", ["default", pytest.param("both", marks=pytest.mark.exhaustive)])
@pytest.mark.exhaustive
def test_a_run_measures_each_variant_in_its_own_process(allocator, capfd):
    figures = measure(
        rows=16, embed=8, vocab=40, rounds=1, repeats=1, allocator=allocator,
        only=("vocab_scan", "row pass: xla"),
    )  # fmt: skip
    assert list(figures["variants"]) == ["vocab_scan", "row pass: xla"]
    for found in figures["variants"].values():
        for kind in ("train", "score"):
            assert found[kind]["compilations"] == 1
            assert found[kind]["memory"]["temp"] > 0
            for allocator in figures["allocators"]:
                assert found[kind][allocator]["wall_seconds_min"] > 0
                assert (
                    found[kind][allocator]["wall_seconds_min"]
                    <= found[kind][allocator]["wall_seconds_median"]
                )
    row_pass = figures["variants"]["row pass: xla"]["train"]["memory"]
    assert row_pass["alias"] == 4 * 16 * 40, "the gradient takes the logits' place"
    text = table(figures)
    assert "chosen here: materialized for gradients" in text
    assert sum(line.startswith("vocab_scan") for line in text.splitlines()) == 2
    progress = capfd.readouterr().err
    assert f"1/{2 * len(figures['allocators'])} round 1" in progress
    assert "min left" in progress


def test_failures_and_wrong_answers_are_shown_instead_of_times():
    figures = {
        "device": "1 x cpu", "platform": "cpu", "cores": 2, "jax": "0", "xla_flags": "", "rounds": 1,
        "repeats": 1, "load_average": 0.0, "load_average_after": 0.0, "flops_per_second": 1e9,
        "flops_source": "measured", "bytes_per_second": 1e9, "chosen": {"train": "a", "score": "b"},
        "case": vars(Case()), "allocators": ["default"],
        "variants": {
            "tokamax xla": {kind: {"right": False, "max_error": 0.25} for kind in ("train", "score")},
            "naive": {"failed": "out of memory"},
        },
    }  # fmt: skip
    text = table(figures)
    assert text.count("wrong: max error 2.5e-01") == 2
    assert text.count("failed: out of memory") == 2


def test_a_failing_process_is_an_answer_and_a_wrong_one_of_ours_an_error(tmp_path):
    case = Case(4, 4, 20)
    with enable_x64(True):
        oracle.write(case, tmp_path)
    request = {
        "task": "variant",
        "variant": "nothing",
        "case": vars(case),
        "folder": str(tmp_path),
        "repeats": 1,
    }
    answer = run._started(request, None)
    assert answer == {"failed": "ValueError: no variant 'nothing'"}
    wrong = {"train": {"right": False, "max_error": 0.5}}
    run._must_be_right("naive", wrong)
    with pytest.raises(ValueError, match="vocab_scan"):
        run._must_be_right("vocab_scan", wrong)


def test_kernels_are_offered_on_their_own_machines_only():
    for platform, other in (("cpu", ""), ("gpu", "pallas_tpu"), ("tpu", "pallas_gpu")):
        kernels = [name for name in variants.names(platform, tokamax=True) if "pallas" in name]
        assert bool(kernels) == (platform != "cpu")
        assert not any(other in name for name in kernels)


def test_mistakes_name_what_there_is():
    with pytest.raises(ValueError, match="rows must be even"):
        measure(rows=3)
    with pytest.raises(ValueError, match="vocab_scan"):
        run._chosen(("nothing",), NAMES)
