"""Segments of behaviour: demonstrations, ranked trajectories, comparisons by people and by simulations."""
