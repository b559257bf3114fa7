"""The numbers behind the page: intervals of changes, smoothing, thinning, choice of values."""

import json
import math
import pathlib
import re

import jinja2
import numpy as np
import pytest
from fake_runs import write_run

from jaxpref import report
from jaxpref.report.configuration import differences
from jaxpref.report.figures import slug
from jaxpref.report.intervals import change
from jaxpref.report.markup import interval, seconds, value
from jaxpref.report.results import ends
from jaxpref.report.runs import Evaluation, read_run, read_runs
from jaxpref.report.series import Curve, panels, smooth, thin
from jaxpref.report.template import environment
from jaxpref.report.timing import timing_section


def evaluation(mean, low, high, better="higher"):
    return Evaluation("dpo", 0, "checker", "accuracy", mean, low, high, 100, better)


def test_change_reproduces_newcombes_published_interval():
    """Newcombe 1998, table II, example (a): 56/70 - 48/80 with Wilson intervals gives [0.0524, 0.3339]."""
    wilson = {"first": (0.8, 0.6921, 0.8771), "second": (0.6, 0.4905, 0.7004)}
    result = change(evaluation(*wilson["second"]), evaluation(*wilson["first"]))
    assert result.difference == pytest.approx(0.2)
    assert result.low == pytest.approx(0.0524, abs=5e-4)
    assert result.high == pytest.approx(0.3339, abs=5e-4)


@pytest.mark.parametrize(
    ("before", "after", "better", "verdict"),
    [
        (0.5, 0.8, "higher", "better"),
        (0.8, 0.5, "higher", "worse"),
        (0.8, 0.5, "lower", "better"),
        (0.8, 0.5, "", "changed"),
        (0.5, 0.55, "higher", "unclear"),
    ],
)
def test_verdict(before, after, better, verdict):
    sides = [evaluation(m, m - 0.05, m + 0.05, better) for m in (before, after)]
    assert change(*sides).verdict == verdict


def test_no_interval_no_verdict():
    assert change(evaluation(0.1, math.nan, math.nan), evaluation(0.9, 0.8, 1.0)).verdict == ""


def test_smoothing_keeps_a_line_and_lowers_noise():
    random = np.random.default_rng(0)
    line = np.linspace(3.0, 1.0, 500)
    noisy = line + random.normal(0, 0.2, 500)
    smoothed = smooth(noisy)
    assert smoothed is not None
    assert np.abs(smoothed - line).max() < 0.2
    assert np.std(smoothed - line) < 0.25 * np.std(noisy - line)
    assert abs((smoothed - line).mean()) < 0.02  # a trailing mean would lie 0.05 above
    zigzag = line + 0.1 * (-1.0) ** np.arange(500)  # no noise left: the ends must be hit, too
    np.testing.assert_allclose(smooth(zigzag)[[0, -1]], [3.0, 1.0], atol=0.02)


def test_smoothing_skips_holes_and_what_needs_none():
    random = np.random.default_rng(0)
    values = random.normal(2, 0.1, 200)
    values[[0, 50, 51]] = np.nan
    smoothed = smooth(values)
    assert smoothed is not None
    np.testing.assert_array_equal(np.isnan(smoothed), np.isnan(values))
    assert np.nanmax(np.abs(smoothed - 2)) < 0.1
    assert smooth(np.linspace(0, 1, 300)) is None
    assert smooth(random.normal(size=10)) is None
    assert smooth(np.full(300, np.nan)) is None


def test_thinning_keeps_ends_spikes_and_holes():
    values = np.sin(np.arange(20_000) / 900)
    values[7_777], values[13_131] = 40.0, np.nan
    thinned = thin(Curve(np.arange(20_000), values), points=400)
    assert len(thinned.steps) < 600
    assert thinned.steps[0] == 0
    assert thinned.steps[-1] == 19_999
    assert np.nanmax(thinned.values) == 40.0
    assert np.isnan(thinned.values).sum() == 1
    assert (np.diff(thinned.steps) > 0).all()


def test_panels_pair_chosen_with_rejected_and_put_health_last(tmp_path):
    run = read_run(write_run(tmp_path / "run", num_steps=5))
    titles = [panel.title for panel in panels([run]) if panel.stage == "dpo"]
    assert titles[:5] == [
        "loss",
        "rewards/accuracies",
        "rewards/margins",
        "rewards/chosen and rejected",
        "logps/chosen and rejected",
    ]
    assert set(titles[5:]) == {
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "tokens_per_second",
        "mfu",
    }


