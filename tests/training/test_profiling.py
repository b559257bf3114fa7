"""`profile=`: which steps, on which stage, where the trace lies, and what cannot be."""

import pathlib

import pytest
from launch import TINY, here, rows

from jaxpref.training.profiling import Window, window_of


def test_what_profile_says():
    assert window_of("100:3") == Window(None, 100, 3)
    assert window_of("dpo-2:0:1") == Window("dpo-2", 0, 1)


@pytest.mark.parametrize("text", ["", "3", "3:", "-1:2", "1:0", "a:b", "dpo:1", "1:2:3:4", "dpo:1:2:3"])
def test_what_it_cannot_say(text):
    with pytest.raises(ValueError, match=r"expected FIRST:COUNT or STAGE:FIRST:COUNT"):
        window_of(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ppo:1:1", "there is no stage 'ppo'; there are sft, dpo"),
        ("3:2", "steps 3 to 4 are in no stage (sft has 4, dpo has 4; the first step is 0)"),
        ("now", "expected FIRST:COUNT"),
    ],
)
def test_a_window_that_no_stage_has_is_one_clear_error(tmp_path, given, message):
    common = ["train", TINY, "steps=4", "evaluators=False", f"workdir={tmp_path / 'run'}"]
    assert message in here(*common, f"profile={given}", expect=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive  # nightly runs it; what it is made of has tests of its own
def test_a_trace_of_the_named_steps_changes_nothing(tmp_path):
    common = ["train", TINY, "steps=4", "evaluators=False", "--no-report"]
    plain = here(*common, f"workdir={tmp_path / 'plain'}")
    traced = here(*common, f"workdir={tmp_path / 'traced'}", "profile=dpo:2:2")
    folder = tmp_path / "traced" / "profile" / "dpo-2"
    assert f"dpo: profile of steps 2 to 3 in {folder}" in traced
    assert "profile" not in plain
    assert [p.name for p in (tmp_path / "traced" / "profile").iterdir()] == ["dpo-2"]
    (trace,) = (folder / "process-0").rglob("*.xplane.pb")
    content = pathlib.Path(trace).read_bytes()
    assert b"dpo" in content
    assert rows(tmp_path / "traced") == rows(tmp_path / "plain")
    again = here(*common, f"workdir={tmp_path / 'traced'}", "profile=dpo:2:2")
    assert "no trace of steps 2 to 3: this session does steps 4 to 3" in again
