"""What do drivers mind? Costs of Liechtenstein's roads, learnt from routes by planning with horizon H.

The roads are real (OpenStreetMap: 3,403 crossings, 7,608 arcs with lengths and classes), the drivers are not:
their cost is minutes times a weight for each class of road, and something for each crossing, times a factor
of each arc that no feature knows. On each trip a driver sees every arc's cost with an error of its own and
takes what seems the cheapest path. The learner sees minutes by class and crossings.

H soft steps are followed by the cheapest path (RHIP). H = 0 is the structured perceptron, which has no
likelihood; 1 is Bayesian IRL's likelihood at its mode; infinity is MaxEnt IRL. None of them is how these
drivers choose.

With `regions`, every box of the country has weights of its own for the routes that end there.
`latent_budgets` is about other drivers: they know all costs, and how far ahead each one plans is
what is learnt.

Paper     Barnes et al. (2024), arXiv:2305.11290 (RHIP); Ziebart et al. (2008) (MaxEnt); Jacob, Gupta &
          Andreas (2024), arXiv:2312.04030 (budgets). Roads, drivers and all numbers here are ours; the
          papers' data are not public.
Data      road_liechtenstein (c) OpenStreetMap contributors, ODbL 1.0, under `data_root`.
Run       jaxpref train experiments/irl_routes.py     (pip install 'jaxpref[maps]')
          jaxpref train experiments/irl_routes.py horizon=inf
          jaxpref train experiments/irl_routes.py regions=4
          jaxpref train experiments/irl_routes.py:latent_budgets
          jaxpref train experiments/irl_routes.py:from_files arcs=arcs.csv routes=routes.csv
Change    horizon=1 noise=0.5 trips=500 seed=1 arcs_table=true; of budgets: per_step=false trips=1000
Ablation  jaxpref sweep experiments/irl_routes.py:sweep_horizons
Try       jaxpref train experiments/irl_routes.py --smoke
Cost      1 to 2 minutes a run on 2 CPU cores at a load of 8 from other work (H = 10: 70 CPU seconds; MaxEnt 2
          to 4 minutes), 45 minutes for the ablation; budgets 30 CPU seconds.
Expect    Means (standard deviations) of five draws of drivers, `seed` 0 to 4; up to 400 held-out routes each,
          of 81 arcs. One set of steps and learning rate for all H, chosen on seed 0 with H = 0 and 10 alone
          (on an older cut of the map, without the roads behind some main ones: 3,016 crossings):
              H              nll            exact match     overlap         cost error
              start (H 10)   17.49 (2.0)    0.159 (0.028)   0.676 (0.022)   0.509 (0.002)
              0              -              0.622 (0.028)   0.894 (0.015)   0.217 (0.010)
              10             3.833 (0.49)   0.602 (0.022)   0.886 (0.014)   0.255 (0.010)
              inf            3.820 (0.49)   0.603 (0.022)   0.886 (0.014)   0.254 (0.009)
              hidden costs   -              0.678 (0.020)   0.912 (0.011)   0
          On seed 0 alone, nll of H = 1, 3, 10, inf: 3.941, 3.879, 3.876, 3.871.
          Paired with H = 10 on each seed [95 % t intervals of five]: exact match of H = 0 +0.020
          [0.006, 0.034], its overlap +0.008 [0.003, 0.013], its cost error -0.037 [-0.058, -0.017]; nll of
          infinity -0.013 [-0.027, 0.001]. Seven such intervals were read, uncorrected. So the perceptron is
          a little ahead for drivers who take what seems cheapest, and MaxEnt fits as well as H = 10. The
          order of the paper (H = 10 first, MaxEnt behind) is of real drivers, and is not seen here. Every
          arc's own factor leaves a cost error of 0.2 to whoever finds the weights. H = 0 depends on the
          learning rate: at 0.3 (80 steps, older cut) its cost error was 0.338 on seed 0.
          With `regions=4` on seed 0, H = 10: nll 4.100 for 3.876, cost error 0.269 for 0.266.
          MaxEnt needs costs large enough for a finite sum; a run that leaves them stops and names the
          spectral radius.
          Budgets, one seed, 400 trips of each driver, shares of 1, 4 and 16 steps (true ones .70 .20 .10 and
          .10 .20 .70):
            one for each arc     .679 .254 .067   .127 .154 .719
            one for each trip    .726 .175 .098   .081 .254 .665
"""

