"""PyTorch's cross-entropy head, its compiled form and Liger's, timed: a process of its own, so that neither
framework holds the other's memory. Prints one JSON line. Part of `gpu_check`."""

import dataclasses
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["main"]


def main(rows: int, embed: int, vocab: int, rounds: int) -> dict[str, Any]:
    """Seconds (median) and peak bytes beyond the operands, of the forward and of both passes, by name.

    The heads sum the same per-token log-probs, of bfloat16 operands, as the implementations here do.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return {"error": "torch is not installed"}
    bench = _Bench(torch, "cuda" if torch.cuda.is_available() else "cpu", rounds)
    torch.manual_seed(0)
    hidden, weight = bench.normal(rows, embed, scale=1.0), bench.normal(vocab, embed, scale=2 / embed**0.5)
    operands = (hidden, weight, torch.randint(0, vocab, (rows,), device=bench.device))
    report: dict[str, Any] = {"version": torch.__version__, "device": bench.device}
    exact = None
    for name, head in _heads(torch).items():
        try:
            value = float(bench.forward(head, *operands)) / rows
            exact = value if exact is None else exact
            assert abs(value - exact) < 1e-2 * abs(exact), f"mean {value} against {exact}"
            passes = {"forward": bench.forward, "both": bench.both}
            report[name] = {key: bench.timed(partial(run, head, *operands)) for key, run in passes.items()}
        except Exception as error:  # the others still count
            report[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    return report


def _heads(torch: Any) -> dict[str, Callable]:
    """By name, `(hidden [n, d], weight [v, d], targets [n]) -> the sum of their cross-entropies`."""

    def head(hidden: Any, weight: Any, targets: Any) -> Any:
        logits = (hidden @ weight.T).float()
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")

    heads: dict[str, Callable] = {"torch": head, "torch.compile": torch.compile(head)}
    try:
        liger = importlib.import_module("liger_kernel.transformers")
        fused = liger.LigerFusedLinearCrossEntropyLoss(reduction="sum")
        heads["liger"] = lambda hidden, weight, targets: fused(weight, hidden, targets)
    except ImportError:
        pass
    return heads


@dataclasses.dataclass(frozen=True)
class _Bench:
    torch: Any
    device: str
    rounds: int

    def normal(self, *shape: int, scale: float) -> Any:
        drawn = scale * self.torch.randn(*shape, device=self.device)
        return drawn.to(self.torch.bfloat16).requires_grad_()

    def forward(self, head: Callable, *operands: Any) -> Any:
        with self.torch.no_grad():
            return head(*operands)

    def both(self, head: Callable, hidden: Any, weight: Any, targets: Any) -> None:
        hidden.grad = weight.grad = None
        head(hidden, weight, targets).backward()

    def timed(self, call: Callable) -> dict[str, float]:
        on_gpu, cuda = self.device == "cuda", self.torch.cuda
        call()
        call()
        baseline = 0
        if on_gpu:
            cuda.synchronize()
            cuda.reset_peak_memory_stats()
            baseline = cuda.memory_allocated()
        seconds = []
        for _ in range(self.rounds):
            start = time.perf_counter()
            call()
            if on_gpu:
                cuda.synchronize()
            seconds.append(time.perf_counter() - start)
        peak = cuda.max_memory_allocated() - baseline if on_gpu else 0
        return {"seconds": statistics.median(seconds), "peak_bytes": peak}


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:5]))))
