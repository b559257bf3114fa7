"""`jaxpref plan`: does it fit, and what would it cost, before a machine is paid for."""

import dataclasses
import re
import sys

import jax

from jaxpref import config
from jaxpref.commands.opening import Options, split
from jaxpref.experiment import Experiment, MeshShape
from jaxpref.training.prepared import with_prepared

__all__ = ["plan"]


def plan(options: Options) -> int:
    """Returns 0 where everything fits, else 1."""
    jax.config.update("jax_platforms", "cpu")  # an accelerator that is here is not needed, and left alone
    from jaxpref.aot.batches import Lengths
    from jaxpref.aot.pictures import save_picture
    from jaxpref.aot.plans import Asked, planned
    from jaxpref.aot.search import searched
    from jaxpref.aot.tables import plan_text
    from jaxpref.aot.topologies import described

    own, rest = split(options)
    experiment = config.load(options.file, rest)
    experiment = with_prepared(experiment, own["records"]) if "records" in own else experiment
    experiment = _on_mesh(experiment, options.mesh)
    topology = described(options.topology)
    asked = Asked(
        stages=tuple(options.stage or ()),
        programs=tuple(options.only or ()),
        lengths=Lengths(*_lengths(options.lengths), options.responses),
        quick=options.quick,
    )
    if options.search:
        found = searched(experiment, topology, asked, most=options.search, say=_say)
        print(found.text, flush=True)
        if found.best is None:
            return 1
        experiment = found.best
    made = planned(experiment, topology, asked, _say)
    print(plan_text(made, price=options.price), end="")
    if options.picture:
        print(f"picture: {save_picture(made, options.picture)}")
    return 0 if made.fits else 1


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _on_mesh(experiment: Experiment, text: str | None) -> Experiment:
    if text is None:
        return experiment
    names = [field.name for field in dataclasses.fields(MeshShape)]
    sizes = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in names or not re.fullmatch(r"-?\d+", size):
            raise ValueError(f"--mesh {text}: expected {'=N,'.join(names)}=N, any of them")
        sizes[name] = int(size)
    return dataclasses.replace(experiment, mesh=MeshShape(**{"data": 1, **sizes}))


def _lengths(text: str | None) -> tuple[int | None, int | None]:
    if text is None:
        return None, None
    match = re.fullmatch(r"(\d+)\+(\d+)", text)
    if not match or not int(match[2]):
        raise ValueError(f"--lengths {text}: expected tokens of a prompt + a response, such as 2048+2048")
    return int(match[1]), int(match[2])
