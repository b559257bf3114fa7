"""Loading records and batching them must work, and stay light, where TensorFlow is not installed."""

import subprocess
import sys

import pytest

from jaxpref.data import write_records
from jaxpref.data.lazy import tensorflow_stack
from jaxpref.data.text import synthetic

PROGRAM = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "seqio"):
    sys.modules[name] = None  # importing it raises ImportError, as on a machine that lacks it
import jaxpref
import jaxpref.data
import jaxpref.data.prepare
import jaxpref.data.text.synthetic
from jaxpref.data import Loader
records = jaxpref.data.prepare.prepared(directory=sys.argv[1])
print(len(records), Loader(records, batch_size=4).batch(3).response_tokens.shape)
try:
    jaxpref.data.prepare.prepare("some_task", "nowhere")
except ValueError as error:
    print(error)
"""


def test_prepared_records_without_tensorflow(tmp_path):
    write_records(synthetic.arithmetic_pairs(num_examples=10), tmp_path / "records")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "records")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "10 (4, 2, 16)"
    assert "'some_task' is not a preference task" in second


def test_missing_tensorflow_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqio", None)
    with pytest.raises(ImportError, match=r"seqio is not installed: pip install .*jaxpref prepare"):
        tensorflow_stack()
