"""What a backward pass keeps of the forward pass of a layer, and what it computes again, by name.

Numbers a token that a layer keeps beside its input (`d`), with `f` features of all query heads and `m` hidden
units of a gated MLP, and what is computed again:

| name            | keeps more              | computes again                                           |
|-----------------|-------------------------|----------------------------------------------------------|
| `block`         | nothing                 | all                                                      |
| `attention`     | `f`: what heads read    | all but attention, where it is not dense                 |
| `mlp`           | `2 m`: what is widened  | all but two of the three products of the MLP             |
| `attention+mlp` | both                    | projections of attention, and the last product           |
| `dots`          | products with weights   | attention, and what is between products                  |
| `host`          | nothing                 | all; the input of a layer waits in the memory of the host |

Of Llama 3.1 8B in bfloat16 an input takes 8 KiB a token, `attention` as much again, `mlp` 56 KiB more.
"""

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["INPUT", "NAMES", "WIDENED", "check_remat", "remat_policy"]

INPUT, WIDENED = "layer_input", "mlp"  # names of values, with that of `kernels.attention.blockwise.OUTPUTS`
NAMES = ("none", "block", "attention", "mlp", "attention+mlp", "dots", "host")


def check_remat(name: str) -> None:
    """Raises ValueError for a name that is not one of `NAMES`."""
    if name not in NAMES:
        raise ValueError(f"remat: expected one of {', '.join(NAMES)}, got {name!r}")


def remat_policy(name: str) -> Callable[..., Any] | None:
    """What `jax.checkpoint` keeps, for any name but "none"."""
    policies = jax.checkpoint_policies
    if name == "dots":
        return policies.dots_with_no_batch_dims_saveable
    if name == "host":
        return policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        )
    return None if name == "block" else policies.save_only_these_names(*name.split("+"))
