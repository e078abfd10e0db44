"""Correlated inputs and noisy labels."""

import json

import exact
import naive
import numpy as np
import pytest
from conftest import RECORDS, float32_slow, left, point, relative_error, run, slow
from mpmath import mpf

import resgrad as rg
from resgrad import census, experiment, inputs

GENERIC = 1e-12  # sums of some ten terms, each good to a few EPS, and the condition of the covariance
SINGLE = 1e-5  # of twenty steps in float32
DIFFERENCE = 1e-7  # a central difference with step 1e-5
SIGMAS = 5.0
ROUNDED = 1e-14  # a product of two factors, each good to a few 1e-16


def positive(d, seed=0):
    B = np.random.default_rng(seed).standard_normal((d, d))
    return B @ B.T + 0.1 * np.eye(d)


@pytest.mark.parametrize("d", [1, 2, 7])
def test_the_factor_is_lower_triangular_and_gives_the_matrix_back(d):
    S = positive(d)
    L = inputs.factor(S, d)
    assert relative_error(L @ L.T, S) < ROUNDED and np.array_equal(L, np.tril(L)) and np.all(np.diag(L) > 0)
    assert np.array_equal(inputs.factor(S.tolist(), d), L)


@pytest.mark.parametrize("alpha", ["0", "1", "0.5", "-2", "1e1"])
def test_powers_have_trace_d(alpha):
    L = inputs.factor(f"power:{alpha}", 6)
    values = np.diag(L @ L.T)
    assert relative_error(values / values[0], np.arange(1.0, 7.0) ** -float(alpha)) < ROUNDED
    assert abs(np.sum(values) - 6) < 6 * ROUNDED and np.count_nonzero(L) == 6


def test_what_rounding_leaves_of_symmetry_is_symmetric():
    Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))
    S = Q @ np.diag(np.arange(1.0, 6.0)) @ Q.T
    L = inputs.factor(S, 5)
    assert relative_error(L @ L.T, S) < ROUNDED


def test_no_covariance_is_none():
    assert inputs.factor(None, 3) is None


@pytest.mark.parametrize(
    "covariance, error, message",
    [
        (np.eye(3), ValueError, r"^covariance has shape \(3, 3\), but must have shape \(2, 2\)$"),
        (np.ones(2), ValueError, r"^covariance has shape \(2,\), but must have shape \(2, 2\)$"),
        ([[1, 2], [0, 1]], ValueError, r"^covariance holds 2.0 at index \(0, 1\) and 0.0 at \(1, 0\), but must"),
        ([[1, 2], [2, 1]], ValueError, "^covariance has the eigenvalue -1, but must be positive definite$"),
        ([[1, 1], [1, 1]], ValueError, "^covariance has the eigenvalue .*, but must be positive definite$"),
        (np.zeros((2, 2)), ValueError, "^covariance has the eigenvalue 0, but must be positive definite$"),
        ([[1, np.nan], [np.nan, 1]], ValueError, r"^covariance holds nan at index \(0, 1\), but must be finite$"),
        ([[1, 1e308], [-1e308, 1]], ValueError, r"^covariance holds an entry of size 1e\+308, but must hold none"),
        ("power:-inf", ValueError, "^covariance is 'power:-inf', but must be a matrix, or power:ALPHA"),
        ("power:", ValueError, "^covariance is 'power:', but must be a matrix, or power:ALPHA with a real number"),
        ("power:nan", ValueError, "^covariance is 'power:nan', but must be a matrix, or power:ALPHA"),
        ("powers:1", ValueError, "^covariance is 'powers:1', but must be a matrix, or power:ALPHA"),
        ("power:1e4", ValueError, "^covariance is 'power:1e4', but with d=2 its smallest eigenvalue is 0"),
        (object(), TypeError, "^covariance is <object .*>, but must be an array of real numbers$"),
    ],
)
def test_a_covariance_says_what_does_not_fit(covariance, error, message):
    with pytest.raises(error, match=message):
        inputs.factor(covariance, 2)


# ------------------------------------------------------------------------------------ losses


PAIRS = [("vanilla", "vanilla"), ("li", "resnet-sum"), ("two-weight-free", "even"), ("resnet", "modresnet-free")]
PAIRS += [("leaky", "li"), ("li-bias", "li"), ("all", "all")]
every_pair = pytest.mark.parametrize("student, teacher", PAIRS)


def pair(student, teacher, d=3, k=3, k_star=2, seed=0, **about):
    """(loss, theta)."""
    star = rg.Network(RECORDS[teacher], point(teacher, d, k_star, seed + 100), d)
    return rg.PopulationLoss(RECORDS[student], star, **about), point(student, d, k, seed)


