"""Whose log-probs the column `reference_logps` holds: checked before a stage learns from it.

Made by other params than those a stage starts from, they give a finite loss and a wrong gradient.
"""

import hashlib
import json
from typing import Any

from jaxpref.algorithms import Algorithm
from jaxpref.config import describe, functions
from jaxpref.data.references import NAME
from jaxpref.experiment import Stage
from jaxpref.functions import code_of
from jaxpref.training.constants import fingerprint
from jaxpref.training.context import RunContext
from jaxpref.training.sources import sources_of
from jaxpref.types import Params

__all__ = ["check_reference", "maker"]

_WHAT = {"policy": "another policy", "seed": "a run of another seed", "params": "other params"}


def maker(run: RunContext, params: Params | None, *, first: bool) -> dict[str, Any]:
    """What log-probs of params depend on, as plain values.

    Args:
      params: with the policy's constants (`run.whole`); None: they are not known yet.
      first: they are what the first stage starts from. Those of later ones depend on the seed, too, which is
        known before they are.
    """
    policy = run.experiment.policy
    text = json.dumps([describe(policy), code_of(*functions(policy))], sort_keys=True)
    made = {"policy": hashlib.sha256(text.encode()).hexdigest()}
    made |= {} if first else {"seed": run.experiment.seed}
    return made | ({} if params is None else {"params": fingerprint(params)})


def check_reference(
    run: RunContext, stage: Stage, algorithm: Algorithm, params: Params | None = None
) -> None:
    """Compares what made the column `reference_logps` with what the stage starts from.

    Args:
      params: what it starts from; None: what can be told without them, which is before the stages in front
        of it have trained.

    Raises:
      ValueError: an algorithm that reads the column would read that of other params, or there is none.
    """
    if not algorithm.recorded_reference:
        return
    whole = None if params is None else run.whole(params)
    wanted = maker(run, whole, first=stage is run.experiment.stages[0])
    remedy = (
        "make them with `jaxpref prepare FILE records=DIR --reference workdir=...` of this run (the stages "
        f"before it trained), or set stages.{stage.name}.algorithm.reference=initial"
    )
    for role, source in sources_of(stage).items():
        table = source()
        if NAME not in table.columns:
            if role in ("train", "evaluation"):
                raise ValueError(f"{stage.name}: its records ({role}) have no column {NAME}; {remedy}")
            continue
        made = table.metadata.get(NAME)
        if made is not None and "given" in made:
            if params is not None:
                run.files.log(f"{stage.name}: {NAME} ({role}) are of {made['given']}, as given")
            continue
        if made is None:
            why = "do not say which params they are of"
        else:
            known = _WHAT.keys() & wanted.keys()
            other = next(
                (what for key, what in _WHAT.items() if key in known and made.get(key) != wanted[key]), None
            )
            why = other and f"are of {other}, not of what this stage starts from"
        if why:
            raise ValueError(f"{stage.name}: the {NAME} of its records ({role}) {why}; {remedy}")
