"""Flush-to-zero mode: a library built with -ffast-math makes the processor take subnormal numbers for 0.

The mode is one of the process, so all of it happens in a process of its own.
"""

import shutil
import sys

import pytest
from conftest import command, output

MODE = """
#if defined(__x86_64__) || defined(__i386__)
#include <xmmintrin.h>
__attribute__((constructor)) static void flush(void) { _mm_setcsr(_mm_getcsr() | MODE); }
#elif defined(__aarch64__)
__attribute__((constructor)) static void flush(void) {
    unsigned long mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | 1 << 24));
}
#else
#error "unknown processor"
#endif
"""
FLUSHED = {"both": "0x8040", "results": "0x8000", "operands": "0x0040"}  # what counts as 0 where it is subnormal

# Prints every number with all of its digits.  A unit may be dead by its u, by its a, by both, or but for rounding.
WORK = """
import numpy as np, resgrad as rg
from resgrad.minima import basins, symmetry
from resgrad.runs import protocol

np.set_printoptions(threshold=100_000, floatmode="unique")
for name, arch in rg.ARCHITECTURES.items():
    rng, d = np.random.default_rng(0), 3

    def theta(k, *dead):
        U, W2 = rng.normal(size=(d, k)), rng.normal(size=(k, d))
        C = rng.normal(size=(d, arch.outputs(d))) if arch.trains_skip else None
        b = rng.normal(size=k) if arch.bias else None
        for j, (u, a) in enumerate(dead):
            U[:, j] *= u
            W2[j] *= a
            if arch.bias:
                b[j] *= u
        return arch.flatten(U - arch.identity * np.eye(d, k), W2 if arch.trains_readout else None, C, b)

    students = [theta(3), theta(4), theta(2), theta(3, (0, 1)), theta(3, (1, 0), (0, 0)), theta(4, (0, 0), (1e-200, 1)),
                theta(2, (0, 0), (0, 0)), theta(3, (1e-320, 1e-320)), 1e-310 * theta(3)]
    star = theta(3)
    for n, student in enumerate(students):
        for pair in ((student, star), (star, student), (student, student)):
            al = rg.align(name, *pair, d)
            assert np.isfinite([al.distance, al.raw_distance, *al.scales, *al.teacher]).all()
            if n < 7:  # the others hold subnormal numbers themselves
                print(al, al.distance, al.scales, al.teacher)
        basis = symmetry.tangent(name, student, d)
        form, back = symmetry.gauge(arch, student, d)
        assert np.isfinite([*basis.flat, *form, *symmetry.balanced(name, student, d)]).all()
        if n < 7:
            print(basis, form, back, symmetry.balanced(name, student, d))
    loss = rg.PopulationLoss(name, rg.Network(name, star, d))
    for student in students[:5]:
        point = rg.polish(loss, student)
        print(point, point.theta, point.eigenvalues, rg.spectrum(loss, point.theta))
        print(*rg.one_point(loss, student, aligned=True))
    for options in ({"teacher": "normal"}, {"init": "zero"}, {"init": "zero", "teacher": "zero"}):
        found = rg.census(name, d=3, width=1, runs=3, seed=1, steps=2000, quiet=True, **options)
        print(found.counts, found.theta, found.outcome, found.steps)
    config = protocol.resolve(name, d=3, width=4, samples=50, steps=60, batch_size=7)
    print(protocol.table(protocol.simulate(config)[0]))
print(rg.convexity_region([0.3, 5.0], 3, n_pairs=9, rng=0))
"""


def printed(before=""):
    return output(sys.executable, "-W", "error", "-c", before + WORK)[0]


@pytest.fixture(scope="module")
def wanted():
    return printed()


@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="needs a C compiler")
@pytest.mark.slow
@pytest.mark.parametrize("flushed", FLUSHED)
def test_nothing_needs_subnormal_numbers(flushed, wanted, tmp_path):
    (tmp_path / "mode.c").write_text(MODE)
    library = tmp_path / "mode.so"
    compiler = shutil.which("cc") or shutil.which("gcc")
    line = [compiler, "-shared", "-fPIC", f"-DMODE={FLUSHED[flushed]}", "mode.c", "-o", library]
    if command(*line, cwd=tmp_path)[0]:
        pytest.skip("needs a C compiler for this processor")
    product = "1e-200 * float('1e-120')" if flushed == "results" else "1e10 * float('1e-310')"
    before = f"import ctypes\nctypes.CDLL({str(library)!r})\nassert {product} == 0.0\n"
    assert printed(before) == wanted
