"""Commands that cannot be right: each ends with status 2 and one line that says what, where and how to mend.

Nothing in a folder that a command names is written over or left behind. Bad data files have
`data/test_bad_files.py`.
"""

import hashlib
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from launch import TINY, devices, here

from jaxpref import cli

SHORT = ("steps=2", "evaluators=False")
TRAIN = ("train", TINY, *SHORT)


# Experiment files with a mistake in them; the good part of each is TINY.
_TINY = f"import sys\nsys.path.insert(0, {str(pathlib.Path(TINY).parent)!r})\nimport tiny\n"
FILES = {
    "syntax.py": "def experiment(:\n    pass\n",
    "imports.py": "import torch_of_another_world\n",
    "name.py": "import functools\n\nSTAGES = stages\n",
    "none.py": _TINY + "def experiment():\n    tiny.experiment()\n",
    "raises.py": _TINY + "def experiment():\n    return {}['stages']\n",
    "wrong_keyword.py": _TINY + "def experiment():\n    return tiny.experiment(stepz=3)\n",
    "required.py": _TINY + "def experiment(*, beta):\n    return tiny.experiment(steps=beta)\n",
    "positional.py": _TINY + "def experiment():\n    return tiny.Experiment('a', 'b')\n",
    "nothing.py": "BETA = 0.1\n",
    "empty.py": "",
    "not_a_list.py": _TINY + "def sweep():\n    return tiny.experiment()\n",
    "empty_sweep.py": _TINY + "def sweep():\n    return []\n",
    "bytes.py": "experiment = '\udce9'\n",
    "lambda.py": _TINY
    + "import dataclasses\ndef experiment():\n"
    + "    return dataclasses.replace(tiny.experiment(), tokenizer=lambda: None)\n",
    "one_response.py": _TINY
    + "import dataclasses\ndef experiment():\n    built = tiny.experiment(steps=2, evaluators=False)\n"
    + "    sft, dpo = built.stages\n"
    + "    return dataclasses.replace(built, stages=(dataclasses.replace(dpo, train=sft.train),))\n",
    "pairs.py": _TINY
    + "import dataclasses\ndef experiment():\n    built = tiny.experiment(steps=2, evaluators=False)\n"
    + "    return dataclasses.replace(built, stages=built.stages[1:])\n",
    "tournament.py": _TINY
    + "from functools import partial\nfrom jaxpref.experiment import Tournament\n"
    + "from jaxpref.judges import bradley_terry_judge\n"
    + "def sweep():\n    return tiny.sweep()\n"
    + "def tournament():\n"
    + "    return Tournament(records=partial(tiny.arithmetic_pairs, num_examples=4),\n"
    + "                      judge=partial(bradley_terry_judge, None), max_tokens=2)\n",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder to make mistakes in: a run of two steps, the records that it could have read, files, and
    copies with one thing wrong. No command may change it, so all share it."""
    place = tmp_path_factory.mktemp("place")
    here(*TRAIN, "--no-report", f"workdir={place / 'run'}")
    here("prepare", TINY, *SHORT, f"records={place / 'records'}")
    for name, text in FILES.items():
        (place / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    (place / "file").write_text("not a folder\n")
    (place / "empty").mkdir()
    (place / "adapters").mkdir()
    (place / "adapters" / "adapter_config.json").write_text("{}")
    (place / "pickle.bin").write_bytes(b"\x80\x02}q\x00.")
    (place / "short.gguf").write_bytes(b"GGUF\x03\x00")
    (place / "short.bin").write_bytes(bytes(64))
    _damage(place)
    return place, _tree(place)


@pytest.fixture
def place(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return made


def _damage(place: pathlib.Path) -> None:
    """Copies of the run and the records, each with one thing wrong."""
    for name in ("old", "broken_json", "truncated"):
        shutil.copytree(place / "run", place / name)
    recorded = json.loads((place / "old" / "experiment.json").read_text())
    (place / "old" / "experiment.json").write_text(json.dumps(recorded | {"keys": 1}))
    (place / "broken_json" / "experiment.json").write_text('{"name": "tiny", "conf')
    for file in (place / "truncated" / "checkpoints" / "dpo").rglob("*"):
        if file.is_file() and "state" in file.parts:
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    for name in ("manifest", "vocabulary", "shortened"):
        shutil.copytree(place / "records", place / f"records_{name}")
    for folder in (place / "records_manifest").glob("*/"):
        (folder / "manifest.json").write_text('{"format": ')
    for file in (place / "records_vocabulary").glob("*/response_tokens.npy"):
        tokens = np.load(file)
        tokens[0] = 999
        np.save(file, tokens)
    for file in (place / "records_shortened").glob("*/prompt_tokens.npy"):
        file.write_bytes(file.read_bytes()[:-8])


def _tree(place: pathlib.Path) -> dict[str, str]:
    """Every file with its content, and every folder."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(place.rglob("*"))
        if "__pycache__" not in path.parts
    }


