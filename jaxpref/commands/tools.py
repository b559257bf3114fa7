"""Commands that need no experiment."""

import difflib
import importlib
import json

from jaxpref.commands.opening import Options
from jaxpref.paths import as_path, write_whole

__all__ = ["bench", "methods", "tokenizer"]


def methods(options: Options) -> int:
    from jaxpref.methods import FAMILIES, METHODS, table

    if options.name is not None:
        matches = [method for method in METHODS if method.name == options.name]
        if not matches:
            near = difflib.get_close_matches(options.name, [m.name for m in METHODS], n=5, cutoff=0.4)
            raise ValueError(f"no objective is called {options.name!r}; near: {', '.join(near) or 'none'}")
        print(table.details(matches[0]))
    else:
        print(table.markdown(FAMILIES) if options.markdown else table.evidence(METHODS))
    return 0


def tokenizer(options: Options) -> int:
    from jaxpref.data import train_sentencepiece

    train_sentencepiece(options.inputs, options.out, vocab_size=options.vocab_size)
    print(f"wrote {options.out}; use it with partial(sentencepiece_tokenizer, path={options.out!r})")
    return 0


def bench(options: Options) -> int:
    module = importlib.import_module(f"jaxpref.benchmarks.{options.benchmark.replace('-', '_')}")
    own = ("benchmark", "command", "out", "run", "trains")
    figures = module.measure(**{name: value for name, value in vars(options).items() if name not in own})
    print(module.table(figures))
    if options.out:
        write_whole(as_path(options.out), json.dumps(figures, indent=2) + "\n")
    return 1 if figures.get("failures") else 0
