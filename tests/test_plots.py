"""``rg.plots``: the pictures hold the numbers that they are of, whatever matplotlib is told elsewhere."""

import concurrent.futures
import os
import sys

import matplotlib
import numpy as np
import pytest
from conftest import output
from test_figures import HOSTILE

import resgrad as rg
from resgrad import experiment
from resgrad.runs import plots as panels

D = 4


@pytest.fixture(scope="module")
def teacher():
    return rg.Network("resnet", rg.draw("resnet", "normal", D, rng=0), D)


@pytest.fixture(scope="module")
def found():
    return rg.census("vanilla", d=8, runs=24, seed=1, quiet=True)  # some end in spurious minima


def descent(teacher, **observe):
    loss = rg.PopulationLoss("resnet", teacher)
    return rg.train(loss, rg.draw("resnet", "small", D, rng=1), rg.SGD(0.01), 200, observe=observe)


def curves(axes):
    return [(line.get_label(), *line.get_data()) for line in axes.lines]


def cells(axes):
    """The numbers of a heatmap, row by row from above."""
    (mesh,) = axes.collections
    return np.asarray(mesh.get_array())


def test_the_history_of_a_trajectory(teacher):
    def distance(theta):
        return rg.align("resnet", theta, teacher.theta, D).raw_distance

    run = descent(teacher, distance=distance)
    left, right = rg.plots.history(run).axes
    for axes, values in ((left, run.loss), (right, run.observed["distance"])):
        ((_, steps, drawn),) = curves(axes)
        assert np.array_equal(steps, run.steps) and np.array_equal(drawn, values)
        assert axes.get_yscale() == "log" and axes.get_xlabel() == "step"
        assert axes.get_ylim()[0] < values.min() and values.max() < axes.get_ylim()[1]
    assert len(rg.plots.history(descent(teacher)).axes) == 1


def test_the_history_of_gradient_flow_is_over_time(teacher):
    flow = rg.gradient_flow(rg.PopulationLoss("resnet", teacher), rg.draw("resnet", "small", D, rng=1), 0.25)
    (axes,) = rg.plots.history(flow).axes
    assert (axes.get_xlabel(), axes.get_xlim()) == ("time", (0, 0.25))


@pytest.mark.parametrize("arch, loss", [("li", "relu"), ("vanilla", "even")])
def test_the_history_of_a_directory(arch, loss, tmp_path):
    given = ["--arch", arch, "--loss", loss, "--d", "3", "--steps", "300", "--quiet", "--no-plot"]
    assert experiment.main([*given, "--out", str(tmp_path)]) == 0
    names, *rows = (line.split(",") for line in (tmp_path / "history.csv").read_text().splitlines())
    columns = dict(zip(names, np.array(rows, float).T))
    left, right = rg.plots.history(tmp_path).axes
    wanted = ["loss", "population_loss"], ["distance", "aligned_distance"] if loss == "relu" else ["missed"]
    for axes, names in zip((left, right), wanted):
        assert all(np.array_equal(curve[2], columns[name]) for curve, name in zip(curves(axes), names, strict=True))
        assert np.array_equal(curves(axes)[0][1], columns["step"]) and axes.get_xlabel() == "step"


def test_a_history_may_be_one_record_or_all_zero():
    for loss in ([5.0], [0.0, 0.0]):
        run = rg.Trajectory(np.zeros(1), np.arange(len(loss)), np.array(loss), "finished")
        (line,) = rg.plots.history(run).axes[0].lines
        assert np.array_equal(line.get_ydata(), loss)
        assert (line.get_marker() == ".") == (len(loss) == 1)  # a line of one point cannot be seen


def test_units_of_the_teachers_image_lie_on_the_diagonal(teacher):
    permutation = [2, 0, 3, 1]
    theta = rg.transform("resnet", teacher.theta, D, permutation, scales=[0.1, 2, 3, 4])
    axes = rg.plots.units(rg.Network("resnet", theta, D), teacher).axes[0]
    u = teacher.W1 / np.linalg.norm(teacher.W1, axis=0)
    assert np.abs(cells(axes) - u.T @ u).max() < 1e-14
    labels = [int(label.get_text()) for label in axes.get_yticklabels()]
    assert [permutation[unit] for unit in labels] == [0, 1, 2, 3]  # from above, as the y axis runs down
    assert axes.get_ylim() == (D - 0.5, -0.5)


