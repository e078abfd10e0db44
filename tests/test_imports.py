"""Who may import whom.  Imports run downward, wherever in a file they stand."""

import ast
import pathlib
import subprocess
import sys

import pytest

import resgrad as rg

PACKAGE = pathlib.Path(rg.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FLOORS = [  # a file may import from the floors above it in this list, and from its own; see `FOUNDATION`
    {"checks", "command", "kernels", "threads"},
    {"architectures"},
    {"losses", "optimizers"},
    {"training", "symmetry", "landscape", "plots", "files", "gradcheck", "calls", "differences"},
    {"protocol", "basins", "journal", "report"},
    {"experiment", "census"},
]
FOUNDATION = FLOORS[0]  # imports nothing of resgrad
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
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

every_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def imports(file):
    """Two sets: the rooms of resgrad that ``file`` imports, and the other packages."""
    rooms, others = set(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.module:  # from . import a, b
            names = [f"resgrad.{alias.name}" for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.ImportFrom) and node.level:  # from .a import b
            names = [f"resgrad.{node.module}"]
        elif isinstance(node, ast.ImportFrom) and node.module == "resgrad":  # from resgrad import a
            names = [f"resgrad.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        else:
            continue
        for top, *rest in (name.split(".") for name in names):
            if top == "resgrad":
                rooms.add(rest[0] if rest else "resgrad")
            else:
                others.add(top)
    return rooms, others


def test_the_walk_sees_every_way_to_import(tmp_path):
    source = tmp_path / "room.py"
    source.write_text(
        "import numpy.linalg\nfrom . import kernels, checks\nfrom .losses import OnlineLoss\n"
        "def f():\n    from resgrad.training import train\n    import resgrad.plots\n"
        "    from resgrad import census\n    import resgrad as rg\n    from scipy import stats\n"
    )
    assert imports(source) == (
        {"kernels", "checks", "losses", "training", "plots", "census", "resgrad"},
        {"numpy", "scipy"},
    )


@every_file
def test_imports_run_downward(file):
    if file.stem == "__init__":
        return
    assert file.stem in FLOOR, f"{file.name} has no floor yet: add it to FLOORS"
    rooms, _ = imports(file)
    assert rooms <= set(FLOOR), "import from the room that has it, not through the package"
    if file.stem in FOUNDATION:
        assert not rooms
    assert all(FLOOR[room] <= FLOOR[file.stem] for room in rooms), f"{file.stem} imports {rooms}"


def test_no_room_reaches_itself():
    graph = {file.stem: imports(file)[0] for file in FILES if file.stem != "__init__"}
    while free := [room for room in graph if not graph[room] & set(graph)]:
        for room in free:
            del graph[room]
    assert not graph


@every_file
def test_only_plots_draws(file):
    assert file.stem == "plots" or "matplotlib" not in imports(file)[1]


@every_file
def test_gradients_are_derived_by_hand(file):
    assert not imports(file)[1] & AUTODIFF


@every_file
def test_only_the_kernels_compile(file):
    names = {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
    names |= {node.id for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Name)}
    assert file.stem == "kernels" or not names & {"jit", "njit", "vectorize", "guvectorize", "jitclass", "cfunc"}


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_importing_resgrad_alone_loads_nothing_heavy():
    heavy = "{'numba', 'scipy', 'matplotlib', 'numpy'}"
    assert run(f"import sys, resgrad; print(*{heavy} & set(sys.modules))") == []


def test_records_need_no_compiler():
    code = "import sys, resgrad; resgrad.ARCHITECTURES, resgrad.SGD(1); print(*{'numba', 'scipy'} & set(sys.modules))"
    assert run(code) == []


@pytest.mark.parametrize("module", ["experiment", "census", "gradcheck"])
def test_help_loads_nothing_heavy(module):
    code = (
        f"import sys; from resgrad.{module} import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*{'numba', 'scipy', 'matplotlib', 'tqdm', 'dask'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "" and "--arch" in done.stdout


def test_every_public_name_resolves():
    assert rg.__all__ == sorted(set(rg.__all__))
    for name in rg.__all__:
        assert getattr(rg, name).__class__ is not None
        assert name in dir(rg)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'resgrad' has no attribute 'Nestrov'"):
        rg.Nestrov  # noqa: B018
