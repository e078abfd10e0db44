"""Every jitted function: arrays in, arrays out; no validation, no files.  Imports no other room.

The forward and the backward pass are written once, for the canonical network

    F(x) = A' relu(U' x) + C' x        U (d, k),  A (k, m),  C (d, m),  m = 1 or d.          (1)

The four networks of the post are cases of it.  With e = F(x) - y, h = relu(z), 1[.] the 0/1
indicator (relu'(0) = 0) and 1 the vector of ones, the loss |e|^2 of one sample has

    li          z = (I + W1)' x     F = 1'h                 dW1 = 2 x (e 1 * 1[z > 0])'
    resnet      z = W1' x           F = W2'h + x            dW2 = 2 h e'
                                                            dW1 = 2 x ((W2 e) * 1[z > 0])'
    two-weight  z = (W1 + I)' x     F = 1'W2'h = (W2 1)'h   dW2 = 2 e h 1'
                                                            dW1 = 2 x (e W2 1 * 1[z > 0])'
    modresnet   z = (W1 + I)' x     F = W2'h + x            as resnet

which is (1) with U = W1 + I or W1;  A = 1, W2 1 or W2;  C = 0, 1 or I, and

    r = A'h + C'x - y,    dA = 2 h r',    g = (A r) * 1[z > 0],    dU = 2 x g'              (2)-(4)
    dW1 = dU;    dW2 = dA (vector),  dA 1' (sum),  absent (fixed).                              (5)

theta -> (U, A) is linear, so SGD and Nesterov on theta *are* SGD and Nesterov on (U, A) with the
rate of A multiplied by 0 (fixed), 1 (vector) or d (sum: d columns of W2 share one gradient).  The
loops below run on (U, A) and never see theta.  One step, with v <- momentum v + g:

    theta <- theta - lr (g + momentum v).                                                       (6)

Population.  Student minus teacher is one more network (1), with units Z = [U, U*], read-out
Q = [A; -A*] and linear part D = C - C*.  For x ~ N(0, I), phi the angle between u and v, s and c
its sine and cosine, ^ a unit vector, and G(u, v) = E[relu(u'x) relu(v'x)] (Cho & Saul 2009),

    G(u, v) = |u||v| (s + (pi - phi) c) / 2 pi                                                  (7)
    loss = sum_lm (q_l . q_m) G(z_l, z_m) + sum_l q_l . D'z_l + |D|^2                           (8)
    dG/du = (|v| s u^ + (pi - phi) v) / 2 pi                                                    (9)
    dloss/du_j = 2 sum_l (a_j . q_l) dG/du(u_j, z_l) + D a_j                                    (10)
    dloss/da_j = 2 sum_l G(u_j, z_l) q_l + D'u_j                                                (11)

(9) follows from (7) with dphi/du = -(v^ - c u^) / (|u| s): the terms in dphi cancel.  For the
second derivatives let m = (v^ - c u^) / s and n = (u^ - c v^) / s, the unit vectors in the plane
of u and v that are orthogonal to u and to v.  Differentiating (9) once more,

    d2G/du dv = ((pi - phi) I + s (u^ v^' + m n')) / 2 pi                                       (12)
    d2G/du du = s |v| / |u| (I - u^ u^' + m m') / 2 pi                                          (13)

and by the product rule on (10) and (11), q = a on the student's own units,

    d2loss/du_j du_l = 2 (a_j . a_l) d2G/du dv(u_j, u_l)                  j != l                (14)
    d2loss/du_j du_j = |a_j|^2 I + 2 sum_{l != j} (a_j . q_l) d2G/du du(u_j, z_l)               (15)
    d2loss/du_j da_l = 2 dG/du(u_j, u_l) a_j' + [j = l] (2 sum_m dG/du(u_j, z_m) q_m' + D)      (16)
    d2loss/da_j da_l = 2 G(u_j, u_l) I.                                                         (17)

s m and s n stay bounded where u and v become parallel (s = 0), so (7)-(17) are continuous there and
take their limits.  At a zero unit they have no limit; relu'(0) = 0 makes dG/du and d2G vanish.

Near a zero of the loss (8) is a difference of large numbers.  With relu(t) = (t + |t|) / 2 the
residual splits into an odd and an even part, which are orthogonal under a Gaussian:

    loss = |D + Z Q / 2|^2 + sum_lm (p_l . p_m) (s + psi |c|) / 2 pi,                           (18)

p_l = |z_l| q_l and psi = arcsin |c|.  The first term is a norm.  The second one is summed in
double-double arithmetic (unevaluated hi + lo, about 32 digits) wherever plain summation would cancel.
"""

