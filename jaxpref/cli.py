"""The command line: `jaxpref COMMAND ... [key=value ...]`."""

import argparse
import os
import platform
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from jaxpref.benchmarks.options import add_benchmarks, at_least
from jaxpref.training.outcome import STATUS, ended

__all__ = ["main"]

OVERRIDES = """\
key=value: a knob of the file's experiment(...), or a dotted path into the built experiment such as
stages.dpo.algorithm.loss.beta=0.3 (`jaxpref describe FILE` lists them all); an unknown key prints the
valid names. workdir=DIR (default runs/<name>) is where a run keeps its files and resumes from;
records=DIR reads data that `jaxpref prepare` wrote there; both may be of an object store (gs://bucket/DIR).
writers=NAME,... (csv, tensorboard, package.module:function; default tensorboard) says where metrics go
beside metrics.jsonl. profile=FIRST:COUNT (or STAGE:FIRST:COUNT) traces these steps into
WORKDIR/profile on every process. Compiled programs are kept in $JAXPREF_CACHE/xla (~/.cache/jaxpref/xla);
JAXPREF_COMPILE_CACHE=off keeps none, JAX_COMPILATION_CACHE_DIR=DIR keeps them there."""


# What a command works on.
FILES = {
    "FILE": "experiment file, or FILE.py:function",
    "FILE|DIR": "experiment file (or FILE.py:function), or a model folder",
    "SOURCE": "a GGUF file, a llama2.c checkpoint, a model folder, or an experiment file",
    "DIR": "model folder; mesh.tensor= and the like say how devices share it",
}


class _Once(argparse._StoreAction):
    """An option that may be given once: of two the first would be dropped."""

    given = False

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if self.given:
            parser.error(f"{option_string} is given twice")
        self.given = option_string is not None
        super().__call__(parser, namespace, values, option_string)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all commands do."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register("action", None, _Once)  # what an option is that says no other

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. Mistakes of the user are one line on stderr, status 2."""
    _use_huge_pages()
    trains = False

    def run() -> int:
        nonlocal trains
        options = _parsed(arguments)
        trains = options.trains
        from jaxpref import commands
        from jaxpref.training.programs import keep_programs

        # Benchmarks time the compiler, and what is compiled for a topology cannot be read again.
        if options.command not in ("bench", "plan"):
            keep_programs()

        return options.run(commands, options)

    return ended(run, trains=lambda: trains)


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse stops collecting key=value at the first option; they may stand anywhere.
    unknown = [text for text in rest if text.startswith("-") or not hasattr(options, "overrides")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        options.overrides += rest
    return options


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number in (0, 1], got {text}")
    return value


def _size(text: str) -> int:
    """Bytes, of a number with an optional unit of 1,000s."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kKMGT]?)B?", text)
    size = int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " ")) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"expected a size such as 500MB or 2GB, got {text}")
    return size


def _use_huge_pages() -> None:
    """XLA on CPU takes fresh memory for every large result; with 4 KiB pages their faults cost a fifth to a
    quarter of a step's CPU time (`jaxpref bench dpo-step`). glibc reads this only as a process starts."""
    if (
        sys.platform == "linux"
        and platform.libc_ver()[0] == "glibc"
        and "GLIBC_TUNABLES" not in os.environ
        and os.path.basename(sys.argv[0]) == "jaxpref"
    ):
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.argv])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxpref",
        description="Preference learning in JAX: train, evaluate and report experiments.",
        epilog=STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_training(commands)
    _add_plan(commands)
    _add_results(commands)
    _add_models(commands)
    _add_others(commands)
    return parser


def _adder(commands: argparse._SubParsersAction) -> Callable[..., argparse.ArgumentParser]:
    def add(name: str, summary: str, run: Callable, *, file: str | None = "FILE") -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=None if file in (None, "DIR") else OVERRIDES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if file is not None:
            sub.add_argument("file", metavar=file, help=FILES[file])
            sub.add_argument("overrides", nargs="*", metavar="key=value")
        sub.set_defaults(run=run, command=name, trains=name in ("train", "sweep"))
        return sub

    return add


