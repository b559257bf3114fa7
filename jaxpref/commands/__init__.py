"""What the commands do. `cli.py` parses; nothing here knows argparse but the names of its options."""

import importlib
from typing import Any

from jaxpref.commands.results import describe as describe
from jaxpref.commands.results import evaluate as evaluate
from jaxpref.commands.results import report as report
from jaxpref.commands.tools import bench as bench
from jaxpref.commands.tools import methods as methods
from jaxpref.commands.tools import tokenizer as tokenizer
from jaxpref.commands.training import prepare as prepare
from jaxpref.commands.training import sweep as sweep
from jaxpref.commands.training import tournament as tournament
from jaxpref.commands.training import train as train

# Those that need the layers of models, which take half a second to import, or are rarely used.
_LATER = {
    "chat": "answering",
    "sample": "answering",
    "check_model": "checking",
    "convert": "models",
    "export": "models",
    "plan": "planning",
    "replay": "replaying",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(name)
    return getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
