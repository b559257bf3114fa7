"""Preference learning in JAX: exact objectives as pure functions, one loop, any mesh."""