def test_a_unit_without_work_comes_last(teacher):
    (U, A, _), swapped = teacher.canonical(), [1, 0, 2, 3]
    W1, W2 = np.hstack([np.ones((D, 1)), U[:, swapped]]), np.vstack([np.zeros((1, D)), A[swapped]])
    theta = teacher.arch.flatten(W1, W2)
    axes = rg.plots.units(rg.Network("resnet", theta, D), teacher).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["2", "1", "3", "4", "0"]
    assert np.allclose(np.diag(cells(axes)), 1)


def test_reversed_units_are_turned_back():
    teacher = rg.Network("vanilla-free", rg.draw("vanilla-free", "normal", D, rng=0), D)
    theta = rg.transform("vanilla-free", teacher.theta, D, [1, 0, 2, 3], reverse=[0, 2])
    drawn = cells(rg.plots.units(rg.Network("vanilla-free", theta, D), teacher).axes[0])
    assert np.abs(np.diag(drawn) - 1).max() < 1e-14


def test_a_teacher_of_another_architecture_is_converted(teacher):
    student = rg.Network("modresnet", rg.convert(teacher.theta, D, "resnet", "modresnet"), D)
    drawn = cells(rg.plots.units(student, teacher).axes[0])
    assert np.abs(np.diag(drawn) - 1).max() < 1e-14


def test_the_bias_is_an_entry_of_its_unit():
    theta = rg.draw("li-bias", "normal", D, rng=0)
    turned = theta.copy()
    turned[-D:] *= -1
    drawn = cells(rg.plots.units(*(rg.Network("li-bias", given, D) for given in (turned, theta))).axes[0])
    W1, _, _, b = rg.ARCHITECTURES["li-bias"].unflatten(theta, D)
    u = np.vstack([W1 + np.eye(D), b])
    other = np.vstack([W1 + np.eye(D), -b])
    order = rg.align("li-bias", turned, theta, D).order
    wanted = (other / np.linalg.norm(other, axis=0)).T @ (u / np.linalg.norm(u, axis=0))
    assert np.abs(drawn - wanted[order]).max() < 1e-14


def test_a_spectrum_shows_what_is_negative_and_what_is_predicted(teacher):
    loss = rg.PopulationLoss("resnet", teacher)
    found = rg.spectrum(loss, rg.draw("resnet", "small", D, rng=1))
    axes = rg.plots.spectrum(found).axes[0]
    (_, rank, regular), (_, gray_rank, gray), (_, at, negative) = curves(axes)
    sizes = np.sort(np.abs(found.eigenvalues))[::-1]
    assert found.index > 0 and gray.size == found.predicted == D
    assert np.array_equal(np.concatenate([regular, gray]), np.maximum(sizes, 1e-18))
    assert np.array_equal(np.concatenate([rank, gray_rank]), np.arange(1, sizes.size + 1))
    assert np.array_equal(np.sort(negative), np.sort(-found.eigenvalues[: found.index]))
    assert np.array_equal(sizes[at.astype(int) - 1], negative)
    flat = rg.plots.spectrum(rg.spectrum(loss, teacher.theta)).axes[0]
    assert flat.get_title("left") == f"{sizes.size} eigenvalues: 0 negative, {D} zero ({D} by symmetry)"
    assert len(flat.lines) == 2


def test_large_eigenvalues_are_within_the_picture(teacher):
    theta = rg.transform("resnet", teacher.theta, D, scales=[1e-4, 1, 1, 1])
    found = rg.spectrum(rg.PopulationLoss("resnet", teacher), theta)
    assert rg.plots.spectrum(found).axes[0].get_ylim()[1] > found.eigenvalues.max() > 1e6


def test_a_census_shows_shares_and_intervals(found):
    axes = rg.plots.census(found).axes[0]
    assert 0 < found.counts["spurious"] < 24
    segments = axes.collections[0].get_segments()
    for row, (name, label) in enumerate(found.labels.items()):
        share, low, high = found.share(name)
        assert axes.get_yticklabels()[row].get_text() == label
        assert axes.patches[row].get_width() == share
        assert segments[row][:, 0] == pytest.approx([low, high], abs=1e-15) and set(segments[row][:, 1]) == {row}
    assert [text.get_text() for text in axes.texts] == [str(found.counts[name]) for name in found.labels]