@pytest.mark.parametrize("covariance", [np.eye(3), "power:0"])
@every_pair
def test_the_identity_is_no_covariance(student, teacher, covariance):
    (loss, theta), (plain, _) = pair(student, teacher, covariance=covariance), pair(student, teacher)
    assert abs(loss.value(theta) / plain.value(theta) - 1) < GENERIC
    assert relative_error(loss.grad(theta), plain.grad(theta)) < GENERIC
    assert relative_error(loss.hessian(theta), plain.hessian(theta)) < GENERIC


@pytest.mark.parametrize("arch", ["vanilla", "leaky"])
def test_correlated_inputs_are_a_change_of_units(arch):
    """Where U = W1, and C is trained or zero: the loss is that of L'W1 and L'C, and derivatives come back by L."""
    S, record = positive(3), RECORDS[arch]
    L = np.linalg.cholesky(S)
    loss, theta = pair(arch, arch, covariance=S)

    def white(at):
        blocks = record.unflatten(at, 3)
        return record.flatten(L.T @ blocks.W1, blocks.W2, None if blocks.C is None else L.T @ blocks.C)

    names = (arch, white(theta), arch, white(loss.teacher.theta), 3)
    assert abs(loss.value(theta) / naive.population_loss(*names) - 1) < GENERIC
    J = np.array([white(e) for e in np.eye(theta.size)])
    assert relative_error(loss.grad(theta), J @ naive.population_gradient(*names)) < GENERIC
    plain = rg.PopulationLoss(record, rg.Network(record, names[3], 3))
    assert relative_error(loss.hessian(theta), J @ plain.hessian(names[1]) @ J.T) < GENERIC


@every_pair
def test_the_hessian_is_how_the_gradient_changes(student, teacher):
    loss, theta = pair(student, teacher, covariance=positive(3))
    H, h = loss.hessian(theta), 1e-5
    columns = [(loss.grad(theta + h * e) - loss.grad(theta - h * e)) / (2 * h) for e in np.eye(theta.size)]
    assert np.array_equal(H, H.T) and relative_error(H, np.array(columns)) < DIFFERENCE


@every_pair
def test_samples_agree(student, teacher):
    S, sigma = positive(3), 0.7
    loss, theta = pair(student, teacher, covariance=S, noise=sigma)
    X, Y = rg.dataset(loss.teacher, 200_000, rng=1, covariance=S, noise=sigma)
    sampled = rg.EmpiricalLoss(loss.arch, X, Y)
    values = sampled.values(theta)
    assert abs(values.mean() - loss.value(theta)) < SIGMAS * values.std() / len(X) ** 0.5
    assert np.linalg.norm(sampled.grad(theta) - loss.grad(theta)) < 0.05 * np.linalg.norm(loss.grad(theta))


@pytest.mark.parametrize("size, digits", [(1e-6, 1e-8), (1e-10, 1e-8), (1e-14, 1e-3)])
def test_the_loss_near_a_teacher_keeps_its_digits(size, digits):
    S, d, k = positive(3), 3, 2
    L = [[mpf(float(x)) for x in row] for row in inputs.factor(S, d)]
    star = point("vanilla", d, k)
    theta = star + size * np.random.default_rng(0).standard_normal(star.size)
    loss = rg.PopulationLoss("vanilla", rg.Network("vanilla", star, d), S)

    def white(at):
        W = [[mpf(float(x)) for x in row] for row in at.reshape(d, k)]
        return [sum(L[j][i] * W[j][l] for j in range(d)) for i in range(d) for l in range(k)]

    wanted = exact.loss("vanilla", white(theta), "vanilla", white(star), d)
    assert abs(loss.value(theta) / float(wanted) - 1) < digits


@every_pair
def test_noise_adds_its_variance_for_every_output(student, teacher):
    (loss, theta), (plain, _) = pair(student, teacher, noise=0.5), pair(student, teacher)
    m = loss.arch.outputs(3)
    assert loss.value(theta) == plain.value(theta) + m * 0.25 and loss.excess(theta) == plain.value(theta)
    assert np.array_equal(loss.grad(theta), plain.grad(theta))
    assert np.array_equal(loss.hessian(theta), plain.hessian(theta))


