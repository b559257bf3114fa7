"""Costs of 730,100 arcs from routes: receding-horizon inverse planning on New York's road graph.

The graph is real (264,346 crossings; ninth DIMACS challenge), and has neither lengths nor classes: lengths,
three kinds of road and hidden weights are drawn with a seed, and so are the drivers, who take what seems the
cheapest path with an error of their own on every arc. What this shows is scale: a step plans to every
destination of its batch over the whole graph. Recovery of the weights says that the gradient is right there.

With H = 10 the cheapest paths come from Dijkstra on the host (`host=false` has them on the device, in 600
sweeps), and ten soft sweeps follow. `horizon=inf` sweeps to convergence.

Paper     Barnes et al. (2024), arXiv:2305.11290. Graph: DIMACS / TIGER, public domain, under `data_root`
          (road_new_york). Attributes, drivers and all numbers are ours.
Run       jaxpref train experiments/rhip_new_york.py
Change    horizon=1 num_steps=60 trips=200 host=false
Try       jaxpref train experiments/rhip_new_york.py --smoke
Cost      7 minutes on 2 CPU cores at a load of 20 from other work: 7 to 12 seconds a step of 8 destinations,
          with gradients; 101 routes of 340 arcs in the mean.
Expect    One seed, 16 held-out routes, H = 10, before and after 30 steps: nll 276 and 50.2 [34.8, 65.6] a
          route, overlap with the driven route 0.35 and 0.52 [0.39, 0.65], cost error 0.368 and 0.043 (log of
          learnt over hidden). No route is matched exactly: they have hundreds of crossings.
"""

import functools
from functools import partial

import numpy as np

from jaxpref.algorithms import sft
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data import SegmentRecords
from jaxpref.data.roads.networks import Roads, new_york_graph
from jaxpref.data.roads.routes import route_records
from jaxpref.environments.drivers import perceived_ways
from jaxpref.evals import route_choice
from jaxpref.experiment import Experiment, Stage
from jaxpref.planning.roads import RoadGraph, dijkstra, sweeps
from jaxpref.policies.routes import route_planner

HIDDEN = (4.0, 6.0, 9.0, 0.5)  # a unit of length on each kind of road, and a crossing


def experiment(
    *,
    data_root: str = "../shared/data",
    horizon: float = 10.0,
    host: bool = True,
    noise: float = 0.3,
    trips: int = 120,
    num_steps: int = 30,
    seed: int = 0,
) -> Experiment:
    """Four weights by maximum likelihood of whole routes."""
    driven = partial(demonstrations, data_root=data_root, noise=noise, trips=trips, seed=seed)
    return Experiment(
        name=f"rhip_new_york_h{horizon:g}",
        policy=partial(
            route_planner,
            graph=partial(graph, data_root=data_root),
            features=partial(features, data_root=data_root, seed=seed),
            initial=6.0,
            horizon=horizon,
            planner=dijkstra if host else sweeps,
        ),
        tokenizer=None,
        stages=(
            Stage(
                name="costs",
                algorithm=partial(
                    sft, optimizer=partial(adamw, schedule=partial(constant, value=0.3), clip_norm=None)
                ),
                train=partial(driven, held_out=False),
                evaluators=(
                    partial(
                        route_choice,
                        records=partial(driven, held_out=True),
                        roads=partial(_town, data_root=data_root, seed=seed),
                        features=partial(features, data_root=data_root, seed=seed),
                        hidden=partial(hidden_costs, data_root=data_root, seed=seed),
                        likelihood=horizon > 0,
                        num_prompts=16,
                        batch_size=8,
                    ),
                ),
                num_steps=num_steps,
                batch_size=8,
                checkpoint_every=num_steps,
            ),
        ),
        seed=seed,
        arxiv=("2305.11290",),
    )


def graph(*, data_root: str) -> RoadGraph:
    """As the file has it, arcs sorted by source."""
    return _graph(data_root)


def features(*, data_root: str, seed: int) -> np.ndarray:
    """Length on each of three kinds of road, log-normal about 1, and 1 for the crossing: `[e, 4]`."""
    arcs, generator = _graph(data_root).num_arcs, np.random.default_rng(seed)
    length = np.exp(0.5 * generator.standard_normal(arcs))
    kind = generator.integers(0, 3, arcs)
    return np.concatenate([length[:, None] * np.eye(3)[kind], np.ones((arcs, 1))], 1)


def hidden_costs(*, data_root: str, seed: int) -> np.ndarray:
    """What drivers mind, `[e]`."""
    return features(data_root=data_root, seed=seed) @ np.array(HIDDEN)


def demonstrations(*, data_root: str, noise: float, trips: int, seed: int, held_out: bool) -> SegmentRecords:
    """Four fifths of the trips, or the others."""
    return _trips(data_root, noise, trips, seed)[held_out]


def _town(*, data_root: str, seed: int) -> Roads:
    length = features(data_root=data_root, seed=seed)[:, :3].sum(1)
    return Roads(_graph(data_root), {"length": length}, ())


@functools.cache
def _graph(data_root: str) -> RoadGraph:
    return new_york_graph(data_root)


@functools.cache
def _trips(data_root: str, noise: float, trips: int, seed: int) -> tuple[SegmentRecords, SegmentRecords]:
    costs = hidden_costs(data_root=data_root, seed=seed)
    routes = perceived_ways(_graph(data_root), costs, trips=trips, noise=noise, seed=seed)
    return route_records(_graph(data_root), routes).split(0.2, seed=seed)
