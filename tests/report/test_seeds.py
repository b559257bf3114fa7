"""Runs that differ in their seed alone are one line: grouping, spread, labels, and the page."""

import json
import math
import re

import numpy as np
import pytest
from fake_runs import write_run
from test_report_page import Page

from jaxpref.labels import labels
from jaxpref.report import write_report
from jaxpref.report.frontier import points
from jaxpref.report.intervals import change
from jaxpref.report.results import ends, evaluation_table, held_out_table
from jaxpref.report.runs import read_runs
from jaxpref.report.seeds import lines, members, spread
from jaxpref.report.series import curve

ACCURACY = ("checker", "accuracy")


def sweep(folder, seeds=3, steps=10):
    """Two betas, all called the same, as a sweep over a loss's strength leaves them."""
    return [
        write_run(
            folder / f"{i}-run",
            beta=beta,
            seed=seed,
            num_steps=steps,
            brief=True,
            final_accuracy=best + 0.03 * seed,
        )
        for i, (beta, best, seed) in enumerate(
            (b, a, s) for b, a in ((0.1, 0.7), (0.3, 0.8)) for s in range(seeds)
        )
    ]


def test_spread_is_students_of_three_the_range_of_two_and_none_of_one():
    values = np.array([[1.0, 2.0, 5.0], [2.0, 4.0, np.nan], [4.5, np.nan, np.nan]])
    mean, low, high = spread(values)
    half = 4.302653 * values[:, 0].std(ddof=1) / math.sqrt(3)
    assert mean == pytest.approx([2.5, 3.0, 5.0])
    assert (low[0], high[0]) == pytest.approx((2.5 - half, 2.5 + half))
    assert (low[1], high[1]) == (2.0, 4.0)
    assert np.isnan([low[2], high[2]]).all()
    assert np.isnan(spread(np.ones((3, 1)))[1]).all(), "seeds that agree have no spread to show"


def test_runs_that_differ_only_in_seed_are_one_line_of_means(tmp_path):
    drawn = lines(read_runs(sweep(tmp_path)))
    assert [line.label for line in drawn] == ["beta=0.1 (3 seeds)", "beta=0.3 (3 seeds)"]
    assert [run.label for run in members(drawn)][:2] == ["beta=0.1, seed=0", "beta=0.1, seed=1"]
    _, final = ends(drawn[0], ACCURACY)
    assert final is not None
    assert final.mean == pytest.approx(0.73)
    half = 4.302653 * 0.03 / math.sqrt(3)
    assert (final.low, final.high) == pytest.approx((0.73 - half, 0.73 + half))
    assert final.size == "3 seeds of 200"
    loss = curve(drawn[1], "dpo", "loss", "train")
    each = [curve(run, "dpo", "loss", "train") for run in drawn[1].seeds]
    assert loss is not None
    assert all(line is not None for line in each)
    stacked = np.stack([line.values for line in each if line is not None])
    np.testing.assert_allclose(loss.values, stacked.mean(0))
    assert loss.high is not None
    np.testing.assert_allclose(loss.high, spread(stacked)[2])


def test_two_seeds_show_their_range_and_claim_nothing(tmp_path):
    (line,) = lines(read_runs(sweep(tmp_path, seeds=2)[:2]))
    before, after = ends(line, ACCURACY)
    assert before is not None
    assert after is not None
    assert (after.low, after.high) == pytest.approx((0.7, 0.73))
    moved = change(before, after)
    assert (moved.low, moved.high) == pytest.approx((0.09, 0.12))
    assert moved.verdict == ""


def test_a_change_over_seeds_is_that_of_each_seed(tmp_path):
    (line,) = lines(read_runs(sweep(tmp_path)[:3]))
    before, after = ends(line, ACCURACY)
    assert before is not None
    assert after is not None
    moved = change(before, after)
    half = 4.302653 * 0.03 / math.sqrt(3)
    assert (moved.difference, moved.low) == pytest.approx((0.12, 0.12 - half))
    assert moved.verdict == "better"


def test_the_same_seed_twice_is_not_two_seeds(tmp_path):
    runs = [write_run(tmp_path / name / "run", num_steps=2, brief=True) for name in ("a", "b")]
    drawn = lines(read_runs(runs))
    assert [line.label for line in drawn] == ["a/run", "b/run"]
    assert not any(line.seeds for line in drawn)


def test_a_seed_that_was_stopped_early_is_left_out_where_it_has_nothing(tmp_path):
    runs = sweep(tmp_path)[:3]
    rows = (runs[2] / "evaluations.jsonl").read_text().splitlines()
    (runs[2] / "evaluations.jsonl").write_text("\n".join(rows[:3]) + "\n")  # up to the beginning of dpo
    (line,) = lines(read_runs(runs))
    _, final = ends(line, ACCURACY)
    assert final is not None
    assert final.size == "2 seeds of 200"
    assert (final.low, final.high) == pytest.approx((0.7, 0.73))