BAD = {
    "run is 5, but must be a Trajectory or": lambda good: rg.plots.history(5),
    "history.csv cannot be read": lambda good: rg.plots.history("no such run"),
    "network is 5, but must be a Network": lambda good: rg.plots.units(5, good),
    "teacher is 5, but must be a Network": lambda good: rg.plots.units(good, 5),
    "network has d=4, but the teacher has d=3": lambda good: rg.plots.units(good, rg.Network("resnet", np.ones(18), 3)),
    "resnet and vanilla differ": lambda good: rg.plots.units(rg.Network("vanilla", np.ones(16), 4), good),
    "found is 5, but must be what resgrad.spectrum returns": lambda good: rg.plots.spectrum(5),
    "found is 5, but must be what resgrad.census returns": lambda good: rg.plots.census(5),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input_is_named(words, teacher):
    with pytest.raises((TypeError, ValueError), match=words) as told:
        BAD[words](teacher)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("content", ["", "step\n", "step,loss\n0,1\n1\n", "step,loss\n0,one\n", "time,loss\n0,1\n"])
def test_what_is_no_history(content, tmp_path):
    (tmp_path / "history.csv").write_text(content)
    with pytest.raises(ValueError, match="history.csv is not the history of a run"):
        rg.plots.history(tmp_path)


def pictures(teacher, found):
    yield rg.plots.history(descent(teacher))
    yield rg.plots.units(teacher, teacher)
    yield rg.plots.spectrum(rg.spectrum(rg.PopulationLoss("resnet", teacher), teacher.theta))
    yield rg.plots.census(found)


def test_nothing_leaks(teacher, found):
    before = dict(matplotlib.rcParams)
    code = "import sys, resgrad as rg; rg.plots.history(rg.Trajectory([0], [0], [1.0], '')); print(*sys.modules)"
    for picture in pictures(teacher, found):
        assert isinstance(picture, matplotlib.figure.Figure)
        image, size = picture._repr_png_()
        assert image.startswith(b"\x89PNG")
        assert size["width"] == pytest.approx(100 * picture.get_size_inches()[0], abs=1)
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in output(sys.executable, "-c", code)[0].split()


def test_threads_draw_the_same(teacher, found):
    """Settings are global in matplotlib: two that change them at one time would mix them up, and leave them so."""
    before = dict(matplotlib.rcParams)
    draw = (lambda: rg.plots.census(found)._repr_png_()[0]), (lambda: rg.plots.units(teacher, teacher)._repr_png_()[0])
    alone = [one() for one in draw]
    with concurrent.futures.ThreadPoolExecutor(4) as executor:
        drawn = list(executor.map(lambda one: one(), 6 * draw))
    assert drawn == 6 * alone
    assert dict(matplotlib.rcParams) == before


def test_pictures_do_not_depend_on_the_users_matplotlibrc(tmp_path):
    (tmp_path / "matplotlibrc").write_text(HOSTILE)
    code = (
        "import sys, numpy as np, resgrad as rg\n"
        "teacher = rg.Network('li', np.linspace(0, 0.5, 9), 3)\n"
        "loss = rg.PopulationLoss('li', teacher)\n"
        "picture = rg.plots.spectrum(rg.spectrum(loss, np.zeros(9)))\n"
        "picture.savefig(sys.argv[1] + '.saved.png')\n"
        "open(sys.argv[1], 'wb').write(picture._repr_png_()[0])\n"
    )
    for name, environment in (("plain", {}), ("hostile", {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")})):
        output(sys.executable, "-c", code, tmp_path / name, env=os.environ | environment)
    assert (tmp_path / "plain").read_bytes() == (tmp_path / "hostile").read_bytes()
    assert (tmp_path / "hostile.saved.png").read_bytes().startswith(b"\x89PNG")


def test_wide_networks_are_drawn_as_pixels():
    wide, narrow = (rg.Network("vanilla", np.eye(d).ravel(), d) for d in (60, 5))
    images = [panels.image(rg.plots.units(network, network), "inline") for network in (wide, narrow)]
    assert [image.count(b"<path") < 200 for image in images] == [True, True]
    assert [b"data:image/png" in image for image in images] == [True, True]  # of the color bar, at least
