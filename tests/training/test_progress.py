"""What is said of speed: never more than all of a machine."""

import jax.numpy as jnp
import pytest

from jaxpref.metrics import Mean
from jaxpref.training.files import RunFiles
from jaxpref.training.progress import StepLog


@pytest.mark.parametrize(
    ("peak", "source", "shown"),
    [
        (1e30, "data sheet, bfloat16", "mfu 0%"),
        (1e30, "measured, float32 2048^3 matmul", "mfu ~0%"),
        (1.0, "measured, float32 2048^3 matmul", "no mfu"),
    ],
)
def test_a_utilisation_is_a_share(peak, source, shown, tmp_path):
    lines = []
    log = StepLog(RunFiles(tmp_path, log=lines.append, names=()), "dpo", 0, 3, 1, peak, source)
    for step in range(3):
        log.push(step, {name: Mean(jnp.float32(1), jnp.float32(1)) for name in ("loss", "num_tokens")}, 1e9)
    log.flush()
    assert shown in "\n".join(lines)
    told = [line for line in lines if "no mfu" in line]
    assert len(told) == (shown == "no mfu"), "said once"
    assert "too low for this machine" in "".join(told) or not told
    assert ('"mfu"' in (tmp_path / "metrics.jsonl").read_text()) == (shown != "no mfu")
