"""Runs of adapters: through stages, checkpoints, a kill, another base, and as a judge of another run."""

import shutil
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import launch
import numpy as np
import pytest

from jaxpref import losses
from jaxpref.algorithms import offline, sft
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.text.synthetic import arithmetic_demonstrations, arithmetic_pairs, arithmetic_tokenizer
from jaxpref.experiment import Experiment, MeshShape, Stage
from jaxpref.models.lora import LoRA
from jaxpref.models.merging import merged
from jaxpref.models.sizes import tiny
from jaxpref.policies.adapted import adapted
from jaxpref.policies.base import whole
from jaxpref.policies.transformer import transformer
from jaxpref.training.checkpoint import saved_meta
from jaxpref.training.constants import fingerprint
from jaxpref.training.export import plain_params
from jaxpref.training.run import train
from jaxpref.types import Completions

OPTIMIZER = partial(adamw, schedule=partial(constant, value=1e-2))
plain = partial(transformer, sizes=partial(tiny, vocab=24, embed=32, layers=1, heads=2, mlp=64), eos_id=2)


def quiet(text):
    pass


def base(*, seed=0):
    return jax.device_get(plain().init(jax.random.key(seed)))


def policy(*, seed=0, outputs=0, train=None, quantize=None):
    return adapted(
        policy=partial(plain, outputs=outputs),
        base=partial(base, seed=seed),
        lora=LoRA(rank=2, dropout=0.1),
        train=train,
        quantize=quantize,
        quantize_tile=8 if quantize == "nf4" else None,
    )


stage = partial(Stage, num_steps=4, batch_size=8, checkpoint_every=2, evaluate_every=2)
SFT = stage(
    name="sft",
    algorithm=partial(sft, optimizer=OPTIMIZER),
    train=partial(arithmetic_demonstrations, num_examples=32),
)
DPO = stage(
    name="dpo",
    algorithm=partial(offline, loss=losses.dpo, optimizer=OPTIMIZER),
    train=partial(arithmetic_pairs, num_examples=32),
    evaluation=partial(arithmetic_pairs, num_examples=8, part="held_out"),
)


def experiment(policy, *stages):
    return Experiment("adapters", policy, arithmetic_tokenizer, stages, mesh=MeshShape(1, 1, 1))


@pytest.fixture(scope="module")
def two_stages(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    with launch.devices(1):
        return directory, train(experiment(policy, SFT, DPO), directory, log=quiet)


def test_stages_begin_with_the_adapters_of_the_one_before(two_stages):
    """The second one's reference is where it starts, so its loss before any step is log 2."""
    directory, result = two_stages
    held_out = [row for row in launch.rows(directory) if row["split"] == "eval"]
    assert held_out[0]["loss"] == np.float32(np.log(2))
    assert held_out[-1]["loss"] < held_out[0]["loss"] - 0.001
    trained = {path[-1].key for path, _ in jax.tree.leaves_with_path(result.params)}
    assert trained == {"lora_a", "lora_b"}


def test_a_checkpoint_holds_adapters_and_the_fingerprint_of_the_base(two_stages):
    directory = two_stages[0] / "checkpoints" / "dpo"
    arrays = (directory / "4" / "state" / "_METADATA").read_text()
    assert all(f"'{name}'" in arrays for name in ("lora_a", "lora_b", "initial", "mu"))
    assert not any(f"'{name}'" in arrays for name in ("weight", "embedding", "scale"))
    assert saved_meta(directory, 4)["constants"] == {"policy": fingerprint(base())}


def test_a_run_goes_on_bit_for_bit(two_stages, one_device, tmp_path):
    shutil.copytree(two_stages[0], tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "dpo" / "4")
    again = train(experiment(policy, SFT, DPO), tmp_path, log=quiet)
    jax.tree.map(np.testing.assert_array_equal, again.params, two_stages[1].params)
    assert launch.rows(tmp_path) == launch.rows(two_stages[0])


def test_a_run_goes_on_with_its_own_format_alone(one_device, tmp_path):
    """By the fingerprint, which is that of the codes and ends with their format."""
    own = partial(policy, quantize="nf4")
    train(experiment(own, DPO), tmp_path, log=quiet)
    assert launch.rows(tmp_path)[0]["loss"] == np.float32(np.log(2))
    saved = saved_meta(tmp_path / "checkpoints" / "dpo", 4)["constants"]["policy"]
    assert saved == fingerprint(own().constants().params)
    assert saved.endswith(":nf4")
    for other, said in (
        (policy, "nf4 weights.*unquantised"),
        (partial(policy, quantize="int8"), "nf4.*int8"),
    ):
        with pytest.raises(ValueError, match=f"{said} ones; give quantize= as it was"):
            train(experiment(other, DPO), tmp_path, log=quiet)


def test_an_export_computes_what_was_trained_above_a_quantised_base():
    """The floats that the codes stand for, with the adapters in them: not the weights that were quantised."""
    built, said = policy(quantize="nf4"), []
    constants = {"policy": jax.device_get(built.constants().params)}
    run = SimpleNamespace(
        experiment=SimpleNamespace(name="mine"),
        policy=built,
        files=SimpleNamespace(log=said.append),
        whole=lambda params: whole(params, constants),
    )
    params = jax.tree.map(lambda x: x + 0.1, built.init(jax.random.key(1)))
    written = plain_params(run, params)
    assert {str(x.dtype) for x in jax.tree.leaves(written)} == {"float32"}
    prompts, responses = (
        jnp.asarray(np.random.default_rng(0).integers(3, 24, shape)) for shape in ((3, 5), (3, 1, 4))
    )
    batch = Completions(prompts, jnp.ones(prompts.shape, bool), responses, jnp.ones(responses.shape, bool))
    trained = built.token_logps(run.whole(params), batch)
    np.testing.assert_allclose(plain().token_logps(written, batch), trained, atol=1e-5)
    other = merged(whole(params, {"policy": policy().constants().params}), built.model.lora)
    assert np.abs(plain().token_logps(other, batch) - trained).max() > 1e-3
    assert said == ["the base is quantised (nf4): what is written are its values as floats"]