import functools
from collections.abc import Callable
from functools import partial

import numpy as np

from jaxpref.algorithms import sft
from jaxpref.algorithms.optimizers import adamw, warmup_cosine
from jaxpref.data import SegmentRecords
from jaxpref.data.roads.networks import Roads, boxes, liechtenstein_roads
from jaxpref.data.roads.routes import by_region, route_records
from jaxpref.data.roads.tables import csv_roads, csv_routes
from jaxpref.environments.drivers import horizon_ways, perceived_ways
from jaxpref.evals import budget_shares, route_choice
from jaxpref.experiment import Experiment, Stage
from jaxpref.planning import per_decision, per_trajectory
from jaxpref.planning.roads import RoadGraph, dijkstra
from jaxpref.policies.budgets import latent_horizons
from jaxpref.policies.routes import route_planner

HORIZONS = (0, 1, 3, 10, 25, float("inf"))
# Class of road: (kilometres an hour, what a minute on it costs). The last feature counts crossings.
CLASSES = {
    "primary": (60, 1.0),
    "secondary": (55, 1.2),
    "tertiary": (50, 1.4),
    "unclassified": (40, 2.0),
    "residential": (30, 2.5),
    "living_street": (10, 2.5),
    "service": (20, 4.0),
}
CROSSING = 0.1  # what an arc costs beside its minutes
SCALE = 8.0  # of all hidden costs, so that drivers and MaxEnt err by similar amounts
BUDGETS = (1, 4, 16)  # of `latent_budgets`, and each driver's shares of them
SHARES = ((0.7, 0.2, 0.1), (0.1, 0.2, 0.7))
BUDGET_SCALE = 3.0  # of what these drivers mind: where a way is much cheaper than all others, budgets agree
UNKNOWN = 0.2  # standard deviation of the log of each arc's factor


def experiment(
    *,
    data_root: str = "../shared/data",
    horizon: float = 10.0,
    noise: float = 0.3,
    trips: int = 2000,
    num_steps: int = 160,
    learning_rate: float = 0.2,
    arcs_table: bool = False,
    regions: int = 1,
    seed: int = 0,
) -> Experiment:
    """Costs by features, by maximum likelihood of whole routes (by their excess cost with horizon 0).

    Args:
      regions: with more than 1, as many boxes of nodes, each with weights of its own for the routes
        that end there; a mesh splits them by `mesh.tensor`.
    """
    driven = partial(demonstrations, data_root=data_root, noise=noise, trips=trips, seed=seed)
    return _learn(
        name=f"irl_routes_h{horizon:g}_seed{seed}",
        graph=partial(graph, data_root=data_root),
        features=partial(features, data_root=data_root),
        initial=initial(),
        driven=driven,
        roads=partial(liechtenstein_roads, data_root=data_root),
        hidden=partial(hidden_costs, data_root=data_root, seed=seed),
        horizon=horizon,
        arcs_table=arcs_table,
        num_steps=num_steps,
        learning_rate=learning_rate,
        seed=seed,
        num_regions=regions,
        regions=partial(region_of_nodes, data_root=data_root, count=regions) if regions > 1 else None,
    )


def from_files(
    *,
    arcs: str = "arcs.csv",
    routes: str = "routes.csv",
    horizon: float = 10.0,
    num_steps: int = 160,
    learning_rate: float = 0.2,
    arcs_table: bool = False,
    seed: int = 0,
) -> Experiment:
    """Your own roads and routes (formats: `jaxpref/data/README.md`). Every number of an arc is a feature, by
    its mean, and one counts crossings; a column `length` is needed to measure overlap."""
    return _learn(
        name=f"irl_routes_h{horizon:g}_files",
        graph=partial(file_graph, arcs=arcs),
        features=partial(file_features, arcs=arcs),
        initial=1.5,
        driven=partial(file_demonstrations, arcs=arcs, routes=routes, seed=seed),
        roads=partial(csv_roads, path=arcs),
        hidden=None,
        horizon=horizon,
        arcs_table=arcs_table,
        num_steps=num_steps,
        learning_rate=learning_rate,
        seed=seed,
    )


