"""Small float32 experiments, one for each kind of stage, to be run on any mesh (`worlds.py`)."""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import tiny
from road_graphs import random_roads

from jaxpref import losses
from jaxpref.algorithms import offline, online, sft
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.config import override
from jaxpref.data import Records, SegmentRecords
from jaxpref.data.references import given_reference
from jaxpref.data.roads.networks import Roads
from jaxpref.data.roads.routes import by_region, route_records
from jaxpref.data.text.synthetic import arithmetic_pairs, arithmetic_tokenizer, check_arithmetic
from jaxpref.environments.drivers import perceived_ways
from jaxpref.evals import generation, reward_accuracy, route_choice
from jaxpref.experiment import Experiment, Stage
from jaxpref.judges import Judge, reward_judge
from jaxpref.models.sizes import tiny as tiny_sizes
from jaxpref.planning.roads import RoadGraph, dijkstra
from jaxpref.policies.base import Policy
from jaxpref.policies.routes import route_planner
from jaxpref.policies.transformer import transformer
from jaxpref.selection import two_samples
from jaxpref.training.models import random_model

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "experiments"))
import cpl_tabular

ADAM = partial(adamw, schedule=partial(constant, value=1e-3))
SIZES = partial(tiny_sizes, vocab=24, embed=16, layers=2, heads=2, kv_heads=2, mlp=32)
POLICY = partial(transformer, sizes=SIZES, eos_id=2)
REWARDS = partial(transformer, sizes=SIZES, outputs=1, eos_id=2)
PAIRS = partial(arithmetic_pairs, num_examples=64)
HELD_OUT = partial(arithmetic_pairs, num_examples=13, part="held_out")  # fills no batch
ACCURACY = partial(reward_accuracy, records=HELD_OUT, batch_size=8)
ANSWERS = partial(
    generation, records=HELD_OUT, checker=check_arithmetic, max_tokens=4, num_prompts=8, temperature=1.0
)


def pairs(steps: int) -> Experiment:
    """Supervised, then DPO, with a held-out pass and evaluators."""
    given = tiny.experiment(steps=steps, learning_rate=1e-3, checkpoint_every=steps)
    evaluated = {f"stages.{stage}.evaluate_every": f"{steps // 2}" for stage in ("sft", "dpo")}
    return override(given, evaluated)


def halves(steps: int) -> Experiment:
    """The same with a checkpoint half-way."""
    saved = {f"stages.{stage}.checkpoint_every": f"{steps // 2}" for stage in ("sft", "dpo")}
    return override(pairs(steps), saved)


def often(steps: int) -> Experiment:
    """Supervised, then DPO, with many checkpoints."""
    return tiny.experiment(steps=steps, checkpoint_every=7, evaluators=False)


def _one(steps: int, **stage) -> Experiment:
    return Experiment(
        name=stage["name"],
        policy=stage.pop("policy", POLICY),
        tokenizer=stage.pop("tokenizer", arithmetic_tokenizer),
        stages=(
            Stage(num_steps=steps, batch_size=8, checkpoint_every=steps, evaluate_every=steps // 2, **stage),
        ),
        log_every=10,
    )


def judged(steps: int) -> Experiment:
    """DPO on pairs drawn at each step, of which a reward model (of random weights) says what wins."""
    algorithm = partial(
        online,
        loss=losses.dpo,
        optimizer=ADAM,
        sample_from=({"policy": 1.0}, {"policy": 0.5, "initial": 0.5}),
        models={"judge": partial(random_model, policy=REWARDS, seed=1)},
        judge=partial(reading, policy=REWARDS),
        select=two_samples,
        max_tokens=5,
    )
    return _one(
        steps, name="judged", algorithm=algorithm, train=PAIRS, evaluation=HELD_OUT, evaluators=(ANSWERS,)
    )


def reading(*, policy: Callable[[], Policy]) -> Judge:
    return reward_judge(policy())


def reward(steps: int) -> Experiment:
    """A reward model."""
    algorithm = partial(offline, loss=losses.bradley_terry, optimizer=ADAM, reference=None)
    parts = {"algorithm": algorithm, "train": PAIRS, "evaluation": HELD_OUT, "evaluators": (ACCURACY,)}
    return _one(steps, name="reward", policy=REWARDS, **parts)


def columns(steps: int) -> Experiment:
    """DPO beside log-probs of a reference that its records hold."""
    algorithm = partial(offline, loss=losses.dpo, optimizer=ADAM, reference="batch")
    given = partial(scored, records=PAIRS), partial(scored, records=HELD_OUT)
    return _one(steps, name="columns", algorithm=algorithm, train=given[0], evaluation=given[1])


def scored(*, records: Callable[[], Records]) -> Records:
    table = records()
    logps = -np.random.default_rng(0).uniform(5, 20, (len(table), 2)).astype(np.float32)
    return given_reference(table, logps, of="random numbers")


def segments(steps: int) -> Experiment:
    """CPL on segments of a small world."""
    given = cpl_tabular.experiment(num_steps=steps)
    stage = dataclasses.replace(
        given.stages[0], batch_size=16, checkpoint_every=steps, evaluators_every=steps // 2, shuffle=True
    )
    return dataclasses.replace(given, stages=(stage,))


def routes(steps: int) -> Experiment:
    """Costs of two regions of a road map, by the likelihood of routes."""
    return _one(
        steps,
        name="routes",
        tokenizer=None,
        policy=partial(
            route_planner,
            graph=graph,
            features=features,
            initial=2.0,
            horizon=5.0,
            regions=regions,
            planner=dijkstra,
        ),
        algorithm=partial(sft, optimizer=ADAM),
        train=packed,
        evaluators=(
            partial(
                route_choice,
                records=driven,
                roads=roads,
                features=features,
                hidden=costs,
                regions=regions,
                batch_size=8,
            ),
        ),
    )


@cache
def _map() -> tuple[RoadGraph, np.ndarray]:
    return random_roads(n=12, arcs=40)


def graph() -> RoadGraph:
    return _map()[0]


def features() -> np.ndarray:
    length = _map()[1]
    return np.stack([length, np.ones_like(length)], 1)


def costs() -> np.ndarray:
    return features() @ np.array([1.5, 0.5])


def roads() -> Roads:
    return Roads(graph(), {"length": _map()[1]}, ())


def regions() -> np.ndarray:
    return np.arange(graph().num_nodes) % 2


@cache
def driven() -> SegmentRecords:
    return route_records(graph(), perceived_ways(graph(), costs(), trips=60, noise=0.3, seed=0))


def packed() -> SegmentRecords:
    return by_region(driven(), regions())


KINDS = {make.__name__: make for make in (pairs, columns, judged, reward, segments, routes, halves, often)}
