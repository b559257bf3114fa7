"""The experiments at full size fit the machines that they are meant for: recorded plans, compiled again.

`JAXPREF_WRITE_GOLDEN=1 pytest -m exhaustive tests/aot/test_full_size_plans.py` records them anew. They are
quick ones (`jaxpref plan --quick`), whose temporaries are a few per cent above those of a run.
"""

import os
import pathlib
import re
import shlex

import pytest
from launch import run

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "plans"
LLAMA = "prompt_length=2048 response_length=2048 --stage dpo --only step"
PLANS = {
    "dpo_hh": "dpo_hh.py --topology v5e:4x4 --stage dpo",
    "dpo_hh_8b": f"dpo_hh.py model=llama3_1_8b --topology v5p:4x4x4 {LLAMA}",
    "dpo_hh_70b": "dpo_hh.py model=llama3_1_70b batch_size=128 --topology v5p:4x8x8 --mesh fsdp=64,tensor=4 "
    + LLAMA,
    "nash_md_tldr": "nash_md_tldr.py --topology v5e:4x4 --stage nash",
    "pm_tldr": "pm_tldr.py --topology v5e:4x4",
}


def _told(text: str) -> list[tuple[list[float], list[str]]]:
    """Of each stage: GiB in all, and the verdict, of its programs."""
    lines = text.splitlines()
    totals = [[float(x) for x in line.split()[1:]] for line in lines if re.match(r"\s+total ", line)]
    after = [lines[i + 1] for i, line in enumerate(lines) if re.match(r"\s+total ", line)]
    return [(t, re.findall(r"fits|too much|does not fit", v)) for t, v in zip(totals, after, strict=True)]


@pytest.mark.exhaustive
@pytest.mark.needs_libtpu
@pytest.mark.parametrize("name", PLANS)
def test_a_full_size_experiment_fits(name):
    command = f"plan experiments/{PLANS[name]} --quick"
    text = f"$ jaxpref {command}\n{run(*shlex.split(command))}"
    text = re.sub(r"^\S+: .* compiled in \d+ s\n", "", text, flags=re.M)
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("JAXPREF_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    recorded, now = _told(path.read_text()), _told(text)
    assert len(recorded) == len(now) > 0
    for (before, verdicts), (after, same) in zip(recorded, now, strict=True):
        assert verdicts == same
        assert set(same) == {"fits"}
        # What a change of the compiler or of a few lines may move; more is worth a look and a new record.
        assert after == pytest.approx(before, rel=0.05, abs=0.05)
