"""What a checkpoint lacks is said, what the disk changed is found, and a NaN is never the best."""

import asyncio
import contextlib
import dataclasses
import gc
import pathlib
import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jobs import each, together

from jaxpref.algorithms.base import TrainState
from jaxpref.experiment import MeshShape
from jaxpref.training import checkpoint
from jaxpref.training.checkpoint import Checkpoints, restore_params, saved_meta
from jaxpref.training.checksums import named
from jaxpref.training.sharding import make_mesh


def state(step: int) -> TrainState:
    return TrainState(jnp.int32(step), {"logits": jnp.full(3, float(step))}, ())


@pytest.mark.parametrize("values", [(1.0, 3.0, float("nan"), 2.0), (1.0, 3.0, 2.0, float("nan"))])
def test_a_metric_that_is_not_a_number_is_never_the_best(tmp_path, values):
    with Checkpoints(tmp_path, keep=1, best_metric="accuracy") as checkpoints:
        for step, value in enumerate(values, start=1):
            checkpoints.save(step, state(step), {}, {"accuracy": value})
            checkpoints.wait()
        assert checkpoints.best == 2
        assert float(restore_params(tmp_path, 2, state(0).params)["logits"][0]) == 2


def shaped(size: int, dtype: str = "float32"):
    return jax.ShapeDtypeStruct((size,), dtype)


FITTING = shaped(3)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"logits": FITTING, "head": FITTING}, "it has no head, 1 arrays in all"),
        ({"logit": FITTING}, "it has no logit, 1 arrays in all"),
        ({}, "the model has no place for its logits, 1 arrays in all"),
        (
            {"logits": shaped(4)},
            r"logits is float32 \[3\] there and float32 \[4\]",
        ),
        (
            {"logits": shaped(2)},
            r"logits is float32 \[3\] there and float32 \[2\]",
        ),
        (
            {"logits": shaped(3, "bfloat16")},
            r"logits is float32 \[3\] there and bfloat16 \[3\]",
        ),
    ],
)
def test_params_of_a_checkpoint_are_those_of_the_model(tmp_path, wanted, message):
    """Orbax gave a shape for what is not there, left out what nobody asked for, cast to another dtype, and
    took another shape for the one that was asked for."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), {})
        checkpoints.wait()
        with pytest.raises(ValueError, match=message):
            restore_params(tmp_path, 1, wanted)
        if wanted.keys() == {"logits"}:
            with pytest.raises(ValueError, match=message):
                checkpoints.restore(1, dataclasses.replace(state(0), params=wanted))
    assert float(restore_params(tmp_path, 1, {"logits": FITTING})["logits"][0]) == 1


def trained() -> TrainState:
    """A state with moments, of bits that no compression makes fewer."""
    draw = np.random.default_rng(0)

    def noise():
        return {
            "blocks": {"query": jnp.asarray(draw.integers(0, 2**32, (2, 300), np.uint32).view(np.float32))}
        }

    return TrainState(jnp.int32(1), noise(), (optax.ScaleByAdamState(jnp.int32(1), noise(), noise()),))


def flipped(path: pathlib.Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("written")
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(1, trained(), {"data": "arithmetic"})
    return folder


@pytest.mark.parametrize("kind", ["params", "opt_state.0.mu", "opt_state.0.nu"])
def test_a_flipped_byte_is_refused_by_the_name_of_its_array(written, tmp_path, kind):
    folder = pathlib.Path(shutil.copytree(written, tmp_path / "damaged"))
    values = {name: np.asarray(x) for name, x in named(trained()).items()}[f"{kind}.blocks.query"].tobytes()
    found = [(file, file.read_bytes().find(values[400:432])) for file in folder.rglob("*") if file.is_file()]
    [(file, at)] = [(file, at) for file, at in found if at >= 0]
    flipped(file, at)
    name = rf"{kind}\.blocks\.query is not what was saved at step 1 .*1 arrays in all.*delete that folder"
    with Checkpoints(folder) as checkpoints, pytest.raises(ValueError, match=name):
        checkpoints.restore(1, trained())
    if kind != "params":
        restore_params(folder, 1, trained().params)
        return
    with pytest.raises(ValueError, match=name):
        restore_params(folder, 1, trained().params)


@pytest.fixture
def unawaited(monkeypatch):
    """Where one read fails Orbax leaves the others unawaited, which complain when they are collected."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)
    yield
    gc.collect()


@pytest.mark.usefixtures("unawaited")
def test_what_cannot_be_decompressed_is_named(written, tmp_path):
    folder = pathlib.Path(shutil.copytree(written, tmp_path / "damaged"))
    # The three arrays of 2,400 bytes lie in one file or, as writing goes, in several.
    values = [file for file in folder.rglob("d/*") if file.stat().st_size > 2400]
    for file in values:
        for start in re.finditer(rb"\x28\xb5\x2f\xfd", file.read_bytes()):  # of a compressed array
            flipped(file, start.start())
    message = r"cannot be read .*Error reading .*query.*If it is damaged, delete that folder"
    with Checkpoints(folder) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore(1, trained())


