"""Several processes run the commands as one process with all their devices would."""

import json
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from launch import TINY, environment, here, rows, start

from jaxpref.data import load_records
from jaxpref.training.constants import fingerprint

COMMANDS = """
import json, sys
from jaxpref import cli
for arguments in json.loads(sys.argv[1]):
    print("status", cli.main(arguments), flush=True)
"""
# Process 0 holds every other part of the rows, which no contiguous share of a batch would be.
ROWS = """
import json, sys
import jax, numpy as np
from jax.sharding import AxisType, Mesh
from jaxpref.experiment import MeshShape
from jaxpref.training import distributed, sharding
distributed.initialize()
a, b, c, d = jax.devices()
whole = np.arange(24).reshape(8, 3)
for order, shape in (((a, b, c, d), (4, 1, 1)), ((a, c, b, d), (2, 2, 1)), ((a, c, b, d), (2, 1, 2)),
                     ((a, b, c, d), (1, 2, 2)), ((a, b, c, d), (1, 1, 4))):
    mesh = Mesh(np.array(order).reshape(shape), sharding.AXES, axis_types=(AxisType.Auto,) * 3)
    asked = []
    array = sharding.put_batch(lambda rows: asked.append(rows.tolist()) or whole[rows], 8, mesh)
    np.testing.assert_array_equal(sharding.fetch(array), whole)
    print(json.dumps(asked))
"""
# Weights as files would give them: each process reads what its devices hold, and hashes some of the arrays.
WEIGHTS = (
    ROWS
    + """
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxpref.models.hub.lazy import LazyArray, stacked, wrapped
from jaxpref.training.constants import fingerprint
class Noted(LazyArray):
    def __init__(self, array):
        super().__init__(array.shape, array.dtype)
        self.base, self.asked = wrapped(array), []
    def pieces(self, bounds):
        self.asked.append(bounds)
        return self.base.pieces(bounds)
layers = [Noted(np.arange(24, dtype=np.int32).reshape(4, 6) + i) for i in range(2)]
table = Noted(np.arange(40, dtype=np.int32).reshape(8, 5))
tree = {"blocks": stacked([x.T for x in layers]), "table": table}
mesh = Mesh(np.array(jax.devices()).reshape(1, 4, 1), sharding.AXES, axis_types=(AxisType.Auto,) * 3)
specs = {"blocks": P(None, None, "fsdp"), "table": P()}
placed = sharding.put_params(tree, {k: NamedSharding(mesh, spec) for k, spec in specs.items()})
print(json.dumps([x.asked for x in (*layers, table)]))
print(json.dumps(fingerprint(tree)))
print(json.dumps([len(x.asked) for x in (*layers, table)]))
print(json.dumps([fingerprint(placed), fingerprint({k: np.asarray(x) for k, x in tree.items()})]))
from jaxpref.training import job
from jaxpref.training.batches import check_batch
from jaxpref.training.start import check_same_run
class Loader:
    batch_size, own = 8, 0
    def batch(self, step, rows=None):
        return whole + self.own if rows is None else whole[rows]
def said(act, *arguments):
    try:
        return act(*arguments)
    except ValueError as error:
        return str(error)
put, loader, own = sharding.put_batch, Loader(), jax.process_index()
found = [said(check_batch, "dpo", loader, 1, mesh)]
loader.own = own
found.append(said(check_batch, "dpo", loader, 1, mesh))
loader.own = 0
# Each process takes its share of the rows, whatever the mesh: here all rows are everyone's.
tensor = Mesh(np.array(jax.devices()).reshape(1, 1, 4), sharding.AXES, axis_types=(AxisType.Auto,) * 3)
sharding.put_batch = lambda read, size, mesh: put(lambda rows: read((rows + 4 * own) % 8), size, mesh)
found.append(said(check_batch, "dpo", loader, 1, tensor))
found.append(said(check_same_run, job.current(), lambda: {"workdir": "a", "seed": own}))
print(json.dumps({"refused": found}))
"""
)


