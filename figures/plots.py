"""What `resgrad.plots` draws: a run into a spurious minimum, its units, the Hessian there, and a census."""

import resgrad as rg
from resgrad.runs import plots

D, RUNS, STEPS = 10, 300, 3000


def draw():
    found = rg.census("vanilla", d=D, runs=RUNS, seed=0)
    run = found.families[0]["run"] if found.families else 0
    teacher = rg.Network("vanilla", rg.draw("vanilla", "identity", D), D)
    loss = rg.PopulationLoss("vanilla", teacher)
    start = rg.draw("vanilla", "normal", D, rng=rg.streams(0, run).init)
    trajectory = rg.train(loss, start, rg.SGD(0.05), STEPS)
    aligned = rg.align("vanilla", found.theta[run], teacher.theta, D)
    spectrum = rg.spectrum(loss, found.theta[run])
    color = plots.COLORS["vanilla"]
    with plots.figure(2, height=2 * plots.TALL, rows=2) as (picture, ((history, units), (eigenvalues, outcomes))):
        plots.losses(history, {"step": trajectory.steps, "loss": trajectory.loss}, color)
        plots.overlaps(units, aligned.overlaps, aligned.order)
        plots.eigenvalues(eigenvalues, spectrum.eigenvalues, spectrum.predicted, color, spectrum.index)
        plots.outcomes(outcomes, found, found.labels)
        history.set(title="history(run)", ylabel="loss")
        units.set_title("units(network, teacher)")
        eigenvalues.set(title="spectrum(found)", ylabel="|eigenvalue|")
        outcomes.set_title("census(found)")
        return picture