@pytest.mark.exhaustive
@pytest.mark.usefixtures("unawaited")
def test_no_flipped_byte_passes_in_silence(written, tmp_path):
    """In any file of a checkpoint: an error that names it, or nothing was changed."""
    folder = pathlib.Path(shutil.copytree(written, tmp_path / "damaged"))
    wanted = [np.asarray(x).tobytes() for x in jax.tree.leaves(trained())]
    refused = 0
    with Checkpoints(folder) as checkpoints:
        for file in sorted(file for file in (folder / "1").rglob("*") if file.is_file()):
            whole = file.read_bytes()
            for at in range(0, len(whole), max(1, len(whole) // 20)):
                flipped(file, at)
                found = None
                with contextlib.suppress(ValueError):
                    found, _ = checkpoints.restore(1, trained())
                file.write_bytes(whole)
                refused += found is None
                if found is not None:
                    assert [np.asarray(x).tobytes() for x in jax.tree.leaves(found)] == wanted, (file, at)
    assert refused > 100


def test_a_checkpoint_without_checksums_is_read(written, tmp_path):
    """As those of before there were any."""
    folder = pathlib.Path(shutil.copytree(written, tmp_path / "older"))
    (folder / "1" / "meta" / "metadata").write_text('{"data": "arithmetic"}')
    with Checkpoints(folder) as checkpoints:
        found, meta = checkpoints.restore(1, trained())
    assert meta == {"data": "arithmetic"}
    jax.tree.map(np.testing.assert_array_equal, found, trained())


def test_another_dtype_of_moments_is_no_damage(written):
    """Orbax would cast, and the checksum tell of a damage that is none."""
    given = trained()
    [adam] = given.opt_state
    halved = adam._replace(mu=jax.tree.map(jnp.float16, adam.mu))
    message = r"mu.blocks.query is float32 \[2, 300\] there and float16"
    with Checkpoints(written) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore(1, dataclasses.replace(given, opt_state=(halved,)))


def test_checksums_hold_on_any_mesh(tmp_path):
    """Saved from one mesh and read on others, and on one device."""
    given = state(1)
    given = dataclasses.replace(given, params={"logits": jnp.arange(64.0).reshape(8, 8)})

    def on(mesh, spec):
        layout = NamedSharding(make_mesh(MeshShape(*mesh)), spec)
        return jax.tree.map(lambda x: jax.device_put(x, layout if x.ndim else layout.update(spec=P())), given)

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, on((1, 4, 2), P("fsdp", "tensor")), {})
        checkpoints.wait()
        for target in (on((2, 2, 2), P("tensor")), on((8, 1, 1), P(None, "data")), given):
            found, _ = checkpoints.restore(1, target)
            np.testing.assert_array_equal(found.params["logits"], given.params["logits"])
            assert found.params["logits"].sharding.is_equivalent_to(target.params["logits"].sharding, 2)


def test_arrays_of_one_name_are_refused_when_they_are_saved(tmp_path):
    """Orbax would save one of them for both."""
    params = {"a.b": jnp.zeros(3), "a": {"b": jnp.ones(3)}}
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(ValueError, match=r"two arrays of the state have the name params\.a\.b"):
            checkpoints.save(1, dataclasses.replace(state(1), params=params), {})
        assert checkpoints.latest is None


def test_a_step_that_another_job_has_written_is_kept(tmp_path):
    """A job that was thought to be dead ends its step while its successor, which began before, gets there."""
    with Checkpoints(tmp_path) as old, Checkpoints(tmp_path) as new:
        old.save(2, state(2), {"by": "old"})
        old.wait()
        new.save(2, state(2), {"by": "new"})
        new.wait()
        assert saved_meta(tmp_path, 2)["by"] == "old"
        old.save(4, state(4), {"by": "old"})
        old.wait()
        new.save(3, state(3), {"by": "new"})  # behind what is there
        new.save(6, state(6), {"by": "new"})
        new.wait()
        assert new.steps == [4, 6], "those of both are counted when the oldest goes"
        assert float(restore_params(tmp_path, 4, state(0).params)["logits"][0]) == 4


@pytest.mark.parametrize("leave", [None, KeyboardInterrupt])
def test_whoever_leaves_waits_for_what_is_being_written(tmp_path, leave, monkeypatch):
    """However a stage ends, its last checkpoint is there."""
    commit = ocp.path.atomicity.AtomicRenameTemporaryPath.finalize

    async def slowly(*arguments, **options):
        await asyncio.sleep(0.3)
        return await commit(*arguments, **options)

    monkeypatch.setattr(ocp.path.atomicity.AtomicRenameTemporaryPath, "finalize", slowly)
    with contextlib.suppress(*[leave] if leave else []), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state(1), {})
        assert not (tmp_path / "1").exists()
        if leave is not None:
            raise leave
    assert float(restore_params(tmp_path, 1, state(0).params)["logits"][0]) == 1


def test_all_processes_go_on_from_what_the_first_one_sees(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_LATE", 1.0)
    with Checkpoints(tmp_path) as writer:
        writer.save(1, state(1), {})
        writer.wait()
        with Checkpoints(tmp_path) as late, together(2) as (jobs, _):
            writer.save(2, state(2), {})
            writer.wait()
            assert late.steps == [1]
            assert each(2, lambda i: (writer, late)[i]._agree(jobs[i])) == [None, None]
            assert late.steps == [1, 2]
        with Checkpoints(tmp_path / "elsewhere") as other, together(2) as (jobs, _):
            said = [str(e) for e in each(2, lambda i: (writer, other)[i]._agree(jobs[i]))]
        told = "process 1 (host1) sees the checkpoints [] there, and process 0 [1, 2]"
        assert all(told in text for text in said)
