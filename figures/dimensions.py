"""The share of runs that reach loss zero against the dimension; ``python -m figures.dimensions`` prints the table.

The runs are those of ``figures.frequencies``, at other d, and are kept like those.
"""

from resgrad.runs import plots

from . import POST
from .frequencies import LABELS, TEACHERS, census

DIMENSIONS, RUNS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20), 40


def censuses():
    """{(arch, teacher, d): Census}, the cheap ones first."""
    return {
        (arch, teacher, d): census(arch, teacher, d, RUNS) for d in DIMENSIONS for arch in POST for teacher in TEACHERS
    }


def table(found):
    """Shares of zero loss, a row for each network and teacher, a column for each d; "?": not converged."""
    lines = [f"{'d':23}" + "".join(f"{d:8}" for d in DIMENSIONS)]
    for arch in POST:
        for teacher in TEACHERS:
            cells = ""
            for d in DIMENSIONS:
                one = found[arch, teacher, d]
                unknown = one.counts["unconverged"]
                cells += f"{one.share('global')[0]:.0%}{f'{unknown}?' if unknown else ''}".rjust(8)
            lines.append(f"{arch:12}{teacher:11}{cells}")
    return "\n".join(lines)


def draw():
    found = censuses()
    told = f"{RUNS} runs a point, each with a new teacher, bands: 95 % intervals; "
    told += "starts $U(\\pm 1/\\sqrt{d})$, the exact expected loss"
    with plots.figure(3, height=3.1, sharey=True, caption=told) as (picture, panels):
        for axes, teacher in zip(panels, TEACHERS):
            for arch in POST:
                share, low, high = zip(*(found[arch, teacher, d].share("global") for d in DIMENSIONS))
                axes.fill_between(DIMENSIONS, low, high, color=plots.COLORS[arch], alpha=0.15, lw=0)
                axes.plot(DIMENSIONS, share, "o-", color=plots.COLORS[arch], ms=3, label=arch)
            axes.set(xlabel="d", xticks=(2, 5, 10, 15, 20), ylim=(-0.03, 1.03), title=LABELS[teacher])
            axes.yaxis.set_major_formatter("{x:.0%}")
        panels[0].set_ylabel("runs that reach loss zero")
        panels[0].legend(loc="lower left")
        return picture


if __name__ == "__main__":
    print(table(censuses()))
