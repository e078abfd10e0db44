"""The expected loss, gradient and Hessian to fifty digits: formulas (8), (10) and (11) in mpmath.

Everything starts from theta, and the float64 numbers in it are taken as exact; so is W1 + I.
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
    """([(u_j, a_j)], C) in mpf, C a list of rows."""
    identity, readout, linear = naive.TWINS[name][2]
    theta, count = parameters(theta), naive.TWINS[name][1]
    k = len(theta) // (count * d)
    units = []
    for j in range(k):
        u = [theta[i * k + j] + (identity if i == j else 0) for i in range(d)]
        row = theta[d * k + j * d : d * k + (j + 1) * d]
        units.append((u, {"ones": [mpf(1)], "row sums": [mpmath.fsum(row)], "matrix": row}[readout]))
    m = d if readout == "matrix" else 1
    return units, [[mpf(linear if o == i or m == 1 else 0) for o in range(m)] for i in range(d)]


def residual(student, theta, teacher, theta_star, d):
    """The student's units, all units (z, q) of student minus teacher, and its linear part D."""
    units, C = network(student, theta, d)
    stars, C_star = network(teacher, theta_star, d)
    D = [[a - b for a, b in zip(row, row_star)] for row, row_star in zip(C, C_star)]
    return units, units + [(u, [-entry for entry in a]) for u, a in stars], D


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


def loss_of(units, D):
    """Equation (8) for the network with these units and linear part D."""
    directions = [unit(z) for z, _ in units]
    total = mpmath.fsum(entry**2 for row in D for entry in row)
    for (z, q), (length, direction) in zip(units, directions):
        total += mpmath.fsum(z[i] * dot(D[i], q) for i in range(len(z)))
        for (_, r), (length_r, direction_r) in zip(units, directions):
            weight = dot(q, r) * length * length_r
            if weight:
                total += weight * arc(angle(direction, direction_r)) / (2 * mpmath.pi)
    return total


def loss(student, theta, teacher, theta_star, d):
    _, units, D = residual(student, theta, teacher, theta_star, d)
    return loss_of(units, D)


def scale(teacher, theta_star, d):
    """E|F*(x)|^2."""
    units, C = network(teacher, theta_star, d)
    return loss_of(units, C)


def gradient(student, theta, teacher, theta_star, d):
    """((10), (11)) in theta, and for every entry the largest term in the sum of its unit."""
    students, units, D = residual(student, theta, teacher, theta_star, d)
    lengths, directions = zip(*(unit(z) for z, _ in units))
    m, k = len(D[0]), len(students)
    dU, dA, size_U, size_A = [], [], [], []
    for j, (u, a) in enumerate(students):
        terms_u, terms_a = [[dot(row, a) for row in D]], [[dot(u, column) for column in zip(*D)]]
        for l, (_z, q) in enumerate(units):
            phi = angle(directions[j], directions[l])
            weight = dot(a, q) * lengths[l] / mpmath.pi
            terms_u.append([weight * mpmath.sin(phi) * e for e in directions[j]])
            terms_u.append([weight * (mpmath.pi - phi) * e for e in directions[l]])
            G = lengths[j] * lengths[l] * arc(phi) / mpmath.pi
            terms_a.append([G * entry for entry in q])
        dead = not lengths[j]
        dU.append([mpf(0) if dead else mpmath.fsum(column) for column in zip(*terms_u)])
        dA.append([mpmath.fsum(column) for column in zip(*terms_a)])
        size_U.append([max(abs(e) for term in terms_u for e in term)] * d)
        size_A.append([max(abs(e) for term in terms_a for e in term)] * m)
    return tuple(pull_back(student, U, A, d, k) for U, A in ((dU, dA), (size_U, size_A)))


def pull_back(student, dU, dA, d, k):
    """Rows dU (k, d) and dA (k, m) as one list in the order of theta."""
    W1 = [dU[j][i] for i in range(d) for j in range(k)]
    readout = naive.TWINS[student][2][1]
    if readout == "ones":
        return W1
    return W1 + [dA[j][0 if readout == "row sums" else i] for j in range(k) for i in range(d)]


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
