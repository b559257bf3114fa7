"""Planning on road graphs: hard and soft values to a batch of destinations, in log space.

Nodes are states, arcs are actions, a destination is absorbing. Values are sums of rewards (minus costs) over
the path to the destination: of the best path, or log sum exp over all paths. Arrays are `[n, d]`, nodes by
destinations: a sweep then gathers a node's values to all destinations at once.
"""

from jaxpref.planning.roads.compress import Merged as Merged
from jaxpref.planning.roads.compress import merge_chains as merge_chains
from jaxpref.planning.roads.compress import split_degrees as split_degrees
from jaxpref.planning.roads.graph import RoadGraph as RoadGraph
from jaxpref.planning.roads.graph import check_costs as check_costs
from jaxpref.planning.roads.graph import check_route as check_route
from jaxpref.planning.roads.graph import padded as padded
from jaxpref.planning.roads.graph import reachable as reachable
from jaxpref.planning.roads.graph import road_graph as road_graph
from jaxpref.planning.roads.hard import Planner as Planner
from jaxpref.planning.roads.hard import dijkstra as dijkstra
from jaxpref.planning.roads.hard import hard_values as hard_values
from jaxpref.planning.roads.hard import sweeps as sweeps
from jaxpref.planning.roads.horizon import horizon_stack as horizon_stack
from jaxpref.planning.roads.horizon import horizon_values as horizon_values
from jaxpref.planning.roads.horizon import horizon_values_autodiff as horizon_values_autodiff
from jaxpref.planning.roads.horizon import stationary_horizon_values as stationary_horizon_values
from jaxpref.planning.roads.host import DivergentPartition as DivergentPartition
from jaxpref.planning.roads.host import cheapest as cheapest
from jaxpref.planning.roads.host import check_partition as check_partition
from jaxpref.planning.roads.host import spectral_radius as spectral_radius
from jaxpref.planning.roads.soft import Solved as Solved
from jaxpref.planning.roads.soft import soft_values as soft_values
from jaxpref.planning.roads.soft import solve_soft as solve_soft
from jaxpref.planning.roads.sweep import UNREACHABLE as UNREACHABLE
from jaxpref.planning.roads.sweep import soft_sweep as soft_sweep
