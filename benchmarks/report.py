"""Tables and the picture, all from ``results.json``."""

import json
from pathlib import Path

from resgrad.runs import files, plots

LOOK = {  # not the colors of architectures
    "resgrad": (plots.INK, "o"),
    "NumPy": ("#999999", "s"),
    "PyTorch": ("#bf812d", "^"),
    "PyTorch compiled": ("#8c510a", "D"),
    "PyTorch, sample by sample": ("#543005", "x"),
    "JAX": ("#01857a", "P"),
}
TITLES = {
    "step": "One step on a fixed data set (100,000 samples, batch 200, Nesterov), µs",
    "ensemble": "64 seeds, fresh Gaussian samples, batch 200, µs per step and seed",
    "population": "Exact gradient descent, µs per step of all runs; and one exact Hessian, µs",
    "notebook": "The published protocol, 50,000 steps, s",
    "startup": "Until something happens, fresh process, s",
    "scaling": "Scaling of resgrad",
    "proofs": "One proof (certify), and in brackets what a first version of 90 lines took",
}
STEPS = 50_000  # of the published protocol
README, NOTES = Path(__file__).parent.parent / "README.md", Path(__file__).parent / "README.md"
MARK, END = "<!-- written by python -m benchmarks -->", "<!-- until here -->"


def read(path):
    """The results so far, by workload."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_json(path, results):
    path.parent.mkdir(exist_ok=True)
    files.write_json(path, results)


def number(value):
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def grid(header, rows):
    lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    return "\n".join(lines)


def scaling(rows):
    cells = []
    for row in rows:
        scale = 1e6 if row["unit"] == "s" else 1
        points = ", ".join(
            f"{p['size']}: {number(p['value'] * scale)}"
            + (f" ({number(p['reference'])})" if p.get("reference") else "")
            for p in row["points"]
        )
        cells.append([row["what"], "µs" if scale > 1 else row["unit"], points, f"{row['exponent']:.2f}"])
    return grid(["what", "unit", "size: value", "exponent"], cells)


def ratio(times, rival):
    """How many times resgrad's time a rival takes, as text."""
    if rival not in times or times[rival] is None:
        return "–"
    quotient = times[rival] / times["resgrad"]
    return f"{quotient:,.0f}×" if quotient >= 10 else f"{quotient:.2g}×"


def nearest(times):
    """`ratio` of the fastest rival, and its name."""
    others = {system: taken for system, taken in times.items() if system != "resgrad" and taken is not None}
    best = min(others, key=others.get, default=None)
    return f"{ratio(times, best)} {best or ''}".strip()


def agreement(row):
    """resgrad's loss, and how far the others' are from it, relatively."""
    found = {system: entry["loss"] for system, entry in row["systems"].items() if "loss" in entry}
    if "resgrad" not in found:
        return ["–", "–"]
    ours = found["resgrad"]
    return [f"{ours:.6g}", f"{max(abs(loss / ours - 1) for loss in found.values()):.0e}"]


AIMS = [  # what was aimed at, and the workload, rows and rival that tell
    ("`step` at d = 5: 5 times JAX", "step", lambda row: row["d"] == 5, "JAX"),
    (
        "`step` at d = 10: 3 times JAX in float64",
        "step",
        lambda row: (row["d"], row["dtype"]) == (10, "float64"),
        "JAX",
    ),
    ("4 times in float32", "step", lambda row: (row["d"], row["dtype"]) == (10, "float32"), "JAX"),
    ("12 times PyTorch eager", "step", lambda row: row["d"] == 10, "PyTorch"),
    ("`ensemble` at d = 10: 4 times JAX's `vmap`", "ensemble", lambda row: row["d"] == 10, "JAX"),
    ("`population`: 3 times JAX, one run", "population", lambda row: row.get("runs") == 1, "JAX"),
    ("and 64", "population", lambda row: row.get("runs") == 64, "JAX"),
    ("`step`: level with the best peer at every d up to 1000", "step", lambda row: True, None),
    ("beyond: 10 times JAX up to d = 10", "step", lambda row: row["d"] <= 10, "JAX"),
    ("1.3 times the best peer above", "step", lambda row: row["d"] > 10, None),
]


