"""Correlated inputs."""

import numpy as np
import pytest
from conftest import relative_error

from resgrad import inputs

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
