"""The exact gradient (7)-(11), and the training loop on it.

Narrow networks sum over pairs of units in registers, one unit against as many others as there are lanes.  Wide ones
turn the sums over components into matrix products.  One step of the loop, as every thread does it on its own copy of
the weights:

    directions and lengths of all units
    M and the gradient of C, where these change                   (19)
    for each of my units j:
        for every unit l of student and teacher:
            s, c, pi - phi from |u_j^ + z_l^|, and q_j . q_l
        dloss/du_j, dloss/da_j                                    (10), (11)
    my units, C = the step (6)
    handed[step % 2] = my units, meet the other threads, read theirs
"""

import functools
import math

import numpy as np

from .lanes import fma, lane_count, lane_sum, load, registers, splat, store
from .pairs import normalize
from .plain import RELU, split
from .policy import EXACT_LONELY, EXACT_NARROW, REGISTER, UNROLLED, exact_jit, inline_exact, jit
from .steps import copy, nonzero
from .threads import meet, parts_of, share


@jit
def fill_rows(units, first, U, A, sign):
    """Rows [u_j, sign a_j], from row ``first`` on."""
    d = U.shape[0]
    for j in range(U.shape[1]):
        for i in range(d):
            units[first + j, i] = U[i, j]
        for o in range(A.shape[1]):
            units[first + j, d + o] = sign * A[j, o]


@jit
def put_back(units, low, high, U, A):
    """The reverse of `fill_rows`, for some rows."""
    d = U.shape[0]
    for j in range(low, high):
        for i in range(d):
            U[i, j] = units[j, i]
        for o in range(A.shape[1]):
            A[j, o] = units[j, d + o]


