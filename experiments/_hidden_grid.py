"""An 8 x 8 grid with hidden rewards, and the walks of an expert on it. What the grid experiments share."""

import numpy as np

from jaxpref.data.behaviour.demonstrations import demonstrations
from jaxpref.environments import gridworld, object_features
from jaxpref.planning import values

SIZE = 8
HIDDEN = (3.0, -3.0, 1.0, 0.0)  # of the four kinds of object


def features():
    return object_features(height=SIZE, width=SIZE, objects=10, kinds=len(HIDDEN), reach=1.5, seed=0)


def world():
    rewards = features() @ np.array(HIDDEN)
    return gridworld(height=SIZE, width=SIZE, rewards=rewards, slip=0.1, discount=0.9)


def start():
    """Every cell alike."""
    return np.full(SIZE**2, SIZE**-2.0)


def expert_walks(*, walks: int, steps: int, seed: int):
    """Of maximum-entropy control at temperature 1."""
    mdp = world()
    return demonstrations(mdp, values(mdp, 1.0)[2], start=start(), num=walks, steps=steps, seed=seed)
