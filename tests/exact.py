"""The expected loss, gradient and Hessian to fifty digits: formulas (8), (10) and (11) in mpmath.

They are relu's.  Other slopes are made of it, s(z) = p relu(z) - n relu(-z), while the package has formulas of their
own for them.  Everything starts from theta, and the float64 numbers in it are taken as exact; so is W1 + I.
The Hessian is a difference quotient of the gradient, so it shares no formula with the kernels.
"""

import mpmath
import naive
import numpy as np
from mpmath import mpf

mpmath.mp.dps = 50
STEP = mpf(10) ** -20  # of the difference quotients: their error is STEP^2, their rounding 1e-50 / STEP


def parameters(theta):
    return [mpf(float(entry)) if not isinstance(entry, mpf) else entry for entry in theta]


def network(name, theta, d):
    """([(u_j, a_j)], C, slopes) in mpf, C a list of rows."""
    matrices, (identity, readout, linear, slopes) = naive.TWINS[name][1:]
    theta, m = parameters(theta), d if readout == "matrix" else 1
    end = len(theta) - (d * m if linear is None else 0)
    k = end // (d * (1 + ("W2" in matrices)))
    units = []
    for j in range(k):
        u = [theta[i * k + j] + (identity if i == j else 0) for i in range(d)]
        row = theta[d * k + j * d : d * k + (j + 1) * d]
        units.append((u, {"ones": [mpf(1)], "row sums": [mpmath.fsum(row)], "matrix": row}[readout]))
    if linear is None:
        return units, [theta[end + i * m : end + (i + 1) * m] for i in range(d)], slopes
    return units, [[mpf(linear if o == i or m == 1 else 0) for o in range(m)] for i in range(d)], slopes


def ramps(units, slopes):
    """The units as sums of relus, s(z) = p relu(z) - n relu(-z), each as (u, q, number of its unit, sign, slope)."""
    p, n = map(mpf, slopes)
    for j, (u, a) in enumerate(units):
        yield u, [p * entry for entry in a], j, 1, p
        if n:
            yield [-entry for entry in u], [-n * entry for entry in a], j, -1, -n


def residual(student, theta, teacher, theta_star, d):
    """The student's units and ramps, those of student minus teacher, and its linear part D."""
    units, C, slopes = network(student, theta, d)
    stars, C_star, slopes_star = network(teacher, theta_star, d)
    D = [[a - b for a, b in zip(row, row_star)] for row, row_star in zip(C, C_star)]
    own, other = list(ramps(units, slopes)), list(ramps([(u, [-entry for entry in a]) for u, a in stars], slopes_star))
    return units, own, own + other, D


def dot(u, v):
    return mpmath.fsum(a * b for a, b in zip(u, v))


def unit(u):
    """|u| and u / |u|; zeros for a zero vector."""
    length = mpmath.sqrt(dot(u, u))
    return length, [entry / length if length else mpf(0) for entry in u]


def angle(u, v):
    """The angle of two unit vectors, without cancellation."""
    across = [a - b for a, b in zip(u, v)]
    along = [a + b for a, b in zip(u, v)]
    return 2 * mpmath.atan2(mpmath.sqrt(dot(across, across)), mpmath.sqrt(dot(along, along)))


def arc(phi):
    return mpmath.sin(phi) + (mpmath.pi - phi) * mpmath.cos(phi)


def loss_of(ramps, D):
    """Equation (8) for the network with these ramps and linear part D."""
    directions = [unit(z) for z, *_ in ramps]
    total = mpmath.fsum(entry**2 for row in D for entry in row)
    for (z, q, *_), (length, direction) in zip(ramps, directions):
        total += mpmath.fsum(z[i] * dot(D[i], q) for i in range(len(z)))
        for (_, r, *_), (length_r, direction_r) in zip(ramps, directions):
            weight = dot(q, r) * length * length_r
            if weight:
                total += weight * arc(angle(direction, direction_r)) / (2 * mpmath.pi)
    return total


def loss(student, theta, teacher, theta_star, d):
    _, _, every, D = residual(student, theta, teacher, theta_star, d)
    return loss_of(every, D)