def test_noise_on_labels_does_not_change_the_inputs():
    teacher = rg.Network("resnet", point("resnet", 3), 3)
    X, Y = rg.dataset(teacher, 50_000, rng=0)
    same, noisy = rg.dataset(teacher, 50_000, rng=0, noise=2.0)
    errors = noisy - Y
    assert np.array_equal(same, X) and abs(errors.std() / 2 - 1) < 0.02 and abs(errors.mean()) < 0.03
    assert np.abs(np.corrcoef(errors.T) - np.eye(3)).max() < 0.03
    single = rg.dataset(teacher, 9, rng=0, dtype=np.float32, noise=2.0, covariance="power:1")
    assert [part.dtype for part in single] == [np.float32] * 2


def test_a_data_set_has_its_covariance():
    S = positive(3)
    X, _ = rg.dataset(rg.Network("li", np.zeros(9), 3), 200_000, rng=0, covariance=S)
    assert np.abs(X.T @ X / len(X) - S).max() < 0.03 * np.abs(S).max()


@float32_slow
@pytest.mark.parametrize("arch", ["li", "leaky", *slow("all")])
def test_fresh_samples_are_those_that_batch_draws(arch, dtype):
    S, record = positive(3), RECORDS[arch]
    teacher, theta = rg.Network(record, point(arch, 3, 2, 1), 3), point(arch, 3, 4, dtype=dtype)
    loss = rg.OnlineLoss(record, teacher, dtype, covariance=S, noise=0.3)
    ends = [rg.train(loss, theta, rg.SGD(0.01), 20, 5, seed=1, record_every=n).theta for n in (1, 20)]
    assert np.array_equal(*ends)
    rng, wanted = rg.streams(1).batches, theta.astype(float)
    for _ in range(20):
        X, Y = rg.dataset(teacher, 5, rng, dtype, covariance=S, noise=0.3)
        wanted = wanted - 0.01 * naive.loss_and_gradient(arch, wanted, X, Y)[1]
    assert relative_error(ends[0], wanted) < {np.float64: GENERIC, np.float32: SINGLE}[dtype]


def test_exact_descent_with_a_covariance_is_gradient_descent():
    loss, theta = pair("two-weight-free", "li", covariance=positive(3))
    trained, wanted = rg.train(loss, theta, rg.SGD(0.01), 10), theta.copy()
    for _ in range(10):
        wanted -= 0.01 * loss.grad(wanted)
    assert relative_error(trained.theta, wanted) < GENERIC


@pytest.mark.parametrize("what", ["noise", "proof"])
def test_what_has_no_formula_for_a_covariance_is_refused_by_name(what):
    loss, theta = pair("vanilla", "vanilla", covariance="power:1")
    with pytest.raises(ValueError, match="covariance"):
        {"noise": lambda: rg.gradient_noise(loss, theta), "proof": lambda: rg.certify(loss, theta)}[what]()


def test_the_degrees_of_a_loss_add_up_with_a_covariance():
    loss, theta = pair("vanilla", "vanilla", covariance=positive(3), noise=0.4)
    found = rg.hermite_spectrum(loss, theta)
    assert abs((found.parts.sum() + found.rest) / loss.excess(theta) - 1) < 1e-12


def test_polish_knows_a_global_minimum_by_what_is_left_of_the_loss():
    loss, _ = pair("vanilla", "vanilla", k_star=3, covariance=positive(3), noise=0.4)
    end = rg.polish(loss, loss.teacher.theta + 1e-3)
    assert end.verdict == "global minimum" and abs(end.loss - 0.16) < 1e-15


# ------------------------------------------------------------------------------------ command lines


ABOUT = ["--d", "3", "--width", "4", "--noise", "0.1"]


@pytest.mark.parametrize("data", ["dataset", "online", "population"])
@pytest.mark.parametrize("covariance", ["power:1", "file"])
def test_a_run_resumes_and_verifies(data, covariance, tmp_path):
    path = tmp_path / "S.npy"
    np.save(path, positive(3))
    given = ["--arch", "li", *ABOUT, "--data", data, "--covariance", path if covariance == "file" else covariance]
    given += ["--samples", 500] * (data == "dataset")
    assert run(tmp_path / "once", *given, "--steps", 300) == 0
    assert run(tmp_path / "twice", *given, "--steps", 120) == 0
    path.unlink()
    assert run(tmp_path / "twice", "--resume", "--steps", 300, "--report") == 0
    assert left(tmp_path / "once") == left(tmp_path / "twice") and run(tmp_path / "once", "--verify") == 0
    result = json.loads((tmp_path / "once" / "run.json").read_text())["result"]
    assert abs(result["population_loss_final"] - result["excess_loss_final"] - 0.01) < 1e-15
    assert (tmp_path / "twice" / "report.html").exists()


