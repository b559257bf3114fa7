"""Peak matmul rate of a device, for model-FLOPs utilisation."""

import functools
import time

import jax
import jax.numpy as jnp

from jaxpref.kernels.machines import MACHINES

__all__ = ["matmul_peak"]


@functools.cache
def matmul_peak(size: int = 2048, repeats: int = 5, dtype: str = "float32") -> tuple[float, str]:
    """(FLOP/s of all devices together, where the figure comes from).

    Data sheet (bfloat16) where the device is known, else the best of a few `dtype` matmuls measured here: a
    guess, which is too low where the machine was busy or narrower numbers are faster (`progress` shows it).
    Virtual CPU devices share their cores, so on CPU the measured rate is the whole machine's.
    """
    device = jax.local_devices()[0]
    if device.device_kind in MACHINES:
        return MACHINES[device.device_kind].flops * jax.device_count(), "data sheet, bfloat16"
    with jax.default_device(device):
        a = jnp.ones((size, size), jnp.dtype(dtype))
        multiply = jax.jit(lambda x: x @ x)
        multiply(a).block_until_ready()
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            multiply(a).block_until_ready()
            best = min(best, time.perf_counter() - start)
    machines = jax.process_count() if device.platform == "cpu" else jax.device_count()
    return 2 * size**3 / best * machines, f"measured, {dtype} {size}^3 matmul"