def scale(teacher, theta_star, d):
    """E|F*(x)|^2."""
    units, C, slopes = network(teacher, theta_star, d)
    return loss_of(list(ramps(units, slopes)), C)


def gradient(student, theta, teacher, theta_star, d):
    """((10), (11) and dloss/dC) in theta, and for every entry the largest term in the sum of its unit.

    At a zero unit the sign of z is that of z <= 0, and only the slope n of its ramps acts.
    """
    units, own, every, D = residual(student, theta, teacher, theta_star, d)
    lengths, directions = zip(*(unit(z) for z, *_ in every))
    m, k = len(D[0]), len(units)
    terms_u, terms_a = [[] for _ in units], [[] for _ in units]
    terms_C = [[[2 * entry] for entry in row] for row in D]
    for u, q, *_ in every:
        for i in range(d):
            for o in range(m):
                terms_C[i][o].append(u[i] * q[o])
    dC = [[mpmath.fsum(terms) for terms in row] for row in terms_C]
    for l, (u, a, j, sign, slope) in enumerate(own):
        if not lengths[l]:
            continue
        terms_u[j].append([sign * dot(row, a) for row in D])
        terms_a[j].append([slope * dot(u, column) for column in zip(*D)])
        for n, (_z, q, *_) in enumerate(every):
            phi = angle(directions[l], directions[n])
            weight = sign * dot(a, q) * lengths[n] / mpmath.pi
            terms_u[j].append([weight * mpmath.sin(phi) * e for e in directions[l]])
            terms_u[j].append([weight * (mpmath.pi - phi) * e for e in directions[n]])
            G = slope * lengths[l] * lengths[n] * arc(phi) / mpmath.pi
            terms_a[j].append([G * entry for entry in q])
    n = mpf(network(student, theta, d)[2][1])
    for (u, a), terms in zip(units, terms_u):
        if not any(u):
            terms.append([n * dot(row, a) for row in dC])
    dU = [[mpmath.fsum(column) for column in zip(*terms)] for terms in terms_u]
    dA = [[mpmath.fsum(column) for column in zip(*terms)] if terms else [mpf(0)] * m for terms in terms_a]
    size_U = [[_largest(terms)] * d for terms in terms_u]
    size_A = [[_largest(terms)] * m for terms in terms_a]
    size_C = [[max(map(abs, terms)) for terms in row] for row in terms_C]
    return tuple(pull_back(student, *parts, d, k) for parts in ((dU, dA, dC), (size_U, size_A, size_C)))


def _largest(terms):
    return max((abs(entry) for term in terms for entry in term), default=mpf(0))


def pull_back(student, dU, dA, dC, d, k):
    """Rows dU (k, d), dA (k, m) and dC (d, m) as one list in the order of theta."""
    readout = naive.TWINS[student][2][1]
    columns = {"ones": [], "row sums": [0] * d, "matrix": range(d)}[readout]
    blocks = {
        "W1": [dU[j][i] for i in range(d) for j in range(k)],
        "W2": [dA[j][i] for j in range(k) for i in columns],
        "C": [entry for row in dC for entry in row],
    }
    return [entry for matrix in naive.TWINS[student][1] for entry in blocks[matrix]]


def hessian(student, theta, teacher, theta_star, d):
    """Central differences of the exact gradient, as a float64 array."""
    theta, columns = parameters(theta), []
    for i in range(len(theta)):
        sides = []
        for sign in (1, -1):
            moved = list(theta)
            moved[i] += sign * STEP
            sides.append(gradient(student, moved, teacher, theta_star, d)[0])
        columns.append([float((plus - minus) / (2 * STEP)) for plus, minus in zip(*sides)])
    return np.array(columns).T


def gradient_error(got, student, theta, teacher, theta_star, d):
    """The largest error of a gradient, each unit's entries relative to the largest term in their sums."""
    wanted, sizes = gradient(student, theta, teacher, theta_star, d)
    errors = [abs(mpf(float(a)) - b) / s if s else abs(mpf(float(a))) for a, b, s in zip(got, wanted, sizes)]
    return float(max(errors))
