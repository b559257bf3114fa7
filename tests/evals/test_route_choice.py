"""Costs of roads learnt from simulated drivers in the common loop, and what the evaluator says of them."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpref.algorithms import sft
from jaxpref.algorithms.optimizers import adamw, constant
from jaxpref.data.roads.networks import Roads
from jaxpref.data.roads.routes import route_records, routes_of
from jaxpref.environments.drivers import perceived_ways
from jaxpref.evals import Context, route_choice
from jaxpref.evals.routes import overlap
from jaxpref.experiment import Experiment, Stage
from jaxpref.planning.roads import road_graph
from jaxpref.policies.routes import MAX_ENT, route_planner
from jaxpref.report import write_report
from jaxpref.training.progress import NonFiniteError
from jaxpref.training.run import train

SIDE = 6
TRUE = np.array([3.0, 1.5])


@functools.cache
def town():
    """A grid of two-way streets, of two kinds at random."""
    number = np.arange(SIDE * SIDE).reshape(SIDE, SIDE)
    pairs = np.concatenate(
        [
            np.stack([number[:, :-1], number[:, 1:]], -1).reshape(-1, 2),
            np.stack([number[:-1], number[1:]], -1).reshape(-1, 2),
        ]
    )
    graph, _ = road_graph(*np.concatenate([pairs, pairs[:, ::-1]]).T)
    place = np.stack(np.divmod(np.arange(SIDE * SIDE), SIDE), 1) * 0.001
    kind = np.random.default_rng(0).integers(0, 2, graph.num_arcs)
    columns = {"length": np.ones(graph.num_arcs), "class": kind.astype(float)}
    return Roads(graph, columns, tuple(map(str, range(SIDE * SIDE))), ("slow", "fast"), place)


def graph():
    return town().graph


def features():
    return np.eye(2)[town().columns["class"].astype(int)]


def hidden():
    return features() @ TRUE


@functools.cache
def trips():
    return route_records(graph(), perceived_ways(graph(), hidden(), trips=120, noise=0.4)).split(0.3)


def driven(*, held_out):
    return trips()[held_out]


def wild():
    return route_records(graph(), perceived_ways(graph(), hidden(), trips=16, noise=5.0))


def test_drivers_take_the_cheapest_way_but_for_noise():
    sure = perceived_ways(graph(), hidden(), trips=20, noise=0.0, destinations=2, seed=1)
    ends = {int(graph().heads[route[-1]]) for route in sure}
    assert len(ends) == 2
    again = perceived_ways(graph(), hidden(), trips=20, noise=0.0, destinations=2, seed=1)
    assert sure == again
    noisy = perceived_ways(graph(), hidden(), trips=20, noise=0.4, destinations=2, seed=1)
    assert noisy != sure
    with pytest.raises(ValueError, match=r"arc 0 costs -3\.0"):
        perceived_ways(graph(), -3 * np.ones(graph().num_arcs), trips=1)
    alone, _ = road_graph([0], [1], 40)
    with pytest.raises(ValueError, match="no paths between the nodes drawn"):
        perceived_ways(alone, [1.0], trips=5, destinations=1)


def test_overlap_is_by_length():
    lengths = np.array([1.0, 2.0, 4.0, 8.0])
    assert overlap([0, 1], [0, 1], lengths) == 1
    assert overlap([0, 1], [1, 2], lengths) == pytest.approx(2 / 7)
    assert overlap([0], [3], lengths) == 0


def test_routes_between_the_same_places_are_one_cluster():
    """Copies of a route add nothing to what is known: the interval of each share is no narrower."""
    policy = route_planner(graph=graph, features=features, initial=2.0, horizon=3)
    context = Context(
        policy=policy,
        params=policy.init(jax.random.key(0)),
        tokenizer=None,
        seed=0,
        rewards=lambda batch: jnp.zeros(batch.mask.shape[:2]),
        put=lambda batch: jax.tree.map(jnp.asarray, batch),
        fetch=jax.device_get,
    )
    held_out = trips()[1]
    single = held_out.take(np.unique(held_out.group, return_index=True)[1])
    copied = single.take(np.tile(np.arange(len(single)), 3))
    measure = partial(route_choice, context, roads=town, features=features)
    once, thrice = (measure(records=lambda t=t: t).metrics for t in (single, copied))
    for name in ("exact match", "overlap"):
        assert thrice[name].mean == pytest.approx(once[name].mean)
        assert (thrice[name].count, thrice[name].clusters) == (3 * len(single), len(single))
        assert once[name].clusters is None
        assert thrice[name].high - thrice[name].low >= 0.99 * (once[name].high - once[name].low)


def test_costs_are_learnt_in_the_common_loop(tmp_path):
    """The ratio of two hidden weights, and a report with a map."""
    experiment = Experiment(
        name="town",
        policy=partial(route_planner, graph=graph, features=features, initial=2.0, horizon=3),
        tokenizer=None,
        stages=(
            Stage(
                name="costs",
                algorithm=partial(
                    sft, optimizer=partial(adamw, schedule=partial(constant, value=0.2), clip_norm=None)
                ),
                train=partial(driven, held_out=False),
                evaluators=(
                    partial(
                        route_choice,
                        records=partial(driven, held_out=True),
                        roads=town,
                        features=features,
                        hidden=hidden,
                        batch_size=16,
                    ),
                ),
                num_steps=40,
                batch_size=16,
                checkpoint_every=40,
            ),
        ),
    )
    lines = []
    result = train(experiment, tmp_path / "run", log=lines.append)
    weights = np.log1p(np.exp(np.asarray(result.params["weights"])))
    assert weights[0] / weights[1] == pytest.approx(2, abs=0.4)
    said = [line for line in lines if "routes: nll" in line]
    assert "exact match" in said[-1]
    assert "cost error" in said[-1]
    page = write_report([tmp_path / "run"], tmp_path / "run" / "report.html").read_text()
    assert "<h3>Pictures</h3>" in page
    assert "Learnt cost, and a route" in page
    assert list((tmp_path / "run" / "report").glob("picture_*Learnt_cost*.png"))


def test_routes_and_records_say_the_same():
    table = driven(held_out=True)
    again = route_records(graph(), routes_of(table))
    np.testing.assert_array_equal(again.actions, table.actions[:, :, : again.actions.shape[2]])
    together = set(table.group.tolist()) & set(driven(held_out=False).group.tolist())
    assert not together


def test_a_sum_that_training_makes_infinite_is_named(tmp_path):
    """Drivers who wander ask for smaller costs than MaxEnt can have, and steps are large."""
    experiment = Experiment(
        name="wild",
        policy=partial(
            route_planner, graph=graph, features=features, initial=1.7, horizon=MAX_ENT, max_sweeps=2000
        ),
        tokenizer=None,
        stages=(
            Stage(
                name="costs",
                algorithm=partial(sft, optimizer=partial(adamw, schedule=partial(constant, value=1.0))),
                train=wild,
                num_steps=10,
                batch_size=16,
                checkpoint_every=10,
            ),
        ),
    )
    said = (
        r"loss nan.*MaxEnt: costs are too small .* spectral radius .* is 1\.\d+.* larger costs \(`initial`\)"
    )
    with pytest.raises(NonFiniteError, match=said):
        train(experiment, tmp_path / "run", log=lambda line: None)