def _add_training(commands: argparse._SubParsersAction) -> None:
    """Commands that make runs, and what they read."""
    add = _adder(commands)
    train = add("train", "train an experiment (again: resume it)", lambda c, o: c.train(o))
    train.add_argument("--smoke", action="store_true", help="a few steps of a few examples: does it run")
    train.add_argument(
        "--allow-changes", action="store_true", help="resume although the configuration differs"
    )
    train.add_argument("--no-report", action="store_true", help="do not write report.html at the end")
    train.add_argument(
        "--no-export",
        action="store_true",
        help="leave no WORKDIR/model at the end, which runs do that started from a folder of the hub",
    )
    sweep = add(
        "sweep", "train the experiments of FILE.py:sweep_name, then compare them", lambda c, o: c.sweep(o)
    )
    sweep.add_argument("--smoke", action="store_true", help="a few steps of each")
    tournament = add(
        "tournament",
        "win rates between the trained runs of FILE.py:sweep_name, judged as the file's tournament() says",
        lambda c, o: c.tournament(o),
    )
    tournament.add_argument("--smoke", action="store_true", help="runs of a smoke test, and few prompts")
    prepare = add("prepare", "write tokenised records to records=DIR", lambda c, o: c.prepare(o))
    prepare.add_argument(
        "--reference",
        action="store_true",
        help="add log-probs of what each stage with reference=batch starts from (of workdir=, or initial)",
    )


def _add_plan(commands: argparse._SubParsersAction) -> None:
    plan = _adder(commands)(
        "plan",
        "what an experiment needs of a TPU or GPU that is not here: does it fit, how fast, at what price",
        lambda c, o: c.plan(o),
    )
    plan.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="v5e:4x4, v5p:4x4x4, ... (chips along each side), v5litepod-16, v6e-16, v5p-128, h100:8, h200:8",
    )
    plan.add_argument("--mesh", metavar="fsdp=N,tensor=N,data=N", help="in place of the experiment's mesh")
    plan.add_argument("--stage", action="append", metavar="NAME", help="plan this one; may be repeated")
    plan.add_argument(
        "--only",
        action="append",
        choices=["collect", "step", "evaluation"],
        help="plan these programs; may be repeated (default: all of them)",
    )
    plan.add_argument(
        "--lengths", metavar="PROMPT+RESPONSE", help="tokens of a row, as 2048+2048 (default: found out)"
    )
    plan.add_argument(
        "--responses", type=at_least(1), help="recorded responses of a row (default: found out)"
    )
    plan.add_argument(
        "--search",
        type=at_least(1),
        nargs="?",
        const=6,
        metavar="N",
        help="compile the N (default 6) most promising meshes, remat policies and microbatches, and take the "
        "cheapest",
    )
    plan.add_argument(
        "--quick",
        action="store_true",
        help="compile with less optimisation: a fifth of the time, a few per cent more memory",
    )
    plan.add_argument("--price", type=at_least(0.0), help="US dollars of a chip-hour")
    plan.add_argument("--picture", metavar="FILE", help="draw the memory of each program: a .png or .svg")


def _add_results(commands: argparse._SubParsersAction) -> None:
    """Commands on what was trained."""
    add = _adder(commands)
    evaluate = add(
        "evaluate", "run the held-out pass and evaluators on trained params", lambda c, o: c.evaluate(o)
    )
    sample = add(
        "sample",
        "answer a prompt with a run's params, or a model folder's",
        lambda c, o: c.sample(o),
        file="FILE|DIR",
    )
    chat = add(
        "chat", "talk with a run's model, or a model folder's", lambda c, o: c.chat(o), file="FILE|DIR"
    )
    for sub in (evaluate, sample, chat):
        _add_checkpoint(sub)
    sample.add_argument("--prompt", action="append", required=True, help="prompt text; may be repeated")
    sample.add_argument("--num-samples", type=at_least(1), default=1, help="responses to each prompt")
    sample.add_argument("--chat", action="store_true", help="each prompt is a user's turn, in the template")
    _add_drawing(sample, max_tokens=64, temperature=0.0)
    _add_drawing(chat, max_tokens=512, temperature=0.7)
    replay = add(
        "replay",
        "do one step of a run again from the checkpoint before it, and show the rows with the largest losses",
        lambda c, o: c.replay(o),
    )
    replay.add_argument("--step", type=at_least(0), required=True, help="as metrics.jsonl counts, from 0")
    replay.add_argument("--stage", help="stage of the step (default: the last one that has begun)")
    replay.add_argument("--rows", type=at_least(1), default=5, help="rows shown with their texts (default 5)")
    describe = add("describe", "print the complete configuration as JSON", lambda c, o: c.describe(o))
    describe.add_argument(
        "--flat",
        action="store_true",
        help="one dotted.path=value a line, quoted for a shell: as train takes it",
    )


