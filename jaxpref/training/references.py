"""Whose log-probs the column `reference_logps` holds: checked before a stage learns from it.

Made by other params than those a stage starts from, they give a finite loss and a wrong gradient.
"""

import hashlib
import json
from typing import Any

import jax

from jaxpref import keys
from jaxpref.algorithms import Algorithm
from jaxpref.config import describe, functions
from jaxpref.data.references import NAME
from jaxpref.experiment import Stage
from jaxpref.functions import code_of
from jaxpref.training.constants import fingerprint, other_scheme
from jaxpref.training.context import RunContext
from jaxpref.training.sources import sources_of
from jaxpref.types import Params

__all__ = ["check_reference", "maker"]

_WHAT = {
    "policy": "another policy",
    "seed": "a run of another seed",
    "keys": "params that were drawn in another way",
    "constants": "other constants of the policy",
    "params": "other params",
}


def maker(run: RunContext, stage: Stage, params: Params | None) -> dict[str, Any]:
    """What log-probs of the params that a stage starts from depend on, as plain values.

    Params drawn from the seed are told by what they are drawn from, since another machine may draw them with
    another rounding; all others by their content.

    Args:
      params: with the policy's constants (`run.whole`); None: they are not known yet.
    """
    policy = run.experiment.policy
    text = json.dumps([describe(policy), code_of(*functions(policy))], sort_keys=True)
    made = {"policy": hashlib.sha256(text.encode()).hexdigest()}
    first = stage.name == run.experiment.stages[0].name
    if first and run.experiment.weights is None:
        settings = jax.config.values
        drawn = [keys.SCHEME, settings["jax_default_prng_impl"], settings["jax_threefry_partitionable"]]
        made |= {"seed": run.experiment.seed, "keys": drawn, "constants": run.constants.fingerprints}
        return made
    # Those of later stages depend on the seed, too, which is known before they are.
    made |= {} if first else {"seed": run.experiment.seed}
    return made | ({} if params is None else {"params": fingerprint(params)})


def check_reference(
    run: RunContext, stage: Stage, algorithm: Algorithm, params: Params | None = None
) -> None:
    """Compares what made the column `reference_logps` with what the stage starts from.

    Args:
      params: what it starts from; None: what can be told without them, which is before the stages in front
        of it have trained. A column that is missing may still be made then, so that is said and no more.

    Raises:
      ValueError: an algorithm that reads the column would read that of other params, or there is none.
    """
    if not algorithm.recorded_reference:
        return
    wanted = maker(run, stage, None if params is None else run.whole(params))
    remedy = (
        "make them with `jaxpref prepare FILE records=DIR --reference workdir=...` of this run (the stages "
        f"before it trained, stages.{stage.name}.algorithm.reference=batch), or set "
        f"stages.{stage.name}.algorithm.reference=initial"
    )
    for role, source in sources_of(stage).items():
        table = run.table(source)
        if NAME not in table.columns:
            if role not in ("train", "evaluation"):
                continue
            missing = f"{stage.name}: its records ({role}) have no column {NAME}"
            if params is not None:
                raise ValueError(f"{missing}; {remedy}")
            if stage.name != run.experiment.stages[0].name:
                run.files.log(f"{missing} yet; when it begins, {remedy}")
            continue
        made = table.metadata.get(NAME)
        if made is not None and "given" in made:
            if params is not None:
                run.files.log(f"{stage.name}: {NAME} ({role}) are of {made['given']}, as given")
        elif why := _differing(made, wanted):
            raise ValueError(f"{stage.name}: the {NAME} of its records ({role}) {why}; {remedy}")


def _differing(made: dict[str, Any] | None, wanted: dict[str, Any]) -> str | None:
    """In words, what a column is of that is not `wanted`; None where it fits."""
    if made is None:
        return "do not say which params they are of"
    if any(map(other_scheme, [made.get("params"), *(made.get("constants") or {}).values()])):
        return "say which params they are of as another version of jaxpref does, which cannot be compared"
    other = next((w for key, w in _WHAT.items() if key in wanted and made.get(key) != wanted[key]), None)
    return other and f"are of {other}, not of what this stage starts from"
