"""What a signal asks for: to save and leave, and then to leave at once."""

import os
import signal
from unittest import mock

import pytest
from launch import TINY, here

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
        type(self).asked += 1
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
