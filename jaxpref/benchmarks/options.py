"""Options of `jaxpref bench`: of each benchmark, the parameters of its `measure`."""

import argparse
import math
from collections.abc import Callable
from typing import Any

__all__ = ["add_benchmarks", "at_least"]


def at_least(low: float) -> Callable[[str], Any]:
    """Type of an option: a number of `low` or more, an integer where `low` is one."""
    kind = type(low)

    def number(text: str) -> Any:
        value = kind(text)
        if not low <= value < math.inf:
            raise argparse.ArgumentTypeError(f"expected {low:g} or more, got {text}")
        return value

    number.__name__ = kind.__name__  # argparse says "invalid int value"
    return number


def add_benchmarks(names: argparse._SubParsersAction) -> None:
    """Options of a benchmark are the parameters of its `measure`."""

    def add(name: str, summary: str, *, timed: bool = True) -> argparse.ArgumentParser:
        sub = names.add_parser(name, help=summary, description=summary)
        sub.add_argument("--out", help="JSON file to write the figures to")
        if timed:
            sub.add_argument(
                "--rounds", type=at_least(1), default=5, help="turns that the variants take (default 5)"
            )
        return sub

    _add_model_benchmarks(add)
    roads = add("roads", "values on the New York road graph, beside scipy and a dense solver")
    roads.add_argument("--data-root", default="../shared/data", help="folder that holds road_new_york/")
    roads.add_argument("--scale", type=at_least(0.0), default=1.0, help="factor of the costs (default 1)")
    roads.add_argument(
        "--dense", type=at_least(1), default=4096, help="nodes that the dense solver gets too (default 4096)"
    )
    quantization = add(
        "quantization", "how far quantised bases are from a model, on replies of HH", timed=False
    )
    quantization.add_argument("--model", required=True, help="folder of the model")
    quantization.add_argument("--data-root", default="../shared/data", help="folder that holds hh_rlhf/")
    quantization.add_argument(
        "--variants", nargs="+", default=("int8", "int4", "nf4"), metavar="FORMAT[:TILE]", help="bases"
    )
    quantization.add_argument("--replies", type=at_least(1), default=32, help="how many (default 32)")
    load = add("load", "reading a model folder into shards, beside the disk's own rate, and its memory")
    load.add_argument("--gib", type=at_least(0.0), default=2.0, help="size of the folder (default 2)")
    load.add_argument(
        "--processes", nargs="+", type=at_least(1), default=(1, 4), help="numbers of them (default 1 4)"
    )
    load.add_argument(
        "--directory", default="", help="where it is written (default: temporary files' folder)"
    )
    checkpoint = add("checkpoint", "what saving costs a run: a state of a given size, with and without")
    checkpoint.add_argument(
        "--megabytes", type=at_least(0.0), default=500.0, help="of the state (default 500)"
    )
    checkpoint.add_argument(
        "--step-seconds", type=at_least(0.0), default=0.5, help="of a step, about (default 0.5)"
    )
    checkpoint.add_argument(
        "--every", type=at_least(1), default=500, help="steps from save to save (default 500)"
    )
    checkpoint.add_argument("--steps", type=at_least(1), default=20, help="of a turn (default 20)")
    checkpoint.add_argument(
        "--directory", default="", help="where checkpoints go (default: temporary files' folder)"
    )
    tune = add("tune", "block sizes of the log-prob scans and kernels, as a line for their table")
    tune.add_argument(
        "--shapes", nargs="+", default=(), metavar="ROWSxWIDTHxVOCAB", help="for example 2048x512x32768"
    )
    add("gpu-check", "log-probs on this GPU: exactness, speed and memory, beside PyTorch's, in ten minutes")
    tune.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")


def _add_model_benchmarks(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    step = add("dpo-step", "tokens per second of a small DPO step")
    step.add_argument("--pairs", type=at_least(1), default=8, help="pairs of a batch (default 8)")
    adapters = add("adapters", "memory and time of a DPO step of adapters, beside one of all weights")
    adapters.add_argument("--pairs", type=at_least(1), default=2, help="pairs of a batch (default 2)")
    adapters.add_argument(
        "--tokens", type=at_least(1), default=64, help="of a prompt and of a response (default 64)"
    )
    adapters.add_argument("--rank", type=at_least(1), default=16, help="of the adapters (default 16)")
    adapters.add_argument("--remat", default="none", metavar="NAME", help="see `jaxpref.models.remat`")
    adapters.add_argument(
        "--quantize",
        nargs="+",
        choices=["int8", "int4", "nf4"],
        default=(),
        help="further rows: of bases like that",
    )
    logprobs = add("logprobs", "time and memory of sequence log-probs, beside other ways to them")
    logprobs.add_argument("--rows", type=at_least(1), default=2048, help="tokens scored (default 2048)")
    logprobs.add_argument(
        "--embed", type=at_least(1), default=512, help="width of hidden states (default 512)"
    )
    logprobs.add_argument("--vocab", type=at_least(1), default=32_768, help="vocabulary (default 32768)")
    logprobs.add_argument(
        "--allocator",
        choices=["default", "huge-pages", "both"],
        default="both",
        help="glibc's, for every variant alike (default both; CPU only)",
    )
    decode = add("decode", "tokens per second of sampling, plain and from mixtures, beside the floors")
    decode.add_argument("--batch", type=at_least(1), default=64, help="responses drawn at once (default 64)")
    decode.add_argument(
        "--tokens", type=at_least(1), default=64, help="of a prompt and of a response (default 64)"
    )
    decode.add_argument("--embed", type=at_least(1), default=384, help="width of the model (default 384)")
    decode.add_argument("--vocab", type=at_least(1), default=8192, help="vocabulary (default 8192)")
    for sub in (logprobs, decode):
        sub.add_argument(
            "--only", nargs="+", default=(), metavar="VARIANT", help="these rows of the table (default all)"
        )
        sub.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