def aims(results):
    """What was aimed at, and the smallest and largest ratio reached: modresnet's, and that of all."""

    def span(rows, rival):
        quotients = []
        for row in rows:
            times = {system: entry["seconds"] for system, entry in row["systems"].items()}
            ours = times.pop("resgrad")
            rivals = [taken for system, taken in times.items() if rival in (None, system)]
            quotients += [min(rivals) / ours] if rivals else []  # a peer may not be installed
        ends = [f"{end(quotients):.2g}" for end in (min, max) if quotients]
        return " to ".join(dict.fromkeys(ends)) or "–"

    cells = []
    for text, name, wanted, rival in AIMS:
        rows = [row for row in results[name]["rows"] if wanted(row)]
        cells.append([text, span([row for row in rows if row["arch"] == "modresnet"], rival), span(rows, rival)])
    shares = {row["arch"]: [] for row in results["step"]["rows"]}
    for row in results["step"]["rows"]:
        if row["d"] == 1000:
            shares[row["arch"]].append(row["reached"])
    text = [f"{min(part):.0%} to {max(part):.0%}" for part in (shares["modresnet"], sum(shares.values(), []))]
    cells.append(["70 % of the matrix product's peak at d = 1000", *text])
    return grid(["aim", "reached: modresnet", "all architectures timed"], cells)


def notes(result):
    """What was left out or scaled, one line each."""
    lines = {f"{system}: {why}" for system, why in result["left_out"].items()}
    for row in result["rows"]:
        lines |= {f"{system}: {why}" for system, why in row.get("left_out", {}).items()}
        for system, entry in row["systems"].items():
            if entry.get("steps", STEPS) < STEPS:
                lines.add(f"{system}: timed on {entry['steps']:,} steps and scaled")
    return [f"- {line}" for line in sorted(lines)] + [""] * bool(lines)


def table(name, result):
    """One workload as Markdown: times, and how many times resgrad's the others take."""
    rows = result["rows"]
    about = f"{result['threads']} thread(s)" + (", quick run: few repeats" if result["quick"] else "")
    if result.get("load") is not None:
        about += f", load average {result['load']:.1f} before it started"
    if name == "step":
        peaks = {row["dtype"]: row["peak"] / 1e9 for row in rows}
        about += "; peak of the matrix product: " + ", ".join(f"{p:,.0f} GFLOP/s ({t})" for t, p in peaks.items())
    head = [f"## {name}: {TITLES[name]}", "", f"{about}.", ""]
    if name in ("scaling", "proofs"):
        return "\n".join([*head, scaling(rows), ""])
    present = [system for system in LOOK if any(system in row["systems"] for row in rows)]
    keys = [key for key in ("what", "arch", "runs", "d", "dtype") if any(key in row for row in rows)]
    scale, cells = 1 if name in ("notebook", "startup") else 1e6, []
    for row in rows:
        times = {system: row["systems"].get(system, {}).get("seconds") for system in present}
        line = [str(row.get(key, "")) for key in keys]
        line += [number(taken and taken * scale) for taken in times.values()]
        line += [ratio(times, "PyTorch"), ratio(times, "JAX"), nearest(times)]
        if name == "step":
            line += [number(row["limit"] * scale), f"{row['reached']:.0%}"]
        if name != "startup":
            line += agreement(row)
        cells.append(line)
    header = [*keys, *present, "PyTorch / resgrad", "JAX / resgrad", "best / resgrad"]
    header += ["limit", "reached"] if name == "step" else []
    header += ["loss", "others differ by"] if name != "startup" else []
    return "\n".join([*head, grid(header, cells), "", *notes(result)])