def latent_budgets(
    *,
    data_root: str = "../shared/data",
    per_step: bool = True,
    trips: int = 400,
    num_steps: int = 100,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> Experiment:
    """Drivers who know all costs and plan 1, 4 or 16 soft steps ahead, told apart by their routes
    (arXiv:2312.04030, `latent_budgets_grid.py` on roads)."""
    driven = partial(budgeted, data_root=data_root, per_step=per_step, trips=trips, seed=seed)
    schedule = partial(warmup_cosine, peak=learning_rate, warmup_steps=10)
    return Experiment(
        name=f"irl_routes_budgets_{'decisions' if per_step else 'trips'}_seed{seed}",
        policy=partial(
            latent_horizons,
            graph=partial(graph, data_root=data_root),
            features=partial(known_costs, data_root=data_root),
            initial=1.0,
            planner=dijkstra,
            horizons=BUDGETS,
            agents=len(SHARES),
            mixture=per_decision if per_step else per_trajectory,
        ),
        tokenizer=None,
        stages=(
            Stage(
                name="budgets",
                algorithm=partial(sft, optimizer=partial(adamw, schedule=schedule, clip_norm=None)),
                train=driven,
                evaluators=(partial(budget_shares, budgets=BUDGETS),),
                num_steps=num_steps,
                batch_size=64,
                checkpoint_every=num_steps,
            ),
        ),
        seed=seed,
        arxiv=("2312.04030", "2305.11290"),
    )


def sweep_horizons(*, data_root: str = "../shared/data", seeds: int = 5) -> list[Experiment]:
    """From the perceptron to MaxEnt, on the same routes, for each draw of drivers."""
    return [experiment(data_root=data_root, horizon=h, seed=seed) for seed in range(seeds) for h in HORIZONS]


def initial() -> tuple[float, ...]:
    """Every minute costs the same, and a crossing enough for MaxEnt to have a finite sum."""
    return (*[1.0 for _ in CLASSES], 0.25)


def graph(*, data_root: str) -> RoadGraph:
    """The graph alone."""
    return _roads(data_root).graph


def features(*, data_root: str) -> np.ndarray:
    """Minutes on each class of road at its usual speed, and 1 for the crossing at its end, in units of costs
    (times `SCALE`, so that weights are about 1 and steps fit them all): `[e, 8]`."""
    roads = _roads(data_root)
    kinds = [roads.classes.index(name) for name in CLASSES]
    minutes = roads.columns["length"] * 0.06 / np.array([v for v, _ in CLASSES.values()])[:, None]
    on_class = np.where(roads.columns["class"] == np.array(kinds)[:, None], minutes, 0)
    return SCALE * np.concatenate([on_class, np.ones((1, roads.graph.num_arcs))]).T


def hidden_costs(*, data_root: str, seed: int) -> np.ndarray:
    """What drivers mind, `[e]`."""
    known = features(data_root=data_root) @ np.array([*[w for _, w in CLASSES.values()], CROSSING])
    return known * np.exp(UNKNOWN * np.random.default_rng(seed).standard_normal(len(known)))


def demonstrations(*, data_root: str, noise: float, trips: int, seed: int, held_out: bool) -> SegmentRecords:
    """Four fifths of the trips, or the others; no pair of origin and destination is in both."""
    return _trips(data_root, noise, trips, seed)[held_out]


def region_of_nodes(*, data_root: str, count: int) -> np.ndarray:
    """Boxes with as many crossings each."""
    coordinates = _roads(data_root).coordinates
    assert coordinates is not None
    return boxes(coordinates, count)


def packed(
    *, driven: Callable[..., SegmentRecords], regions: Callable[[], np.ndarray], held_out: bool
) -> SegmentRecords:
    """Rows of one demonstration for each region."""
    return by_region(driven(held_out=held_out), regions())


def known_costs(*, data_root: str) -> np.ndarray:
    """What drivers with a budget mind and the learner knows, as the only feature `[e, 1]`."""
    known = features(data_root=data_root) @ np.array([*[w for _, w in CLASSES.values()], CROSSING])
    return BUDGET_SCALE / SCALE * known[:, None]


def budgeted(*, data_root: str, per_step: bool, trips: int, seed: int) -> SegmentRecords:
    """Trips of drivers with a latent horizon, whose they are in the column `annotators`."""
    roads = graph(data_root=data_root)
    routes, drivers = horizon_ways(
        roads,
        known_costs(data_root=data_root)[:, 0],
        horizons=BUDGETS,
        shares=SHARES,
        trips=trips,
        per_step=per_step,
        seed=seed,
    )
    return route_records(roads, routes, columns={"annotators": drivers})


def file_graph(*, arcs: str) -> RoadGraph:
    """The graph of a table of arcs."""
    return csv_roads(arcs).graph


def file_features(*, arcs: str) -> np.ndarray:
    """Every column by its mean, and 1 for the crossing: `[e, f + 1]`."""
    roads = csv_roads(arcs)
    columns = roads.features([name for name in roads.columns if name != "row"])
    scaled = columns / np.maximum(np.abs(columns).mean(0), 1e-12)
    return np.concatenate([scaled, np.ones((len(columns), 1))], 1)


def file_demonstrations(*, arcs: str, routes: str, seed: int, held_out: bool) -> SegmentRecords:
    """Four fifths of the routes, or the others."""
    roads = csv_roads(arcs)
    return route_records(roads.graph, csv_routes(routes, roads)).split(0.2, seed=seed)[held_out]


def _learn(
    *,
    name: str,
    graph: Callable[[], RoadGraph],
    features: Callable[[], np.ndarray],
    initial: float | tuple[float, ...],
    driven: Callable[..., SegmentRecords],
    roads: Callable[[], Roads],
    hidden: Callable[[], np.ndarray] | None,
    horizon: float,
    arcs_table: bool,
    num_steps: int,
    learning_rate: float,
    seed: int,
    num_regions: int = 1,
    regions: Callable[[], np.ndarray] | None = None,
) -> Experiment:
    schedule = partial(warmup_cosine, peak=learning_rate, warmup_steps=10)
    return Experiment(
        name=name,
        policy=partial(
            route_planner,
            graph=graph,
            features=features,
            initial=initial,
            horizon=horizon,
            arcs_table=arcs_table,
            regions=regions,
            planner=dijkstra,
        ),
        tokenizer=None,
        stages=(
            Stage(
                name="costs",
                algorithm=partial(sft, optimizer=partial(adamw, schedule=schedule)),
                train=partial(driven, held_out=False)
                if regions is None
                else partial(packed, driven=driven, regions=regions, held_out=False),
                evaluators=(
                    partial(
                        route_choice,
                        records=partial(driven, held_out=True),
                        roads=roads,
                        features=features,
                        hidden=hidden,
                        likelihood=horizon > 0,
                        regions=regions,
                    ),
                ),
                num_steps=num_steps,
                batch_size=max(32 // num_regions, 1),  # rows, with a route for each region
                checkpoint_every=num_steps,
            ),
        ),
        seed=seed,
        arxiv=("2305.11290",),
    )


@functools.cache
def _roads(data_root: str) -> Roads:
    return liechtenstein_roads(data_root)


@functools.cache
def _trips(data_root: str, noise: float, trips: int, seed: int) -> tuple[SegmentRecords, SegmentRecords]:
    costs = hidden_costs(data_root=data_root, seed=seed)
    routes = perceived_ways(graph(data_root=data_root), costs, trips=trips, noise=noise, seed=seed)
    return route_records(graph(data_root=data_root), routes).split(0.2, seed=seed)
