"""Who may import whom.  Imports run downward, wherever in a file they stand."""

import ast
import inspect
import pathlib
import sys

import pytest
from conftest import output

import resgrad as rg

PACKAGE = pathlib.Path(rg.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = [  # a file may import from its own floor and those above it in this list
    {"checks", "blas", "tables", "runs.command", "runs.files", "runs.pages", "runs.plots"},
    {"kernels.policy"},
    {"kernels.lanes"},
    {"kernels.pairs", "kernels.plain", "kernels.steps", "kernels.threads"},
    {"kernels.narrow", "kernels.wide", "kernels.population", "kernels.hessian", "kernels.digits"}
    | {"kernels.biased", "kernels.moments", "kernels.nearby"},
    {"kernels.loops"},
    {"kernels"},
    {"architectures", "duals", "inputs", "residual"},
    {"losses", "designed", "gelee_ma", "optimizers", "draws", "anyloss"},
    {"training", "gradcheck.check", "gradcheck.calls", "gradcheck.differences", "gradcheck.report"},
    {"flow", "noise"},
    {
        *("minima.symmetry", "minima.alignment", "minima.problem", "minima.landscape", "minima.convexity"),
        *("minima.basins", "minima.balls", "minima.proofs"),
    },
    {"runs.protocol", "runs.tasks", "runs.tally", "runs.journal", "runs.report", "runs.census_report"},
    {"experiment", "census", "plots", "gradcheck.__main__", "__main__"},
]
FLOOR = {module: number for number, modules in enumerate(FLOORS) for module in modules}
AUTODIFF = {
    "torch",
    "jax",
    "jaxlib",
    "tensorflow",
    "autograd",
    "theano",
    "pytensor",
    "aesara",
    "casadi",
    "mxnet",
    "paddle",
    "tinygrad",
    "equinox",
    "flax",
    "optax",
}


def name(file):
    """``minima.symmetry`` for resgrad/minima/symmetry.py; a package is named after its folder."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "resgrad"


every_file = pytest.mark.parametrize("file", FILES, ids=name)


def imports(file, home=""):
    """Two sets: the modules of resgrad that ``file``, in the folder ``home``, imports, and the other packages."""
    modules, others = set(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ["resgrad", *home.split(".")][: 3 - node.level] if node.level else []
            path = ".".join([part for part in (*above, node.module) if part])
            names = [f"{path}.{alias.name}" for alias in node.names]
        else:
            continue
        for path in names:
            top, *rest = path.split(".")
            if top != "resgrad":
                others.add(top)
            elif found := next((m for n in (2, 1) if (m := ".".join(rest[:n])) in MODULES and m), None):
                modules.add(found)
            elif rest[:1] != ["__version__"]:
                modules.add("resgrad")
    return modules, others


MODULES = {name(file) for file in FILES}


def test_the_walk_sees_every_way_to_import(tmp_path):
    source = tmp_path / "module.py"
    source.write_text(
        "import numpy.linalg\nfrom .. import kernels, checks\nfrom ..losses import OnlineLoss\n"
        "def f():\n    from resgrad.training import train\n    import resgrad.runs.plots\n"
        "    from resgrad import census\n    import resgrad as rg\n    from scipy import stats\n"
        "    from . import symmetry\n    from .basins import group\n"
    )
    assert imports(source, "minima") == (
        {"kernels", "checks", "losses", "training", "runs.plots", "census", "resgrad"}
        | {"minima.symmetry", "minima.basins"},
        {"numpy", "scipy"},
    )


def of(file):
    """The modules of resgrad that a file of it imports."""
    home = name(file).rpartition(".")[0] if file.stem != "__init__" else name(file)
    return imports(file, "" if home == "resgrad" else home)[0]


@every_file
def test_imports_run_downward(file):
    if file.stem == "__init__":  # hands out what its folder holds
        assert all(module.startswith(name(file)) for module in of(file))
        return
    floor = FLOOR[name(file)]
    assert of(file) <= set(FLOOR), "import from the module that has it, not through the package"
    assert all(FLOOR[module] <= floor for module in of(file)), f"{name(file)} imports {of(file)}"


def test_no_module_reaches_itself():
    graph = {name(file): of(file) for file in FILES if file.stem != "__init__"}
    while free := [module for module in graph if not graph[module] & set(graph)]:
        for module in free:
            del graph[module]
    assert not graph


@every_file
def test_only_plots_draws(file):
    assert name(file) in ("plots", "runs.plots") or "matplotlib" not in imports(file)[1]


@every_file
def test_gradients_are_derived_by_hand(file):
    assert not imports(file)[1] & AUTODIFF


@every_file
def test_only_the_kernels_compile(file):
    names = {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)}
    assert name(file).startswith("kernels") or not names & {
        "jit",
        "njit",
        "vectorize",
        "guvectorize",
        "jitclass",
        "cfunc",
    }


def run(code):
    return output(sys.executable, "-c", code)[0].split()


def test_importing_resgrad_alone_loads_nothing_heavy():
    heavy = "{'numba', 'scipy', 'matplotlib', 'numpy'}"
    assert run(f"import sys, resgrad; print(*{heavy} & set(sys.modules))") == []


def test_records_need_no_compiler():
    code = "import sys, resgrad; resgrad.ARCHITECTURES, resgrad.SGD(1); print(*{'numba', 'scipy'} & set(sys.modules))"
    assert run(code) == []


@pytest.mark.parametrize("module", ["experiment", "census", "gradcheck.__main__"])
def test_help_loads_nothing_heavy(module):
    code = (
        f"import sys; from resgrad.{module} import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*{'numba', 'scipy', 'matplotlib', 'tqdm', 'dask'} & set(sys.modules), file=sys.stderr)"
    )
    out, err = output(sys.executable, "-c", code)
    assert err.strip() == "" and "--arch" in out


def test_every_public_name_resolves():
    assert rg.__all__ == sorted(set(rg.__all__))
    for name in rg.__all__:
        assert getattr(rg, name).__class__ is not None
        assert name in dir(rg)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'resgrad' has no attribute 'Nestrov'"):
        rg.Nestrov  # noqa: B018


def test_the_stub_hands_out_the_same_names():
    stub = ast.parse((PACKAGE / "__init__.pyi").read_text())
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    handed = {(node.module, alias.name) for node in imports for alias in node.names if alias.asname == alias.name}
    assert handed == {(home, name) for home, names in rg._HOMES.items() for name in names} | {
        (None, name) for name in rg._MODULES
    }
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize("name", rg.__all__)
def test_every_public_signature_has_hints(name):
    public = getattr(rg, name)
    methods = vars(public).items() if isinstance(public, type) else ()
    if name in rg._MODULES:
        methods = [(name, getattr(public, name)) for name in public.__all__]
    for function in [public, *(method for key, method in methods if key[0] != "_" or key in ("__init__", "__call__"))]:
        if inspect.isfunction(function):
            signature = inspect.signature(function)
            empty = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != "self"]
            assert not empty, function
            assert function.__name__ == "__init__" or signature.return_annotation is not signature.empty, function
