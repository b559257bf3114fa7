"""Values on road graphs against path sums, sparse solves, eigenvectors and scipy's Dijkstra."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from road_graphs import dense, random_roads, ways
from scipy.sparse import csr_array, eye_array
from scipy.sparse.linalg import spsolve
from x64 import enable_x64

from jaxpref.data.roads.networks import new_york_graph
from jaxpref.planning import roads

ENDS = np.array([3, 7, 3])


def solve(graph, costs, ends=ENDS, start=None, tolerance=1e-13):
    return _solve(graph, -jnp.asarray(costs), jnp.asarray(ends), start, tolerance=tolerance)


@partial(jax.jit, static_argnames="tolerance")  # compiled whole: far quicker than op by op
def _solve(graph, rewards, ends, start, *, tolerance):
    return roads.solve_soft(graph, rewards, ends, start=start, tolerance=tolerance)


@jax.jit
def hard(graph, costs, ends):
    return roads.hard_values(graph, -costs, ends)


def test_sums_over_all_ways_of_an_acyclic_graph():
    tails, heads = np.array([(i, j) for i in range(6) for j in range(i + 1, 6) if (i + j) % 4]).T
    graph, _ = roads.road_graph([*tails, 0, 2], [*heads, 1, 5])
    costs = np.random.default_rng(0).uniform(0, 1, graph.num_arcs)
    every = ways(graph, 0, 5, 6)
    assert len(every) > 8
    with enable_x64(True):
        soft = solve(graph, costs, [5]).values[0, 0]
        best = hard(graph, costs, jnp.array([5]))[0, 0]
    totals = np.array([costs[list(w)].sum() for w in every])
    assert float(soft) == pytest.approx(np.log(np.exp(-totals).sum()), abs=1e-12)
    assert float(best) == pytest.approx(-totals.min(), abs=1e-12)


@pytest.mark.parametrize("layout", ["segments", "padded"])
def test_converged_values_solve_the_linear_system(layout):
    graph, costs = random_roads()
    graph = roads.padded(graph) if layout == "padded" else graph
    with enable_x64(True):
        best = hard(graph, costs, ENDS)
        cold, warm = solve(graph, costs), solve(graph, costs, start=best)
    for i, end in enumerate(ENDS):
        a = dense(graph, costs, end)
        z = spsolve(csr_array(eye_array(9) - a), np.eye(9)[end])
        np.testing.assert_allclose(cold.values[:, i], np.log(z), atol=1e-11)
        np.testing.assert_allclose(warm.values[:, i], np.log(z), atol=1e-11)
        # With 1 in the destination's own entry, z is the eigenvector of the eigenvalue 1.
        absorbing = a + np.diag(np.eye(9)[end])
        np.testing.assert_allclose(absorbing @ z, z, atol=1e-12)
        eigenvalues = np.sort(np.abs(np.linalg.eigvals(absorbing)))
        assert eigenvalues[-1] == pytest.approx(1)
        assert eigenvalues[-2] == pytest.approx(np.abs(np.linalg.eigvals(a)).max())
    assert (np.asarray(best) <= np.asarray(cold.values) + 1e-12).all()
    assert int(warm.sweeps) <= int(cold.sweeps)


@pytest.mark.parametrize("layout", ["segments", "padded"])
def test_cheapest_ways_are_dijkstras(layout):
    graph, costs = random_roads(seed=1)
    graph = roads.padded(graph) if layout == "padded" else graph
    with enable_x64(True):
        rewards = -jnp.asarray(costs)[:, None]
        v, arc = jax.jit(roads.sweeps)(graph, rewards, jnp.asarray(ENDS))
        expected_v, expected_arc = jax.jit(roads.dijkstra)(graph, rewards, jnp.asarray(ENDS))
    np.testing.assert_allclose(v, expected_v, atol=1e-12)
    np.testing.assert_array_equal(arc, expected_arc)


def test_layouts_order_and_padding_change_nothing():
    graph, costs = random_roads(seed=2)
    shuffled = np.random.default_rng(0).permutation(graph.num_arcs)
    other, order = roads.road_graph(graph.tails[shuffled], graph.heads[shuffled], graph.num_nodes + 4)
    mixed = costs[shuffled][order]
    expected = solve(graph, costs, tolerance=1e-4)
    found = solve(roads.padded(other), mixed, tolerance=1e-4)
    np.testing.assert_allclose(found.values[:9], expected.values, rtol=1e-5)
    np.testing.assert_array_equal(found.values[9:], roads.UNREACHABLE)  # nodes without arcs
    assert bool(found.converged)
    assert int(found.sweeps) == int(expected.sweeps)


def test_the_destination_absorbs_however_cheap_the_ways_out_of_it():
    """Five cheap dead ends round it: round trips alone would sum to more than 1."""
    graph, _ = roads.road_graph([0] * 5 + [1, 2, 3, 4, 5], [1, 2, 3, 4, 5] + [0] * 5)
    found = solve(graph, np.full(10, 0.5), [0])
    np.testing.assert_allclose(found.values[:, 0], [0, *[-0.5] * 5], atol=1e-6)
    with pytest.raises(roads.DivergentPartition):
        roads.check_partition(graph, np.full(10, 0.5))


def test_what_cannot_reach_the_destination_stays_low_and_takes_no_gradient():
    graph, _ = roads.road_graph([0, 1, 2, 3], [1, 0, 3, 2])
    rewards = -jnp.array([1.5, 1.5, 2.0, 0.0])

    def total(values, rewards):
        v = values(graph, rewards, jnp.array([0]))
        return v.sum()

    for values in (roads.hard_values, roads.soft_values, partial(_last, horizon=3)):
        v, slope = jax.jit(jax.value_and_grad(partial(total, values)))(rewards)
        assert float(v) == pytest.approx(2 * roads.UNREACHABLE - 1.5)
        np.testing.assert_allclose(slope, [0, 1, 0, 0], atol=1e-6)
    assert roads.reachable(graph, 0).tolist() == [True, True, False, False]


def _last(graph, rewards, destinations, horizon, **settings):
    return roads.horizon_values(graph, rewards, destinations, horizon, **settings)[1]


_SOFT = partial(roads.soft_values, tolerance=1e-14, flow_tolerance=1e-15)


@pytest.mark.parametrize(
    ("values", "each", "layout"),
    [
        pytest.param(roads.hard_values, False, "segments", id="hard"),
        pytest.param(roads.hard_values, True, "padded", id="hard-each"),
        pytest.param(_SOFT, False, "padded", id="soft"),
        pytest.param(_SOFT, True, "segments", id="soft-each"),
        pytest.param(partial(_last, horizon=1), True, "segments", id="1-each"),
        pytest.param(partial(_last, horizon=2), True, "padded", id="2-each"),
        pytest.param(partial(_last, horizon=6), False, "segments", id="6"),
    ],
)
def test_slopes_are_finite_differences(values, each, layout):
    graph, costs = random_roads(seed=3)
    graph = roads.padded(graph) if layout == "padded" else graph
    generator = np.random.default_rng(1)
    with enable_x64(True):
        rewards = -jnp.asarray(costs)
        rewards = jnp.stack([rewards, rewards * 1.1, rewards - 0.2], 1) if each else rewards
        weights = jnp.asarray(generator.normal(size=(9, 3)))
        total = jax.jit(lambda r: (weights * values(graph, r, jnp.asarray(ENDS))).sum())
        direction = jnp.asarray(generator.normal(size=rewards.shape))
        slope = (jax.grad(total)(rewards) * direction).sum()
        h = 1e-4
        at = [float(total(rewards + x * h * direction)) for x in (-2, -1, 1, 2)]
        difference = (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)
        assert float(slope) == pytest.approx(difference, rel=1e-9, abs=1e-10)


def test_free_cycles_have_cheapest_ways_that_end():
    """Costs of 0, or lost in rounding, leave ties on cycles: the counts must still be those of a way."""
    graph, _ = roads.road_graph([0, 1, 1, 2, 2, 3], [1, 0, 2, 1, 3, 2])
    for small in (0.0, 1e-9):
        rewards = -jnp.array([small, small, small, small, 500.0, 500.0])
        for layout in (graph, roads.padded(graph)):
            slope = jax.jit(jax.grad(lambda r, g=layout: roads.hard_values(g, r, jnp.array([3]))[0, 0]))(
                rewards
            )
            np.testing.assert_array_equal(slope, [1, 0, 1, 0, 1, 0])


def test_costs_too_small_are_named_with_the_spectral_radius():
    graph, costs = random_roads()
    full = np.zeros((9, 9))
    np.add.at(full, (graph.tails, graph.heads), np.exp(-costs))
    radius = np.abs(np.linalg.eigvals(full)).max()
    assert roads.spectral_radius(graph, costs) == pytest.approx(radius, rel=1e-4)
    small = costs + np.log(radius) - 0.05
    with pytest.raises(roads.DivergentPartition, match=r"spectral radius of exp\(-cost\) is 1\.05"):
        roads.check_partition(graph, small)
    assert roads.check_partition(graph, costs + np.log(radius) + 0.05) < 1
    low = roads.soft_values(graph, -jnp.asarray(small - 1, jnp.float32), jnp.asarray(ENDS), None, 1e-4, 50)
    assert np.isnan(np.asarray(low)).all()


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("planner", [None, roads.sweeps])
def test_sums_near_where_they_have_no_limit(planner, x64):
    """A loop and a way out at one cost: -log(exp(c) - 1), slope 1 / (1 - exp(-c)); else NaN, both of them."""
    with enable_x64(x64):
        graph, _ = roads.road_graph([0, 0], [0, 1], self_loops=True)

        def value(reward, max_sweeps):
            rewards = jnp.ones(2) * reward
            return roads.soft_values(graph, rewards, jnp.array([1]), planner, 1e-4, max_sweeps)[0, 0]

        slopes = jax.jit(jax.value_and_grad(value), static_argnums=1)
        for cost, max_sweeps in ((1e-1, 10_000), (1e-2, 10_000), (2e-3, 10_000), (3e-4, 100_000)):
            found, slope = slopes(jnp.asarray(-cost), max_sweeps)
            np.testing.assert_allclose(found, -np.log(np.expm1(cost)), atol=1.1e-4 if x64 else 1e-2)
            np.testing.assert_allclose(slope, -1 / np.expm1(-cost), rtol=2e-4 if x64 else 1e-2)
        for reward in (-1e-4, -1e-6, 0.0, 1e-6, 1e-4, 1e-2):
            found, slope = slopes(jnp.asarray(reward), 10_000)
            assert np.isnan(found)
            assert np.isnan(slope)


def test_flow_that_is_cut_short_is_no_gradient():
    """At a radius of exp(-.001): values are there after 12,000 sweeps, the flow to 1e-6 after 14,000."""
    with enable_x64(True):
        graph, _ = roads.road_graph([0, 0], [0, 1], self_loops=True)
        for max_sweeps, there in ((12_000, False), (20_000, True)):
            value, slope = jax.value_and_grad(
                lambda r, m=max_sweeps: roads.soft_values(graph, r, jnp.array([1]), None, 1e-4, m)[0, 0]
            )(-0.001 * jnp.ones(2))
            assert np.isfinite(value)
            assert np.isfinite(slope).all() == there


def test_cycles_of_rewards_above_0_have_no_cheapest_way():
    graph, _ = roads.road_graph([0, 1, 1], [1, 0, 2])
    assert np.isnan(roads.hard_values(graph, jnp.array([-1.0, 1.5, -1.0]), jnp.array([2]))).any()
    np.testing.assert_array_equal(
        roads.hard_values(graph, jnp.array([-1.0, 1.0, -1.0]), jnp.array([2]))[:, 0], [-2, -1, 0]
    )


def test_merging_chains_keeps_values_and_gradients_of_features():
    graph, costs = _chained()
    merged = roads.merge_chains(graph, keep=[4, 5])
    assert merged.graph.num_arcs < graph.num_arcs
    new = merged.summed(costs)
    with enable_x64(True):
        before = solve(graph, costs, [4, 5]).values
        ends = [merged.node(4), merged.node(5)]
        after = solve(merged.graph, new, ends).values
        best = hard(graph, costs, jnp.array([4, 5]))
        best_after = hard(merged.graph, new, jnp.array(ends))
    np.testing.assert_allclose(after, before[merged.nodes], atol=1e-11)
    np.testing.assert_allclose(best_after, best[merged.nodes], atol=1e-11)
    start = int(merged.nodes[0])
    way = min(ways(graph, start, 4, 9), key=lambda w: costs[list(w)].sum())
    assert new[merged.route(way)].sum() == pytest.approx(costs[list(way)].sum())
    gone = next(i for i in range(graph.num_nodes) if i not in merged.nodes)
    with pytest.raises(ValueError, match=f"node {gone} was contracted"):
        merged.node(gone)


def _chained():
    """The random roads with a node put on every third arc."""
    graph, costs = random_roads(seed=4)
    tails, heads, cost = list(graph.tails), list(graph.heads), list(costs)
    for number, arc in enumerate(range(0, graph.num_arcs, 3)):
        new = graph.num_nodes + number
        tails.append(new)
        heads.append(heads[arc])
        heads[arc] = new
        cost.append(0.3)
    chained, order = roads.road_graph(tails, heads)
    return chained, np.array(cost)[order]


def test_splitting_nodes_keeps_values_and_routes():
    graph, costs = random_roads(arcs=60, seed=5, low=2.5, high=4)
    split = roads.split_degrees(graph, 3)
    laid = roads.padded(split.graph)
    assert laid.out_arcs.shape[1] <= 3 < roads.padded(graph).out_arcs.shape[1]
    with enable_x64(True):
        before = solve(graph, costs).values
        after = solve(laid, split.spread(costs)).values
    np.testing.assert_allclose(after[:9], before, atol=1e-11)
    way = min(ways(graph, 0, 3, 4), key=len)
    taken = split.route(way)
    assert roads.check_route(split.graph, taken) == 3
    assert split.spread(costs)[taken].sum() == pytest.approx(costs[list(way)].sum())


@pytest.mark.parametrize(
    ("tails", "heads", "message"),
    [
        ([0, 1], [1, 1], "arc 1 is a self loop at node 1"),
        ([0, 1], [1, 5], r"arc 1: head 5 is not in \[0, 3\)"),
        ([0, -1], [1, 2], "arc 1: tail -1"),
        ([0], [1, 2], "as many tails as heads"),
        ([], [], "1 or more"),
        ([0.5], [1.0], "expected numbers of nodes"),
    ],
)
def test_bad_graphs_are_named(tails, heads, message):
    with pytest.raises(ValueError, match=message):
        roads.road_graph(tails, heads, 3)


def test_bad_costs_and_routes_are_named():
    graph, _ = roads.road_graph([0, 1, 1, 2], [1, 0, 2, 1])  # arcs 0-1, 1-0, 1-2, 2-1
    with pytest.raises(ValueError, match=r"arc 2 costs -1\.0 \(1 such arcs\)"):
        roads.check_costs([0, 1, -1, 2], 4)
    with pytest.raises(ValueError, match="one for each of 4 arcs"):
        roads.check_costs([1.0], 4)
    assert roads.check_route(graph, [0, 2]) == 2
    for arcs, message in (
        ([0, 3], "step 1 starts at node 2, and step 0 ended at 1: an arc is missing"),
        ([0, 4], r"step 1: arc 4 is not in \[0, 4\)"),
        ([2, 3, 2], r"at its destination 2 before step 1 already"),
        ([], "1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            roads.check_route(graph, arcs)
    with pytest.raises(ValueError, match="ends at node 2, expected destination 1"):
        roads.check_route(graph, [0, 2], 1)


def test_destinations_may_be_split_over_devices():
    graph, costs = random_roads()
    ends = jnp.arange(8)
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    placed = jax.device_put(ends, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    values = jax.jit(lambda ends: roads.soft_values(graph, -jnp.asarray(costs, jnp.float32), ends))
    np.testing.assert_allclose(values(placed), values(ends), rtol=1e-6)


@pytest.mark.exhaustive
def test_new_york_on_eight_devices_is_new_york_on_one(data_root):
    """Values of one destination do not meet those of another in a sweep; half a minute for sixty of them."""
    graph = new_york_graph(str(data_root))
    generator = np.random.default_rng(0)
    rewards = -jnp.asarray(generator.uniform(1.5, 3.5, graph.num_arcs), jnp.float32)
    ends = jnp.asarray(generator.permutation(graph.num_nodes)[:16], jnp.int32)
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    placed = jax.device_put(ends, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    swept = jax.jit(lambda ends: roads.solve_soft(graph, rewards, ends, max_sweeps=60).values)
    one, eight = swept(ends), swept(placed)
    np.testing.assert_array_equal(one, eight)
    assert (np.asarray(one) > -1e5).mean() > 0.01  # they have set out
