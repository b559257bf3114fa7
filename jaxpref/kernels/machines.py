"""What a device can do, as far as the choice of an implementation depends on it.

Peaks are the vendors' figures.
"""

import dataclasses

import jax

__all__ = ["CPU", "MACHINES", "Machine", "current_machine"]


@dataclasses.dataclass(frozen=True)
class Machine:
    """One jax device. `flops`: dense bfloat16 matmul peak per second; `bandwidth`, `memory`: bytes;
    `capability`: major compute capability of an NVIDIA GPU, 0 where unknown."""

    kind: str
    platform: str
    flops: float
    bandwidth: float
    memory: float
    capability: int = 0

    @property
    def intensity(self) -> float:
        """FLOPs that take as long as one byte of memory traffic."""
        return self.flops / self.bandwidth

    @property
    def logits_budget(self) -> float:
        """Bytes of logits that one call may keep: a sixteenth of the memory, leaving it to weights,
        optimizer state and activations. Of a TPU a sixty-fourth: computing them twice in its kernel is a
        hundredth of a step of a large model, and its logits were what such a step ran out of memory with."""
        return self.memory / (64 if self.platform == "tpu" else 16)

    @property
    def scores_budget(self) -> float:
        """Bytes of scores of attention that one layer may make. A backward pass has four such arrays: a
        sixty-fourth of the memory together."""
        return self.memory / 256


MACHINES = {
    m.kind: m
    for m in (
        Machine("TPU v5 lite", "tpu", 197e12, 819e9, 16e9),
        Machine("TPU v5", "tpu", 459e12, 2765e9, 95e9),
        Machine("TPU v5p", "tpu", 459e12, 2765e9, 95e9),
        Machine("TPU v6 lite", "tpu", 918e12, 1640e9, 32e9),
        Machine("NVIDIA A100-SXM4-80GB", "gpu", 312e12, 2.04e12, 80e9, 8),
        Machine("NVIDIA H100 80GB HBM3", "gpu", 989e12, 3.35e12, 80e9, 9),
        Machine("NVIDIA H200", "gpu", 989e12, 4.8e12, 141e9, 9),
    )
}

# Two cores of a shared AMD EPYC: float32 matmul 481 GFLOP/s, in-place scaling 49 GB/s (measured); virtual
# devices share the host's memory, hence a small figure.
CPU = Machine("cpu", "cpu", 0.48e12, 49e9, 2 * 2**30)


def current_machine() -> Machine:
    """The device that is compiled for: that of the mesh in context, else the default one.

    A kind that is not in the table gets no budget, so nothing large is ever kept on it.

    Returns:
      The device's figures.

    Example:
      >>> from jax.sharding import AbstractDevice, AbstractMesh, AxisType, use_abstract_mesh
      >>> from jaxpref.kernels.machines import current_machine
      >>> device = AbstractDevice("NVIDIA H200", 132, "gpu")
      >>> with use_abstract_mesh(AbstractMesh((1,), ("x",), (AxisType.Auto,), abstract_device=device)):
      ...     print(current_machine().intensity)  # 989e12 / 4.8e12 FLOPs a byte
      206.0
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        first = jax.devices()[0]
        kind, platform = first.device_kind, first.platform
    else:
        kind, platform = device.device_kind, device.platform
    platform = "gpu" if platform == "cuda" else platform or "cpu"
    if platform == "cpu":
        return CPU
    return MACHINES.get(kind) or Machine(kind, platform, 100e12, 1e12, 0.0, _capability(kind))


def _capability(kind: str) -> int:
    first = jax.devices()[0]
    capability = getattr(first, "compute_capability", "0") if first.device_kind == kind else "0"
    return int(str(capability).split(".")[0])