def test_metrics_of_a_seed_that_was_stopped_early_are_left_out_where_it_has_none(tmp_path):
    runs = sweep(tmp_path)[:3]
    rows = [json.loads(line) for line in (runs[2] / "metrics.jsonl").read_text().splitlines()]
    kept = [row for row in rows if row["stage"] == "sft" or (row["step"] <= 4 and row["split"] == "train")]
    for run, more in zip(runs, (rows, rows, kept), strict=True):
        at = {"stage": "dpo", "split": "eval", "loss": 0.5 if more is rows else 0.693}
        more = [*more, *(at | {"step": step} for step in ((0, 100) if more is rows else (0,)))]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in more))
    (line,) = lines(read_runs(runs))
    loss = curve(line, "dpo", "loss", "train")
    assert loss is not None
    assert loss.counts is not None
    assert loss.high is not None
    assert loss.steps.tolist() == list(range(1, 11))
    assert loss.counts.tolist() == [3] * 4 + [2] * 6
    assert np.isfinite(loss.values).all()
    held_out = Page(str(held_out_table([line]))).text
    assert "0.500" in held_out
    assert "n = 2 seeds" in held_out
    assert "0.693" not in held_out


def test_seeds_without_a_step_in_common_are_still_a_curve(tmp_path):
    runs = sweep(tmp_path, seeds=2)[:2]
    for step, run in enumerate(runs):
        row = {"stage": "dpo", "step": step, "split": "train", "loss": float(step)}
        (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    (line,) = lines(read_runs(runs))
    loss = curve(line, "dpo", "loss", "train", smoothed=True)
    assert loss is not None
    assert (loss.steps.tolist(), loss.values.tolist()) == ([0, 1], [0.0, 1.0])
    assert loss.counts is not None
    assert loss.counts.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("field", "values"), [("code", ({}, {"my.loss": "ab12"})), ("tokenizer", ("aa", "bb"))]
)
def test_runs_of_other_code_or_tokenizer_are_no_seeds_of_one_another(tmp_path, field, values):
    runs = sweep(tmp_path, seeds=2)[:2]
    for run, value in zip(runs, values, strict=True):
        recorded = json.loads((run / "experiment.json").read_text()) | {field: value}
        (run / "experiment.json").write_text(json.dumps(recorded))
    drawn = lines(read_runs(runs))
    assert len(drawn) == 2
    assert not any(line.seeds for line in drawn)