def _add_checkpoint(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--stage", help="stage whose params are used (default: the last one trained)")
    sub.add_argument("--step", type=at_least(0), help="checkpoint step (default: the best, or the latest)")
    sub.add_argument(
        "--other-base",
        action="store_true",
        help="read adapters above another base than the run trained them above (model=, policy.base...)",
    )


def _add_drawing(sub: argparse.ArgumentParser, *, max_tokens: int, temperature: float) -> None:
    sub.add_argument(
        "--max-tokens",
        type=at_least(1),
        default=max_tokens,
        help=f"longest response (default {max_tokens})",
    )
    sub.add_argument(
        "--temperature",
        type=at_least(0.0),
        default=temperature,
        help=f"0 is greedy (default {temperature:g})",
    )
    sub.add_argument("--top-k", type=at_least(1), help="draw among so many tokens")
    sub.add_argument("--top-p", type=_share, help="draw among the likeliest tokens of this probability")
    sub.add_argument("--seed", type=at_least(0), default=0)
    sub.add_argument("--system", metavar="TEXT", help="a system turn in front of the conversation")
    sub.add_argument(
        "--template", metavar="PATH", help="chat template: a model folder, a .jinja or a GGUF file"
    )
    _add_dtype(sub, "of weights and computation; of folders (default: float32 on a CPU, else the file's)")


def _add_dtype(sub: argparse.ArgumentParser, what: str) -> None:
    sub.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help=what)


def _add_models(commands: argparse._SubParsersAction) -> None:
    """Commands on models in the folders that hubs have."""
    add = _adder(commands)
    export = add(
        "export",
        "write what a run trained as a model folder, or its adapters as a folder of PEFT",
        lambda c, o: c.export(o),
    )
    export.add_argument(
        "--adapter",
        action="store_true",
        help="write adapters, head and what `train=` names as PEFT reads them, without the base",
    )
    convert = add(
        "convert",
        "write a model folder from a GGUF file, a llama2.c checkpoint, a folder or a run",
        lambda c, o: c.convert(o),
        file="SOURCE",
    )
    for sub in (export, convert):
        _add_checkpoint(sub)
        sub.add_argument("--to", metavar="DIR", required=True, help="folder to write: new, or empty")
        sub.add_argument(
            "--like",
            metavar="DIR",
            help="folder whose tokenizer and settings go with it (default: the source)",
        )
        _add_dtype(sub, "that floats are cast to (default: as they are)")
        sub.add_argument(
            "--shard-size",
            type=_size,
            metavar="BYTES",
            help="of tensors in a file at most, such as 500MB or 2GB (default 5GB)",
        )
    convert.add_argument(
        "--tokenizer", metavar="FILE", help="tokenizer of a llama2.c checkpoint, such as tok512.bin"
    )
    check = add(
        "check-model",
        "is a model folder read right: round trip, forward pass, greedy text",
        lambda c, o: c.check_model(o),
        file="DIR",
    )
    check.add_argument(
        "--against-transformers", action="store_true", help="compare its logits with the library's"
    )
    check.add_argument("--prompt", help="what the greedy text answers (default: one about France)")
    check.add_argument("--max-tokens", type=at_least(1), default=24, help="of the greedy text (default 24)")
    check.add_argument(
        "--template", metavar="PATH", help="chat template: a model folder, a .jinja or a GGUF file"
    )
    _add_dtype(check, "of weights and computation (default: float32 on a CPU, else the file's)")


def _add_others(commands: argparse._SubParsersAction) -> None:
    add = _adder(commands)
    methods = add("methods", "print every objective with its evidence", lambda c, o: c.methods(o), file=None)
    methods.add_argument("name", nargs="?", help="one objective, in full; default: all, method by evidence")
    methods.add_argument("--markdown", action="store_true", help="the tables of the losses' README")
    report = add(
        "report", "write an HTML page and PNGs about one or several runs", lambda c, o: c.report(o), file=None
    )
    report.add_argument("directories", nargs="+", metavar="RUN", help="run directories")
    report.add_argument("--out", help="page to write (default: report.html in the first run directory)")
    tokenizer = add(
        "tokenizer", "train a SentencePiece tokenizer on text files", lambda c, o: c.tokenizer(o), file=None
    )
    tokenizer.add_argument("inputs", nargs="+", metavar="TEXT", help="text files, one sentence a line")
    tokenizer.add_argument("--out", required=True, help="model file to write, for example my.model")
    tokenizer.add_argument("--vocab-size", type=at_least(1), default=8192)
    bench = add("bench", "measure this machine", lambda c, o: c.bench(o), file=None)
    add_benchmarks(bench.add_subparsers(dest="benchmark", required=True, metavar="NAME"))


if __name__ == "__main__":
    sys.exit(main())
