"""Plans of small experiments for the devices of this process, against what a run of them has there."""

import dataclasses
import importlib
import sys

import jax
import pytest
from launch import TINY, here, run

from jaxpref import config
from jaxpref.aot import topologies
from jaxpref.aot.batches import Lengths
from jaxpref.aot.memory import resident
from jaxpref.aot.plans import Asked, planned
from jaxpref.aot.programs import laid_out
from jaxpref.aot.search import _ranked, candidates, searched
from jaxpref.aot.tables import plan_text
from jaxpref.aot.topologies import Chip, Topology
from jaxpref.data.loader import Loader
from jaxpref.experiment import MeshShape
from jaxpref.training import sharding
from jaxpref.training.state import abstract_state, moving

CHIP = Chip("a core", 1e9, 1e12, 1e11, 1e10, 0, 8)


def _machine(memory: float = CHIP.memory) -> Topology:
    return Topology("cores:8", dataclasses.replace(CHIP, memory=memory), jax.devices())


def _experiment(**knobs):
    return config.load(
        TINY, [f"{k}={v}" for k, v in {"evaluators": False, "fsdp": 4, "tensor": 2, **knobs}.items()]
    )


@pytest.fixture(scope="module")
def plan():
    return planned(_experiment(), _machine(), Asked(stages=("dpo",)))


def test_residents_are_what_a_run_has_on_a_device():
    experiment = _experiment()
    mesh, policy, stage = sharding.make_mesh(experiment.mesh), experiment.policy(), experiment.stages[1]
    laid = laid_out(experiment, stage, policy, mesh)
    algorithm = stage.build(policy)
    _, shardings = abstract_state(
        algorithm, jax.eval_shape(policy.init, jax.random.key(0)), {}, policy.axes(), mesh
    )
    state = jax.jit(lambda key: moving(algorithm.init(policy.init(key))), out_shardings=shardings)(
        jax.random.key(0)
    )

    def on_first(tree):
        return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(tree))

    loader = Loader(stage.train(), batch_size=stage.batch_size, seed=0)
    batch = sharding.put_batch(lambda rows: loader.batch(0, rows), stage.batch_size, mesh)
    told = resident(laid)
    assert told["params"] == on_first(state.params)
    assert told["optimizer"] == on_first(state.opt_state)
    assert told["policy initial"] == on_first(state.policies)
    assert told["batches (2)"] == 2 * on_first(batch)
    assert sum(told.values()) == on_first(state) + 2 * on_first(batch)


def test_the_programs_of_a_stage(plan):
    (stage,) = plan.stages
    assert [p.compiled.name for p in stage.programs] == ["step", "evaluation"]
    step, evaluation = stage.programs
    flops = stage.laid.flops
    # Forward and backward of the policy and forward of its reference, and no less than the model says.
    assert flops <= step.compiled.operations < 1.5 * flops
    assert evaluation.compiled.operations == pytest.approx(step.compiled.operations / 2, rel=0.15)
    assert step.memory.kinds["temporaries"] > 0
    assert plan.fits
    text = plan_text(plan, price=2.0)
    assert "fsdp 4" in text
    assert "at 2 a chip-hour" in text


def test_what_does_not_fit_says_by_how_much(plan):
    total = plan.stages[0].programs[0].memory.total
    small = planned(_experiment(), _machine(total - 2048), Asked(stages=("dpo",), programs=("step",)))
    assert not small.fits
    assert small.stages[0].programs[0].memory.missing == 2048


@pytest.mark.exhaustive  # the parts it is made of have tests
def test_an_online_step_is_told_with_what_it_draws():
    sys.path.append(str(config.pathlib.Path(__file__).resolve().parents[2] / "experiments"))
    built = importlib.import_module("nash_md_small").experiment()
    experiment = dataclasses.replace(built, stages=built.stages[-1:], mesh=MeshShape(data=1, fsdp=8))
    (stage,) = planned(experiment, _machine(), Asked()).stages
    names = [p.compiled.name for p in stage.programs]
    assert names[0] == "collect: decode"
    assert "step" in names
    drawn, learnt = stage.programs[0], next(p for p in stage.programs if p.compiled.name == "step")
    # Each policy draws: 2 * params * tokens. The optimizer's state is there meanwhile.
    params = sum(x.size for x in jax.tree.leaves(stage.laid.state.params))
    tokens = 64 * 2 * 12
    assert drawn.compiled.operations > 2 * params * tokens
    assert drawn.memory.kinds["optimizer"] == learnt.memory.kinds["optimizer"] > 0


