"""PyTorch's cross-entropy head, its compiled form and Liger's, timed: a process of its own, so that neither
framework holds the other's memory. Prints one JSON line. Part of `gpu_check`."""

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    def normal(*shape: int, scale: float) -> Any:
        return (scale * torch.randn(*shape, device=device)).to(torch.bfloat16).requires_grad_()

    hidden, weight = normal(rows, embed, scale=1.0), normal(vocab, embed, scale=2 / embed**0.5)
    targets = torch.randint(0, vocab, (rows,), device=device)

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

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def timed(call: Callable) -> dict[str, float]:
        call()
        call()
        synchronize()
        held = 0
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            call()
            synchronize()
            seconds.append(time.perf_counter() - start)
        peak = torch.cuda.max_memory_allocated() - held if device == "cuda" else 0
        return {"seconds": statistics.median(seconds), "peak_bytes": peak}

    found: dict[str, Any] = {"version": torch.__version__, "device": device}
    exact = None
    for name, loss in heads.items():

        def forward(loss: Callable = loss) -> float:
            with torch.no_grad():
                return loss(hidden, weight, targets)

        def both(loss: Callable = loss) -> None:
            hidden.grad = weight.grad = None
            loss(hidden, weight, targets).backward()

        try:
            value = float(forward()) / rows
            exact = value if exact is None else exact
            assert abs(value - exact) < 1e-2 * abs(exact), f"mean {value} against {exact}"
            found[name] = {"forward": timed(forward), "both": timed(both)}
        except Exception as error:  # the others still count
            found[name] = {"error": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    return found


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:5]))))
