"""Other numbers of processes, other meshes and kill -9 change nothing; `worlds.py` prints the tables."""

import subprocess
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import worlds
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxpref import keys
from jaxpref.experiment import MeshShape
from jaxpref.training import params
from jaxpref.training.sharding import make_mesh


def test_the_set_covers_each_pair():
    """Processes, kind of mesh (its axes longer than 1) and kind of stage: each two of them meet."""
    kinds = [
        (world.processes, tuple(size > 1 for size in world.mesh), kind)
        for world in worlds.WORLDS
        for kind in world.kinds
    ]
    assert all(world.devices % world.processes == 0 and world.devices <= 8 for world in worlds.WORLDS)
    for one, two in ((0, 1), (0, 2), (1, 2)):
        sides = [{row[side] for row in kinds} for side in (one, two)]
        assert {(row[one], row[two]) for row in kinds} == {(a, b) for a in sides[0] for b in sides[1]}
    assert {row[0] for row in kinds} == {1, 2, 4}
    assert len({row[1] for row in kinds}) == 7
    assert {row[2] for row in kinds} == set(worlds.ALONE.kinds)


def test_draws_do_not_depend_on_the_mesh():
    """Each device draws its own part, with nothing exchanged (`jax_threefry_partitionable`)."""
    key = keys.key(0, "dpo", "step", 3)

    def draws(key):
        return [draw(key, (16, 24)) for draw in (jax.random.normal, jax.random.bits, jax.random.uniform)]

    layout = NamedSharding(make_mesh(MeshShape(2, 2, 2)), P(("data", "fsdp"), "tensor"))
    program = jax.jit(draws, out_shardings=layout).lower(key).compile()
    jax.tree.map(np.testing.assert_array_equal, program(key), jax.jit(draws)(key))
    exchanges = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    assert not [kind for kind in exchanges if kind in program.as_text()]


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["meshes", "--rows", "8", "10"],
        ["meshes", "--rows", "6", "9"],
        ["restore"],
        ["kill", "--points", "2", "--steps", "20"],
        ["adapters", "--steps", "2"],
    ],
    ids=" ".join,
)
def test_in_other_worlds_a_run_is_the_same(arguments, tmp_path):
    command = [sys.executable, worlds.SCRIPT, *arguments, "--keep", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_first_process_sees_on_disk_decides(tmp_path, monkeypatch):
    """It may have made the folder of a stage by the time that another one looks, which then met it at another
    barrier and was ended."""
    run = SimpleNamespace(files=SimpleNamespace(directory=tmp_path))
    (tmp_path / "checkpoints" / "dpo").mkdir(parents=True)
    assert params.has_checkpoints(run, "dpo")
    assert not params.has_checkpoints(run, "sft")
    monkeypatch.setattr(params.multihost_utils, "broadcast_one_to_all", lambda mine: np.array(False))
    assert not params.has_checkpoints(run, "dpo")
