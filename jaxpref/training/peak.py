"""Peak matmul rate of a device, for model-FLOPs utilisation."""

import functools
import time

import jax
import jax.numpy as jnp

__all__ = ["matmul_peak"]

# Dense bfloat16 peak of one jax device, FLOP/s, from the vendors' data sheets.
DATA_SHEET = {
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


@functools.cache
def matmul_peak(size: int = 2048, repeats: int = 5) -> tuple[float, str]:
    """(FLOP/s of all devices together, where the figure comes from).

    Data sheet (bfloat16) where the device is known, else the best of a few float32 matmuls measured here.
    Virtual CPU devices share their cores, so on CPU the measured rate is the whole machine's.
    """
    device = jax.local_devices()[0]
    if device.device_kind in DATA_SHEET:
        return DATA_SHEET[device.device_kind] * jax.device_count(), "data sheet, bfloat16"
    with jax.default_device(device):
        a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
        multiply = jax.jit(lambda x: x @ x)
        multiply(a).block_until_ready()
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            multiply(a).block_until_ready()
            best = min(best, time.perf_counter() - start)
    machines = jax.process_count() if device.platform == "cpu" else jax.device_count()
    return 2 * size**3 / best * machines, f"measured, float32 {size}^3 matmul"