def _joined(code: str, *arguments: str, count: int) -> list[str]:
    """What two processes of `count` devices each print that run `code` together."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=environment(
                count,
                JAXPREF_COORDINATOR=f"localhost:{port}",
                JAXPREF_NUM_PROCESSES="2",
                JAXPREF_PROCESS_ID=str(index),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [p.communicate(timeout=600)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], "\n".join(outputs)
    # What joins processes on CPU says so, where the processes themselves say nothing.
    return ["".join(x for x in o.splitlines(True) if not x.startswith("[Gloo]")) for o in outputs]


def _assert_same_metrics(one: pathlib.Path, two: pathlib.Path) -> None:
    for a, b in zip(rows(one), rows(two), strict=True):
        for key in a.keys() - {"stage", "split"}:
            assert a[key] == pytest.approx(b[key], rel=1e-4, abs=1e-5), (a["stage"], a["step"], key)
    if (one / "samples.jsonl").exists():
        assert len(rows(two, "samples.jsonl")) == len(rows(one, "samples.jsonl"))


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_processes_agree_with_one(tmp_path):
    common = ["train", TINY, "steps=2", "data=2", "fsdp=2", "--no-report"]
    commands = json.dumps([[*common, f"workdir={tmp_path / 'two'}"]])
    outputs = _joined(COMMANDS, commands, count=2)
    assert "dpo  2/2" in outputs[0]
    assert "2/2" not in outputs[1], "only the first process reports"
    here(*common, f"workdir={tmp_path / 'one'}", count=4)
    _assert_same_metrics(tmp_path / "one", tmp_path / "two")


@pytest.mark.exhaustive  # what it takes of the gate; the parts have tests of their own
@pytest.mark.slow
def test_commands_of_two_processes_that_share_every_row(tmp_path):
    """With the model split over the processes, both hold all rows of a batch."""
    common = [TINY, "steps=2", "tensor=2"]

    def commands(name: str) -> list[list[str]]:
        workdir, reads = f"workdir={tmp_path / name}", "stages.dpo.algorithm.reference=batch"
        return [
            ["train", *common, workdir, "--no-report"],
            ["evaluate", *common, workdir],
            ["sample", *common, workdir, "--prompt", "1+2=", "--prompt", "7+5=", "--num-samples", "2"],
            ["prepare", *common, workdir, f"records={tmp_path / name / 'records'}", "--reference", reads],
        ]

    first, second = _joined(COMMANDS, json.dumps(commands("two")), count=1)
    printed = [here(*command, count=2) for command in commands("one")]
    _assert_same_metrics(tmp_path / "one", tmp_path / "two")
    assert second == "status 0\n" * 4, "only the first process reports"
    said = first.split("status 0\n")
    for ours, theirs in zip(printed[1:3], said[1:3], strict=True):  # to the digits shown
        assert ours.splitlines() == theirs.splitlines()
    index = json.loads((tmp_path / "one" / "records" / "index.json").read_text())
    assert index == json.loads((tmp_path / "two" / "records" / "index.json").read_text())
    scored = 0
    for name in index:
        a, b = (load_records(tmp_path / run / "records" / name) for run in ("one", "two"))
        assert len(a) == len(b)
        assert a.columns.keys() == b.columns.keys()
        scored += "reference_logps.dpo" in a.columns
        for column in a.columns:
            np.testing.assert_allclose(a.columns[column], b.columns[column], atol=1e-4)
    assert scored == 2, "pairs to train on, and those held out"


@pytest.mark.slow
def test_a_process_reads_the_rows_and_weights_of_its_devices():
    # On a busy machine jax warns of slow peers in between.
    outputs = _joined(WEIGHTS, count=2)
    printed = [[x for x in output.splitlines() if x[:1] in ("[", '"')] for output in outputs]
    both = [[json.loads(line) for line in lines] for lines in printed]
    (*first, asked, told, hashed, same), (*second, asked_of_second, told_too, hashed_too, same_too) = both
    assert asked == [[[[0, 1], [0, 6]], [[1, 2], [0, 6]]]] * 2 + [[[[0, 8], [0, 5]]]]
    assert asked_of_second == [[[[2, 3], [0, 6]], [[3, 4], [0, 6]]]] * 2 + [[[[0, 8], [0, 5]]]]
    assert (hashed, hashed_too) == ([3, 3, 1], [2, 2, 2]), "the first hashes the layers, the second the table"
    layers = [np.arange(24, dtype=np.int32).reshape(4, 6) + i for i in range(2)]
    alone = {"blocks": np.stack([x.T for x in layers]), "table": np.arange(40, dtype=np.int32).reshape(8, 5)}
    assert {told, told_too, *same, *same_too} == {fingerprint(alone)}, "as one process has it"
    whole = list(range(8))
    assert first == [[whole[:4]], [[0, 1, 4, 5]], [whole], [whole[:4]], [whole]]
    assert second == [[whole[4:]], [[2, 3, 6, 7]], [whole], [whole[4:]], [whole]]
    refused = [json.loads(output.splitlines()[-1])["refused"] for output in outputs]
    assert refused[0] == refused[1], "all say the same"
    nothing, another, elsewhere, setting = refused[0]
    assert nothing is None
    assert "reads another batch 1 than process 0" in another
    assert "batch 1 on the devices is not the one that the processes read" in elsewhere
    assert "seed: 1 in process 1" in setting


def _begun(*arguments: str, devices: tuple[int, ...] = (1, 1), **more: str) -> list[subprocess.Popen[str]]:
    """Processes of one job that run one command."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        start(
            *arguments,
            count=count,
            JAXPREF_COORDINATOR=f"localhost:{port}",
            JAXPREF_NUM_PROCESSES=str(len(devices)),
            JAXPREF_PROCESS_ID=str(i),
            PYTHONUNBUFFERED="1",
            **more,
        )
        for i, count in enumerate(devices)
    ]


