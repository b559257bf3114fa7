"""Draws the figures of README.md anew: `python docs/figures/make.py`, about five minutes on 2 CPU cores.

Trains what is not yet trained in `runs/` (or the folder that is given) and takes figures of the reports,
which are PNGs in all colours. Here they have 64, which cannot be told apart and take a third of the room.
"""

import pathlib
import subprocess
import sys

from PIL import Image

HERE = pathlib.Path(__file__).parent
# Run folder -> the command that fills it.
RUNS = {
    "quickstart": ("train", "experiments/quickstart.py"),
    "nash_md-sweep": ("sweep", "experiments/nash_md_games.py:sweep_dynamics"),
    "trex_linear_2_100": ("train", "experiments/trex_gridworld.py"),
}
# Figure -> PNGs of reports, which stand side by side in it.
FIGURES = {
    "quickstart": ["quickstart/report/dpo_rewards_accuracies.png"],
    "dynamics": ["nash_md-sweep/report/game_duality_gap.png"],
    "rewards": [
        f"trex_linear_2_100/report/picture_0_ranking_recovery_{which}.png" for which in ("hidden", "learnt")
    ],
}


def main(runs: pathlib.Path) -> None:
    for folder, (command, experiment) in RUNS.items():
        subprocess.run(
            ["jaxpref", command, experiment, f"workdir={runs / folder}"], cwd=HERE.parents[1], check=True
        )
    for name, files in FIGURES.items():
        parts = [Image.open(runs / file).convert("RGB") for file in files]
        whole = Image.new("RGB", (sum(p.width for p in parts), max(p.height for p in parts)), "white")
        for i, part in enumerate(parts):
            whole.paste(part, (sum(p.width for p in parts[:i]), 0))
        whole.quantize(64).save(HERE / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "runs").resolve())
