"""Online algorithms in the loop: several devices, a checker on the host, resume, held-out prompts, replay."""

from functools import partial

import jax
import numpy as np
import pytest
from launch import devices, rows

from jaxpref import losses
from jaxpref.algorithms import online, replayed
from jaxpref.algorithms.copies import averaged, copied
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.text.synthetic import arithmetic_pairs, arithmetic_tokenizer
from jaxpref.experiment import Experiment, MeshShape, Stage
from jaxpref.judges import text_scorer
from jaxpref.models.sizes import tiny
from jaxpref.policies.transformer import transformer
from jaxpref.selection import max_min
from jaxpref.training.run import train


def share_of_twos(prompt: str, response: str) -> float:
    return response.count("2") / max(len(response), 1)


def scorer():
    return text_scorer(share_of_twos, arithmetic_tokenizer())


def _experiment(num_steps: int, mesh: MeshShape, **stage) -> Experiment:
    method = partial(
        online,
        loss=losses.dpo,
        optimizer=partial(adamw, schedule=partial(constant, value=1e-2)),
        sample_from=({"policy": 1.0}, {"policy": 0.5, "previous": 0.5}, {"average": 1.0}),
        policies={"previous": partial(copied, every=2), "average": partial(averaged, decay=0.5)},
        reference="previous",
        scorer=scorer,
        select=partial(max_min, by="scores"),
        max_tokens=5,
    )
    return Experiment(
        name="online",
        policy=partial(transformer, sizes=partial(tiny, vocab=24, embed=16, layers=1, mlp=32), eos_id=2),
        tokenizer=arithmetic_tokenizer,
        stages=(
            Stage(
                name="online",
                algorithm=partial(
                    replayed, algorithm=method, capacity=16, prompt_length=8, response_length=5
                ),
                train=partial(arithmetic_pairs, num_examples=64),
                evaluation=partial(arithmetic_pairs, num_examples=12, part="held_out"),
                num_steps=num_steps,
                batch_size=8,
                evaluate_every=2,
                checkpoint_every=2,
            ),
        ),
        mesh=mesh,
        log_every=1,
    )


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    with devices(4):
        return workdir, train(_experiment(4, MeshShape(1, 2, 2)), workdir, log=lambda line: None)


@pytest.mark.exhaustive
def test_a_run_that_goes_on_ends_bit_for_bit_where_a_whole_one_ends(whole, tmp_path):
    """The other policies, the replay buffer and the draws of each step come back with the state."""
    mesh = MeshShape(1, 2, 2)
    with devices(4):
        train(_experiment(2, mesh), tmp_path, log=lambda line: None)
        result = train(_experiment(4, mesh), tmp_path, allow_changes=True, log=lambda line: None)
    jax.tree.map(np.testing.assert_array_equal, result.params, whole[1].params)
    assert rows(tmp_path) == rows(whole[0])
    assert result.compiles["online"] == 1


@pytest.mark.exhaustive
def test_four_devices_draw_and_learn_as_one_does(whole, one_device, tmp_path):
    train(_experiment(2, MeshShape(1, 1, 1)), tmp_path, log=lambda line: None)
    wanted = [r for r in rows(whole[0]) if r["step"] < 2]
    assert {r["split"] for r in wanted} == {"train", "eval"}
    for row, other in zip(wanted, rows(tmp_path), strict=False):
        assert row.keys() == other.keys()
        for name, value in row.items():
            if isinstance(value, str):
                continue
            assert other[name] == pytest.approx(value, rel=2e-4, abs=2e-5), name


def test_held_out_prompts_are_answered_too(whole):
    held = [r for r in rows(whole[0]) if r["split"] == "eval"]
    assert [r["step"] for r in held] == [0, 2, 4]
    assert all(0 <= r["objective/scores"] <= 1 for r in held)
    assert held[0]["objective/kl"] == pytest.approx(0, abs=1e-6)
    assert abs(held[1]["objective/kl"]) < 1e-6  # the anchor was renewed after step 2