def _ended(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    return [process.returncode for process in processes], outputs


@pytest.mark.slow
@pytest.mark.exhaustive
def test_what_one_of_two_processes_meets_both_end_with(tmp_path):
    """Killed, stopped, and begun with other devices; then the run goes on to where one process takes it."""
    steps = ["train", TINY, "steps=60", "data=2", "evaluators=False", "checkpoint_every=5", "--no-report"]
    common = [*steps, f"workdir={tmp_path / 'two'}"]

    def reached(processes: list[subprocess.Popen[str]], text: str) -> None:
        assert processes[0].stdout is not None
        assert any(text in line for line in processes[0].stdout), text

    statuses, outputs = _ended(_begun(*common, devices=(1, 2)))
    assert statuses == [2, 2]
    assert all("devices of a process: 2 in process 1" in output for output in outputs), outputs
    for victim, stage in ((1, "sft"), (0, "dpo")):
        both = _begun(*common)
        reached(both, f"{stage}  20/60")
        both[victim].kill()
        begun = time.monotonic()
        statuses, outputs = _ended(both)
        assert time.monotonic() - begun < 30
        assert statuses[1 - victim] == 4, outputs
        assert "of 2 is missing: its connection broke at" in outputs[1 - victim]
    both = _begun(*common)
    reached(both, "dpo: resumed at step")
    reached(both, "dpo  30/60")
    both[1].terminate()
    statuses, outputs = _ended(both)
    assert statuses == [143, 143], outputs
    assert all("dpo: interrupted and saved at step" in output for output in outputs)
    assert "taken over" not in outputs[0]
    statuses, outputs = _ended(_begun(*common))
    assert statuses == [0, 0], outputs
    here(*steps, f"workdir={tmp_path / 'one'}", count=2)
    _assert_same_metrics(tmp_path / "one", tmp_path / "two")
