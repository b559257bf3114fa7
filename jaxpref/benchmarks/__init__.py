"""Measurements of the machine at hand: figures with their floor or peer in the same run."""