def test_the_range_of_two_seeds_marks_nothing_and_is_no_limit_in_the_frontier(tmp_path):
    found = {}
    for seeds in (2, 3):
        runs = sweep(tmp_path / str(seeds), seeds=seeds)
        for index, run in enumerate(runs):
            for row in ("", "kl"):
                metric = {"mean": 0.7 + 0.1 * (index % seeds) + 0.01 * (index // seeds), "better": "higher"}
                entry = {"stage": "dpo", "step": 10, "evaluator": "checker", "metrics": {f"a{row}": metric}}
                with (run / "evaluations.jsonl").open("w" if not row else "a") as file:
                    file.write(json.dumps(entry) + "\n")
        drawn = lines(read_runs(runs))
        (point,) = points(drawn[0], ("checker", "akl"), ("checker", "a"))
        marks = str(evaluation_table(drawn)).count("≈") - 1  # the note explains it
        found[seeds] = marks, bool(np.isfinite(point.score.low))
    assert found == {2: (0, False), 3: (2, True)}


def test_a_share_of_several_seeds_stays_between_0_and_1(tmp_path):
    runs = sweep(tmp_path)[:3]
    for run, accuracy in zip(runs, (0.90, 0.98, 1.0), strict=True):
        metric = {"mean": accuracy, "low": 0.8, "high": 1.0, "count": 40, "clusters": None, "share": True}
        row = {"stage": "dpo", "step": 10, "evaluator": "checker", "metrics": {"accuracy": metric}}
        (run / "evaluations.jsonl").write_text(json.dumps(row) + "\n")
    (line,) = lines(read_runs(runs))
    assert line.evaluations[0].high == 1.0
    assert line.evaluations[0].low == pytest.approx(0.96 - 4.302653 * 0.0529150 / math.sqrt(3), abs=1e-6)


def test_page_of_a_sweep_has_a_line_for_each_setting(tmp_path):
    runs = sweep(tmp_path)
    for i, run in enumerate(runs):
        experiment = json.loads((run / "experiment.json").read_text())
        session = {
            "started": f"2026-11-30T20:1{i}:00+00:00",
            "commit": "0123456789abcdef",
            "uncommitted": i == 0,
        }
        experiment["sessions"] = [session | {"host_cpu": "Some CPU", "host_cores": 2}]
        (run / "experiment.json").write_text(json.dumps(experiment))
    source = write_report(runs, tmp_path / "out" / "report.html").read_text()
    text = Page(source).text
    legends = re.findall(r'<ul class="legend">(.*?)</ul>', source)
    assert legends
    assert all(
        re.findall(r"</span>([^<]*)</li>", x) == [f"beta={b} (3 seeds)" for b in (0.1, 0.3)] for x in legends
    )
    assert "6 runs: beta=0.1 (3 seeds), beta=0.3 (3 seeds)" in text
    assert "2026-11-30 20:10 UTC to 2026-11-30 20:15 UTC" in text
    assert "commit 0123456789ab with uncommitted changes, 0123456789ab" in text
    assert "8 x cpu, host Some CPU, 2 cores" in text
    assert "n = 3 seeds of 200" in text
    assert "Runs that differ only in their seed are one line" in text
    assert text.count("beta=0.3, seed=2") >= 2  # time and sources are of each run
    bands = (tmp_path / "out" / "report" / "dpo_loss.png").read_bytes()
    assert bands.startswith(b"\x89PNG")
    loss = source[source.index('aria-label="loss in stage dpo"') :]
    assert loss[: loss.index("</figure>")].count("FillBetweenPolyCollection") == 2


def test_runs_from_before_date_and_commit_were_recorded_show_none(tmp_path):
    text = Page(write_report(sweep(tmp_path)[:1], tmp_path / "report.html").read_text()).text
    assert "on 8 x cpu" in text
    assert "commit" not in text
    assert "UTC" not in text


@pytest.mark.parametrize(
    ("leaves", "named"),
    [
        ([{"a.loss.beta": 0.1, "b": 1}, {"a.loss.beta": 0.3, "b": 1}], ["beta=0.1", "beta=0.3"]),
        # Of two functions, the arguments that only one has say nothing more.
        (
            [
                {"s.loss.function": "x.losses.dpo", "s.loss.beta": 0.1},
                {"s.loss.function": "x.losses.ipo", "s.loss.tau": 0.1},
            ],
            ["loss=dpo", "loss=ipo"],
        ),
        # Unless the function alone leaves two of them with one label.
        (
            [
                {"s.loss.function": "x.losses.dpo", "s.loss.beta": 0.1},
                {"s.loss.function": "x.losses.ipo", "s.loss.tau": 0.1},
                {"s.loss.function": "x.losses.dpo", "s.loss.beta": 0.5},
            ],
            ["loss=dpo, beta=0.1", "loss=ipo", "loss=dpo, beta=0.5"],
        ),
        # A function in one, null in another.
        ([{"a.mask.function": "x.mask", "a.mask.size": 2}, {"a.mask": None}], ["mask=mask", "mask=null"]),
        ([{"f.function": "x.one.dpo"}, {"f.function": "x.two.dpo"}], ["f=one.dpo", "f=two.dpo"]),
        # Of a function the module is left out, of a file the folder, of neither what tells two apart.
        ([{"path": "a.jsonl"}, {"path": "b.jsonl"}], ["path=a.jsonl", "path=b.jsonl"]),
        ([{"m": "a.model"}, {"m": "b.model"}], ["m=a.model", "m=b.model"]),
        ([{"path": "/data/a.jsonl"}, {"path": "/data/b.jsonl"}], ["path=a.jsonl", "path=b.jsonl"]),
        ([{"path": "/one/a.jsonl"}, {"path": "/two/a.jsonl"}], ["path=one/a.jsonl", "path=two/a.jsonl"]),
        ([{"a": "1"}, {"a": 1}], ['a="1"', "a=1"]),
        # The last parts that tell two paths apart.
        (
            [{"sft.rate": 1, "dpo.rate": 1}, {"sft.rate": 2, "dpo.rate": 1}, {"sft.rate": 1, "dpo.rate": 2}],
            ["sft.rate=1, dpo.rate=1", "sft.rate=2, dpo.rate=1", "sft.rate=1, dpo.rate=2"],
        ),
        # One knob that moves several leaves is one setting.
        (
            [
                {"s.num_steps": 5, "s.a.schedule.num_steps": 5},
                {"s.num_steps": 9, "s.a.schedule.num_steps": 9},
            ],
            ["num_steps=5", "num_steps=9"],
        ),
        ([{"a": None}, {}], ["a=null", "a=(not there)"]),
        ([{"a": "b 0.5"}, {"a": "some words."}], ["a=b 0.5", "a=some words."]),
        ([{"a": 1}, {"a": 1}], ["", ""]),
    ],
)
def test_labels_say_what_differs_and_no_more(leaves, named):
    assert labels(leaves) == named