def test_lengths_without_records():
    """Without its data a file is planned by its settings, with as many responses as its loss reads."""
    experiment = config.load("experiments/dpo_hh.py", ["batch_size=8"])
    small = config.load(TINY).policy
    experiment = dataclasses.replace(experiment, policy=small)
    mesh, policy = sharding.make_mesh(MeshShape(data=8)), small()
    sft, dpo = (laid_out(experiment, stage, policy, mesh) for stage in experiment.stages)
    assert sft.batch.response_tokens.shape == (8, 1, 256)
    assert dpo.batch.response_tokens.shape == (8, 2, 256)
    longer = laid_out(experiment, experiment.stages[1], policy, mesh, Lengths(32, 64, 3))
    assert longer.batch.prompt_tokens.shape == (8, 32)
    assert longer.batch.response_tokens.shape == (8, 3, 64)


@pytest.mark.exhaustive  # nightly runs it; what it is made of has tests of its own
def test_a_search_takes_the_cheapest_that_fits():
    experiment = _experiment(batch_size=16)
    every = list(candidates(experiment, _machine(), "dpo"))
    assert {c.mesh for c in every} == {
        MeshShape(1, 8, 1),
        MeshShape(1, 4, 2),
        MeshShape(1, 2, 4),
        MeshShape(1, 1, 8),
    }
    assert {c.remat for c in every} >= {"none", "dots", "block"}
    found = searched(experiment, _machine(), Asked(stages=("dpo",)), most=2)
    assert found.best is not None
    lines = found.text.splitlines()
    assert "the cheapest that fits" in lines[1], "by time, the first"
    assert len([line for line in lines if "--mesh" in line]) == 2
    assert searched(experiment, _machine(10_000), Asked(stages=("dpo",)), most=2).best is None


@pytest.mark.exhaustive  # it traces a step for each choice
def test_a_search_ranks_every_mesh():
    """Whatever microbatches the experiment has itself."""
    stage = Asked(stages=("dpo",))
    ranked = [
        one
        for one, _ in (
            _ranked(_experiment(batch_size=16, microbatches=m), _machine(), stage, "dpo") for m in (1, 4)
        )
    ]
    assert {one.candidate for one in ranked[0]} == {one.candidate for one in ranked[1]}
    assert MeshShape(1, 8, 1) in {one.candidate.mesh for one in ranked[0]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--topology", "v9:2x2"], "there are v5e:4x4"),
        (["--topology", "v5p:4x4"], "a v5p slice has 3 sides"),
        (["--topology", "v6e-12"], "slices of 1, 4, 8"),
        (["--topology", "h100:16"], "one node of up to 8 GPUs"),
        (["--topology", "v5e:2x2", "--mesh", "rows=4"], "--mesh rows=4"),
        (["--topology", "v5e:2x2", "--lengths", "12"], "--lengths 12"),
        (["--topology", "v5e:2x2", "--stage", "rl"], "this experiment has sft, dpo"),
        (["--topology", "v5e:2x2", "workdir=x"], "plan does not take workdir="),
    ],
)
def test_one_clear_error(words, said, monkeypatch):
    monkeypatch.setattr(topologies.jax_topologies, "get_topology_desc", lambda **_: _Described())
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    assert said in here("plan", TINY, *words, expect=2)


class _Described:
    devices = jax.devices()[:4]


@pytest.mark.needs_libtpu
def test_a_plan_for_a_machine_that_is_not_here(tmp_path):
    picture = tmp_path / "plan.png"
    words = [
        "plan",
        TINY,
        "--topology",
        "v5e:2x2",
        "--mesh",
        "fsdp=4",
        "--stage",
        "dpo",
        "--only",
        "step",
        "--quick",
    ]
    said = run(*words, "evaluators=False", "--picture", str(picture))
    assert "4 devices (TPU v5e) of 15.75 GiB" in said
    assert "fits" in said
    assert "jaxpref/models/" in said, "the line of code of a buffer"
    assert picture.read_bytes()[:4] == b"\x89PNG"
