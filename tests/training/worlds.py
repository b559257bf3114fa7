"""The same runs in many worlds: numbers of processes, numbers of devices, and meshes.

Run       python tests/training/worlds.py meshes            every stage kind on a covering set of meshes
          python tests/training/worlds.py meshes --rows 3 5 some rows of it
          python tests/training/worlds.py kill --points 20  kill -9 at random steps, start again, compare
          python tests/training/worlds.py adapters          finetune.py with LoRA in two processes

Each prints a table as it goes; `worlds.txt` has what they printed. Everything is on CPU, in processes that are
joined over loopback.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import conftest  # noqa: F401  the flags that tests compile with
import launch

STEPS = 20
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
        return f"{self.processes} x {self.devices // self.processes}  {' x '.join(map(str, self.mesh))}"


# Each number of processes with each kind of mesh (which of its axes are longer than 1), each kind of mesh with
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


def started(arguments: Sequence[str], processes: int, devices: int) -> list[subprocess.Popen[str]]:
    """Processes that are joined, with `devices` each, and run Python with these arguments; one is alone."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]

    def joins(index: int) -> dict[str, str]:
        if processes == 1:
            return {}
        return {
            # On CPU a program may overtake another one in one of the processes, and Gloo tells their messages
            # apart by their order alone; devices of other kinds keep the order.
            "JAX_CPU_ENABLE_ASYNC_DISPATCH": "false",
            "JAXPREF_COORDINATOR": f"localhost:{port}",
            "JAXPREF_NUM_PROCESSES": str(processes),
            "JAXPREF_PROCESS_ID": str(index),
        }

    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=launch.environment(devices, **joins(index)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]


def finished(processes: Sequence[subprocess.Popen[str]]) -> list[str]:
    """What each printed, once all have ended well."""
    outputs = [process.communicate(timeout=3600)[0] for process in processes]
    codes = [process.returncode for process in processes]
    if any(codes):
        raise RuntimeError(f"exit {codes}:\n" + "\n".join(output[-3000:] for output in outputs))
    return outputs


def run(folder: pathlib.Path, mesh: Sequence[int], kinds: Sequence[str], steps: int) -> None:
    """In each process: one run after the other."""
    import every_stage

    from jaxpref.experiment import MeshShape
    from jaxpref.training import distributed
    from jaxpref.training.run import train

    distributed.initialize()
    for kind in kinds:
        given = every_stage.KINDS[kind](steps)
        train(dataclasses.replace(given, mesh=MeshShape(*mesh)), folder / kind)


class Difference(NamedTuple):
    """Largest differences of two runs, relative where a number is larger than 1."""

    losses: float
    others: float  # all other metrics, evaluations and scores of samples
    where: str  # the largest of `others`
    samples: str  # equal ones, of all


def difference(one: pathlib.Path, two: pathlib.Path) -> Difference:
    """Compares the lines that two runs have filed, all of them."""
    found: dict[str, float] = {"": 0.0}
    texts = []
    for file in FILES:
        lines = [
            [json.loads(line) for line in (run / file).read_text().splitlines()]
            if (run / file).exists()
            else []
            for run in (one, two)
        ]
        for a, b in zip(*lines, strict=True):
            if file == "samples.jsonl":
                texts.append(a == b)
            for name, x, y in numbers(a, b, file.removesuffix(".jsonl")):
                found[name] = max(
                    found.get(name, 0.0), abs(x - y) / max(1.0, abs(x)) if x == x or y == y else 0.0
                )
    losses = [value for name, value in found.items() if name in ("metrics.loss", "metrics.eval.loss")]
    where = max(found, key=lambda name: -1 if name.endswith(".loss") else found[name])
    return Difference(max(losses), found[where], where, f"{sum(texts)}/{len(texts)}")


def numbers(a: Any, b: Any, name: str) -> Iterator[tuple[str, float, float]]:
    """Pairs of numbers in two lines, with the names of their fields. All else has to be equal."""
    if isinstance(a, dict):
        if a.keys() != b.keys():
            raise ValueError(f"{name}: {sorted(a)} and {sorted(b)}")
        inner = f"{name}.eval" if a.get("split") == "eval" else name
        for key in a.keys() - set(IGNORED):
            yield from numbers(a[key], b[key], f"{inner}.{key}")
    elif isinstance(a, list):
        if len(a) != len(b):
            raise ValueError(f"{name}: {len(a)} and {len(b)}")
        for x, y in zip(a, b, strict=True):
            yield from numbers(x, y, name)
    elif isinstance(a, float) and isinstance(b, float):
        yield name, a, b
    elif a != b and not name.startswith("samples."):
        yield f"{name} ({a!r}, {b!r})", 0.0, float("inf")


def meshes(folder: pathlib.Path, rows: Sequence[int]) -> None:
    script = str(pathlib.Path(__file__).resolve())

    def trained(world: World, name: str) -> pathlib.Path:
        mesh = ",".join(map(str, world.mesh))
        arguments = [script, "run", str(folder / name), mesh, ",".join(world.kinds)]
        finished(started(arguments, world.processes, world.devices // world.processes))
        return folder / name

    alone = folder / "alone"
    kinds = sorted({kind for row in rows for kind in WORLDS[row].kinds})
    if not alone.exists():
        trained(ALONE._replace(kinds=tuple(kinds)), "alone")
    head = f"{'row':>3}  {'processes x devices, mesh':25}  {'stages':9}  losses   others   samples  largest of the others"
    print(head, flush=True)
    for row in rows:
        world = WORLDS[row]
        there = trained(world, f"row{row}")
        for kind in world.kinds:
            d = difference(alone / kind, there / kind)
            print(
                f"{row:3}  {world!s:25}  {kind:9}  {d.losses:.1e}  {d.others:.1e}  {d.samples:>7}  {d.where}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("meshes")
    one.add_argument("--rows", type=int, nargs="*", default=[*range(len(WORLDS))])
    inner = commands.add_parser("run")
    inner.add_argument("folder", type=pathlib.Path)
    inner.add_argument("mesh")
    inner.add_argument("kinds")
    for each in (one,):
        each.add_argument("--keep", type=pathlib.Path, help="a folder for the runs, left there")
    options = parser.parse_args()
    if options.command == "run":
        run(options.folder, [int(n) for n in options.mesh.split(",")], options.kinds.split(","), STEPS)
        return
    with contextlib.ExitStack() as stack:
        folder = options.keep or pathlib.Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="worlds-"))
        )
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "programs"))
        os.environ.setdefault("JAXPREF_CACHE", str(folder / "cache"))
        meshes(folder, options.rows)


if __name__ == "__main__":
    main()
