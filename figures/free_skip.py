"""What a trained skip changes: how often runs reach zero loss with it and without.

Left the teachers of Safran & Shamir, W1* = I; right normal teachers and starts, anew in each run.  An hour on two
cores; ``python -m figures.free_skip`` prints the counts.
"""

import resgrad as rg
from resgrad.runs import plots
from resgrad.runs.tally import OUTCOMES, PUBLISHED

KS, RUNS, NORMAL_RUNS = tuple(range(6, 21, 2)), 1000, 100
CONTROL = ("vanilla", "vanilla-free", "even")
BASES = ("vanilla", "two-weight", "resnet", "modresnet")
DS = (5, 10)


def censuses():
    """{(arch, k, teacher): Census}."""
    found = {(arch, k, "identity"): rg.census(arch, k, RUNS, teacher="identity") for arch in CONTROL for k in KS}
    for d in DS:
        for base in BASES:
            for arch in (base, f"{base}-free"):
                found[arch, d, "normal"] = rg.census(arch, d, NORMAL_RUNS, teacher="normal", init="normal")
    return found


def table(found):
    """The counts, for people."""
    lines = [f"{'':16}{'teacher':10}{'k = d':>6}" + "".join(f"{label:>18}" for label in OUTCOMES.values())]
    for (arch, k, teacher), census in found.items():
        lines.append(f"{arch:16}{teacher:10}{k:6}" + "".join(f"{census.counts[name]:18,}" for name in OUTCOMES))
    return "\n".join(lines)


def draw():
    found = censuses()
    with plots.figure(2, height=3.3, width_ratios=(1, 1.15)) as (picture, (left, right)):
        for arch in CONTROL:
            share, low, high = zip(*(found[arch, k, "identity"].share("global") for k in KS))
            color, dashed = plots.COLORS[arch], arch == "even"
            left.fill_between(KS, low, high, color=color, alpha=0.25, lw=0)
            left.plot(KS, share, "--" if dashed else "-", color=color)
        published = {k: 1 - share for (k, width), share in PUBLISHED.items() if k == width}
        left.plot(published.keys(), published.values(), "o", color=plots.INK, ms=4.5, zorder=3)
        plots.tag(left, 20, 1.0, "vanilla-free, and even (dashed)", plots.COLORS["vanilla-free"], xytext=(0, -14))
        plots.tag(left, 16, 0.15, "vanilla", plots.COLORS["vanilla"], xytext=(35, 8))
        plots.tag(left, 12, published[12], "published", plots.INK, xytext=(-6, -12))
        left.set(xlabel="teacher units k = dimension", ylabel="share of zero-loss runs", ylim=(-0.02, 1.04), xticks=KS)
        left.set_title(f"W1* = I; {RUNS:,} starts each, bands: 95 % intervals")
        for n, base in enumerate(BASES):
            for arch, shift, filled in ((base, -0.14, False), (f"{base}-free", 0.14, True)):
                for d, mark in zip(DS, "os"):
                    share, low, high = found[arch, d, "normal"].share("global")
                    x, color = n + shift + 0.06 * (-1 if d == DS[0] else 1), plots.COLORS[base]
                    right.plot([x, x], [low, high], color=color, lw=1.2)
                    right.plot(x, share, mark, color=color, ms=6, mfc=color if filled else "white")
        right.set(xticks=range(len(BASES)), xticklabels=BASES, ylim=(-0.02, 1.04), xlim=(-0.5, len(BASES) - 0.5))
        right.set_title(f"normal teachers; {NORMAL_RUNS} starts each")
        right.set_xlabel("circles: d = 5, squares: d = 10;  filled: with a trained skip")
        for axes in (left, right):
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        return picture


if __name__ == "__main__":
    print(table(censuses()))