def test_a_run_says_what_its_inputs_and_labels_are(tmp_path, capsys):
    given = ["--arch", "li", *ABOUT, "--covariance", "power:1", "--data", "population", "--steps", "2000"]
    assert experiment.main([*given, "--out", str(tmp_path), "--no-plot"]) == 0
    said = capsys.readouterr().out
    assert "inputs of covariance power:1, labels with noise 0.1" in said and "without the labels' noise" in said
    assert "Loss zero" in said


def test_a_census_takes_both_and_resumes(tmp_path):
    S = positive(3)
    np.save(tmp_path / "S.npy", S)
    about = {"teacher": "normal", "covariance": str(tmp_path / "S.npy"), "noise": 0.2}
    found = rg.census("vanilla", 3, runs=6, out=tmp_path / "out", **about)
    assert found.config.covariance.startswith(f"{tmp_path / 'S.npy'}, sha256 ")
    assert found.counts["global"] > 0 and found.loss[found.outcome == "global"].max() < 1e-12
    again = rg.census("vanilla", 3, runs=8, out=tmp_path / "out", resume=True, **about)
    given = rg.census("vanilla", 3, runs=8, teacher="normal", covariance=S, noise=0.2)
    assert np.array_equal(again.loss, given.loss) and np.array_equal(again.loss[:6], found.loss)
    line = ["--resume", "--out", str(tmp_path / "out"), "--runs", "9", "--quiet"]
    assert census.main(line) == 0
    np.save(tmp_path / "S.npy", 2 * S)
    with pytest.raises(ValueError, match="covariance is .*, but was "):
        rg.census("vanilla", 3, runs=9, out=tmp_path / "out", resume=True, **about)


@pytest.mark.parametrize(
    "line, told",
    [
        (["--covariance", "power"], "covariance is 'power', but must be power:ALPHA or the path of a .npy file"),
        (["--covariance", "power:x"], "covariance is 'power:x', but must be a matrix, or power:ALPHA"),
        (["--covariance", "no.npy"], "covariance is 'no.npy', which is no array"),
        (["--covariance", "large.npy"], "covariance is 'large.npy', which is no array: "),
        (["--noise", "-1"], "noise is -1.0, but must lie in [0, 1e+30)"),
        (["--noise", "1e200"], "noise is 1e+200, but must lie in [0, 1e+30)"),
        (["--noise", "loud"], "noise is 'loud', but must be a real number"),
        (["--arch", "vanilla", "--loss", "even", "--noise", "1"], "noise is 1.0, but loss even is for"),
        (["--arch", "vanilla", "--loss", "even", "--covariance", "power:1"], "covariance is 'power:1', but loss even"),
        (["--covariance", "power:1", "--certify"], "covariance is power:1, but a proof is about inputs N(0, I)"),
    ],
)
def test_command_line_refuses_in_one_line(line, told, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open("large.npy", "wb") as file:  # it says that it holds 1e18 numbers
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 10**9)})
    given = [] if "--arch" in line else ["--arch", "li"]
    assert told in refusal(experiment.main, [*given, *line, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("arch", ["vanilla", "leaky", "li-bias"])
def test_what_overflows_is_told_in_one_line(arch):
    """Warnings are errors here."""
    loss, theta = pair(arch, arch, covariance=1e20 * positive(3))
    assert loss.value(1e300 * theta) == np.inf
    for derivative in (loss.grad, loss.hessian):
        with pytest.raises(ValueError, match="^theta is so large, or a unit so small, that the .* is beyond 1e308$"):
            derivative(1e300 * theta)


@pytest.mark.parametrize("noise", [-1.0, np.nan, np.inf, 1e200])
def test_noise_says_what_it_wants(noise):
    star = rg.Network("li", np.zeros(4), 2)
    for make in (rg.PopulationLoss, rg.OnlineLoss):
        with pytest.raises(ValueError, match=r"^noise is .*, but must lie in \[0, 1e\+30\)$"):
            make("li", star, noise=noise)
    with pytest.raises(ValueError, match=r"^noise is .*, but must lie in \[0, 1e\+30\)$"):
        rg.dataset(star, 3, noise=noise)


def test_advice_knows_the_noise_of_small_batches(tmp_path, capsys):
    given = ["--arch", "li", "--d", "3", "--width", "4", "--data", "online", "--batch-size", "1"]
    given += ["--optimizer", "sgd", "--lr", "1e3"]
    assert experiment.main([*given, "--out", str(tmp_path), "--quiet", "--no-plot"]) == 3
    assert "a step of SGD shrinks the distance from the teacher on average up to " in capsys.readouterr().err
