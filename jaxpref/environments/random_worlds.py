"""Random worlds of a few states whose outcomes are not certain."""

import jax.numpy as jnp
import numpy as np

from jaxpref.planning import TabularMDP, World

__all__ = ["random_world"]


def random_world(
    *,
    seed: int,
    states: int = 10,
    actions: int = 3,
    features: int = 4,
    outcomes: int = 3,
    discount: float = 0.9,
) -> World:
    """Each action leads to one of `outcomes` states, with random probabilities; the last state ends it.

    Features and true weights are standard normal; the first state is any but the last. One outcome is a
    deterministic world. (A Garnet, Archibald et al. 1995, with an end.)
    """
    if not 1 <= outcomes <= states or states < 2 or actions < 1 or features < 1:
        raise ValueError(
            f"random_world: expected 2 or more states, actions, features, and outcomes of 1 to {states}, got "
            f"{states}, {actions}, {features} and {outcomes}"
        )
    if not 0 < discount < 1:
        raise ValueError(f"random_world.discount: expected a number in (0, 1), got {discount}")
    generator, floats = np.random.default_rng(seed), jnp.result_type(float)
    transitions = np.zeros((states, actions, states))
    for chances in transitions.reshape(-1, states):
        reached = generator.choice(states, outcomes, replace=False)
        chances[reached] = generator.dirichlet(np.ones(outcomes))
    terminal = np.arange(states) == states - 1
    seen = generator.normal(size=(states, actions, features)) * ~terminal[:, None, None]
    weights = generator.normal(size=features)
    mdp = TabularMDP(
        jnp.asarray(transitions, floats), jnp.asarray(seen @ weights, floats), jnp.asarray(terminal), discount
    )
    start = jnp.asarray(~terminal / (states - 1), floats)
    return World(mdp, jnp.asarray(seen, floats), jnp.asarray(weights, floats), start)