import functools
import math
from fractions import Fraction

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, register_jitable


def _jit(function=None, **options):
    """The one JIT policy: cached on disk, without the GIL, IEEE division; fastmath is opt-in."""
    if function is None:
        return functools.partial(_jit, **options)
    options = {"nogil": True, "error_model": "numpy"} | options
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no cache folder can be written: compile in every process instead
        return numba.njit(**options)(function)


# Sums over samples may be reassociated, so that they run in SIMD lanes.  NaN and inf keep their
# meaning: a diverging run must be seen.  Never used in population code.
_sampled_jit = functools.partial(_jit, fastmath={"reassoc", "contract", "nsz", "arcp"})
_inline = functools.partial(_sampled_jit, inline="always")
# Population code may fuse a multiplication and an addition, and nothing else.
_exact = functools.partial(_jit, fastmath={"contract"})
_inline_exact = functools.partial(_exact, inline="always")

UNROLLED = 12  # widest network for which the shape-specialized loop beats BLAS
ALONE = 200  # widest network for which one thread is about as fast as two
PARTS = 2  # of each step above that; not the machine's number of threads: the last bits depend on it
EXACT_UNROLLED = 12  # likewise for the exact gradient
AHEAD = 100  # samples from asking the memory for a row of the data set to reading it
BLOCK = 1024  # samples per block where a whole data set is evaluated


