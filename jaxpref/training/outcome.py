"""How a command ends: its exit status, what is said of it, and the other processes of the job."""

import os
import sys
import traceback
from collections.abc import Callable

from jaxpref.training.job import current
from jaxpref.training.preemption import Stopped, listening, said

__all__ = ["STATUS", "Mistake", "ended"]

# Not 0 for what was stopped, although it was saved: whoever starts a job again (Kubernetes, a script under
# Slurm) takes 0 for a run that is done.
STATUS = """\
exit status: 0 done; 2 a mistake, said in one line; 3 a loss or gradient was not finite; 4 another process
of the job is missing; 143 or 130 stopped by SIGTERM or Ctrl-C, with what there was to save saved (the same
command goes on). After 4, 130 and 143 start the same command again."""

# What a user's mistake raises.
Mistake = (ValueError, ImportError, OSError)


def ended(command: Callable[[], int], *, trains: Callable[[], bool]) -> int:
    """Runs a command, says how it ended if it was not done, and returns its exit status, as `STATUS` has it.

    trains: whether it was one that goes on from a checkpoint.
    """
    try:
        with listening():
            status, message = _outcome(command, trains)
            if status:
                current().ended(status, message)
                print(f"jaxpref: {message}", file=sys.stderr, flush=True)
                current().leave(status)
            return status
    except (Stopped, KeyboardInterrupt):  # while it was leaving
        return 130


def _outcome(command: Callable[[], int], trains: Callable[[], bool]) -> tuple[int, str]:
    try:
        return command(), ""
    except Mistake as error:
        if os.environ.get("JAXPREF_TRACEBACK"):
            if current().count == 1:
                raise
            return 2, traceback.format_exc()  # the others are told
        return 2, f"error: {' '.join(str(error).split()) or type(error).__name__}"
    except Exception as error:
        known = _known(error)
        if known is not None:
            return known
        if current().count == 1:
            raise  # a defect: the traceback is wanted
        return 1, f"{traceback.format_exc()}{type(error).__name__}: {error}"
    except Stopped as stop:
        return 128 + stop.number, said(stop.number)
    except KeyboardInterrupt:
        again = "; nothing after the last checkpoint is saved, and the same command goes on from there"
        return 130, f"stopped at once{again if trains() else ''}"


def _known(error: Exception) -> tuple[int, str] | None:
    """Of the loop, which is imported by the time that it raises something."""
    from jaxpref.training.loop import Interrupted
    from jaxpref.training.progress import NonFiniteError

    if isinstance(error, Interrupted):
        return error.status, str(error)
    return (3, f"not finite: {error}") if isinstance(error, NonFiniteError) else None
