"""``python -m resgrad.gradcheck``: check every gradient of this package, and print a table."""

import sys

from .. import checks
from ..runs import command
from .check import check_gradient, check_hessian
from .report import WRONG


@command.guarded
def main(argv: list[str] | None = None) -> int:
    """Check every loss of every architecture; the exit code is 1 where a gradient is wrong."""
    told = (
        "Check the gradients of every architecture, on samples and in expectation, at a random point, at a kink and at "
        "the teacher, and the Hessian against the gradient. The exit code is 1 where one is wrong."
    )
    parser = command.Parser("gradcheck", told, "--arch modresnet", "--arch li-bias --d 5 --seed 1")
    parser.add_argument("--arch", help="one architecture; default: all")
    parser.add_argument("--d", type=int, default=3, help="input dimension and width (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the teacher, the points and the data")
    options = parser.parse_args(argv)
    d, seed = checks.integer(options.d, "--d"), checks.integer(options.seed, "--seed", 0)
    from ..architectures import ARCHITECTURES, resolve

    archs = [resolve(options.arch)] if options.arch is not None else ARCHITECTURES.values()
    row, doubtful, failed = "{:<16}{:<12}{:<9}{:>7}{:>6}{:>15}  {}", [], False
    command.say(row.format("architecture", "loss", "point", "checked", "kinks", "max rel error", "verdict"))
    for *names, report in (line for arch in archs for line in _reports(arch, d, seed)):
        counts = sum(block.checked for block in report.blocks), len(report.kinks)
        slope = f"; Taylor slope {min(report.taylor_slopes):.2f}" if report.taylor_slopes else ""
        command.say(row.format(*names, *counts, f"{report.max_rel_error:.1e}", report.verdict + slope))
        doubtful += [f"\n{', '.join(names)}: {report}"] * (not report.ok)
        failed |= report.verdict == WRONG
    for text in doubtful:
        command.say(text)
    return int(failed)


def _reports(arch, d, seed):
    """(architecture, loss, point, report) of every check for one architecture."""
    from ..architectures import Network
    from ..draws import dataset, draw, streams
    from ..losses import EmpiricalLoss, OnlineLoss, PopulationLoss

    rng, kind = streams(seed), "normal+normal" if arch.trains_skip else "normal"
    teacher = Network(arch, draw(arch, kind, d, rng=rng.teacher), d)
    theta, data = draw(arch, kind, d, rng=rng.init), dataset(teacher, 20, rng.data)
    about = {"covariance": "power:1", "noise": 0.5}
    batch = OnlineLoss(arch, teacher, **about).batch(20, rng.batches)
    losses = {"empirical": EmpiricalLoss(arch, *data), "online": batch, "population": PopulationLoss(arch, teacher)}
    losses |= {"correlated": PopulationLoss(arch, teacher, **about)}
    for name, loss in losses.items():
        x, kink = getattr(loss, "rows", batch.rows)[0, : d + arch.bias], theta.copy()
        U, W1 = arch.canonical(kink, d)[0], arch.unflatten(kink, d)[0]
        W1[:, 0] -= (x @ U[:, 0]) / (x[:d] @ x[:d]) * x[:d]  # now the first unit's pre-activation vanishes on x
        if d == 1 and not arch.bias:
            W1[:, 0] = -arch.identity  # exactly 0: a unit of 1e-16, which rounding may leave, is no kink
        points = {"random": theta, "kink": kink, "teacher": teacher.theta}
        exact = ["random", "teacher"] + ["kink"] * (d == 1)  # which is no kink, unless a unit vanishes
        wanted = {"online": ["random", "kink"], "population": exact, "correlated": ["random"]}
        for point in wanted.get(name, points):
            # at the teacher every slope is 0, and the Taylor remainders see all of them
            at, some = points[point], 1 if name == "population" and point == "teacher" else None
            report = check_gradient(loss, at, seed=seed, entries=some)
            yield arch.name, name, point, report
            if hasattr(loss, "hessian") and not report.kinks:
                yield arch.name, "Hessian" if name == "population" else "its Hessian", point, check_hessian(loss, at)


if __name__ == "__main__":
    sys.exit(main())