def draw(axes, rows):
    """One line per system, and the limit."""
    d = [row["d"] for row in rows]
    for system, (color, marker) in LOOK.items():
        points = [(row["d"], row["systems"][system]["seconds"] * 1e6) for row in rows if system in row["systems"]]
        if points:
            weight = {"lw": 2.4, "zorder": 3} if system == "resgrad" else {"lw": 1.3}
            axes.loglog(*zip(*points), color=color, marker=marker, ms=4, label=system, **weight)
    limits = [row["limit"] * 1e6 for row in rows]
    axes.loglog(d, limits, color=plots.INK, ls=":", lw=1.2, label="limit: its arithmetic at peak")
    axes.set_xlabel("d")
    axes.set_xticks(d, [str(size) for size in d])
    axes.minorticks_off()


def picture(result, kind):
    """PNG or SVG bytes: time per step against d, one panel a dtype."""
    with plots.figure(2, width=8, height=4, sharey=True) as (figure, panels):
        for axes, dtype in zip(panels, ("float64", "float32"), strict=True):
            rows = result["rows"]
            draw(axes, [row for row in rows if (row["arch"], row["dtype"]) == ("modresnet", dtype)])
            axes.set_title(f"modresnet, batch 200, {dtype}")
        panels[0].set_ylabel("µs per step")
        panels[0].legend(fontsize=9)
        return plots.image(figure, kind)


def summary(results):
    """The README's tables: `step` for modresnet, and one line for each of the other jobs at d = 10."""
    machine, threads = (results["step"][key] for key in ("machine", "threads"))
    systems, rows = ("resgrad", "NumPy", "PyTorch", "PyTorch compiled", "JAX"), {}
    for row in results["step"]["rows"]:
        if row["arch"] == "modresnet":
            times = {name: row["systems"].get(name, {}).get("seconds") for name in systems}
            line = [*(number(t and t * 1e6) for t in times.values()), nearest(times), f"{row['reached']:.0%}"]
            rows.setdefault(row["d"], []).append(line)
    cells = [[str(d), *map(" / ".join, zip(*both))] for d, both in rows.items()]
    about = f"{machine['cpu']}, {threads} threads; µs per step, float64 / float32, medians of interleaved repeats."
    lines = [f"The post's job (`modresnet`, 100,000 samples, batch 200, Nesterov). {about}", ""]
    lines += [grid(["d", *systems, "best / resgrad", "of the limit"], cells), ""]
    lines += ["And at d = 10, float64 (the protocol: float32):", ""]
    cells = []
    for name, unit in (("ensemble", 1e6), ("population", 1e6), ("notebook", 1)):
        for row in results[name]["rows"]:
            if row["d"] != 10 or row["dtype"] != ("float32" if name == "notebook" else "float64"):
                continue
            times = {system: row["systems"].get(system, {}).get("seconds") for system in systems}
            what = {"ensemble": "64 seeds, fresh samples, µs per step and seed",
                    "population": f"exact descent, {row.get('runs')} run(s), µs per step",
                    "notebook": "the published protocol, s"}[name]  # fmt: skip
            what = "exact Hessian, µs" if "Hessian" in row["arch"] else what
            cells.append([what, *(number(t and t * unit) for t in times.values()), nearest(times)])
    return "\n".join([*lines, grid(["job", *systems, "best / resgrad"], cells)])


def write(results, folder):
    """``table.md``, ``step.png`` and ``step.svg``, and the tables in the README."""
    machine, versions = (next(iter(results.values()))[key] for key in ("machine", "versions"))
    about = [f"{machine['cpu']}, {machine['processors']} processors, {machine['system']}"]
    about += [f"{name} {version}" for name, version in versions.items() if version]
    lines = ["# Results", "", f"Generated from `results.json`. {', '.join(about)}.", ""]
    text = "\n".join(lines + [table(name, results[name]) for name in TITLES if name in results])
    files.write(folder / "table.md", text)
    if "step" in results:
        for kind in ("png", "svg"):
            files.write(folder / f"step.{kind}", picture(results["step"], kind))
    if {"step", "ensemble", "population", "notebook"} <= results.keys() and not results["step"]["quick"]:
        for path, text in ((README, summary(results)), (NOTES, aims(results))):
            before, _, rest = path.read_text().partition(MARK)
            files.write(path, before + MARK + "\n" + text + "\n\n" + END + rest.partition(END)[2])
