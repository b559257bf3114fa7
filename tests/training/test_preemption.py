"""What a signal asks for: to save and leave, and then to leave at once."""

import os
import signal
from unittest import mock

import pytest
from launch import TINY, here

from jaxpref.training.preemption import Preemption


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_first_signal_asks(number, status, capfd):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    with Preemption() as preemption:
        assert not preemption.reached(1)
        os.kill(os.getpid(), number)
        assert preemption.reached(2)
        assert preemption.status == status
        assert ("Ctrl-C again" in capfd.readouterr().err) == (number == signal.SIGINT)
        if number == signal.SIGINT:
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    assert {n: signal.getsignal(n) for n in before} == before


class Impatient(Preemption):
    """Ctrl-C comes in the third step of the run, as often as `times`."""

    times = 1
    asked = 0

    def reached(self, step: int) -> bool:
        type(self).asked += 1
        if type(self).asked == 3:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)
        return super().reached(step)


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
    with mock.patch("jaxpref.training.run.Preemption", Impatient):
        assert said in here(*common, f"workdir={tmp_path}", expect=130)
    assert [p.name for p in (tmp_path / "checkpoints" / "sft").iterdir() if p.name.isdigit()] == saved
