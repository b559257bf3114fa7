"""The same runs in many worlds: numbers of processes, numbers of devices, and meshes.

Run       python tests/training/worlds.py meshes            every kind of stage on a covering set of meshes
          python tests/training/worlds.py meshes --rows 3 5 some rows of it
          python tests/training/worlds.py restore           saved in one world, gone on with in others
          python tests/training/worlds.py kill --points 20  kill -9 at random steps, start again, compare
          python tests/training/worlds.py adapters          finetune.py with LoRA in two processes

Each prints a table as it goes; `worlds.txt` is what they printed. Everything is on CPU, in processes that are
joined over loopback.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import conftest  # noqa: F401  the flags that tests compile with
import launch
from joined import finished, started

SCRIPT = str(pathlib.Path(__file__).resolve())
STEPS = 20
LIMIT = 1e-5
HEAD = "processes x devices, mesh"
IGNORED = ("time", "tokens_per_second", "mfu")
FILES = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl")


class World(NamedTuple):
    """`mesh`: data, fsdp, tensor."""

    processes: int
    mesh: tuple[int, int, int]
    kinds: tuple[str, ...]

    @property
    def devices(self) -> int:
        return self.mesh[0] * self.mesh[1] * self.mesh[2]

    def __str__(self) -> str:
        data, fsdp, tensor = self.mesh
        return f"{self.processes} x {self.devices // self.processes}  data {data} fsdp {fsdp} tensor {tensor}"


# What is saved by two processes on fsdp 4 is gone on with on these.
RESTORES = ((1, (1, 1, 1)), (1, (1, 4, 1)), (4, (1, 4, 1)), (4, (2, 2, 1)), (2, (2, 1, 2)))
# Each number of processes with each kind of mesh (which of its axes are longer than 1), each of these with
# each kind of stage, and each number of processes with each kind of stage.
A, B, C = ("pairs", "reward"), ("judged", "segments"), ("columns", "routes")
ALONE = World(1, (1, 1, 1), A + B + C)
WORLDS = tuple(
    World(processes, mesh, kinds)
    for processes, rows in {
        1: (
            ((2, 1, 1), A),
            ((1, 4, 1), B),
            ((1, 1, 2), C),
            ((2, 2, 1), A),
            ((4, 1, 2), B),
            ((1, 2, 2), C),
            ((2, 2, 2), A),
        ),
        2: (
            ((4, 1, 1), B),
            ((1, 2, 1), C),
            ((1, 1, 2), A),
            ((2, 4, 1), B),
            ((2, 1, 2), C),
            ((1, 2, 2), A),
            ((2, 2, 2), B),
        ),
        4: (
            ((8, 1, 1), C),
            ((1, 4, 1), A),
            ((1, 1, 4), B),
            ((2, 2, 1), C),
            ((2, 1, 4), A),
            ((1, 2, 2), B),
            ((2, 2, 2), C),
        ),
    }.items()
    for mesh, kinds in rows
)


def run(folder: pathlib.Path, mesh: Sequence[int], kinds: Sequence[str], steps: int, *, states: bool) -> None:
    """In each process: one run after the other. `states`: says first what the checkpoints there are."""
    import every_stage

    from jaxpref.experiment import MeshShape
    from jaxpref.training import distributed
    from jaxpref.training.run import train

    distributed.initialize()
    for kind in kinds:
        given = every_stage.KINDS[kind](steps)
        given = dataclasses.replace(given, mesh=MeshShape(*mesh))
        for stage, step in saved_steps(folder / kind) if states else ():
            print(f"state of {stage} at {step}: {state_of(given, folder / kind, stage, step)}", flush=True)
        train(given, folder / kind, allow_changes=states)  # of the mesh


def saved_steps(workdir: pathlib.Path) -> list[tuple[str, int]]:
    """Stages and steps of all checkpoints of a run."""
    found = [path for path in workdir.glob("checkpoints/*/*") if path.name.isdigit()]
    return sorted((path.parent.name, int(path.name)) for path in found)


def state_of(experiment: Any, workdir: pathlib.Path, stage: str, step: int) -> str:
    """SHA-256 of all bits of the state of a checkpoint, as this world reads it."""
    from jaxpref.training.constants import fingerprint
    from jaxpref.training.run import open_run
    from jaxpref.training.state import moving, trained_state

    opened = open_run(experiment, workdir, log=lambda line: None)
    [part] = [part for part in experiment.stages if part.name == stage]
    return fingerprint(moving(trained_state(opened, part, part.build(opened.policy), step)))


def trained(folder: pathlib.Path, world: World, steps: int = STEPS, *more: str) -> str:
    """Runs of the kinds of a world, in subfolders; what the first process printed."""
    mesh = ",".join(map(str, world.mesh))
    arguments = [SCRIPT, "run", str(folder), mesh, ",".join(world.kinds), "--steps", str(steps), *more]
    return finished(started(arguments, world.processes, world.devices // world.processes))[0]


class Difference(NamedTuple):
    """Largest differences of two runs, relative where a number is larger than 1."""

    losses: float
    others: float  # all other metrics, evaluations and scores of samples
    where: str  # the largest of `others`
    samples: str  # equal ones, of all


def difference(one: pathlib.Path, two: pathlib.Path) -> Difference:
    """Compares the lines that two runs have filed, all of them."""
    found: dict[str, float] = {"": 0.0}
    same = []
    for file in FILES:
        for a, b in zip(lines_of(one / file), lines_of(two / file), strict=True):
            if file == "samples.jsonl":
                same.append(a == b)
            for name, x, y in numbers(a, b, file.removesuffix(".jsonl")):
                apart = abs(x - y) / max(1.0, abs(x)) if x == x or y == y else 0.0
                found[name] = max(found.get(name, 0.0), apart)
    losses = [value for name, value in found.items() if name.endswith(".loss")]
    where = max(found, key=lambda name: -1 if name.endswith(".loss") else found[name])
    return Difference(max(losses), found[where], where, f"{sum(same)}/{len(same)}")


def lines_of(file: pathlib.Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def numbers(a: Any, b: Any, name: str) -> Iterator[tuple[str, float, float]]:
    """Pairs of numbers in two lines, with the names of their fields. All else has to be equal."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        for key in a.keys() - set(IGNORED):
            yield from numbers(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for x, y in zip(a, b, strict=True):
            yield from numbers(x, y, name)
    elif isinstance(a, float) and isinstance(b, float):
        yield name, a, b
    elif a != b:
        yield f"{name} ({a!r}, {b!r})", 0.0, float("inf")


def meshes(folder: pathlib.Path, options: argparse.Namespace) -> float:
    """Each row beside one device; the largest difference of losses."""
    kinds = {kind for row in options.rows for kind in WORLDS[row].kinds}
    trained(folder / "alone", ALONE._replace(kinds=tuple(sorted(kinds))))
    print(f"{'row':>3}  {HEAD:30}  stages    losses   others   samples  largest of the others", flush=True)
    worst = 0.0
    for row in options.rows:
        world, there = WORLDS[row], folder / f"row{row}"
        trained(there, world)
        for kind in world.kinds:
            d = difference(folder / "alone" / kind, there / kind)
            worst = max(worst, d.losses)
            values = f"{kind:8}  {d.losses:.1e}  {d.others:.1e}  {d.samples:>7}  {d.where}"
            print(f"{row:3}  {world!s:30}  {values}", flush=True)
    return worst


def restore(folder: pathlib.Path, options: argparse.Namespace) -> float:
    """Saved by two processes on fsdp 4 half-way through DPO, and gone on with elsewhere; the largest
    difference of losses from there on."""
    saver = World(2, (1, 4, 1), ("halves",))
    trained(folder / "saved", saver)
    shutil.rmtree(folder / "saved" / "halves" / "checkpoints" / "dpo" / str(STEPS))
    print(f"{HEAD:30}  state when it is read     losses   others   largest of the others", flush=True)
    worst, states = 0.0, set()
    whole = shutil.copytree(folder / "saved", folder / "whole")
    for world in (saver, *(World(n, mesh, ("halves",)) for n, mesh in RESTORES)):
        there = pathlib.Path(shutil.copytree(folder / "saved", folder / str(world).replace(" ", "")))
        said = trained(there, world, STEPS, "--states")
        state = next(line for line in said.splitlines() if f"state of dpo at {STEPS // 2}" in line)
        states.add(state)
        d = difference(whole / "halves", there / "halves")
        worst = max(worst, d.losses)
        print(
            f"{world!s:30}  {state.rpartition(':')[2][:16]:24}  {d.losses:.1e}  {d.others:.1e}  {d.where}",
            flush=True,
        )
    return worst if len(states) == 1 else float("inf")


def kill(folder: pathlib.Path, options: argparse.Namespace) -> float:
    """Two processes, one of which is killed at each of some random steps, and then the other; 0 if the run
    ends as one that nobody disturbed, with the same lines and the same bits."""
    world, steps, draw = World(2, (1, 4, 1), ("often",)), options.steps, random.Random(options.seed)
    trained(folder / "whole", world, steps)
    targets = sorted(draw.sample(range(1, 2 * steps - 1), options.points))
    print(f"{steps} steps of sft and {steps} of dpo, a checkpoint every 7; seed {options.seed}", flush=True)
    print("kill  process  when               steps done  of checkpoints  which are there then", flush=True)
    arguments = [SCRIPT, "run", str(folder / "killed"), "1,4,1", "often", "--steps", str(steps)]
    workdir = folder / "killed" / "often"
    for number, target in enumerate(targets, start=1):
        begun = steps_of(workdir, steps)
        processes = started(arguments, 2, 2)
        if number % 5:
            when = f"step {wait_for(processes, workdir, steps, max(target, begun + 1))}"
        else:  # while it starts: imports, restores, compiles
            seconds = draw.uniform(1, 12)
            time.sleep(seconds)
            when = f"{seconds:.1f} s from its start"
        victim = draw.randrange(2)
        for process in (processes[victim], processes[1 - victim]):
            process.kill()
            time.sleep(draw.uniform(0, 0.3))
        for process in processes:
            process.communicate()
        there = " ".join(f"{stage}/{step}" for stage, step in saved_steps(workdir))
        print(f"{number:4}  {victim:7}  {when:17}  {steps_of(workdir, steps):10}  {there}", flush=True)
    trained(folder / "killed", world, steps)
    runs = [folder / name / "often" for name in ("whole", "killed")]
    d, states = difference(*runs), [last_states(workdir, steps) for workdir in runs]
    print(f"at the end: lines differ by {max(d.losses, d.others):g}, states {states[0]} and {states[1]}")
    return max(d.losses, d.others) if states[0] == states[1] else float("inf")


def steps_of(workdir: pathlib.Path, steps: int) -> int:
    """Steps that a run has filed, of both stages."""
    file = workdir / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    done = [row["step"] + 1 + steps * (row["stage"] == "dpo") for row in rows if row["split"] == "train"]
    return max(done, default=0)


def wait_for(
    processes: Sequence[subprocess.Popen[str]], workdir: pathlib.Path, steps: int, target: int
) -> int:
    while steps_of(workdir, steps) < target:
        if any(process.poll() is not None for process in processes):
            finished(processes)
            raise RuntimeError(f"ended before step {target}")
        time.sleep(0.02)
    return steps_of(workdir, steps)


def last_states(workdir: pathlib.Path, steps: int) -> str:
    """Of both stages, as this process reads them on one device."""
    import every_stage

    with launch.devices(1):
        given = every_stage.KINDS["often"](steps)
        states = [state_of(given, workdir, stage, steps) for stage in ("sft", "dpo")]
    return " ".join(state.rpartition(":")[2][:16] for state in states)


def adapters(folder: pathlib.Path, options: argparse.Namespace) -> float:
    """The adapters of finetune.py, trained by one process and by two of two devices: losses, and the models
    that are exported afterwards."""
    from jaxpref.models.hub.safetensors import open_file

    file = str(pathlib.Path(SCRIPT).parents[2] / "experiments" / "finetune.py")
    command = ["-m", "jaxpref.cli"]
    models = {}
    for processes, shape in ((1, (1, 1, 1)), (2, (2, 2, 1))):
        mesh = [f"mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), shape, strict=True)]
        there = folder / f"by{processes}"
        knobs = [file, f"steps={options.steps}", f"workdir={there}"]
        arguments = [*command, "train", *knobs, *mesh, "--no-report"]
        finished(started(arguments, processes, 2 if processes > 1 else 1))
        for name, more in (("model", []), ("peft", ["--adapter"])):
            to = ["--to", str(folder / f"{name}{processes}"), *more]
            finished(started([*command, "export", *knobs, *to, "mesh.data=1", "mesh.fsdp=1"], 1, 1))
            for path in (folder / f"{name}{processes}").glob("*.safetensors"):
                models[processes, name] = open_file(path)
    d = difference(folder / "by1", folder / "by2")
    print(f"losses {d.losses:.1e}  others {d.others:.1e} ({d.where})  samples {d.samples}")
    for name in ("model", "peft"):
        one, two = models[1, name], models[2, name]
        apart = max(float(abs(one[key][...] - two[key][...]).max()) for key in one.keys() | two.keys())
        print(f"export {name}: {len(one)} tensors, largest difference {apart:.1e}")
    left = [(folder / f"by{n}" / "model").is_dir() for n in (1, 2)]
    print(f"WORKDIR/model is left by one process: {left[0]}, by two: {left[1]}")
    return d.losses


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    named = {each.__name__: commands.add_parser(each.__name__) for each in (meshes, restore, kill, adapters)}
    named["meshes"].add_argument("--rows", type=int, nargs="*", default=[*range(len(WORLDS))])
    named["kill"].add_argument("--points", type=int, default=20)
    named["kill"].add_argument("--seed", type=int, default=0)
    named["kill"].add_argument("--steps", type=int, default=120, help="of each of the two stages")
    named["adapters"].add_argument("--steps", type=int, default=6)
    for each in named.values():
        each.add_argument("--keep", type=pathlib.Path, help="an empty folder for the runs, which stay there")
    inner = commands.add_parser("run", help="one process of the others")
    inner.add_argument("folder", type=pathlib.Path)
    inner.add_argument("mesh")
    inner.add_argument("kinds")
    inner.add_argument("--steps", type=int, default=STEPS)
    inner.add_argument("--states", action="store_true")
    return parser.parse_args()


def main() -> int:
    options = parsed()
    if options.command == "run":
        mesh = [int(size) for size in options.mesh.split(",")]
        run(options.folder, mesh, options.kinds.split(","), options.steps, states=options.states)
        return 0
    with contextlib.ExitStack() as stack:
        folder = options.keep or pathlib.Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="worlds-"))
        )
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "programs"))
        os.environ.setdefault("JAXPREF_CACHE", str(folder / "cache"))
        does = {"meshes": meshes, "restore": restore, "kill": kill, "adapters": adapters}[options.command]
        worst = does(folder, options)
    allowed = 0.0 if options.command == "kill" else LIMIT
    print(f"largest difference of losses: {worst:.1e} (at most {allowed:g})")
    return int(worst > allowed)


if __name__ == "__main__":
    sys.exit(main())