FRESH = "workdir=new"
EXPORT = ("export", TINY, *SHORT, "workdir=run")
SAMPLE = ("sample", TINY, *SHORT, "workdir=run", "--prompt", "1+2=")

# id, command line, words of the message.
ROWS = [
    # Overrides.
    ("a knob misspelt", (*TRAIN, FRESH, "stepz=4"), "unknown override 'stepz'.*knobs.*steps"),
    ("no equals sign", ("train", TINY, FRESH, "steps"), "key=value.*'steps'"),
    ("spaces around it", ("train", TINY, FRESH, "steps", "=", "4"), "key=value.*without spaces"),
    ("no key", (*TRAIN, FRESH, "=4"), "key=value"),
    ("JSON", (*TRAIN, FRESH, '{"batch_size": 4}'), "key=value"),
    ("an option of its own", (*TRAIN, FRESH, "--steps", "4"), "unrecognized arguments: --steps.*--help"),
    ("a word for a count", (*TRAIN, FRESH, "batch_size=eight"), "batch_size: expected int.*'eight'"),
    ("a fraction for a count", (*TRAIN, FRESH, "batch_size=1.5"), "batch_size: expected int.*'1.5'"),
    ("an exponent for a count", (*TRAIN, FRESH, "batch_size=1e3"), "batch_size: expected int.*'1e3'"),
    ("nothing for a count", (*TRAIN, FRESH, "batch_size="), "batch_size: expected int.*''"),
    ("no steps", ("train", TINY, FRESH, "steps=0"), "num_steps: expected 1 or more, got 0"),
    ("steps below 0", ("train", TINY, FRESH, "steps=-3"), "num_steps: expected 1 or more, got -3"),
    ("an empty batch", (*TRAIN, FRESH, "batch_size=0"), "batch_size: expected 1 or more, got 0"),
    ("a rate below 0", (*TRAIN, FRESH, "learning_rate=-0.1"), "sft.*learning rate.*0 or more.*-0.1"),
    (
        "a rate that is no number",
        (*TRAIN, FRESH, "learning_rate=nan"),
        "learning_rate: expected float.*'nan'",
    ),
    ("an infinite rate", (*TRAIN, FRESH, "learning_rate=inf"), "sft.*learning rate.*inf"),
    ("a word for a rate", (*TRAIN, FRESH, "learning_rate=small"), "learning_rate: expected float.*'small'"),
    ("a mesh that is a number", (*TRAIN, FRESH, "mesh=8"), "mesh.*mesh.data, mesh.fsdp, mesh.tensor"),
    ("more devices than there are", (*TRAIN, FRESH, "mesh.data=3"), "does not fit 1 devices.*mesh.data=-1"),
    ("no devices", (*TRAIN, FRESH, "mesh.data=0"), "sizes are 1 or more"),
    (
        "no part at all",
        (*TRAIN, FRESH, "microbatches=0"),
        "dpo: a batch is cut into 0 parts; set microbatches",
    ),
    ("a batch of parts", (*TRAIN, FRESH, "microbatches=3"), "dpo: batch_size=8.*multiple of 3"),
    ("an unknown stage", (*TRAIN, FRESH, "stages.dpoo.num_steps=3"), "stages.dpoo.*sft, dpo"),
    ("stages that are a number", (*TRAIN, FRESH, "stages=3"), "stages.*stages.sft, stages.dpo"),
    ("a leaf misspelt", (*TRAIN, FRESH, "stages.dpo.algorithm.loss.betta=1"), "betta.*beta"),
    ("below a leaf", (*TRAIN, FRESH, "seed.value=1"), "seed.value.*nothing to set"),
    ("a loss that is a name", (*TRAIN, FRESH, "stages.dpo.algorithm.loss=ipo"), "algorithm.loss.*loss.beta"),
    ("beta below 0", ("train", "pairs.py", FRESH, "stages.dpo.algorithm.loss.beta=-1"), "dpo: beta.*above 0"),
    (
        "twice",
        (*TRAIN, FRESH, "batch_size=4", "batch_size=8"),
        "batch_size.*twice.*batch_size=4.*batch_size=8",
    ),
    ("workdir twice", (*TRAIN, FRESH, "workdir=other"), "workdir.*twice"),
    ("a seed that is a word", (*TRAIN, FRESH, "seed=x"), "seed: expected int"),
    (
        "a seed too large",
        (*TRAIN, FRESH, "seed=99999999999999999999"),
        "seed: expected.*99999999999999999999",
    ),
    ("lines every 0 steps", (*TRAIN, FRESH, "log_every=0"), "log_every: expected 1 or more"),
    ("no checkpoint kept", (*TRAIN, FRESH, "keep_checkpoints=0"), "keep_checkpoints: expected 1 or more"),
    (
        "no held-out pass",
        (*TRAIN, FRESH, "stages.dpo.evaluate_every=0"),
        "evaluate_every: expected 1 or more",
    ),
    (
        "an unknown metric",
        (*TRAIN, FRESH, "best_metric=accuracy"),
        "best_metric.*accuracy.*rewards/accuracies",
    ),
    ("an unknown rule", (*TRAIN, FRESH, "non_finite=skipp"), "non_finite.*'stop' or 'skip'"),
    ("heads that do not divide", (*TRAIN, FRESH, "policy.sizes.heads=3"), "heads"),
    ("a model without width", (*TRAIN, FRESH, "policy.sizes.embed=0"), "embed"),
    ("a vocabulary too small", (*TRAIN, FRESH, "vocab=5"), "vocabulary mismatch.*5"),
    ("an unknown dtype", (*TRAIN, FRESH, "policy.compute_dtype=float31"), "compute_dtype.*float31"),
    ("an unknown writer", (*TRAIN, FRESH, "writers=wandb"), "wandb.*csv"),
    # Folders of runs.
    ("a workdir that is a file", (*TRAIN, "workdir=file"), "workdir=file.*is a file"),
    ("a workdir below a file", (*TRAIN, "workdir=file/run"), "workdir=file/run.*file is a file"),
    ("a workdir not writable", (*TRAIN, "workdir=/proc/run"), "/proc/run.*writ"),
    ("a workdir without a name", (*TRAIN, "workdir="), "workdir=.*folder"),
    ("a workdir elsewhere", (*TRAIN, "workdir=s3://bucket/run"), "mount it"),
    ("another configuration", (*TRAIN, "workdir=run", "batch_size=4"), "another configuration.*batch_size"),
    ("an older version", (*TRAIN, "workdir=old"), "choose another workdir"),
    ("a damaged experiment.json", (*TRAIN, "workdir=broken_json"), "broken_json/experiment.json.*damaged"),
    ("a truncated checkpoint", (*TRAIN, "workdir=truncated"), "truncated/checkpoints/dpo/2.*delete"),
    # Folders of records.
    ("no records", (*TRAIN, FRESH, "records=nothing"), "nothing.*jaxpref prepare"),
    ("an empty folder", (*TRAIN, FRESH, "records=empty"), "empty.*jaxpref prepare"),
    ("records that are a file", (*TRAIN, FRESH, "records=file"), "records=file.*is a file"),
    ("records without a name", (*TRAIN, FRESH, "records="), "records=.*folder"),
    ("of other overrides", (*TRAIN, FRESH, "records=records", "stages.sft.train.num_examples=32"), "prepare"),
    ("a damaged manifest", (*TRAIN, FRESH, "records=records_manifest"), "manifest.json.*damaged.*prepare"),
    ("a shortened array", (*TRAIN, FRESH, "records=records_shortened"), "prompt_tokens.npy.*prepare"),
    (
        "ids of another vocabulary",
        (*TRAIN, FRESH, "records=records_vocabulary"),
        "1000 ids and the model has 24.*prepare",
    ),
    (
        "one response for a pair loss",
        ("train", "one_response.py", FRESH),
        "dpo.*rejected.*1 response.*records of pairs",
    ),
    ("prepare without a folder", ("prepare", TINY), "records=DIR"),
    ("prepare to a file", ("prepare", TINY, *SHORT, "records=file"), "file.*is a file"),
    # Experiment files.
    ("no file", ("train", "experiment.yaml"), "no experiment file experiment.yaml"),
    ("a folder", ("train", "empty"), "empty.*Python file"),
    ("not Python", ("train", "run/experiment.json"), "experiment.json.*not a Python file"),
    ("a syntax error", ("train", "syntax.py"), "syntax.py, line 1: SyntaxError"),
    ("not UTF-8", ("train", "bytes.py"), "bytes.py.*SyntaxError"),
    ("an import that fails", ("train", "imports.py"), "imports.py, line 1: ModuleNotFoundError.*torch_of"),
    ("an unknown name", ("train", "name.py"), "name.py, line 3: NameError.*stages"),
    ("no function", ("train", "nothing.py"), "nothing.py has no function 'experiment'"),
    ("nothing in it", ("describe", "empty.py"), "empty.py has no function 'experiment'"),
    ("another function", ("train", f"{TINY}:experimnt"), "no function 'experimnt'.*experiment"),
    ("nothing returned", ("train", "none.py"), "none.py.*experiment.*return.*None"),
    ("a function that raises", ("train", "raises.py"), "raises.py, line 5: KeyError.*stages"),
    ("a wrong keyword", ("train", "wrong_keyword.py"), "wrong_keyword.py, line 5: TypeError.*stepz"),
    ("a knob without default", ("train", "required.py"), "required.py.*beta.*beta=VALUE"),
    ("fields left out", ("train", "positional.py"), "positional.py, line 5: TypeError"),
    ("a lambda", ("train", "lambda.py", FRESH), "tokenizer.*lambda.*module-level"),
    ("a sweep that is none", ("sweep", "not_a_list.py"), "list of Experiments"),
    ("a sweep of one experiment", ("sweep", f"{TINY}:experiment"), "list of Experiments"),
    ("an empty sweep", ("sweep", "empty_sweep.py"), "empty_sweep.py.*list"),
    ("a word in a sweep", ("sweep", f"{TINY}:sweep", "seed"), "key=value.*'seed'"),
    ("a knob of a sweep misspelt", ("sweep", f"{TINY}:sweep", "stepz=4"), "stepz"),
    # Commands.
    ("no command", (), "COMMAND"),
    ("an unknown command", ("trian", TINY), "trian"),
    ("sample without a run", ("sample", TINY, FRESH, "--prompt", "1+2="), "new has no checkpoint.*train"),
    ("sample without a prompt", ("sample", TINY, "workdir=run"), "--prompt"),
    ("sample of an unknown stage", (*SAMPLE, "--stage", "rlhf"), "'rlhf'.*sft, dpo"),
    ("sample of an unknown step", (*SAMPLE, "--step", "999"), "999.*2"),
    ("a prompt it cannot read", (*SAMPLE[:-1], "hello"), "'h'"),
    ("no tokens", (*SAMPLE, "--max-tokens", "0"), "max-tokens.*1 or more"),
    ("no samples", (*SAMPLE, "--num-samples", "0"), "num-samples.*1 or more"),
    ("an option twice", (*SAMPLE, "--seed", "1", "--seed", "2"), "--seed is given twice"),
    (
        "a trial in the folder of a run",
        (*TRAIN, "--smoke", "workdir=run", "batch_size=4"),
        "another configuration",
    ),
    ("a temperature below 0", (*SAMPLE, "--temperature", "-1"), "temperature.*0 or more"),
    ("top-p above 1", (*SAMPLE, "--top-p", "1.5"), "top-p.*1.5"),
    ("top-k of 0", (*SAMPLE, "--top-k", "0"), "top-k.*1 or more"),
    ("a sample with records", (*SAMPLE, "records=records"), "sample.*records="),
    ("sample of a truncated checkpoint", ("sample", TINY, "workdir=truncated", "--prompt", "1"), "truncated"),
    ("evaluate without a run", ("evaluate", TINY, FRESH), "new has no checkpoint.*train"),
    ("evaluate of an unknown stage", ("evaluate", TINY, "workdir=run", "--stage", "x"), "'x'.*sft, dpo"),
    ("evaluate with writers", ("evaluate", TINY, "workdir=run", "writers=csv"), "evaluate.*writers="),
    ("describe with a workdir", ("describe", TINY, "workdir=run"), "describe.*workdir="),
    ("report of nothing", ("report", "nothing"), "nothing.*run directory"),
    ("report of an empty folder", ("report", "empty"), "empty.*jaxpref train"),
    ("a page that is a folder", ("report", "run", "--out", "empty"), "empty.*folder"),
    ("a tournament without one", ("tournament", f"{TINY}:sweep"), "no function tournament"),
    ("a tournament of no runs", ("tournament", "tournament.py", FRESH), "no run.*jaxpref sweep"),
    ("an unknown benchmark", ("bench", "speed"), "speed.*dpo-step"),
    ("a benchmark of no pairs", ("bench", "dpo-step", "--pairs", "0"), "pairs.*1 or more"),
    ("text that is not there", ("tokenizer", "text.txt", "--out", "my.model"), "text.txt"),
    (
        "a tokenizer without words",
        ("tokenizer", "file", "--out", "m", "--vocab-size", "0"),
        "vocab-size.*1 or",
    ),
    ("an unknown objective", ("methods", "dpoo"), "'dpoo'.*dpo"),
    # Model folders.
    ("export without a folder", ("export", TINY, *SHORT, "workdir=run"), "--to"),
    ("export over a folder", (*EXPORT, "--to", "run"), "--to run: there already.*choose another"),
    ("export over a file", (*EXPORT, "--to", "file"), "--to file: there already"),
    ("export to no name", (*EXPORT, "--to", ""), "--to names no folder"),
    ("export without a run", ("export", TINY, *SHORT, FRESH, "--to", "out"), "new has no checkpoint.*train"),
    ("export of an unknown stage", (*EXPORT, "--to", "out", "--stage", "x"), "'x'.*sft, dpo"),
    ("export like what is no folder", (*EXPORT, "--to", "out", "--like", "empty"), "config.json"),
    ("a shard of nothing", (*EXPORT, "--to", "out", "--shard-size", "0"), "shard-size.*500MB.*got 0"),
    ("a shard of words", (*EXPORT, "--to", "out", "--shard-size", "big"), "shard-size.*500MB.*got big"),
    ("an unknown dtype of floats", (*EXPORT, "--to", "out", "--dtype", "int8"), "dtype.*int8.*bfloat16"),
    ("nothing to convert", ("convert", "nothing", "--to", "out"), "nothing: no such file or folder"),
    ("a folder without a model", ("convert", "empty", "--to", "out"), "empty.*config.json"),
    ("a file of another format", ("convert", "file", "--to", "out"), "file: no GGUF.*pickles are not read"),
    ("a pickle", ("convert", "pickle.bin", "--to", "out"), "pickle.bin: no GGUF.*pickles are not read"),
    ("a truncated GGUF file", ("convert", "short.gguf", "--to", "out"), "short.gguf.*GGUF"),
    ("no llama2.c file", ("convert", "short.bin", "--to", "out"), "short.bin.*llama2.c"),
    ("adapters alone", ("convert", "adapters", "--to", "out"), "adapters.*without their base.*export"),
    ("a stage of a folder", ("convert", "empty", "--to", "out", "--stage", "dpo"), "--stage.*empty is none"),
    ("an override of a folder", ("convert", "empty", "seed=1", "--to", "out"), "seed=1 is for runs"),
    ("a tokenizer of a folder", ("convert", "empty", "--to", "out", "--tokenizer", "file"), "llama2.c"),
    ("a model that is not there", ("check-model", "nothing"), "nothing: no such folder"),
    ("a model folder without a model", ("check-model", "empty"), "empty: no config.json"),
    ("an experiment to check", ("check-model", TINY), "no such folder.*config.json"),
    ("sample of an empty folder", ("sample", "empty", "--prompt", "x"), "empty.*config.json"),
    (
        "a stage of a model",
        ("sample", "empty", "--stage", "dpo", "--prompt", "x"),
        "--stage.*empty is none",
    ),
    ("a folder of a run", ("chat", "run"), "run is the folder of a run.*workdir=run"),
    ("a folder of a run to convert", ("convert", "run", "--to", "out"), "run is the folder of a run"),
    ("a folder of a run to check", ("check-model", "run"), "run is the folder of a run"),
    ("a knob of a model", ("sample", "empty", "steps=1", "--prompt", "x"), "empty.*no steps=.*mesh.tensor="),
    ("a conversation without a template", (*SAMPLE, "--chat"), "tiny has no chat template.*--template"),
    ("a template that is not there", (*SAMPLE, "--chat", "--template", "nothing"), "nothing does not exist"),
    ("a system turn of no conversation", (*SAMPLE, "--system", "x"), "--system.*--chat"),
    ("chat of an empty folder", ("chat", "empty"), "empty.*config.json"),
    ("chat without a template", ("chat", TINY, *SHORT, "workdir=run"), "tiny has no chat template"),
    ("a dtype of a run", ("chat", TINY, *SHORT, "workdir=run", "--dtype", "bfloat16"), "compute_dtype"),
]


@pytest.mark.parametrize(("arguments", "words"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_bad_command(arguments, words, place, capfd):
    folder, before = place
    with devices(1):
        status = cli.main(arguments)
    printed = capfd.readouterr()
    assert status == 2, printed
    error = [line for line in printed.err.splitlines() if line.startswith("jaxpref: ")]
    assert len(error) == 1, printed.err
    assert printed.err.strip().endswith(error[0]), "the error is the last thing said, on one line"
    assert error[0].startswith("jaxpref: error: ")
    assert re.search(words, error[0]), error[0]
    assert "Traceback" not in printed.err
    after = _tree(folder)
    assert {name for name in before | after if before.get(name) != after.get(name)} == set()


def test_a_batch_that_does_not_divide_over_devices(place, capfd):
    with devices(2):
        assert cli.main([*TRAIN, FRESH, "batch_size=7", "data=2"]) == 2
    assert "sft: batch_size=7 does not divide over data x fsdp = 2 devices" in capfd.readouterr().err
    assert not (place[0] / "new").exists()
