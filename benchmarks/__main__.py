"""``python -m benchmarks [NAME ...] [--quick] [--threads N] [--report]``, from the repository root."""

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
import time
from pathlib import Path

WORKLOADS = ("step", "ensemble", "population", "notebook", "startup", "scaling", "proofs")
PACKAGES = ("resgrad", "numpy", "scipy", "numba", "python-flint", "torch", "jax", "jaxlib")
TOLD = "Time the same jobs in resgrad, NumPy, PyTorch and JAX, and write the README's tables."
EXAMPLES = """examples:
  python -m benchmarks step --quick
  python -m benchmarks --report"""
RESULTS = Path(__file__).parent / "results" / "results.json"


def limit_threads(threads):
    """Before any numerical library is imported: they read this once."""
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity"):  # XLA starts a thread for each processor it may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def surroundings(options, left_out):
    """What the figures depend on."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    system = f"{platform.system()} {platform.machine()}"
    return {
        "machine": {"cpu": cpu, "processors": os.cpu_count(), "system": system},
        "versions": {"python": platform.python_version()} | versions,
        "threads": options.threads,
        "quick": options.quick,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "left_out": left_out,
    }


def main(arguments=None):
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m benchmarks", description=TOLD, epilog=EXAMPLES, formatter_class=form)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(WORKLOADS)}; default: all")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="default: 2")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and repeats: about two minutes")
    parser.add_argument("--report", action="store_true", help="only redraw the table and the picture")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in WORKLOADS:
            print(f"error: no workload is called {name}; there are {', '.join(WORKLOADS)}", file=sys.stderr)
            return 2
    if options.threads < 1:
        print(f"error: threads is {options.threads}, but must be at least 1", file=sys.stderr)
        return 2
    limit_threads(options.threads)
    from . import peers, report

    results = report.read(RESULTS)
    if not options.report:
        options.seconds, options.repeats = (0.03, 3) if options.quick else (0.1, 7)
        found, left_out = peers.load(options.threads)
        for name, why in left_out.items():
            print(f"{name} is left out: {why}", file=sys.stderr)
        for name in options.names or WORKLOADS:
            tick = time.perf_counter()
            around = surroundings(options, left_out)
            rows = importlib.import_module(f".{name}", __package__).run(found, options)
            results[name] = around | {"rows": rows}
            report.write_json(RESULTS, results)
            print(report.table(name, results[name]), flush=True)
            print(f"({name}: {time.perf_counter() - tick:.0f} s)\n", file=sys.stderr, flush=True)
    if not results:
        print(f"error: there is no {RESULTS.name} yet; measure first", file=sys.stderr)
        return 2
    report.write(results, RESULTS.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
