"""`jaxpref bench roads`, on a small graph: the solvers that it times agree."""

from road_graphs import random_roads

from jaxpref.benchmarks import roads


def test_solvers_agree_and_the_table_says_so():
    graph, _ = random_roads(n=60, arcs=200)
    figures = roads.measured(graph, rounds=1, destinations=(1, 3), dense=40, scale=1.5)
    assert set(figures["sweeps"]) == {"segments, 1", "segments, 3", "padded, 1", "padded, 3"}
    for found in figures["converged"].values():
        assert found["cold_converged"]
        assert found["warm_converged"]
        assert found["warm_sweeps"] <= found["cold_sweeps"]
        assert max(found["hard_difference"], found["difference"]) < 1e-3
        assert found["soft_less_hard"] >= 0
    assert figures["linear"]["share_of_nodes"] == 1
    assert max(figures["linear"]["difference"], figures["dense"]["difference"]) < 1e-3
    assert figures["dense"]["nodes"] == 40
    assert "60 nodes, 200 arcs" in roads.table(figures)
