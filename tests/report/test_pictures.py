"""Drawings that evaluators ask for, from the file that a run leaves to the page."""

import dataclasses
import json

import numpy as np
import pytest
from fake_runs import write_run

from jaxpref.report import write_report
from jaxpref.report.pictures import curves, grid_policy, pictures_section
from jaxpref.report.runs import read_run, read_runs

DATA = {
    "values": [[1.0, 2.0, None], [0.5, 1.5, 2.5]],
    "policy": np.full((2, 3, 4), 0.25).tolist(),
    "marks": [["", "", "+"], ["x", "", ""]],
    "label": "value",
}


def row(step, title="what it does", kind="grid policy", data=DATA):
    return {"stage": "dpo", "step": step, "evaluator": "planned", "title": title, "kind": kind, "data": data}


@pytest.fixture
def run(tmp_path):
    directory = tmp_path / "run"
    write_run(directory, num_steps=20)
    (directory / "pictures.jsonl").write_text("".join(json.dumps(row(s)) + "\n" for s in (0, 400)))
    return directory


def test_the_last_picture_of_each_title_is_drawn(run):
    assert [(p.title, p.step) for p in read_run(run).pictures] == [("what it does", 400)]
    page = write_report([run], run / "report.html").read_text()
    assert "<h3>Pictures</h3>" in page
    assert 'aria-label="what it does"' in page
    assert len(list((run / "report").glob("picture_*.png"))) == 1
    assert pictures_section([read_run(run)], run) in page  # the same bytes again


def test_runs_without_pictures_say_nothing_of_them(run):
    (run / "pictures.jsonl").unlink()
    found = read_run(run)
    assert found.pictures == ()
    assert not any("pictures" in problem for problem in found.problems)
    assert pictures_section([found], run) == ""


def test_what_cannot_be_drawn_is_named(run):
    bad = dataclasses.replace(read_run(run).pictures[0], data={}).data
    lines = [
        row(1, "other", "sculpture"),
        row(1, "empty", data=bad),
        row(1, "odd", data=DATA | {"marks": [[""]]}),
    ]
    (run / "pictures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = pictures_section([read_run(run)], run)
    for title in ("other", "empty", "odd"):
        assert f"{title} (" in page
    assert "could not be drawn" in page


def test_a_grid_shows_arrows_where_it_goes_and_marks_where_it_ends():
    figure = grid_policy("t", DATA | {"policy": np.eye(4)[[[3, 3, 0], [0, 0, 0]]].tolist()})
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.texts] == ["+", "x"]
    arrows = next(c for c in axes.collections if hasattr(c, "U"))
    np.testing.assert_allclose(np.c_[arrows.U, arrows.V][:3], [[0.42, 0], [0.42, 0], [0, -0.42]])
    assert axes.yaxis_inverted()  # so that up in the data is up in the picture
    shown = np.ma.filled(np.ma.asarray(axes.images[0].get_array(), float), np.nan)
    assert np.isnan(shown[0, 2])
    with pytest.raises(ValueError, match="different grids"):
        grid_policy("t", DATA | {"policy": [[[1, 0, 0, 0]]]})


def test_staying_is_a_dot():
    policy = np.zeros((2, 3, 5))
    policy[..., 4] = [[1, 0.5, 0.05], [0, 0, 0]]
    policy[1, :, 0] = 1
    axes = grid_policy("t", DATA | {"policy": policy.tolist()}).axes[0]
    dots = next(c for c in axes.collections if not hasattr(c, "U"))
    np.testing.assert_allclose(dots.get_offsets(), [[0, 0], [1, 0]])
    np.testing.assert_allclose(dots.get_sizes()[1] / dots.get_sizes()[0], 0.5)


LINES = {"lines": {"hard": {"x": [1, 2, 3], "y": [1.0, None, 0.01]}}, "x": "sweep", "y": "change"}


def test_curves_that_fall_towards_0_are_on_a_logarithmic_axis():
    two = LINES["lines"] | {"soft": {"x": [1, 2], "y": [2.0, 0.5]}}
    axes = curves("t", LINES | {"lines": two}).axes[0]
    assert axes.get_yscale() == "log"
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["hard", "soft"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [1, np.nan, 0.01])
    below = {"a": {"x": [0, 1], "y": [-1.0, 1.0]}}
    assert curves("t", LINES | {"lines": below}).axes[0].get_yscale() == "linear"
    with pytest.raises(ValueError, match="a has 1 places and 2 values"):
        curves("t", LINES | {"lines": {"a": {"x": [0], "y": [1.0, 2.0]}}})


def test_what_runs_have_in_common_is_drawn_once(tmp_path):
    runs = [tmp_path / name for name in ("one", "two")]
    for i, directory in enumerate(runs):
        write_run(directory, num_steps=20)
        rows = [
            row(1, "hidden"),
            row(1, "learnt", data=DATA | {"label": f"of {i}"}),
            row(1, "c", "curves", LINES),
        ]
        (directory / "pictures.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    page = pictures_section(read_runs(runs), tmp_path)
    for title, times in (("hidden", 1), ("c", 1), ("one: learnt", 1), ("two: learnt", 1), ("one: hidden", 0)):
        assert page.count(f'aria-label="{title}"') == times
