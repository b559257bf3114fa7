"""README.md does what it says: its twelve lines run as they stand, its figures have a script."""

import math
import re
import runpy

import jax.numpy as jnp
import numpy as np
import pytest
from launch import TINY, here

from jaxpref.algorithms.inputs import check_loss, inputs_of
from jaxpref.policies.tabular import tabular


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text()


@pytest.fixture(scope="module")
def block(readme):
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S)
    assert len(blocks) == 1, "one Python block, so that it is plain which lines are meant"
    return blocks[0]


def test_the_twelve_lines_are_twelve(readme, block):
    assert "twelve lines" in readme
    assert sum(bool(line.strip()) for line in block.splitlines()) == 12


def test_the_twelve_lines_start_at_log_2_and_learn(readme, block):
    """The losses are noted in the loop with which the block ends; they are what the text below it says."""
    noted = []
    exec(block + "    noted.append(float(loss))\n", {"noted": noted})
    first, last = re.search(r"log 2 = ([\d.]+) at first and ([\d.]+) in the\s+last step", readme).groups()
    assert noted[0] == pytest.approx(math.log(2), abs=1e-6)
    assert noted[0] == pytest.approx(float(first), abs=5e-4)
    assert noted[-1] == pytest.approx(float(last), abs=2e-3)
    assert all(later < earlier for earlier, later in zip(noted[::10], noted[10::10], strict=False))


def test_the_first_screen_has_the_block_and_both_commands(readme):
    screen = "\n".join(readme.splitlines()[:45])
    for line in (
        "losses.dpo(",
        "pip install -e . && jaxpref train experiments/quickstart.py ",
        "pip install -e '.[dev]' && pytest ",
    ):
        assert line in screen, line
    assert len(readme.splitlines()) < 150, "move what a stranger does not need to the page where it belongs"


def test_every_figure_is_small_and_drawn_by_the_script(repository, readme):
    folder = repository / "docs" / "figures"
    script = runpy.run_path(str(folder / "make.py"))
    shown = set(re.findall(r"docs/figures/(\w+)\.png", readme))
    assert shown == set(script["FIGURES"]) == {path.stem for path in folder.glob("*.png")}
    for path in folder.glob("*.png"):
        assert path.stat().st_size < 60_000, path.name
    for _, experiment in script["RUNS"].values():
        assert f"{experiment}`" in readme, f"the caption lacks the command of {experiment}"


def test_the_loss_of_the_how_to_is_one_that_offline_takes(repository):
    blocks = re.findall(
        r"^```python\n(.*?)^```", (repository / "jaxpref/losses/README.md").read_text(), re.M | re.S
    )
    assert len(blocks) == 1
    names = {}
    exec(blocks[0], names)
    loss = names["squared_hinge"]
    check_loss(loss, reference="initial", policy=tabular(prompts=1, vocab=2))
    assert loss.__annotations__["return"].dim_str == "b"
    given = {one.name: jnp.array([-2.0, -3.0]) for one in inputs_of(loss)}
    np.testing.assert_array_equal(loss(**given), [1.0, 1.0])
    np.testing.assert_array_equal(loss(**given | {"chosen_logps": jnp.array([-1.5, 0.0])}), [0.25, 0.0])


def test_the_lines_on_prepared_records_work_in_their_order(repository, tmp_path, monkeypatch):
    """With the tiny experiment in the place of the real one; the second is given again, which resumes."""
    readme = (repository / "jaxpref/data/README.md").read_text()
    block = next(b for b in re.findall(r"^```bash\n(.*?)^```", readme, re.M | re.S) if "jaxpref prepare" in b)
    given = re.findall(r"^jaxpref +(\S.*?)(?: +#.*)?$", block, re.M)
    assert [line.split()[0] for line in given] == ["prepare", "train", "prepare", "train"]
    monkeypatch.chdir(tmp_path)
    lines = [line.replace("experiments/dpo_hh_small.py data_root=DIR", f"{TINY} steps=2") for line in given]
    for line in [*lines, lines[1]]:
        said = here(*line.split())
    assert "sft: done at step 2" in said
    assert (tmp_path / "runs" / "batch" / "report.html").is_file()