@jit
def residual_network(U, A, U_star, A_star):
    """Student minus teacher: rows [u_j, q_j] of all units, and (directions as rows, as columns, norms, Q, Q').

    Zero units, which add nothing, fill the last register of the second part.
    """
    (d, k), (k_star, m) = U.shape, A_star.shape
    units = np.empty((k + k_star, d + m))
    count = -(-(k + k_star) // lane_count(units))
    K = count * lane_count(units)
    rows, norm, Q = np.zeros((K, d)), np.zeros(K), np.zeros((K, m))
    columns, Q_T = registers(d, count, units).reshape((d, K)), registers(m, count, units).reshape((m, K))
    fill_rows(units, 0, U, A, 1.0)
    fill_rows(units, k, U_star, A_star, -1.0)
    normalize(units, d, rows, columns, norm)
    for j in range(k + k_star):
        for o in range(m):
            Q[j, o] = Q_T[o, j] = units[j, d + o]
    return units, (rows, columns, norm, Q, Q_T)


# --------------------------------------------------------------------------- pairs of units


# arcsin(sqrt z) / sqrt z on [0, 1/2], lowest power first: the Chebyshev fit of this degree, whose
# error is 4e-18.  A polynomial runs in SIMD lanes; the C library's acos does not.
_ARCSIN = np.array([
    1.0, 0.16666666666666963, 0.07499999999921603, 0.044642857225197834, 0.030381939881673394,
    0.022372313172485805, 0.017349310327158196, 0.01401917204006966, 0.01092934906491237,
    0.015091795028583365, -0.026316324552338826, 0.1809574620911065, -0.6641236302549411,
    2.0016041109291547, -4.535791802822955, 7.768165374555008, -9.669659398550623, 8.32498352944691,
    -4.438816692066939, 1.1264192878807509,
])  # fmt: skip


@inline_exact
def _pair_terms(K, plus, value, norm, slope):
    """From |u^ + v^|^2 and q_u . q_v of one unit u and all v, in place: the factors of (9) and (7).

    plus becomes q_u . q_v |v| s, slope becomes q_u . q_v |v| (pi - phi), value |v| (s + (pi - phi) c).
    |u^ + v^|^2 = 4 cos^2(phi / 2) keeps pi - phi to the last digit near pi, where (9) needs it; near
    0 an error in phi cancels out of (7) and (9).
    """
    for l in range(K):
        quarter = 0.25 * max(min(plus[l], 4.0 - plus[l]), 0.0)  # sin^2 of the smaller half angle
        sine, arc = math.sqrt(quarter), _ARCSIN[_ARCSIN.size - 1]
        for n in range(_ARCSIN.size - 2, -1, -1):
            arc = arc * quarter + _ARCSIN[n]
        arc *= 2.0 * sine
        p = arc if plus[l] < 2.0 else math.pi - arc
        s, c = 2.0 * sine * math.sqrt(1.0 - quarter), 0.5 * plus[l] - 1.0
        weight = value[l] * norm[l]
        plus[l], slope[l], value[l] = weight * s, weight * p, norm[l] * (s + p * c)


@inline_exact
def _gradient_in_lanes(low, high, d, count, m, network, scratch, units, scale, linear, gradient):
    """(10) and (11) for the units low to high, rows [u, a] of ``units``, each against all in ``count`` registers.

    A pair of student units is computed twice: in SIMD lanes that is cheaper than to copy the result.  ``scale`` is
    (p - n)^2; for ``linear`` see `_linear`.
    """
    rows, columns, norm, Q, Q_T = network
    plus, slope, value = scratch[0], scratch[1], scratch[2]
    zero, one = splat(0.0), splat(1.0)
    for j in range(low, high):
        for c in range(count):
            square = product = zero
            for i in range(d):
                both = fma(one, splat(rows[j, i]), load(columns, i * count + c))
                square = fma(both, both, square)
            for o in range(m):
                product = fma(splat(Q[j, o]), load(Q_T, o * count + c), product)
            store(plus, c, square)
            store(value, c, product)
        _pair_terms(plus.size, plus, value, norm, slope)
        own = zero
        for c in range(count):
            own = fma(one, load(plus, c), own)
        own, alive = lane_sum(own), scale / math.pi if norm[j] > 0.0 else 0.0  # relu'(0) = 0
        for i in range(d):
            others = zero
            for c in range(count):
                others = fma(load(slope, c), load(columns, i * count + c), others)
            gradient[j, i] = alive * (own * rows[j, i] + lane_sum(others))  # (10)
        for o in range(m):
            others = zero
            for c in range(count):
                others = fma(load(value, c), load(Q_T, o * count + c), others)
            gradient[j, d + o] = scale * norm[j] / math.pi * lane_sum(others)  # (11)
        _add_linear(j, d, m, norm, units, linear, gradient)


@inline_exact
def _add_linear(j, d, m, norm, units, linear, gradient):
    """The terms in M of (10) and (11)."""
    present, M, flat, sloped = linear
    if present:
        for o in range(m):
            total = gradient[j, d + o]
            for i in range(d):
                total += M[o, i] * units[j, i]
            gradient[j, d + o] = total
            if norm[j] > 0.0:
                for i in range(d):
                    gradient[j, i] += M[o, i] * units[j, d + o]
            elif sloped:
                for i in range(d):
                    gradient[j, i] += flat[o, i] * units[j, d + o]


@exact_jit
def _update_linear(C, D, units, slopes, M, flat, dC):
    """(19) into M, and into dC where C is trained.

    ``flat`` is n dloss/dC: by s'(0) = n, that times a_j is the gradient of a unit u_j = 0.  M and ``flat`` are (m, d).
    """
    (p, n), (m, d) = slopes, M.shape
    for o in range(m):
        for i in range(d):
            M[o, i] = 0.0
        for j in range(len(units)):
            for i in range(d):
                M[o, i] += units[j, i] * units[j, d + o]
        for i in range(d):
            residual, product = D[i, o], M[o, i]
            if len(C):
                residual += C[i, o]
            slope = 2.0 * residual + (p + n) * product
            M[o, i], flat[o, i] = (p + n) * residual + 2.0 * p * n * product, n * slope
            if len(C):
                dC[i, o] = slope


@exact_jit
def _linear(C, D, units, slopes, dC):
    """What `_add_linear` needs: whether there is a linear part, its M and ``flat``, whether slopes are not relu's.

    Where C is trained, its gradient goes into dC.
    """
    d, m = D.shape
    M, flat, sloped = np.empty((m, d)), np.empty((m, d)), slopes[0] != 1.0 or slopes[1] != 0.0
    present = len(C) > 0 or sloped or nonzero(D)
    if len(C) or sloped:
        _update_linear(C, D, units, slopes, M, flat, dC)
    elif present:
        for i in range(d):
            for o in range(m):
                M[o, i] = D[i, o]
    return present, M, flat, sloped


@exact_jit
def _gradient_by_products(low, high, d, network, scratch, units, scale, linear, gradient):
    """`_gradient_in_lanes` for all these units at once: the sums over components are matrix products."""
    rows, columns, norm, Q, Q_T = network
    plus, value, slope = np.dot(rows[low:high], columns), np.dot(Q[low:high], Q_T), scratch[0]
    dz, da = scratch[1], scratch[2]
    for j in range(low, high):
        near, products = plus[j - low], value[j - low]
        for l in range(near.size):
            near[l] = 2.0 + 2.0 * near[l]
            if near[l] < 1e-3:  # near phi = pi cancellation has taken the digits: sum the squares instead
                near[l] = np.sum((rows[j] + rows[l]) ** 2)
        _pair_terms(near.size, near, products, norm, slope[j - low])
    np.dot(slope, rows, dz)
    np.dot(value, Q, da)
    for j in range(low, high):
        alive = scale if norm[j] > 0.0 else 0.0  # relu'(0) = 0
        own = np.sum(plus[j - low])
        for i in range(d):
            gradient[j, i] = alive * (dz[j - low, i] + own * rows[j, i]) / math.pi  # (10)
        for o in range(da.shape[1]):
            gradient[j, d + o] = scale * norm[j] * da[j - low, o] / math.pi  # (11)
        _add_linear(j, d, da.shape[1], norm, units, linear, gradient)


def population_gradient(U, A, C, U_star, A_star, D, slopes, dU, dA, dC):
    """(10) into dU, (11) into dA and (19) into dC: O(k (k + k*) (d + m)) time, O(k (k + k*)) memory at most.

    D is C - C*, or, where C is trained, -C*; else C has no rows.  Narrow and wide networks have a function each, as a
    run needs one of them, and each takes seconds to compile.
    """
    evaluate = in_lanes if max(U.shape) <= EXACT_NARROW else by_products
    evaluate(U, A, C, U_star, A_star, D, slopes, dU, dA, dC)


@exact_jit
def in_lanes(U, A, C, U_star, A_star, D, slopes, dU, dA, dC):
    """`population_gradient` of narrow networks."""
    (d, k), m, scale = U.shape, A.shape[1], (slopes[0] - slopes[1]) ** 2
    units, network = residual_network(U, A, U_star, A_star)
    gradient, linear = np.empty((k, d + m)), _linear(C, D, units, slopes, dC)
    count = network[2].size // lane_count(units)
    scratch = registers(3, count, units).reshape((3, -1))
    _gradient_in_lanes(0, k, d, count, m, network, scratch, units, scale, linear, gradient)
    put_back(gradient, 0, k, dU, dA)


@exact_jit
def by_products(U, A, C, U_star, A_star, D, slopes, dU, dA, dC):
    """`population_gradient` of wide networks."""
    (d, k), m, scale = U.shape, A.shape[1], (slopes[0] - slopes[1]) ** 2
    units, network = residual_network(U, A, U_star, A_star)
    gradient, linear = np.empty((k, d + m)), _linear(C, D, units, slopes, dC)
    scratch = np.empty((k, network[2].size)), np.empty((k, d)), np.empty((k, m))
    _gradient_by_products(0, k, d, network, scratch, units, scale, linear, gradient)
    put_back(gradient, 0, k, dU, dA)


# --------------------------------------------------------------------------- training


def population_loop(d, k, K, m, skip=0, slopes=RELU):
    """(loop, scratch, parts): the training loop on the exact gradient, as `sampled_loop`.

    It is ``loop(thread, marks, scratch, teacher, w, v, rates, n_steps)``; ``scratch()`` allocates its shared memory.
    """
    parts, count = 1 if max(d, k) <= EXACT_LONELY else parts_of(k), -(-K // (REGISTER // 8))
    narrow = max(d, k) <= EXACT_NARROW
    compiled = compiled_loop(narrow, count if narrow and count <= UNROLLED else 0)

    def loop(thread, marks, scratch, teacher, w, v, *given):
        compiled(thread, marks, scratch, teacher, split(w, d, k, m, skip), split(v, d, k, m, skip), *given)

    return loop, lambda: (np.empty((2, k, d + m)), parts, slopes), parts


@functools.cache
def compiled_loop(narrow, fixed):
    """The loop, in lanes for ``narrow`` networks or by products, compiled for all shapes that have ``fixed`` registers.

    Where ``fixed`` is 0, the number of registers may be any.
    """

    @exact_jit
    def loop(thread, marks, scratch, teacher, W, V, rates, n_steps):
        (U, A, C), (VU, VA, VC), (U_star, A_star, D), (handed, parts, slopes) = W, V, teacher, scratch
        (d, k), m, scale = U.shape, A.shape[1], (slopes[0] - slopes[1]) ** 2
        units, network = residual_network(U, A, U_star, A_star)
        rows, columns, norm, Q, Q_T = network
        weights, gradient, velocities = units[:k], np.empty((k, d + m)), np.empty((k, d + m))
        fill_rows(velocities, 0, VU, VA, 1.0)
        first, last = share(parts, thread, marks)
        low, high = k * first // parts, k * last // parts
        if narrow:
            count = fixed if fixed else norm.size // lane_count(units)
            memory = registers(3, count, units).reshape((3, -1))
        else:
            most = -(-k // parts)
            memory = np.empty((most, norm.size)), np.empty((most, d)), np.empty((most, m))
        skip, velocity, dC = C.copy(), VC.copy(), np.empty_like(C)  # every thread keeps C for itself
        linear = _linear(C, D, units, slopes, dC)
        _, M, flat, sloped = linear
        for step in range(n_steps):
            if len(C) or sloped:
                _update_linear(skip, D, units, slopes, M, flat, dC)
            normalize(weights, d, rows, columns, norm)
            for j in range(k):
                for o in range(m):
                    Q[j, o] = Q_T[o, j] = units[j, d + o]
            if narrow:
                _gradient_in_lanes(low, high, d, count, m, network, memory, units, scale, linear, gradient)
            else:
                for part in range(first, last):
                    i, j = k * part // parts, k * (part + 1) // parts
                    some = memory[0][: j - i], memory[1][: j - i], memory[2][: j - i]
                    _gradient_by_products(i, j, d, network, some, units, scale, linear, gradient)
            for j in range(low, high):
                for i in range(d + m):
                    g, lr = gradient[j, i], rates[0] if i < d else rates[1]
                    velocities[j, i] = rates[3] * velocities[j, i] + g
                    units[j, i] -= lr * (g + rates[3] * velocities[j, i])  # (6)
            for i in range(len(C)):
                for o in range(m):
                    velocity[i, o] = rates[3] * velocity[i, o] + dC[i, o]
                    skip[i, o] -= rates[2] * (dC[i, o] + rates[3] * velocity[i, o])
            if len(marks) > 1:  # also where a thread has no unit: it may keep C
                for j in range(low, high):
                    for i in range(d + m):
                        handed[step % 2, j, i] = units[j, i]
                if not meet(marks, thread, step + 1):
                    return
                for j in range(k):
                    if not low <= j < high:
                        for i in range(d + m):
                            units[j, i] = handed[step % 2, j, i]
        if not meet(marks, thread, n_steps + 1):
            return
        put_back(units, low, high, U, A)
        put_back(velocities, low, high, VU, VA)
        if thread == 0:
            copy(skip, C)
            copy(velocity, VC)
        meet(marks, thread, n_steps + 2)  # all is written

    return loop
