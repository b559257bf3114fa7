"""Ahead-of-time (AOT) plans: what an experiment needs of a machine that is not here (`jaxpref plan`)."""
