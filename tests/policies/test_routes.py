"""The route planner's identities: rollout = autodiff = finite differences, and its known limits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from road_graphs import dense, random_roads, ways
from x64 import enable_x64

from jaxpref.data.roads.routes import by_region, route_records
from jaxpref.experiment import MeshShape
from jaxpref.planning import roads
from jaxpref.policies.arcs import arc_costs
from jaxpref.policies.routes import MAX_ENT, route_planner
from jaxpref.training import sharding

F = 3


@functools.cache
def world():
    """Graph, features, and routes that are not the cheapest."""
    graph, costs = random_roads()
    features = np.random.default_rng(5).uniform(0.2, 1, (graph.num_arcs, F)) * costs[:, None]
    pairs = [(0, 3), (5, 7), (2, 8)]
    routes = [max((w for w in ways(graph, a, b, 4)), key=len) for a, b in pairs]
    return graph, features, routes


def policy_of(horizon, **settings):
    graph, features, _ = world()
    given = {"tolerance": 1e-14, "param_dtype": "float64"} | settings
    return route_planner(
        graph=lambda: graph, features=lambda: features, initial=[0.8, 0.5, 1.2], horizon=horizon, **given
    )


def batch():
    graph, _, routes = world()
    return route_records(graph, routes).rows([0, 1, 2, -1], response_length=6)


def nll(policy, params):
    return -policy.token_logps(params, batch()).sum()


@functools.cache
def slope_of(horizon, **settings):
    with enable_x64(True):
        policy = policy_of(horizon, **settings)
        return jax.jit(jax.value_and_grad(lambda p: nll(policy, p)))(policy.init(jax.random.key(0)))


def costs_at_start():
    _, features, _ = world()
    return features @ np.array([0.8, 0.5, 1.2])


@pytest.mark.parametrize("horizon", [2, 3, 7])
def test_the_rollout_is_autodiff_and_finite_differences(horizon):
    value, slope = slope_of(horizon)
    same, other = slope_of(horizon, horizon_values=roads.horizon_values_autodiff)
    assert float(value) == pytest.approx(float(same), abs=1e-13)
    np.testing.assert_allclose(slope["weights"], other["weights"], atol=1e-12)
    with enable_x64(True):
        policy = policy_of(horizon)
        total = jax.jit(lambda w: nll(policy, {"weights": w}))
        start, h = policy.init(jax.random.key(0))["weights"], 1e-3
        moved = np.array([[float(total(start + s * h * e)) for s in (-2, -1, 1, 2)] for e in np.eye(F)])
    differences = (moved @ [1, -8, 8, -1]) / (12 * h)
    np.testing.assert_allclose(slope["weights"], differences, atol=1e-10)


def test_the_stationary_rollout_is_another_gradient():
    """The same likelihood, and a gradient that agrees for one step only."""
    one, two = slope_of(1), slope_of(1, horizon_values=roads.stationary_horizon_values)
    np.testing.assert_allclose(one[1]["weights"], two[1]["weights"], atol=1e-12)
    exact, literal = slope_of(3), slope_of(3, horizon_values=roads.stationary_horizon_values)
    assert float(exact[0]) == pytest.approx(float(literal[0]), abs=1e-13)
    assert np.abs(exact[1]["weights"] - literal[1]["weights"]).max() > 1e-4


def test_one_step_is_a_softmax_over_the_cheapest_ways():
    graph, _, routes = world()
    costs = costs_at_start()
    ends = [int(graph.heads[route[-1]]) for route in routes]
    v = roads.cheapest(graph.tails, graph.heads, 9, costs, ends)[0]
    with enable_x64(True):
        policy = policy_of(1)
        found = jax.jit(policy.token_logps)(policy.init(jax.random.key(0)), batch())
    for i, route in enumerate(routes):
        for t, arc in enumerate(route):
            out = np.flatnonzero(graph.tails == graph.tails[arc])
            q = v[graph.heads[out], i] - costs[out]
            expected = (v[graph.heads[arc], i] - costs[arc]) - np.log(np.exp(q).sum())
            assert float(found[i, 0, t]) == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(found[3], 0)


def test_converged_is_maxent_and_its_slope_demonstrated_less_expected_counts():
    graph, features, routes = world()
    costs = costs_at_start()
    value, slope = slope_of(MAX_ENT, planner=None)
    total, counts = 0.0, np.zeros(graph.num_arcs)
    for route in routes:
        start, end = int(graph.tails[route[0]]), int(graph.heads[route[-1]])
        a = dense(graph, costs, end)
        z = np.linalg.solve(np.eye(9) - a, np.eye(9)[end])
        total += np.log(z[start]) + costs[list(route)].sum()
        share = np.exp(-costs) * z[graph.heads] / z[graph.tails] * (graph.tails != end)
        kernel = a * z[None] / z[:, None]
        visits = np.linalg.solve(np.eye(9) - kernel.T, np.eye(9)[start])
        counts += np.bincount(route, minlength=graph.num_arcs) - visits[graph.tails] * share
    assert float(value) == pytest.approx(total, abs=1e-10)
    raw = np.array([0.8, 0.5, 1.2])
    np.testing.assert_allclose(slope["weights"], (counts @ features) * -np.expm1(-raw), rtol=1e-6)
    # Many steps are MaxEnt too, whatever the start.
    for other in (slope_of(200), slope_of(MAX_ENT)):
        assert float(other[0]) == pytest.approx(total, abs=1e-9)
        np.testing.assert_allclose(other[1]["weights"], slope["weights"], rtol=1e-5)


def test_no_step_is_the_perceptron_and_a_margin_is_max_margin_planning():
    graph, features, routes = world()
    costs = costs_at_start()
    ends = [int(graph.heads[route[-1]]) for route in routes]
    for margin in (0.0, 0.4):
        value, slope = slope_of(0, margin=margin)
        total, counts = 0.0, np.zeros(graph.num_arcs)
        for route, end in zip(routes, ends, strict=True):
            start = int(graph.tails[route[0]])
            passed = np.isin(np.arange(graph.num_arcs), route)
            less = np.where(passed, costs, np.maximum(costs - margin, 0))
            best = min(ways(graph, start, end, 6), key=lambda w, c=less: c[list(w)].sum())
            total += costs[list(route)].sum() - less[list(best)].sum()
            counts += np.bincount(route, minlength=graph.num_arcs)
            counts -= np.bincount(best, minlength=graph.num_arcs) * (passed | (costs > margin))
        assert float(value) == pytest.approx(total, abs=1e-12)
        expected = (counts @ features) * -np.expm1(-np.array([0.8, 0.5, 1.2]))
        np.testing.assert_allclose(slope["weights"], expected, atol=1e-12)


def test_layout_host_planner_and_type_change_nothing():
    graph, features, _ = world()
    expected = float(slope_of(3)[0])
    other = route_planner(
        graph=lambda: roads.padded(graph),
        features=lambda: features,
        initial=[0.8, 0.5, 1.2],
        horizon=3,
        planner=roads.dijkstra,
    )
    found = jax.jit(lambda p: nll(other, p))(other.init(jax.random.key(0)))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_costs_may_have_a_table_and_a_net():
    _, features, _ = world()
    policy = policy_of(1, arcs_table=True, hidden=(4,), param_dtype="float32")
    params = policy.init(jax.random.key(0))
    assert jax.tree.structure(policy.axes(), is_leaf=lambda x: isinstance(x, tuple)) == jax.tree.structure(
        params
    )
    costs = arc_costs(params, jnp.asarray(features, jnp.float32))
    np.testing.assert_allclose(costs, costs_at_start() + np.log1p(np.exp(-5)), rtol=1e-5)
    slope = jax.jit(jax.grad(lambda p: nll(policy, p)))(params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))
    assert np.abs(slope["arcs"]).max() > 0.1


REGION = np.arange(9) % 4


@functools.cache
def trips():
    """Routes that end in every region but the last, in some more often than in others."""
    graph, _, _ = world()
    pairs = [(a, b) for a in range(9) for b in range(9) if a != b and REGION[b] < 3][::3]
    return route_records(graph, [max(ways(graph, a, b, 4), key=len) for a, b in pairs])


def with_regions(horizon, **settings):
    """The planner of four regions, and params in which each has its own."""
    policy = policy_of(horizon, regions=lambda: REGION, arcs_table=True, **settings)
    params = policy.init(jax.random.key(0))
    return policy, params | {"weights": params["weights"] + jnp.arange(4.0)[:, None] * 0.1}


@pytest.mark.parametrize("horizon", [2, MAX_ENT])
def test_regions_are_planners_of_their_own(horizon):
    """Values and slopes of packed demonstrations are those of a planner for each region, one by one."""
    one = policy_of(horizon, arcs_table=True)
    packed, ends = by_region(trips(), REGION), trips().observations[:, 0, 0, 1]
    assert packed.k == 4
    assert len(packed) < len(trips())
    with enable_x64(True):
        policy, params = with_regions(horizon)
        assert policy.axes() == {"weights": ("regions", None), "arcs": ("regions", None)}
        rows = packed.rows([*range(len(packed)), -1], response_length=4)
        scores = np.asarray(jax.jit(policy.token_logps)(params, rows))
        np.testing.assert_array_equal(scores[~rows.mask], 0)
        slope = jax.jit(jax.grad(lambda p: -policy.token_logps(p, rows).sum()))(params)
        alone = jax.jit(jax.value_and_grad(lambda p, rows: -one.token_logps(p, rows).sum()))
        total, most = 0.0, max(np.bincount(REGION[ends]))
        for i in range(4):
            index = np.flatnonzero(REGION[ends] == i)
            index = np.pad(index, (0, most - len(index)), constant_values=-1)
            mine = {name: x[i] for name, x in params.items()}
            found, own = alone(mine, trips().rows(index, response_length=4))
            total += float(found)
            for name in ("weights", "arcs"):
                np.testing.assert_allclose(slope[name][i], own[name], atol=1e-10)
        with pytest.raises(ValueError, match="rows of 1 segments, and 4 regions"):
            jax.eval_shape(policy.token_logps, params, trips().rows([0]))
    assert float(-scores.sum()) == pytest.approx(total, abs=1e-10)
    assert np.abs(slope["weights"][:3]).min() > 1e-3
    np.testing.assert_array_equal(slope["weights"][3], 0)  # nobody goes there


def test_regions_keep_to_their_devices():
    """Two rows of devices with four regions each: the same numbers, and no region asks another."""
    rows = by_region(trips(), REGION).rows(range(4), response_length=4)
    mesh = sharding.make_mesh(MeshShape(data=2, tensor=4))

    def loss(policy, params, rows):
        return -policy.token_logps(params, rows).sum()

    with enable_x64(True):
        policy, params = with_regions(3, hidden=(2,))
        expected, slope = jax.jit(jax.value_and_grad(functools.partial(loss, policy)))(params, rows)
        shapes = jax.eval_shape(policy.init, jax.random.key(0))
        shardings = sharding.param_shardings(shapes, policy.axes(), mesh)
        placed = jax.device_put(params, shardings)
        batch = sharding.put_batch(lambda held: jax.tree.map(lambda x: x[held], rows), 4, mesh)
        assert placed["arcs"].addressable_shards[0].data.shape[0] == 1
        with jax.set_mesh(mesh):
            forward = jax.jit(policy.token_logps).lower(placed, batch).compile()
            found = jax.jit(jax.grad(functools.partial(loss, policy)), out_shardings=shardings)
            backward = found.lower(placed, batch).compile()
        assert float(-forward(placed, batch).sum()) == pytest.approx(float(expected), abs=1e-10)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), backward(placed, batch), slope
        )
    moves = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter", "all-reduce")
    assert [name for name in moves if name in forward.as_text()] == []
    # Slopes are summed over rows, and those of the shared net over regions.
    assert [name for name in moves if name in backward.as_text()] == ["all-reduce"]
    # The host's planner is asked by each device for itself. (Its thread does not know of 64 bits.)
    on_host, params = with_regions(3, hidden=(2,), planner=roads.dijkstra, param_dtype="float32")
    with jax.set_mesh(mesh):
        placed = jax.device_put(params, shardings)
        same = -np.asarray(jax.jit(on_host.token_logps)(placed, batch)).sum()
    assert same == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(("horizon", "end"), [(2, 3), (1, 5)])
def test_it_acts_as_it_is_scored(horizon, end):
    """Within four standard errors of a share of 20,000 draws; one level too far is seen at (1, 5)."""
    policy, draws = policy_of(horizon, param_dtype="float32"), 20_000
    params = policy.init(jax.random.key(0))
    graph, _, _ = world()
    where = jnp.broadcast_to(jnp.array([0, end]), (draws, 2))
    chosen = jax.jit(policy.act)(params, where, jax.random.key(1))
    drawn = np.bincount(chosen, minlength=graph.num_arcs) / draws
    out = np.flatnonzero(graph.tails == 0)
    one = route_records(graph, ways(graph, 0, end, 5))
    scored = jax.jit(policy.token_logps)(params, one.rows(np.arange(len(one))))
    first = np.exp(np.asarray(scored[:, 0, 0], np.float64)).tolist()
    expected = {int(arc): p for arc, p in zip(one.actions[:, 0, 0], first, strict=True)}
    assert drawn[out].sum() == pytest.approx(1)
    for arc, p in expected.items():
        assert drawn[arc] == pytest.approx(p, abs=4 * (p * (1 - p) / draws) ** 0.5)
    likeliest = jax.jit(lambda params: policy.act(params, jnp.array([0, end]), None))(params)
    assert int(likeliest) == max(expected, key=expected.get)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizon": 1.5}, "expected 0, 1, 2"),
        ({"horizon": 1, "margin": 1.0}, "a margin is of the cheapest path"),
        ({"horizon": 1, "planner": None}, "None is for MaxEnt alone"),
        ({"horizon": 1, "initial": 0.0}, "expected weights above 0, got 0"),
        ({"regions": lambda: np.zeros(4, int)}, "a number from 0 for each of 9 nodes"),
        ({"horizon": MAX_ENT, "initial": 0.01}, "the spectral radius of"),
    ],
)
def test_bad_settings_are_named(settings, message):
    graph, features, _ = world()
    with pytest.raises(ValueError, match=message):
        route_planner(**({"graph": lambda: graph, "features": lambda: features, "initial": 1.0} | settings))
    with pytest.raises(ValueError, match=r"0 or more \[30, f\]"):
        route_planner(graph=lambda: graph, features=lambda: -features, initial=1.0)


def test_bad_routes_are_named():
    graph, _, routes = world()
    with pytest.raises(ValueError, match="route 1: step 1 starts at"):
        route_records(graph, [routes[0], [routes[0][0], routes[0][0]]])
    there_and_back = [*routes[0], *ways(graph, 3, 0, 4)[0], *routes[0]]
    with pytest.raises(ValueError, match=r"route 0: is at its destination 3 before step \d+ already; cut it"):
        route_records(graph, [there_and_back])
    with pytest.raises(ValueError, match="one or more, got none"):
        route_records(graph, [])


def test_why_a_sum_is_not_finite_is_explained():
    policy = policy_of(MAX_ENT, param_dtype="float32", max_sweeps=50, tolerance=1e-4)
    raw = policy.init(jax.random.key(0))["weights"]
    assert policy.explain({"weights": raw}) is None
    assert "spectral radius of exp(-cost) is 3." in policy.explain({"weights": raw * 0 - 4})
    near = next(
        w
        for w in np.arange(-1, 3, 0.02)
        if "expected below 1" not in policy.explain({"weights": raw * 0 + w})
    )
    assert "near 1, and max_sweeps=50" in policy.explain({"weights": raw * 0 + near})
    assert "not finite" in policy.explain({"weights": raw * np.nan})
    assert policy_of(3, param_dtype="float32").explain({"weights": raw}) is None


def test_records_of_another_graph_or_order_are_refused():
    policy, _ = with_regions(1, param_dtype="float32")
    packed = by_region(trips(), REGION)
    assert policy.check is not None
    policy.check(packed)
    # Each demonstration one region further.
    turned = {
        name: np.roll(getattr(packed, name), 1, 1) for name in ("observations", "actions", "step_lengths")
    }
    with pytest.raises(ValueError, match=r"row 0, segment \d ends in region \d; a row holds one"):
        policy.check(dataclasses.replace(packed, **turned))
    with pytest.raises(ValueError, match=r"row \d+, segment \d, step \d takes arc \d+ from node \d"):
        policy.check(dataclasses.replace(packed, actions=packed.actions[:, :, ::-1]))
