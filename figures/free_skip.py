"""What a trained skip changes: how often runs reach zero loss with it and without.

Left the teachers of Safran & Shamir, W1* = I; right normal teachers, drawn anew in each run, and normal starts.  The
exact expected loss; SGD (one trained layer) or Nesterov's method, at most 10,000 steps, then gradient flow.
``python -m figures.free_skip`` prints the counts, also for other widths and for random starts of the skip, and by how
many positive units the spurious minima of networks with one trained output differ from their teacher.

All of it takes some hours on two cores.  Runs are kept, and go on, as those of ``figures.frequencies``.
"""

from collections import Counter

import numpy as np

import resgrad as rg
from resgrad.minima.symmetry import lengths
from resgrad.runs import plots
from resgrad.runs.tally import PUBLISHED

from .frequencies import HEADINGS, SEED, census, columns

KS, RUNS = tuple(range(6, 21)), 1000
CONTROL = {"vanilla": 2, "vanilla-free": 1, "even": 2}  # from one k to the next that is drawn
BASES = ("vanilla", "two-weight", "resnet", "modresnet")
NORMAL_RUNS = {(5, 5): 300, (5, 2): 300, (5, 10): 40, (10, 10): 100, (10, 5): 40, (15, 15): 40}  # of each (d, k)
VECTOR_RUNS = {(10, 10): 1000}  # of resnet and modresnet
RANDOM_RUNS = {(5, 5): 100}  # with a random start of the skip
DS, MARKS = (5, 10, 15), "os^"


def censuses():
    """{(arch, teacher, d, k, init): Census}."""
    found = {}
    for arch, step in CONTROL.items():
        for k in KS[::step]:
            found[arch, "identity", k, k, None] = census(arch, "identity", k, RUNS)
    for (d, k), runs in NORMAL_RUNS.items():
        for base in BASES:
            count = VECTOR_RUNS.get((d, k), runs) if base in ("resnet", "modresnet") else runs
            starts = [(base, "normal", count), (f"{base}-free", "normal", count)]
            if (d, k) in RANDOM_RUNS:
                starts.append((f"{base}-free", "normal+normal", RANDOM_RUNS[d, k]))
            for arch, init, size in starts:
                how = {"init": init, "width": k, "teacher_width": k}
                found[arch, "normal", d, k, init] = census(arch, "normal", d, size, **how)
    return found


def positive_units(arch, theta, d):
    """The number of positive entries of the read-out of a network with one output."""
    U, A, _ = rg.ARCHITECTURES[arch].canonical(theta, d)
    return int((A[:, 0] * lengths(U.T) > 0).sum())


def positive_units_too_many(one):
    """Of the spurious minima, each with one output: Counter of positive units less those of the teacher of the run."""
    arch, d, kind, width = one.config.arch, one.config.d, one.config.teacher, one.config.teacher_width
    count = Counter()
    for run in np.flatnonzero(one.outcome == "spurious").tolist():
        theta_star = rg.draw(arch, kind, d, width, rg.streams(SEED, run).teacher)
        count[positive_units(arch, one.theta[run], d) - positive_units(arch, theta_star, d)] += 1
    return count


def table(found):
    """The counts, for people; "2 -1": two minima with one positive unit less than the teacher."""
    lines = [f"{'':16}{'teacher':9}  d   k  {'start':15}  runs{HEADINGS}   positive units of the spurious"]
    for (arch, teacher, d, k, init), one in found.items():
        start = f"{arch:16}{teacher:9}{d:3}{k:4}  {init or '':15}{one.counts['runs']:6,}"
        more = positive_units_too_many(one) if rg.ARCHITECTURES[arch].readout == "sum" else {}
        units = ", ".join(f"{count} {f'{n:+}' if n else 'as many'}" for n, count in sorted(more.items()))
        lines.append(f"{start}{columns(one)}   {units}".rstrip())
    return "\n".join(lines)


def draw():
    found = censuses()
    told = "starts N(0, 1/d); the exact expected loss: SGD (vanilla, even) or Nesterov, then gradient flow"
    with plots.figure(2, height=3.6, width_ratios=(1, 1.15), caption=told) as (picture, (left, right)):
        for arch, step in CONTROL.items():
            ks = KS[::step]
            share, low, high = zip(*(found[arch, "identity", k, k, None].share("global") for k in ks))
            color, dashed = plots.COLORS[arch], arch == "even"
            left.fill_between(ks, low, high, color=color, alpha=0.25, lw=0)
            left.plot(ks, share, "--" if dashed else "-", color=color)
        published = {k: 1 - share for (k, width), share in PUBLISHED.items() if k == width}
        left.plot(published.keys(), published.values(), "o", color=plots.INK, ms=4.5, zorder=3)
        plots.tag(left, KS[-1], 1.0, "vanilla-free, and even (dashed)", plots.COLORS["vanilla-free"], xytext=(0, -14))
        plots.tag(left, 16, 0.15, "vanilla", plots.COLORS["vanilla"], xytext=(35, 8))
        plots.tag(left, 12, published[12], "published", plots.INK, xytext=(-6, -12))
        left.set(xlabel="teacher units k = dimension d", ylabel="runs that reach loss zero", xticks=KS[::2])
        left.set_title(f"W1* = I; {RUNS:,} starts each, bands: 95 % intervals")
        for n, base in enumerate(BASES):
            for side, arch in ((-1, base), (1, f"{base}-free")):
                for i, (d, mark) in enumerate(zip(DS, MARKS)):
                    share, low, high = found[arch, "normal", d, d, "normal"].share("global")
                    x, color = n + side * 0.22 + 0.11 * (i - (len(DS) - 1) / 2), plots.COLORS[base]
                    right.plot([x, x], [low, high], color=color, lw=1.2)
                    right.plot(x, share, mark, color=color, ms=5.5, mfc=color if side > 0 else "white")
        right.set(xticks=range(len(BASES)), xticklabels=BASES, xlim=(-0.5, len(BASES) - 0.5))
        sizes = [found[arch, "normal", d, d, "normal"].counts["runs"] for arch in BASES for d in DS]
        right.set_title(f"a new normal teacher in each run, k = d; {min(sizes)} to {max(sizes):,} runs")
        names = ", ".join(f"{name}{d}" for name, d in zip(("circles: d = ", "squares: ", "triangles: "), DS))
        right.set_xlabel(f"{names};  filled: skip trained")
        for axes in (left, right):
            axes.set_ylim(-0.02, 1.04)
            axes.yaxis.set_major_formatter("{x:.0%}")
        return picture


if __name__ == "__main__":
    print(table(censuses()))
