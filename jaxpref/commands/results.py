"""Commands on what was trained, and on what is to be."""

import dataclasses
import json
import shlex

from jaxpref import config
from jaxpref.assignments import written
from jaxpref.commands.opening import Options, load, ready, say_changes
from jaxpref.paths import AnyPath, as_path
from jaxpref.training import distributed, sharding
from jaxpref.training.collect import compiled_evaluation
from jaxpref.training.evaluation import evaluations, held_out_loader, held_out_pass, summary
from jaxpref.training.params import started_from, trained_params
from jaxpref.training.references import check_reference
from jaxpref.training.run import open_run
from jaxpref.training.state import trained_state

__all__ = ["describe", "evaluate", "page_about", "report"]


def evaluate(options: Options) -> int:
    distributed.initialize()
    experiment, workdir, own = load(options)
    experiment = ready(experiment, own, options)
    run = open_run(experiment, workdir, other_base=options.other_base)
    say_changes(run)
    stage = next((s for s in experiment.stages if s.name == options.stage), experiment.stages[-1])
    loader = held_out_loader(run, stage)
    params = trained_params(run, stage=options.stage, step=options.step)
    algorithm = stage.build(run.policy)
    if algorithm.recorded_reference:
        check_reference(run, stage, algorithm, started_from(run, stage.name))
    # Params of an earlier stage, where this one has none yet.
    state = trained_state(run, stage, algorithm, options.step)
    step = int(sharding.fetch(state.step))  # what is drawn is what the run itself drew there
    state = dataclasses.replace(state, params=params)
    for evaluation in evaluations(run, stage, step, algorithm, state):
        run.files.log(summary(evaluation))
    if loader is not None:
        function = compiled_evaluation(algorithm, run.mesh, seed=experiment.seed, stage=stage.name)
        for name, value in held_out_pass(function, state, loader, run.mesh, step).items():
            run.files.log(f"held out  {name:24s} {value:.5g}")
    return 0


def describe(options: Options) -> int:
    experiment, _, _ = load(options)
    description = config.describe(experiment)
    if options.flat:
        for path, value in config.settable(experiment).items():
            print(shlex.quote(f"{path}={written(value)}"))
    else:
        print(json.dumps(description, indent=2))
    return 0


def report(options: Options) -> int:
    directories = [as_path(d) for d in options.directories]
    page = as_path(options.out) if options.out else directories[0] / "report.html"
    if page.is_dir():
        raise ValueError(f"--out {page} is a folder; name the page, such as {page / 'report.html'}")
    print(page_about(directories, page))
    return 0


def page_about(directories: list[AnyPath], page: AnyPath) -> AnyPath:
    from jaxpref.report import write_report  # matplotlib takes a second to import

    return write_report(directories, page)
