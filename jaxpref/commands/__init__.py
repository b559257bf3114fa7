"""What the commands do. `cli.py` parses; nothing here knows argparse but the names of its options."""

from jaxpref.commands.answering import chat as chat
from jaxpref.commands.answering import sample as sample
from jaxpref.commands.checking import check_model as check_model
from jaxpref.commands.models import convert as convert
from jaxpref.commands.models import export as export
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
