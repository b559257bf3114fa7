"""What a signal asks for: to save and leave, and then to leave at once."""

import json
import os
import signal
import subprocess
import sys
from unittest import mock

import pytest
from launch import TINY, environment, here

from jaxpref.training.preemption import Preemption, Stopped


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_asks(number, status, capfd):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with Preemption() as preemption:
        preemption.unsaved = True
        assert not preemption.reached()
        os.kill(os.getpid(), number)
        assert preemption.reached()
        assert preemption.reached(), "whoever is told once is told again"
        assert preemption.status == status
        assert ("Ctrl-C again" in capfd.readouterr().err) == (number == signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # schedulers send several
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    assert {n: signal.getsignal(n) for n in before} == before


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)])
def test_with_nothing_to_save_a_signal_ends_what_runs(number, kind):
    with Preemption() as preemption:
        with pytest.raises(kind) as raised:
            os.kill(os.getpid(), number)
        if number == signal.SIGTERM:
            assert raised.value.code == 143, "what Python itself exits with"
            os.kill(os.getpid(), number)  # again: what tidies up goes on
        assert not preemption.unsaved


class Impatient(Preemption):
    """Ctrl-C comes in the third step of the run, as often as `times`."""

    times = 1
    asked = 0

    def reached(self) -> bool:
        type(self).asked += sys._getframe(1).f_code.co_name == "_due"  # after a step
        if type(self).asked == 3:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
        return super().reached()


@pytest.mark.parametrize(
    ("times", "said", "saved"),
    [
        (1, "sft: interrupted and saved at step 3; run the same command to go on", ["3"]),
        (2, "stopped at once; nothing after the last checkpoint is saved", []),
    ],
)
def test_what_is_said_is_what_is_saved(times, said, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(Impatient, "times", times)
    monkeypatch.setattr(Impatient, "asked", 0)
    common = ["train", TINY, "steps=6", "checkpoint_every=100", "evaluators=False", "--no-report"]
    with mock.patch("jaxpref.training.preemption.Preemption", Impatient):
        assert said in here(*common, f"workdir={tmp_path}", expect=130)
    assert [p.name for p in (tmp_path / "checkpoints" / "sft").iterdir() if p.name.isdigit()] == saved


class Cut(Preemption):
    """SIGTERM comes in an evaluation after a step: in which function, and at which of its calls."""

    at = ("", 0)
    asked = 0

    def reached(self) -> bool:
        caller = sys._getframe(1).f_code.co_name
        if self.unsaved and caller == self.at[0]:
            type(self).asked += 1
            if type(self).asked == self.at[1]:
                os.kill(os.getpid(), signal.SIGTERM)
        return super().reached()


def _rows(folder):
    names = ("metrics.jsonl", "evaluations.jsonl", "samples.jsonl")
    files = [folder / name for name in names if (folder / name).exists()]
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("time", "tokens_per_second", "mfu")} for row in lines]


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (("held_out_pass", 1), "dpo: interrupted and saved at"),
        (("evaluations", 3), "dpo: interrupted and saved at"),
        (("evaluations", 1), "sft: interrupted and saved at"),  # the end of a stage that is not the last
    ],
)
@pytest.mark.exhaustive
def test_a_run_that_was_cut_short_in_an_evaluation_ends_as_another(at, said, tmp_path, monkeypatch):
    common = ["train", TINY, "steps=4", "checkpoint_every=100", "--no-report"]
    here(*common, f"workdir={tmp_path / 'whole'}")
    monkeypatch.setattr(Cut, "at", at)
    monkeypatch.setattr(Cut, "asked", 0)
    with mock.patch("jaxpref.training.preemption.Preemption", Cut):
        assert said in here(*common, f"workdir={tmp_path / 'cut'}", expect=143)
    before = _rows(tmp_path / "cut")
    output = here(*common, f"workdir={tmp_path / 'cut'}")
    assert "resumed at step" in output
    assert len(before) < len(_rows(tmp_path / "cut"))
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "whole")


def test_an_evaluation_that_is_cut_short_is_made_when_the_run_goes_on(tmp_path, monkeypatch):
    common = ["train", TINY, "steps=1", "evaluators=False", "--no-report", f"workdir={tmp_path}"]

    def evaluated() -> list[tuple[str, int]]:
        return [(row["stage"], row["step"]) for row in _rows(tmp_path) if row["split"] == "eval"]

    monkeypatch.setattr(Cut, "at", ("held_out_pass", 1))
    monkeypatch.setattr(Cut, "asked", 0)
    with mock.patch("jaxpref.training.preemption.Preemption", Cut):
        assert "dpo: interrupted and saved at step 1" in here(*common, expect=143)
    assert evaluated() == [("dpo", 0)]
    assert (tmp_path / "cut.json").exists()
    here(*common)
    assert evaluated() == [("dpo", 0), ("dpo", 1)]
    assert not (tmp_path / "cut.json").exists(), "it is made once"


BUSY = """
import hashlib, os, signal, threading
from jaxpref.training import preemption
preemption._PATIENCE = 0.3
with preemption.Preemption() as entered:
    threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)  # in C for minutes, as a compilation may be
"""


def test_where_the_main_thread_hears_nothing_a_signal_ends_the_process():
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (143, "jaxpref: stopped by SIGTERM; nothing is left to save\n")


SLOW_IMPORT = """
import sys, time, signal
class Slow:  # in front of all others: what is imported first of the commands takes long
    def find_spec(self, name, path=None, target=None):
        if name == "jaxpref.commands":
            print("importing", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
from jaxpref import cli
sys.exit(cli.main(["train", "none.py"]))
"""


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [
        (signal.SIGINT, 130, "jaxpref: stopped at once; nothing after the last checkpoint is saved, and the"),
        (signal.SIGTERM, 143, "jaxpref: stopped by SIGTERM; nothing is left to save"),
    ],
)
def test_while_it_still_imports_a_signal_is_one_line(number, status, said):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_IMPORT],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert (process.returncode, output.count("\n")) == (status, 1), output
    assert output.startswith(said)
