"""`jaxpref bench tune`: every block is measured, and the choice is the smallest that is nearly fastest."""

import pytest

from jaxpref.benchmarks import tune
from jaxpref.kernels.token_logps.block_sizes import Blocks


def test_blocks_take_turns_and_the_line_is_a_row_of_the_table():
    figures = tune.measure(shapes=("192x8x1030", "130x4x600"), rounds=2, repeats=1)
    assert list(figures["shapes"]) == ["192x8x1030", "130x4x600"]
    swept = [(f["implementation"], f["block"]) for f in figures["shapes"]["192x8x1030"]]
    assert swept == [("vocab_scan", 512), ("vocab_scan", 1024), ("token_scan", 64), ("token_scan", 128)]
    for found in figures["shapes"]["192x8x1030"]:
        assert found["train"]["wall_seconds_min"] > 0
        assert found["train"]["memory"]["temp"] > 0
    text = tune.table(figures)
    key, _, entry = text.splitlines()[-1].strip().rstrip(",").partition(": ")
    assert key == '"cpu"'
    line = eval(entry, {"Blocks": Blocks})
    assert line.vocab == tune.best_block(figures, "vocab_scan")
    assert line.tokens == tune.best_block(figures, "token_scan")
    assert "192x8x1030" in line.reason


def _figures(**seconds_of_blocks):
    def swept(times):
        return [
            {
                "implementation": "vocab_scan",
                "block": block,
                "train": {"wall_seconds_min": t} if t else {"failed": "does not fit"},
            }
            for block, t in times.items()
        ]

    return {"platform": "gpu", "shapes": {name: swept(times) for name, times in seconds_of_blocks.items()}}


def test_the_smallest_block_within_noise_of_the_fastest():
    one = {512: 1.2, 1024: 1.04, 2048: 1.0, 4096: 1.01}
    assert tune.best_block(_figures(a=one), "vocab_scan") == 1024
    assert (
        tune.best_block(_figures(a=one, b={512: 9.0, 1024: 1.2, 2048: 1.0, 4096: 1.0}), "vocab_scan") == 2048
    )
    assert tune.best_block(_figures(a=one, b={512: 1.0, 1024: None, 2048: 1.0}), "vocab_scan") == 2048
    assert tune.best_block(_figures(a=one), "token_scan") is None
    kernel = {"implementation": "pallas_gpu", "block": 64, "score": {"wall_seconds_min": 1.0}}
    assert tune.best_block({"platform": "gpu", "shapes": {"a": [kernel]}}, "pallas_gpu") == 64


@pytest.mark.parametrize("text", ["12x3", "axbxc", "3x4x5"])
def test_a_wrong_shape_is_said(text):
    with pytest.raises(ValueError, match=r"ROWSxWIDTHxVOCAB|rows must be even"):
        tune.measure(shapes=(text,))