@intrinsic
def _prefetch(typing, rows, i, j):
    """Ask for the cache line of ``rows[i, j]``: the gather from a large data set waits for memory."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = cgutils.get_item_pointer(context, builder, signature.args[0], array, arguments[1:])
        flag, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(fetch, [builder.bitcast(place, byte), flag(0), flag(3), flag(1)])  # read, keep, data
        return context.get_dummy_value()

    return types.void(rows, i, j), generate


# ------------------------------------------------------------------ sampled: forward and backward


@_jit
def forward(U, A, C, X):
    """F (B, m) at the rows of X (B, d), eq. (1)."""
    return np.dot(np.maximum(np.dot(X, U), U.dtype.type(0)), A) + np.dot(X, C)


@_inline
def _backward_blas(n, X, T, U, A, H, R, G):
    """H = relu(X U), R = 2 r / n and G = 2 g / n, as matrix products, at some of n samples; T = y - C'x.

    Returns their share of the mean loss.  The gradient is dU = X'G and dA = H'R.
    """
    zero, scale, loss = U.dtype.type(0), U.dtype.type(2.0 / n), 0.0
    h, r, g, t = H.reshape(-1), R.reshape(-1), G.reshape(-1), T.reshape(-1)  # one long loop each
    np.dot(X, U, H)
    for i in range(h.size):
        h[i] = max(h[i], zero)
    np.dot(H, A, R)
    for i in range(r.size):
        error = r[i] - t[i]
        loss += error * error
        r[i] = error * scale
    np.dot(R, A.T, G)
    for i in range(g.size):
        g[i] = g[i] if h[i] > zero else zero  # (3), relu'(0) = 0
    return loss / n


@_sampled_jit
def dataset_gradient(rows, U, A, dU, dA):
    """Mean loss over the data set; its gradient goes into dU and dA.  rows = [x, y - C'x]."""
    d, k, m = U.shape[0], U.shape[1], A.shape[1]
    dU[:] = 0
    dA[:] = 0
    total = 0.0
    for start in range(0, rows.shape[0], BLOCK):
        block = rows[start : start + BLOCK]
        n = block.shape[0]
        X, T = np.ascontiguousarray(block[:, :d]), np.ascontiguousarray(block[:, d:])
        H, R, G = np.empty((n, k), U.dtype), np.empty((n, m), U.dtype), np.empty((n, k), U.dtype)
        total += _backward_blas(rows.shape[0], X, T, U, A, H, R, G)
        dU += np.dot(X.T, G)  # (4)
        dA += np.dot(H.T, R)  # (2)
    return total


@_inline
def _sum_outer(n, p, q, X, Y, out):
    """out = X Y' over n columns, 2 x 2 entries at a time, so that each number loaded serves twice."""
    for i in range(0, p, 2):
        for j in range(0, q, 2):
            i1, j1 = min(i + 1, p - 1), min(j + 1, q - 1)  # an odd last row or column is met twice
            s00 = s01 = s10 = s11 = out.dtype.type(0)
            for b in range(n):
                s00 += X[i, b] * Y[j, b]
                s01 += X[i, b] * Y[j1, b]
                s10 += X[i1, b] * Y[j, b]
                s11 += X[i1, b] * Y[j1, b]
            out[i, j], out[i, j1], out[i1, j], out[i1, j1] = s00, s01, s10, s11


@_inline
def _backward_unrolled(d, k, m, n, X, T, U, A, H, R, G, dU, dA):
    """Loss and gradient (2)-(4) of n samples; one sample a column, and d, k, m known when compiling."""
    zero, scale = U.dtype.type(0), U.dtype.type(2.0 / n)
    for j in range(k):
        for b in range(n):
            z = zero
            for i in range(d):
                z += U[i, j] * X[i, b]
            H[j, b] = max(z, zero)
    loss = zero
    for o in range(m):
        for b in range(n):
            r = -T[o, b]
            for j in range(k):
                r += A[j, o] * H[j, b]
            loss += r * r
            R[o, b] = r * scale
    for j in range(k):
        for b in range(n):
            g = zero
            for o in range(m):
                g += A[j, o] * R[o, b]
            G[j, b] = g if H[j, b] > zero else zero  # (3), relu'(0) = 0
    _sum_outer(n, k, m, H, R, dA)  # (2)
    _sum_outer(n, d, k, X, G, dU)  # (4)
    return loss / n


@_inline
def _update(W, V, g, lr, momentum):
    """One step of (6), in place."""
    for i in range(W.shape[0]):
        for j in range(W.shape[1]):
            V[i, j] = momentum * V[i, j] + g[i, j]
            W[i, j] -= lr * (g[i, j] + momentum * V[i, j])


@functools.cache
def sampled_loop(d, k, m, each=None):
    """The fused training loop on samples: compiled for one shape (small), or for all (BLAS).

    ``each(function, list of arguments)`` makes the calls of a wide network's step, on threads or not,
    and returns their results in order.

    The returned ``loop(rows, order, start, rng, teacher, U, A, VU, VA, rates, batch, n_steps, total)``
    makes ``n_steps`` of (6) in place and returns ``total`` plus the batch losses.  Its batches are
    ``rows[order[start:]]`` in turn, the last one possibly short; or, where ``order`` is empty,
    fresh N(0, I) samples from ``rng``, labeled by ``teacher`` = (U*, A*, D).
    ``rates`` = (lr of U, lr of A, momentum).
    """
    if max(d, k) > ALONE:
        return functools.partial(_shared_loop, each)
    if max(d, k) > UNROLLED:
        return _blas_loop

    @_sampled_jit
    def loop(rows, order, start, rng, teacher, U, A, VU, VA, rates, batch, n_steps, total):
        X, T = np.empty((d, batch), U.dtype), np.empty((m, batch), U.dtype)
        H, G, R = np.empty((k, batch), U.dtype), np.empty((k, batch), U.dtype), np.empty_like(T)
        dU, dA, n, line = np.empty_like(U), np.empty_like(A), batch, 64 // rows.itemsize
        for _ in range(n_steps):
            if order.size == 0:
                _draw_columns(rng, teacher, X, T)
            else:
                n = min(batch, order.size - start)
                for b in range(n):
                    row, later = order[start + b], order[min(start + b + AHEAD, order.size - 1)]
                    if d + m > line:  # for shorter rows asking costs more than it saves
                        for i in range(0, d + m, line):
                            _prefetch(rows, later, i)
                    for i in range(d):
                        X[i, b] = rows[row, i]
                    for o in range(m):
                        T[o, b] = rows[row, d + o]
                start += n
            total += _backward_unrolled(d, k, m, n, X, T, U, A, H, R, G, dU, dA)
            _update(U, VU, dU, rates[0], rates[2])
            _update(A, VA, dA, rates[1], rates[2])
        return total

    return loop


@_sampled_jit
def _blas_loop(rows, order, start, rng, teacher, U, A, VU, VA, rates, batch, n_steps, total):
    """`sampled_loop` for every shape: a sample is a row, and the products are BLAS's."""
    d, k, m = U.shape[0], U.shape[1], A.shape[1]
    X, T, R = np.empty((batch, d), U.dtype), np.empty((batch, m), U.dtype), np.empty((batch, m), U.dtype)
    H, G = np.empty((batch, k), U.dtype), np.empty((batch, k), U.dtype)
    dU, dA, n = np.empty_like(U), np.empty_like(A), batch
    for _ in range(n_steps):
        if order.size == 0:
            _draw_rows(rng, X)
            _label_rows(teacher, X, T)
        else:
            n = min(batch, order.size - start)
            _gather_rows(rows, order[start : start + n], X, T)
            start += n
        total += _backward_blas(n, X[:n], T[:n], U, A, H[:n], R[:n], G[:n])
        np.dot(X[:n].T, G[:n], dU)  # (4)
        np.dot(H[:n].T, R[:n], dA)  # (2)
        _update(U, VU, dU, rates[0], rates[2])
        _update(A, VA, dA, rates[1], rates[2])
    return total


def _shared_loop(each, rows, order, start, rng, teacher, U, A, VU, VA, rates, batch, n_steps, total):
    """`sampled_loop` for wide networks: first the samples of a step are shared out, then the weights' rows."""
    (d, k), m = U.shape, A.shape[1]
    X, T, H, R, G = (np.empty((batch, columns), U.dtype) for columns in (d, m, k, m, k))

    def parts(count):
        cuts = [count * part // PARTS for part in range(PARTS + 1)]
        return [slice(*ends) for ends in zip(cuts, cuts[1:])]

    # Calls with nothing to do: two threads must not compile one function at the same time.
    _share_samples(batch, rows, order[:0], teacher, U, A, X[:0], T[:0], H[:0], R[:0], G[:0])
    _share_weights(X, G, U, VU, 0, 0, H, R, A, VA, 0, 0, rates)
    for _ in range(n_steps):
        n = min(batch, order.size - start) if order.size else batch
        if order.size == 0:
            _draw_rows(rng, X)  # all of them from one stream, whoever works on them
        picked = order[start : start + n]
        total += sum(each(_share_samples, [
            (n, rows, picked[i], teacher, U, A, X[i], T[i], H[i], R[i], G[i]) for i in parts(n)
        ]))  # fmt: skip
        each(_share_weights, [
            (X[:n], G[:n], U, VU, i.start, i.stop, H[:n], R[:n], A, VA, j.start, j.stop, rates)
            for i, j in zip(parts(d), parts(k))
        ])  # fmt: skip
        start += n
    return total


@_sampled_jit
def _share_samples(n, rows, picked, teacher, U, A, X, T, H, R, G):
    """`_backward_blas` at some of a step's n samples: the picked rows, or, without rows, what X holds."""
    if rows.size:
        _gather_rows(rows, picked, X, T)
    else:
        _label_rows(teacher, X, T)
    return _backward_blas(n, X, T, U, A, H, R, G)


@_sampled_jit
def _share_weights(X, G, U, VU, i0, i1, H, R, A, VA, j0, j1, rates):
    """One step of (6) for the rows i0 to i1 of U and j0 to j1 of A."""
    dU = np.dot(np.ascontiguousarray(X[:, i0:i1]).T, G)  # (4)
    _update(U[i0:i1], VU[i0:i1], dU, rates[0], rates[2])
    dA = np.dot(np.ascontiguousarray(H[:, j0:j1]).T, R)  # (2)
    _update(A[j0:j1], VA[j0:j1], dA, rates[1], rates[2])


@_inline
def _gather_rows(rows, picked, X, T):
    d = X.shape[1]
    for b in range(picked.size):
        row = picked[b]
        for i in range(d):
            X[b, i] = rows[row, i]
        for o in range(T.shape[1]):
            T[b, o] = rows[row, d + o]


@_sampled_jit
def _draw_columns(rng, teacher, X, T):
    """Fresh samples into the columns of X, and T = A*'relu(U*'x) - D'x."""
    U, A, D = teacher
    zero = X.dtype.type(0)
    for b in range(X.shape[1]):
        for i in range(X.shape[0]):
            X[i, b] = rng.standard_normal()
    for o in range(T.shape[0]):
        for b in range(X.shape[1]):
            T[o, b] = zero
        for i in range(X.shape[0]):
            for b in range(X.shape[1]):
                T[o, b] -= D[i, o] * X[i, b]
    h = np.empty(X.shape[1], X.dtype)
    for j in range(U.shape[1]):
        h[:] = zero
        for i in range(X.shape[0]):
            for b in range(X.shape[1]):
                h[b] += U[i, j] * X[i, b]
        for o in range(T.shape[0]):
            for b in range(X.shape[1]):
                T[o, b] += A[j, o] * max(h[b], zero)


@_sampled_jit
def _draw_rows(rng, X):
    """Fresh samples into the rows of X."""
    for b in range(X.shape[0]):
        for i in range(X.shape[1]):
            X[b, i] = rng.standard_normal()


@_sampled_jit
def _label_rows(teacher, X, T):
    """T = A*'relu(U*'x) - D'x at the rows of X."""
    U, A, D = teacher
    T[:] = np.dot(np.maximum(np.dot(X, U), X.dtype.type(0)), A) - np.dot(X, D)


# ------------------------------------------------------------ population: gradient, loop, Hessian


@_jit
def _normalize(U, start, rows, columns, norm):
    """Lengths of the columns of U, and their directions: as rows, and as columns, from ``start`` on.

    A zero unit has direction 0.  Where a square could over- or underflow, the scale is taken out first.
    """
    for j in range(U.shape[1]):
        total, scale, l = 0.0, 1.0, start + j
        for i in range(U.shape[0]):
            total += U[i, j] * U[i, j]
        if not 1e-280 < total < 1e280:
            scale = np.max(np.abs(U[:, j])) or 1.0
            total = np.sum((U[:, j] / scale) ** 2)
        length = math.sqrt(total)
        inverse = 1.0 / length if length > 0.0 else 0.0
        norm[l] = scale * length
        for i in range(U.shape[0]):
            rows[l, i] = columns[i, l] = (U[i, j] if scale == 1.0 else U[i, j] / scale) * inverse


@_jit
def _residual_network(U, A, U_star, A_star):
    """Student minus teacher: the units' directions as rows and as columns, their norms, Q and Q'."""
    d, k, K = U.shape[0], U.shape[1], U.shape[1] + U_star.shape[1]
    rows, columns, norm = np.empty((K, d)), np.empty((d, K)), np.empty(K)
    _normalize(U, 0, rows, columns, norm)
    _normalize(U_star, k, rows, columns, norm)
    Q = np.vstack((A, -A_star))
    return rows, columns, norm, Q, Q.T.copy()


# arcsin(sqrt z) / sqrt z on [0, 1/2], lowest power first: the Chebyshev fit of this degree, whose
# error is 4e-18.  A polynomial runs in SIMD lanes; the C library's acos does not.
_ARCSIN = np.array([
    1.0, 0.16666666666666963, 0.07499999999921603, 0.044642857225197834, 0.030381939881673394,
    0.022372313172485805, 0.017349310327158196, 0.01401917204006966, 0.01092934906491237,
    0.015091795028583365, -0.026316324552338826, 0.1809574620911065, -0.6641236302549411,
    2.0016041109291547, -4.535791802822955, 7.768165374555008, -9.669659398550623, 8.32498352944691,
    -4.438816692066939, 1.1264192878807509,
])  # fmt: skip


@_inline_exact
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


@_inline_exact
def _population_gradient(d, k, K, m, network, room, U, A, D, linear, dU, dA):
    """(10) into dU and (11) into dA, one unit after the other, each against all K at once.

    A pair of student units is met twice: in SIMD lanes that is cheaper than to mirror it.
    """
    rows, columns, norm, Q, Q_T = network
    plus, slope, value, dz, da = room
    for j in range(k):
        for l in range(K):
            plus[l] = value[l] = 0.0
        for i in range(d):
            for l in range(K):
                plus[l] += (rows[j, i] + columns[i, l]) ** 2
        for o in range(m):
            for l in range(K):
                value[l] += Q[j, o] * Q_T[o, l]
        _pair_terms(K, plus, value, norm, slope)
        total = 0.0
        for l in range(K):
            total += plus[l]
        for i in range(d):
            dz[i] = total * rows[j, i]
        for l in range(K):
            for i in range(d):
                dz[i] += slope[l] * rows[l, i]
        for o in range(m):
            da[o] = 0.0
        for l in range(K):
            for o in range(m):
                da[o] += value[l] * Q[l, o]
        alive = 1.0 if norm[j] > 0.0 else 0.0  # relu'(0) = 0
        for i in range(d):
            dU[i, j] = alive * dz[i] / math.pi  # (10)
        for o in range(m):
            dA[j, o] = norm[j] * da[o] / math.pi  # (11)
        if linear:
            for i in range(d):
                for o in range(m):
                    dU[i, j] += alive * D[i, o] * A[j, o]
                    dA[j, o] += D[i, o] * U[i, j]


@_exact
def _population_gradient_blas(network, U, A, D, dU, dA):
    """The same, for all units at once: the sums over components are matrix products."""
    rows, columns, norm, Q, Q_T = network
    k, K = U.shape[1], norm.size
    plus, value, slope = np.dot(rows[:k], columns), np.dot(A, Q_T), np.empty((k, K))
    for j in range(k):
        for l in range(K):
            plus[j, l] = 2.0 + 2.0 * plus[j, l]
            if plus[j, l] < 1e-3:  # the digits that matter near pi are lost: sum them up anew
                plus[j, l] = np.sum((rows[j] + rows[l]) ** 2)
        _pair_terms(K, plus[j], value[j], norm, slope[j])
    dz = np.dot(slope, rows)
    for j in range(k):
        dz[j] += np.sum(plus[j]) * rows[j]
        if norm[j] == 0.0:
            dz[j] = 0.0  # relu'(0) = 0
    np.dot(value, Q, dA)
    for j in range(k):
        dU[:, j] = dz[j] / math.pi  # (10)
        dA[j] *= norm[j] / math.pi  # (11)
    if np.any(D):
        dU += np.dot(D, (A * (norm[:k] > 0.0).reshape((k, 1))).T)
        dA += np.dot(U.T, D)


@_exact
def population_gradient(U, A, U_star, A_star, D, dU, dA):
    """(10) into dU and (11) into dA: O(k (k + k*) (d + m)) time, O(k (k + k*)) memory at most."""
    network = _residual_network(U, A, U_star, A_star)
    d, k, m = U.shape[0], U.shape[1], A.shape[1]
    if max(d, k) > EXACT_UNROLLED:
        _population_gradient_blas(network, U, A, D, dU, dA)
    else:
        K = network[2].size
        room = np.empty(K), np.empty(K), np.empty(K), np.empty(d), np.empty(m)
        _population_gradient(d, k, K, m, network, room, U, A, D, np.any(D), dU, dA)


def population_loop(teacher, U, A, VU, VA, rates, n_steps):
    """``n_steps`` of (6) on the exact gradient, in place; ``teacher`` and ``rates`` as in `sampled_loop`."""
    shape = (U.shape[0], U.shape[1], U.shape[1] + teacher[0].shape[1], A.shape[1])
    loop = _population_loop(*(shape if max(shape[:2]) <= EXACT_UNROLLED else (0, 0, 0, 0)))
    loop(teacher, U, A, VU, VA, rates, n_steps)


@functools.cache
def _population_loop(d, k, K, m):
    """The loop compiled for one shape (small), or, where that is all zeros, for every shape (BLAS)."""

    @_exact
    def loop(teacher, U, A, VU, VA, rates, n_steps):
        network = _residual_network(U, A, teacher[0], teacher[1])
        rows, columns, norm, Q, Q_T = network
        room = np.empty(K), np.empty(K), np.empty(K), np.empty(d), np.empty(m)
        dU, dA, linear = np.empty_like(U), np.empty_like(A), np.any(teacher[2])
        for _ in range(n_steps):
            _normalize(U, 0, rows, columns, norm)
            for j in range(A.shape[0]):
                for o in range(A.shape[1]):
                    Q[j, o] = Q_T[o, j] = A[j, o]
            if d:
                _population_gradient(d, k, K, m, network, room, U, A, teacher[2], linear, dU, dA)
            else:
                _population_gradient_blas(network, U, A, teacher[2], dU, dA)
            _update(U, VU, dU, rates[0], rates[2])
            _update(A, VA, dA, rates[1], rates[2])

    return loop


@_jit
def _angle(u, v):
    """(c, s, pi - phi) of two unit vectors, to the last digit at every angle.

    From |u - v| and |u + v|, that is 2 sin(phi / 2) and 2 cos(phi / 2): arccos(c) would lose half
    the digits near 0 and pi, and (12) needs them.
    """
    minus, plus = 0.0, 0.0
    for i in range(u.size):
        minus += (u[i] - v[i]) * (u[i] - v[i])
        plus += (u[i] + v[i]) * (u[i] + v[i])
    minus, plus = math.sqrt(minus), math.sqrt(plus)
    return 0.25 * (plus - minus) * (plus + minus), 0.5 * minus * plus, 2.0 * math.atan2(plus, minus)


@_jit
def population_hessian(U, A, U_star, A_star, D):
    """The exact Hessian in (U, A), both row-major, shape (k (d + m), k (d + m)); (14)-(17)."""
    d, k, m = U.shape[0], U.shape[1], A.shape[1]
    unit, _, norm, Q, _ = _residual_network(U, A, U_star, A_star)
    K = norm.size
    uu, ua, aa = np.zeros((k, k, d, d)), np.zeros((k, k, d, m)), np.zeros((k, k))
    for j in range(k):
        aa[j, j] = norm[j] * norm[j]
        if norm[j] > 0.0:  # the pair of a unit with itself: phi = 0
            uu[j, j] += np.dot(A[j], A[j]) * np.eye(d)
            ua[j, j] += D + 2.0 * np.outer(U[:, j], A[j])
        for l in range(j + 1, K):
            c, s, p = _angle(unit[j], unit[l])
            w = np.dot(Q[j], Q[l]) / math.pi
            inverse = 1.0 / s if s > 0.0 else 0.0
            if l < k:
                aa[j, l] = aa[l, j] = norm[j] * norm[l] * (s + p * c) / math.pi  # (17)
                if norm[j] > 0.0 and norm[l] > 0.0:
                    for i in range(d):
                        s_m = (unit[l, i] - c * unit[j, i]) * inverse
                        for e in range(d):
                            s_n = unit[j, e] - c * unit[l, e]
                            uu[j, l, i, e] = w * (s * unit[j, i] * unit[l, e] + s_m * s_n)  # (14)
                        uu[j, l, i, i] += w * p
                    uu[l, j] = uu[j, l].T
            for a, b in ((j, l), (l, j)):  # what unit b adds to the blocks of unit a
                if a >= k or norm[a] == 0.0:
                    continue
                slope = norm[b] * (s * unit[a] + p * unit[b]) / math.pi  # twice (9)
                ua[a, a] += np.outer(slope, Q[b])  # (16)
                if b < k:
                    ua[a, b] = np.outer(slope, A[a])
                ratio = w * norm[b] / norm[a]
                across = unit[b] - c * unit[a]  # s m
                for i in range(d):
                    uu[a, a, i, i] += ratio * s
                    for e in range(d):
                        bend = across[i] * across[e] * inverse - s * (unit[a, i] * unit[a, e])
                        uu[a, a, i, e] += ratio * bend  # (15)
    hessian = np.zeros((k * (d + m), k * (d + m)))
    for j in range(k):
        for l in range(k):
            for i in range(d):
                for e in range(d):
                    hessian[i * k + j, e * k + l] = uu[j, l, i, e]
                for o in range(m):
                    hessian[i * k + j, d * k + l * m + o] = ua[j, l, i, o]
                    hessian[d * k + l * m + o, i * k + j] = ua[j, l, i, o]
            for o in range(m):
                hessian[d * k + j * m + o, d * k + l * m + o] = aa[j, l]
    return hessian


# ------------------------------------------------------- population: the loss, to its last digits
# Double-double numbers are pairs (hi, lo).  Reassociating any line below would break it.


def _double_double(number):
    return float(number), float(number - Fraction(float(number)))


_PI = (math.pi, 1.2246467991473532e-16)
_HALF_PI = (_PI[0] / 2, _PI[1] / 2)
# sin and cos on [0, pi / 4] to 1e-33: Taylor terms up to t^27 / 27! and t^26 / 26!
_FACTORIAL = np.array([_double_double(Fraction((-1) ** (n // 2), math.factorial(n))) for n in range(28)])


@register_jitable  # also called on NumPy arrays
def two_sum(a, b):
    """a + b and its rounding error (Knuth)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


@_jit
def _two_product(a, b):
    """a b and its rounding error (Dekker)."""
    t = 134217729.0 * a
    a_hi = t - (t - a)
    t = 134217729.0 * b
    b_hi = t - (t - b)
    p = a * b
    a_lo, b_lo = a - a_hi, b - b_hi
    return p, ((a_hi * b_hi - p) + a_hi * b_lo + a_lo * b_hi) + a_lo * b_lo


@_jit
def _add(x, y):
    s, e = two_sum(x[0], y[0])
    t, f = two_sum(x[1], y[1])
    s, e = two_sum(s, e + t)
    return two_sum(s, e + f)


@_jit
def _multiply(x, y):
    p, e = _two_product(x[0], y[0])
    return two_sum(p, e + (x[0] * y[1] + x[1] * y[0]))


@_jit
def _divide(x, y):
    q = x[0] / y[0]
    rest = _add(x, _multiply((-q, 0.0), y))
    return two_sum(q, rest[0] / y[0])


@_jit
def _square_root(x):
    if x[0] <= 0.0:
        return 0.0, 0.0
    root = math.sqrt(x[0])
    rest = _add(x, _multiply((-root, 0.0), (root, 0.0)))
    return two_sum(root, rest[0] / (2.0 * root))


@_jit
def _dot(x, y):
    """Dot product of double-double vectors, shape (n, 2)."""
    total = (0.0, 0.0)
    for i in range(x.shape[0]):
        total = _add(total, _multiply((x[i, 0], x[i, 1]), (y[i, 0], y[i, 1])))
    return total


@_jit
def _taylor(t, first):
    """sin t (first = 1) or cos t (first = 0) for |t| <= pi / 4."""
    square, total = _multiply(t, t), (0.0, 0.0)
    for n in range(26 + first, -1, -2):
        total = _add(_multiply(total, square), (_FACTORIAL[n, 0], _FACTORIAL[n, 1]))
    return _multiply(total, t) if first else total


@_jit
def _even_part(c):
    """s + psi |c| of (18), from the cosine c alone."""
    if c[0] < 0.0:
        c = (-c[0], -c[1])
    s = _square_root(_multiply(_add((1.0, 0.0), (-c[0], -c[1])), _add((1.0, 0.0), c)))
    guess = (math.atan2(c[0], s[0]), 0.0)
    if guess[0] <= math.pi / 4:
        sine, cosine = _taylor(guess, 1), _taylor(guess, 0)
    else:
        rest = _add(_HALF_PI, (-guess[0], 0.0))
        sine, cosine = _taylor(rest, 0), _taylor(rest, 1)
    # sin(psi - guess) = |c| cos(guess) - s sin(guess) is the error of the guess, about 1e-16
    miss = _add(_multiply(c, cosine), _multiply((-s[0], -s[1]), sine))
    return _add(s, _multiply(c, _add(guess, miss)))


@_jit
def population_value(Z, Q, D):
    """(18) in double-double arithmetic; Z (K, d, 2) holds the units as rows, Q (K, m, 2), D (d, m)."""
    K, d, m = Z.shape[0], Z.shape[1], Q.shape[1]
    odd = 0.0
    for i in range(d):
        for o in range(m):
            total = (2.0 * D[i, o], 0.0)
            for l in range(K):
                total = _add(total, _multiply((Z[l, i, 0], Z[l, i, 1]), (Q[l, o, 0], Q[l, o, 1])))
            odd += (0.5 * total[0]) ** 2
    unit, P = np.empty_like(Z), np.empty_like(Q)
    for l in range(K):
        norm = _square_root(_dot(Z[l], Z[l]))
        for i in range(d):
            ratio = _divide((Z[l, i, 0], Z[l, i, 1]), norm) if norm[0] > 0.0 else norm
            unit[l, i, 0], unit[l, i, 1] = ratio
        for o in range(m):
            P[l, o, 0], P[l, o, 1] = _multiply((Q[l, o, 0], Q[l, o, 1]), norm)
    even = (0.0, 0.0)
    for l in range(K):
        even = _add(even, _multiply(_dot(P[l], P[l]), _HALF_PI))
        for n in range(l):
            term = _multiply(_dot(P[l], P[n]), _even_part(_dot(unit[l], unit[n])))
            even = _add(even, (2.0 * term[0], 2.0 * term[1]))
    return odd + max(even[0], 0.0) / (2.0 * math.pi)


@_jit
def population_value_plain(Z, Q, D):
    """(18) in plain arithmetic but for the sum itself, and an estimate of its rounding error."""
    K = Z.shape[0]
    unit, norm = np.empty_like(Z), np.empty(K)
    _normalize(Z.T, 0, unit, np.empty(Z.T.shape), norm)
    P = Q * norm.reshape((K, 1))
    C, W = np.dot(unit, unit.T), np.dot(P, P.T)
    odd = D + 0.5 * np.dot(Z.T, Q)
    total, noise = (np.sum(odd * odd), 0.0), 0.0
    for l in range(K):
        for n in range(l + 1):
            c = min(1.0, abs(C[l, n])) if n < l else 1.0
            term = W[l, n] * (math.sqrt((1.0 - c) * (1.0 + c)) + c * math.asin(c))
            term *= (1.0 if n == l else 2.0) / (2.0 * math.pi)
            total = _add(total, (term, 0.0))
            noise = math.hypot(noise, term)
    return max(total[0], 0.0), np.finfo(np.float64).eps * noise