def test_before_is_the_start_of_the_last_stage_or_the_end_of_the_one_before(tmp_path):
    directory = write_run(tmp_path / "run", num_steps=10)
    before, after = ends(read_run(directory), ("checker", "accuracy"))
    assert before is not None
    assert after is not None
    assert (before.stage, before.step, after.stage, after.step) == ("dpo", 0, "dpo", 10)
    lines = (directory / "evaluations.jsonl").read_text().splitlines()
    (directory / "evaluations.jsonl").write_text("\n".join(lines[:3]) + "\n")
    before, after = ends(read_run(directory), ("checker", "accuracy"))
    assert before is not None
    assert after is not None
    assert (before.stage, before.step, after.stage, after.step) == ("sft", 10, "dpo", 0)


def test_steps_repeated_by_a_resumed_run_count_once_and_pauses_are_not_work(tmp_path):
    directory = write_run(tmp_path / "run", num_steps=10)
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    again = [json.loads(line) for line in lines[-4:]]
    for row in again:
        row |= {"time": row["time"] + 7200, "loss": 9.0}
    with (directory / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in again)
    run = read_run(directory)
    assert len(run.metrics) == len(lines)
    assert run.metrics[-1]["loss"] == 9.0
    assert "and 2 h 00 min between sittings" in timing_section([run])


def test_unreadable_lines_are_counted(tmp_path):
    directory = write_run(tmp_path / "run", num_steps=5)
    file = directory / "metrics.jsonl"
    lines = file.read_text().splitlines()
    lines[2:2] = ["{broken", '"a string"', '{"stage": "dpo"}', '{"stage": "dpo", "step": "3"}']
    file.write_text("\n".join(lines) + "\n")
    (problem,) = read_run(directory).problems
    assert problem == "metrics.jsonl: 4 lines could not be read and left out (line 3, 4, 5, 6)."


def test_labels_tell_runs_apart(tmp_path):
    same = [write_run(tmp_path / group / "run", num_steps=2) for group in ("a", "b")]
    assert [run.label for run in read_runs(same)] == ["a/run", "b/run"]
    other = write_run(tmp_path / "c", name="other", num_steps=2)
    assert [run.label for run in read_runs([same[0], other])] == ["quickstart", "other"]


def test_differences_name_leaves_that_only_one_run_has(tmp_path):
    first, second = (write_run(tmp_path / name, num_steps=2) for name in ("a", "b"))
    experiment = json.loads((second / "experiment.json").read_text())
    experiment["config"]["policy"]["size"]["layers"] = 6
    experiment["config"]["policy"]["window"] = None
    (second / "experiment.json").write_text(json.dumps(experiment))
    assert differences(read_runs([first, second])) == [
        ("policy.size.layers", ["4", "6"]),
        ("policy.window", ["(not there)", "null"]),
    ]


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0.5964, "0.596"),
        (0, "0"),
        (None, "–"),
        (math.nan, "–"),
        (-math.inf, "-∞"),
        (4.314, "4.31"),
        (12.34, "12.3"),
        (1234.5, "1,234"),
        (3e-5, "3.00e-05"),
        (-2.5e9, "-2.50e+09"),
    ],
)
def test_value(number, shown):
    assert value(number) == shown


def test_small_parts_of_the_page():
    assert interval(0.1, 0.25) == "[0.100, 0.250]"
    assert interval(-0.1, 0.25, sign=True) == "[-0.100, +0.250]"
    assert interval(math.nan, 1.0) == ""
    assert [seconds(s) for s in (4.2, 48, 200, 7500)] == ["4.2 s", "48 s", "3 min 20 s", "2 h 05 min"]
    assert slug("dpo_rewards/chosen and rejected") == "dpo_rewards_chosen_and_rejected"
    assert slug("é") != slug("è")


def test_templates_escape_what_they_show_and_show_text_and_numbers_only():
    shown = environment().from_string("{{ x }}").render
    assert shown(x='<a href="x">&\r\n\t\x07') == "&lt;a href=&#34;x&#34;&gt;&amp;\n\t␇"
    assert shown(x=0.5) == "0.5"
    with pytest.raises(TypeError, match="not None"):
        shown(x=None)
    with pytest.raises(jinja2.UndefinedError):
        shown(y=1)


def test_html_is_in_templates_alone():
    """Else some of it would be put together, and escaped, by hand."""
    folder = pathlib.Path(report.__file__).parent
    sources = {file.name: file.read_text() for file in folder.glob("*.py")}
    tags = {
        name
        for name, source in sources.items()
        if re.search(r"</?(p|h\d|div|table|td|li|span|pre)\b", source)
    }
    assert tags == set()
    marked = {name for name, source in sources.items() if re.search(r'Markup\((?!"")', source)}
    assert marked == {"template.py", "figures.py", "page.py"}
    assert not any("html.escape" in source for source in sources.values())
