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
from numba.core.datamodel import models
from numba.extending import intrinsic, register_jitable, register_model


def _jit(function=None, **options):
    """The one JIT policy: cached on disk, without the GIL, IEEE division; fastmath is opt-in."""
    if function is None:
        return functools.partial(_jit, **options)
    # Without its own fastmath a function would get that of whichever caller compiles it first.
    options = {"nogil": True, "error_model": "numpy", "fastmath": False} | options
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

UNROLLED = 64  # widest network for which the shape-specialized loop beats BLAS
EXACT_UNROLLED = 32  # likewise for the exact gradient
LONELY, EXACT_LONELY = 8, 12  # widest network whose step takes less time than telling another thread of it
PARTS = 2  # of each step, for two threads or one: the last bits depend on it, so it is no option
REGISTER = 64  # bytes computed with at once; where registers are smaller, in as many as it takes
STOPPED = 2**62  # the mark of a thread that comes to no more meetings
BLOCK = 1024  # samples at a time where there are more, so that they stay in the cache


# ------------------------------------------------------------- registers, memory and the other thread


class _Lanes(types.Type):
    """What one register holds: the same unit or output for as many samples as fit."""

    def __init__(self, scalar):
        self.scalar = scalar
        super().__init__(name=f"Lanes({scalar})")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        scalar = manager.lookup(lanes.scalar).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(scalar, REGISTER * 8 // lanes.scalar.bitwidth))


def _place(context, builder, signature, arguments, kind):
    """Pointer to the element or register of an array, of the ``kind`` given, that the index counts."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(builder.bitcast(array.data, kind.as_pointer()), [arguments[1]])


@intrinsic
def _lanes(typing, array):
    """Samples in a register, known when compiling."""
    count = REGISTER * 8 // array.dtype.bitwidth
    return types.intp(array), lambda context, builder, signature, arguments: context.get_constant(types.intp, count)


@intrinsic
def _load(typing, array, r):
    """The r-th register of a contiguous array."""
    kind = _Lanes(array.dtype)

    def generate(context, builder, signature, arguments):
        return builder.load(_place(context, builder, signature, arguments, context.get_value_type(kind)))

    return kind(array, types.intp), generate


@intrinsic
def _store(typing, array, r, x):
    """Sets the r-th register of a contiguous array."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], _place(context, builder, signature, arguments, arguments[2].type))
        return context.get_dummy_value()

    return types.void(array, types.intp, x), generate


@intrinsic
def _load_transposed(typing, rows, starts, i, count, array, r):
    """``rows[starts + i : starts + i + count]`` of as many samples as there are lanes into registers r, r + 1 ...

    A full register of each sample is read, and ``rows`` is contiguous and counted as if flat.
    """
    kind, lanes = _Lanes(array.dtype), REGISTER * 8 // array.dtype.bitwidth

    def generate(context, builder, signature, arguments):
        rows, starts, i, count, array, r = arguments
        index, number, vector = r.type, ir.IntType(32), context.get_value_type(kind)
        rows, starts, array = (
            context.make_array(signature.args[n])(context, builder, arguments[n]).data for n in (0, 1, 4)
        )
        registers = []
        for lane in range(lanes):
            start = builder.load(builder.gep(starts, [index(lane)]))
            place = builder.gep(rows, [builder.add(start, i)])
            registers.append(builder.load(builder.bitcast(place, vector.as_pointer())))
            registers[-1].align = REGISTER // lanes
        halves = [
            ir.Constant(ir.VectorType(number, lanes), [number(first + n // 2 + n % 2 * lanes) for n in range(lanes)])
            for first in (0, lanes // 2)
        ]
        for _ in range(lanes.bit_length() - 1):  # a perfect shuffle moves one bit of the lane to the register
            registers = [
                builder.shuffle_vector(registers[n // 2], registers[n // 2 + lanes // 2], halves[n % 2])
                for n in range(lanes)
            ]
        array = builder.bitcast(array, vector.as_pointer())
        for n in range(lanes):
            with builder.if_then(builder.icmp_signed("<", index(n), count)):
                builder.store(registers[n], builder.gep(array, [builder.add(r, index(n))]))
        return context.get_dummy_value()

    return types.void(rows, starts, types.intp, types.intp, array, types.intp), generate


@intrinsic
def _splat(typing, number):
    """``number`` in every lane."""

    def generate(context, builder, signature, arguments):
        kind, index = context.get_value_type(signature.return_type), ir.IntType(32)
        blank = ir.Constant(kind, ir.Undefined)
        first = builder.insert_element(blank, arguments[0], index(0))
        return builder.shuffle_vector(first, blank, ir.Constant(ir.VectorType(index, kind.count), None))

    return _Lanes(number)(number), generate


@intrinsic
def _fma(typing, x, y, z):
    """x y + z, lane by lane."""

    def generate(context, builder, signature, arguments):
        kind = arguments[0].type
        name = f"llvm.fmuladd.v{kind.count}{kind.element.intrinsic_name}"
        fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
        return builder.call(fma, arguments)

    return x(x, x, x), generate


@intrinsic
def _where_positive(typing, h, x):
    """x where h > 0, else 0, lane by lane."""

    def generate(context, builder, signature, arguments):
        zero = ir.Constant(arguments[0].type, None)
        return builder.select(builder.fcmp_ordered(">", arguments[0], zero), arguments[1], zero)

    return x(h, x), generate


@intrinsic
def _total(typing, x):
    """The sum of the lanes."""

    def generate(context, builder, signature, arguments):
        kind = arguments[0].type
        name = f"llvm.vector.reduce.fadd.v{kind.count}{kind.element.intrinsic_name}"
        of = ir.FunctionType(kind.element, [kind.element, kind])
        add = cgutils.get_or_insert_function(builder.module, of, name)
        return builder.call(add, [ir.Constant(kind.element, -0.0), arguments[0]], fastmath=("reassoc",))

    return x.scalar(x), generate


@intrinsic
def _publish(typing, marks, i, turn):
    """marks[i] = turn, for all threads to see after whatever was written before."""

    def generate(context, builder, signature, arguments):
        builder.store_atomic(
            arguments[2], _place(context, builder, signature, arguments, arguments[2].type), "release", 8
        )
        return context.get_dummy_value()

    return types.void(marks, types.intp, types.int64), generate


@intrinsic
def _published(typing, marks, i):
    """marks[i], as another thread may just have left it."""

    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature, arguments, ir.IntType(64))
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(marks, types.intp), generate


@_jit
def _meet(marks, part, turn):
    """Wait until the other thread has come to the same ``turn``; False where it was `STOPPED`.

    Not by yielding: a scheduler may take it at its word, and let others run for milliseconds.
    """
    _publish(marks, part * marks.shape[1], turn)
    other = 0
    while other < turn:
        other = _published(marks, (1 - part) * marks.shape[1])
    return other < STOPPED


@_jit
def _registers(count, rows, like):
    """Zeros (count, rows, lanes): a register each [c, i], in whole cache lines."""
    lanes = _lanes(like)
    room = np.zeros((count * rows + 1) * lanes, like.dtype)
    first = (-room.ctypes.data // like.itemsize) % lanes
    return room[first : first + count * rows * lanes].reshape((count, rows, lanes))


# ------------------------------------------------------------------ sampled: forward and backward


@_jit
def forward(U, A, C, X):
    """F (B, m) at the rows of X (B, d), eq. (1)."""
    return np.dot(np.maximum(np.dot(X, U), U.dtype.type(0)), A) + np.dot(X, C)


@_inline
def _keep_active(h, g):
    """g where h > 0, else 0, (3); for g = h the forward relu.  relu'(0) = 0."""
    zero = g.dtype.type(0)
    for i in range(g.size):
        g[i] = g[i] if h[i] > zero else zero


@_inline
def _residual(n, r, t):
    """F = r becomes 2 r / n; returns the share of the mean loss.  t = y - C'x."""
    scale, loss = r.dtype.type(2.0 / n), 0.0
    for i in range(r.size):
        error = r[i] - t[i]
        loss += error * error
        r[i] = error * scale
    return loss / n


@_sampled_jit
def dataset_gradient(rows, U, A, dU, dA):
    """Mean loss over the data set; its gradient goes into dU and dA.  rows = [x, y - C'x]."""
    d, k, m, total = U.shape[0], U.shape[1], A.shape[1], 0.0
    size = min(BLOCK, len(rows))
    HH, RR, GG = np.empty((size, k), U.dtype), np.empty((size, m), U.dtype), np.empty((size, k), U.dtype)
    dU[:] = 0
    dA[:] = 0
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        X, T = np.ascontiguousarray(block[:, :d]), np.ascontiguousarray(block[:, d:])
        H, R, G = HH[: len(X)], RR[: len(X)], GG[: len(X)]
        np.dot(X, U, H)
        _keep_active(H.reshape(-1), H.reshape(-1))
        np.dot(H, A, R)  # (1)
        total += _residual(len(rows), R.reshape(-1), T.reshape(-1))
        np.dot(R, A.T, G)
        _keep_active(H.reshape(-1), G.reshape(-1))  # (3)
        dU += np.dot(X.T, G)  # (4)
        dA += np.dot(H.T, R)  # (2)
    return total


@_inline
def _copy(source, target):
    """target[:] = source.  Numba's own takes seconds to compile, with what it would say of shapes that differ."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@_inline
def _products(p, q, s, count, W, X, out):
    """out = W'X for samples in the lanes, 2 x 2 registers at a time, so that each number loaded serves twice.

    W (p, q), X (count, s >= p, lanes), out (count, q, lanes).
    """
    zero = _splat(W.dtype.type(0))
    for c in range(0, count, 2):
        e = min(c + 1, count - 1)  # an odd last one is met twice
        for j in range(0, q, 2):
            l = min(j + 1, q - 1)
            cj = cl = ej = el = zero
            for i in range(p):
                xc, xe, wj, wl = _load(X, c * s + i), _load(X, e * s + i), _splat(W[i, j]), _splat(W[i, l])
                cj, cl, ej, el = _fma(wj, xc, cj), _fma(wl, xc, cl), _fma(wj, xe, ej), _fma(wl, xe, el)
            _store(out, c * q + j, cj)
            _store(out, c * q + l, cl)
            _store(out, e * q + j, ej)
            _store(out, e * q + l, el)


@_inline
def _sum_outer(p, q, s, t, count, X, Y, out):
    """out = X Y' summed over samples, likewise."""
    zero = _splat(out.dtype.type(0))
    for i in range(0, p, 2):
        for j in range(0, q, 2):
            k, l = min(i + 1, p - 1), min(j + 1, q - 1)
            ij = il = kj = kl = zero
            for c in range(count):
                xi, xk, yj, yl = _load(X, c * s + i), _load(X, c * s + k), _load(Y, c * t + j), _load(Y, c * t + l)
                ij, il, kj, kl = _fma(xi, yj, ij), _fma(xi, yl, il), _fma(xk, yj, kj), _fma(xk, yl, kl)
            out[i, j], out[i, l], out[k, j], out[k, l] = _total(ij), _total(il), _total(kj), _total(kl)


@_inline
def _update(start, stop, w, v, g, lr, momentum):
    """One step of (6), in place, for some entries of flat arrays."""
    for i in range(start, stop):
        v[i] = momentum * v[i] + g[i]
        w[i] -= lr * (g[i] + momentum * v[i])


def sampled_loop(d, k, m, fresh):
    """(loop, room, parts): the fused training loop on samples, for one shape (small) or for all (BLAS).

    ``loop(first, last, marks, room, rows, order, start, rng, teacher, U, A, VU, VA, rates, batch, n_steps,
    total)`` makes ``n_steps`` of (6) in place and returns ``total`` plus the batch losses.  Its batches are
    ``rows[order[start:]]`` in turn, the last one possibly short; or, where ``order`` is empty,
    fresh N(0, I) samples from ``rng``, labeled by ``teacher`` = (U*, A*, D).
    ``rates`` = (lr of U, lr of A, momentum).  It does the parts ``first`` to ``last`` of each step; where these
    are not all, another thread does the rest at the same time, meeting this one at ``marks`` (`threads.together`).
    ``room(batch, dtype)`` makes what the threads share.  Small networks on ``fresh`` samples are one part:
    most of the work is to draw them, from one stream.
    """
    if max(d, k) > UNROLLED:
        return _blas_loop, functools.partial(_blas_room, m), PARTS
    parts = 1 if fresh or max(d, k) <= LONELY else PARTS
    return _unrolled_loop(d, k, m, fresh), functools.partial(_unrolled_room, parts, d * k + k * m), parts


def _unrolled_room(parts, size, batch, dtype):
    """Each part's gradient and loss, for even and odd steps: who is ahead overwrites nothing that is read."""
    return np.empty((2, parts, size + 1), dtype)


@functools.cache
def _unrolled_loop(d, k, m, fresh):
    """`sampled_loop` for one shape: the samples are shared out, and each thread keeps weights of its own."""

    @_sampled_jit
    def loop(first, last, marks, room, rows, order, start, rng, teacher, U, A, VU, VA, rates, batch, n_steps, total):
        parts, lanes, cut, end = room.shape[1], _lanes(U), d * k, d * k + k * m
        count, n = -(-batch // lanes), batch
        most = min(count, BLOCK // lanes)
        XT, R = _registers(most, d + m, U), _registers(most, m, U)
        H, G = _registers(most, k, U), _registers(most, k, U)
        k_star, linear = teacher[0].shape[1], np.any(teacher[2])
        H_star = _registers(most if fresh else 0, k_star, U)
        starts, A_T = np.empty(lanes, np.int64), np.empty((m, k), U.dtype)
        # Views are made before the loop: each one counts a reference, which threads must not do together.
        flat, xt = rows.reshape(-1), XT.reshape(-1)
        weights, velocities = np.concatenate((U.ravel(), A.ravel())), np.concatenate((VU.ravel(), VA.ravel()))
        gradient = np.empty(end + 1, U.dtype)
        u, a = weights[:cut].reshape((d, k)), weights[cut:].reshape((k, m))
        dU, dA = gradient[:cut].reshape((d, k)), gradient[cut:end].reshape((k, m))
        for step in range(n_steps):
            if not fresh:
                n = min(batch, order.size - start)
                count = -(-n // lanes)
            for j in range(k):
                for o in range(m):
                    A_T[o, j] = a[j, o]
            for part in range(first, last):
                for i in range(end + 1):
                    room[step % 2, part, i] = 0
                stop = count * (part + 1) // parts
                for begin in range(count * part // parts, stop, most):
                    c = min(most, stop - begin)
                    if fresh:
                        _draw(d, rng, n - begin * lanes, c, XT)
                        _label(d, k_star, m, c, teacher, linear, XT, H_star, R)
                    else:
                        _gather(d + m, flat, order, start + begin * lanes, start + n, starts, c, XT, xt)
                    _products(d, k, d + m, c, u, XT, H)  # (1)
                    _keep_active_lanes(c * k, H, H)
                    _products(k, m, k, c, a, H, R)
                    gradient[end] = _residual_lanes(d, m, c, n, R, XT)
                    _products(m, k, m, c, A_T, R, G)
                    _keep_active_lanes(c * k, H, G)  # (3)
                    _sum_outer(d, k, d + m, k, c, XT, G, dU)  # (4)
                    _sum_outer(k, m, k, m, c, H, R, dA)  # (2)
                    for i in range(end + 1):
                        room[step % 2, part, i] += gradient[i]
            start += n
            if last - first < parts and not _meet(marks, first, step + 1):
                return total
            for i in range(end + 1):
                gradient[i] = room[step % 2, 0, i]
            for part in range(1, parts):
                for i in range(end + 1):
                    gradient[i] += room[step % 2, part, i]
            total += gradient[end]
            _update(0, cut, weights, velocities, gradient, rates[0], rates[2])
            _update(cut, end, weights, velocities, gradient, rates[1], rates[2])
        if first == 0:
            _copy(u, U)
            _copy(a, A)
            _copy(velocities[:cut].reshape((d, k)), VU)
            _copy(velocities[cut:].reshape((k, m)), VA)
        return total

    return loop


@_inline
def _keep_active_lanes(count, H, G):
    for i in range(count):
        _store(G, i, _where_positive(_load(H, i), _load(G, i)))


@_inline
def _residual_lanes(d, m, count, n, R, XT):
    zero = _splat(R.dtype.type(0))
    minus, scale, loss = _splat(R.dtype.type(-1)), _splat(R.dtype.type(2.0 / n)), zero
    for c in range(count):
        for o in range(m):
            r = _fma(minus, _load(XT, c * (d + m) + d + o), _load(R, c * m + o))
            loss = _fma(r, r, loss)
            _store(R, c * m + o, _fma(scale, r, zero))
    return _total(loss) / n


@_inline
def _gather(size, flat, order, start, stop, starts, count, XT, xt):
    """Samples ``order[start:stop]``, as many as fit, into the lanes; zeros after the last, which add nothing."""
    lanes = _lanes(XT)
    for c in range(count):
        inside = True
        for l in range(lanes):
            starts[l] = order[min(start + c * lanes + l, stop - 1)] * size
            inside &= starts[l] + size + lanes <= flat.size
        if inside:  # a register more than a row can be read from each
            for i in range(0, size, lanes):
                _load_transposed(flat, starts, i, size - i, XT, c * size + i)
        else:
            for i in range(size):
                for l in range(lanes):
                    xt[(c * size + i) * lanes + l] = flat[starts[l] + i]
        for l in range(max(stop - start - c * lanes, 0), lanes):
            for i in range(size):
                xt[(c * size + i) * lanes + l] = xt.dtype.type(0)


@_inline
def _draw(d, rng, n, count, XT):
    """n fresh samples, or as many as fit, into the lanes, zeros after them."""
    for c in range(count):
        for l in range(XT.shape[2]):
            for i in range(d):
                XT[c, i, l] = rng.standard_normal() if c * XT.shape[2] + l < n else 0.0


@_inline
def _label(d, k, m, count, teacher, linear, XT, H, R):
    """T = A*'relu(U*'x) - D'x after each x, for a teacher of width k; H and R are scratch."""
    U, A, D = teacher
    minus = _splat(XT.dtype.type(-1))
    _products(d, k, d + m, count, U, XT, H)
    _keep_active_lanes(count * k, H, H)
    _products(k, m, k, count, A, H, R)
    for c in range(count):
        for o in range(m):
            _store(XT, c * (d + m) + d + o, _load(R, c * m + o))
    if linear:
        _products(d, m, d + m, count, D, XT, R)
        for c in range(count):
            for o in range(m):
                t = c * (d + m) + d + o
                _store(XT, t, _fma(minus, _load(R, c * m + o), _load(XT, t)))


def _blas_room(m, batch, dtype):
    """What each part's units add to F, for even and odd steps."""
    return np.empty((2, PARTS, batch, m), dtype)


@_sampled_jit
def _blas_loop(first, last, marks, room, rows, order, start, rng, teacher, U, A, VU, VA, rates, batch, n_steps, total):
    """`sampled_loop` for every shape: the units are shared out, and only what they add to F is exchanged."""
    d, k, m, parts, n = U.shape[0], U.shape[1], A.shape[1], room.shape[1], batch
    low, high = k * first // parts, k * last // parts
    units, readout = U.T[low:high].copy(), A[low:high].copy()
    v_units, v_readout = VU.T[low:high].copy(), VA[low:high].copy()
    d_units, d_readout = np.empty_like(units), np.empty_like(readout)
    X, T, R = np.empty((batch, d), U.dtype), np.zeros((batch, m), U.dtype), np.empty((batch, m), U.dtype)
    H, G = np.empty(batch * (high - low), U.dtype), np.empty(batch * (high - low), U.dtype)
    units_star, A_star, D = teacher[0].T.copy(), teacher[1], teacher[2]
    for step in range(n_steps):
        if order.size:
            n = min(batch, order.size - start)
            _gather_rows(rows, order[start : start + n], X, T)
            start += n
        else:
            _draw_rows(rng, X)
        x, r, t = X[:n], R[:n], T[:n]
        for part in range(first, last):
            i, j = k * part // parts - low, k * (part + 1) // parts - low
            h, share = H[i * n : j * n], room[step % 2, part, :n]
            np.dot(x, units[i:j].T, h.reshape((n, j - i)))
            _keep_active(h, h)
            np.dot(h.reshape((n, j - i)), readout[i:j], share)  # (1)
            if not order.size:  # minus this part of the teacher's units
                i, j = len(A_star) * part // parts, len(A_star) * (part + 1) // parts
                h_star = np.dot(x, units_star[i:j].T)
                _keep_active(h_star.reshape(-1), h_star.reshape(-1))
                share -= np.dot(h_star, A_star[i:j])
                if part == 0:
                    share += np.dot(x, D)
        if last - first < parts and not _meet(marks, first, step + 1):
            return total
        np.add(room[step % 2, 0, :n], room[step % 2, 1, :n], r)
        total += _residual(n, r.reshape(-1), t.reshape(-1))
        for part in range(first, last):
            i, j = k * part // parts - low, k * (part + 1) // parts - low
            h, g = H[i * n : j * n], G[i * n : j * n]
            np.dot(r, readout[i:j].T, g.reshape((n, j - i)))
            _keep_active(h, g)  # (3)
            np.dot(g.reshape((n, j - i)).T, x, d_units[i:j])  # (4)
            np.dot(h.reshape((n, j - i)).T, r, d_readout[i:j])  # (2)
        _update(0, units.size, units.reshape(-1), v_units.reshape(-1), d_units.reshape(-1), rates[0], rates[2])
        _update(
            0, readout.size, readout.reshape(-1), v_readout.reshape(-1), d_readout.reshape(-1), rates[1], rates[2]
        )
    if last - first < parts and not _meet(marks, first, n_steps + 1):
        return total
    _copy(units.T, U[:, low:high])
    _copy(v_units.T, VU[:, low:high])
    _copy(readout, A[low:high])
    _copy(v_readout, VA[low:high])
    if last - first < parts:
        _meet(marks, first, n_steps + 2)  # all is written
    return total


@_inline
def _gather_rows(rows, picked, X, T):
    d = X.shape[1]
    for b in range(picked.size):
        row = picked[b]
        for i in range(d):
            X[b, i] = rows[row, i]
        for o in range(T.shape[1]):
            T[b, o] = rows[row, d + o]


@_inline
def _draw_rows(rng, X):
    """Fresh samples into the rows of X."""
    for b in range(X.shape[0]):
        for i in range(X.shape[1]):
            X[b, i] = rng.standard_normal()


# ------------------------------------------------------------ population: gradient, loop, Hessian


@_jit
def _normalize(units, d, start, rows, columns, norm):
    """Lengths of the units, rows of ``units``, and their directions: as rows, and as columns, from ``start`` on.

    A zero unit has direction 0.  Where a square could over- or underflow, the scale is taken out first.
    """
    for j in range(len(units)):
        total, scale, l = 0.0, 1.0, start + j
        for i in range(d):
            total += units[j, i] * units[j, i]
        if not 1e-280 < total < 1e280:
            scale = np.max(np.abs(units[j, :d])) or 1.0
            total = np.sum((units[j, :d] / scale) ** 2)
        length = math.sqrt(total)
        inverse = 1.0 / length if length > 0.0 else 0.0
        norm[l] = scale * length
        for i in range(d):
            rows[l, i] = columns[i, l] = (units[j, i] if scale == 1.0 else units[j, i] / scale) * inverse


@_jit
def _residual_network(U, A, U_star, A_star):
    """Student minus teacher: the units' directions as rows and as columns, their norms, Q and Q'.

    Zero units fill the last register; they add nothing.
    """
    d, k, k_star, m = U.shape[0], U.shape[1], U_star.shape[1], A.shape[1]
    count = -(-(k + k_star) // _lanes(U))
    K = count * _lanes(U)
    rows, columns, norm = np.zeros((K, d)), _registers(d, count, U).reshape((d, K)), np.zeros(K)
    _normalize(U.T, d, 0, rows, columns, norm)
    _normalize(U_star.T, d, k, rows, columns, norm)
    Q, Q_T = np.zeros((K, m)), _registers(m, count, U).reshape((m, K))
    _copy(A, Q[:k])
    _copy(-A_star, Q[k : k + k_star])
    _copy(Q.T, Q_T)
    return rows, columns, norm, Q, Q_T


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
def _population_gradient(low, high, d, count, m, network, room, weights, D, gradient):
    """(10) and (11) for the units low to high, rows [u, a] of ``weights``, each against all in ``count`` registers.

    A pair of student units is met twice: in SIMD lanes that is cheaper than to mirror it.
    """
    rows, columns, norm, Q, Q_T = network
    plus, slope, value, linear = room
    zero, one = _splat(0.0), _splat(1.0)
    for j in range(low, high):
        for c in range(count):
            square = product = zero
            for i in range(d):
                both = _fma(one, _splat(rows[j, i]), _load(columns, i * count + c))
                square = _fma(both, both, square)
            for o in range(m):
                product = _fma(_splat(Q[j, o]), _load(Q_T, o * count + c), product)
            _store(plus, c, square)
            _store(value, c, product)
        _pair_terms(plus.size, plus, value, norm, slope)
        own = zero
        for c in range(count):
            own = _fma(one, _load(plus, c), own)
        own, alive = _total(own), 1.0 / math.pi if norm[j] > 0.0 else 0.0  # relu'(0) = 0
        for i in range(d):
            others = zero
            for c in range(count):
                others = _fma(_load(slope, c), _load(columns, i * count + c), others)
            gradient[j, i] = alive * (own * rows[j, i] + _total(others))  # (10)
        for o in range(m):
            others = zero
            for c in range(count):
                others = _fma(_load(value, c), _load(Q_T, o * count + c), others)
            gradient[j, d + o] = norm[j] / math.pi * _total(others)  # (11)
        if linear:
            _add_linear(j, d, m, norm, weights, D, gradient)


@_inline_exact
def _add_linear(j, d, m, norm, weights, D, gradient):
    """The terms in D of (10) and (11)."""
    for i in range(d):
        for o in range(m):
            if norm[j] > 0.0:
                gradient[j, i] += D[i, o] * weights[j, d + o]
            gradient[j, d + o] += D[i, o] * weights[j, i]


@_exact
def _population_gradient_blas(low, high, d, network, room, weights, D, gradient):
    """The same, for all these units at once: the sums over components are matrix products."""
    rows, columns, norm, Q, Q_T = network
    plus, value, slope = np.dot(rows[low:high], columns), np.dot(Q[low:high], Q_T), room[0]
    dz, da, linear = room[1], room[2], np.any(D)
    for j in range(low, high):
        near, products = plus[j - low], value[j - low]
        for l in range(near.size):
            near[l] = 2.0 + 2.0 * near[l]
            if near[l] < 1e-3:  # the digits that matter near pi are lost: sum them up anew
                near[l] = np.sum((rows[j] + rows[l]) ** 2)
        _pair_terms(near.size, near, products, norm, slope[j - low])
    np.dot(slope, rows, dz)
    np.dot(value, Q, da)
    for j in range(low, high):
        alive = 1.0 if norm[j] > 0.0 else 0.0  # relu'(0) = 0
        own = np.sum(plus[j - low])
        for i in range(d):
            gradient[j, i] = alive * (dz[j - low, i] + own * rows[j, i]) / math.pi  # (10)
        for o in range(da.shape[1]):
            gradient[j, d + o] = norm[j] * da[j - low, o] / math.pi  # (11)
        if linear:
            _add_linear(j, d, da.shape[1], norm, weights, D, gradient)


@_inline_exact
def _room(count, D):
    """Scratch for `_population_gradient`."""
    room = _registers(3, count, D)
    return room[0].reshape(-1), room[1].reshape(-1), room[2].reshape(-1), np.any(D)


@_inline_exact
def _room_blas(units, d, K, m):
    """Scratch for `_population_gradient_blas` of some units."""
    return np.empty((units, K)), np.empty((units, d)), np.empty((units, m))


@_inline
def _side_by_side(X, Y):
    joined = np.empty((X.shape[0], X.shape[1] + Y.shape[1]))
    _copy(X, joined[:, : X.shape[1]])
    _copy(Y, joined[:, X.shape[1] :])
    return joined


@_exact
def population_gradient(U, A, U_star, A_star, D, dU, dA):
    """(10) into dU and (11) into dA: O(k (k + k*) (d + m)) time, O(k (k + k*)) memory at most."""
    network = _residual_network(U, A, U_star, A_star)
    d, k, K, m = U.shape[0], U.shape[1], network[2].size, A.shape[1]
    weights = _side_by_side(U.T, A)
    gradient = np.empty_like(weights)
    if max(d, k) > EXACT_UNROLLED:
        _population_gradient_blas(0, k, d, network, _room_blas(k, d, K, m), weights, D, gradient)
    else:
        count = K // _lanes(U)
        _population_gradient(0, k, d, count, m, network, _room(count, D), weights, D, gradient)
    _copy(gradient[:, :d].T, dU)
    _copy(gradient[:, d:], dA)


def population_loop(d, k, K, m):
    """(loop, room, parts): the training loop on the exact gradient, as `sampled_loop`.

    ``loop(first, last, marks, room, teacher, U, A, VU, VA, rates, n_steps)``.
    """
    room = functools.partial(np.empty, (2, k, d + m))
    if max(d, k) > EXACT_UNROLLED:
        return _population_loop(0, 0, 0, 0), room, PARTS
    return _population_loop(d, k, K, m), room, PARTS if max(d, k) > EXACT_LONELY else 1


@functools.cache
def _population_loop(d, k, K, m):
    """The loop compiled for one shape (small), or, where that is all zeros, for every shape (BLAS)."""
    small, count = d > 0, -(-K // (REGISTER // 8))

    @_exact
    def loop(first, last, marks, room, teacher, U, A, VU, VA, rates, n_steps):
        network = _residual_network(U, A, teacher[0], teacher[1])
        rows, columns, norm, Q, Q_T = network
        inputs, units, outputs = U.shape[0], U.shape[1], A.shape[1]
        parts = len(marks)
        low, high = units * first // parts, units * last // parts
        weights, velocities = _side_by_side(U.T, A), _side_by_side(VU.T, VA)
        gradient = np.empty_like(weights)
        w, v, g = weights.reshape(-1), velocities.reshape(-1), gradient.reshape(-1)
        if small:
            scratch = _room(count, teacher[2])
        else:
            scratch = _room_blas(-(-units // parts), inputs, norm.size, outputs)
        for step in range(n_steps):
            _normalize(weights, inputs, 0, rows, columns, norm)
            for j in range(units):
                for o in range(outputs):
                    Q[j, o] = Q_T[o, j] = weights[j, inputs + o]
            if small:
                _population_gradient(low, high, d, count, m, network, scratch, weights, teacher[2], gradient)
            else:
                for part in range(first, last):
                    i, j = units * part // parts, units * (part + 1) // parts
                    some = scratch[0][: j - i], scratch[1][: j - i], scratch[2][: j - i]
                    _population_gradient_blas(i, j, inputs, network, some, weights, teacher[2], gradient)
            for j in range(low, high):
                begin, end = j * (inputs + outputs), (j + 1) * (inputs + outputs)
                _update(begin, begin + inputs, w, v, g, rates[0], rates[2])
                _update(begin + inputs, end, w, v, g, rates[1], rates[2])
            if last - first < parts:
                for j in range(low, high):
                    for i in range(inputs + outputs):
                        room[step % 2, j, i] = weights[j, i]
                if not _meet(marks, first, step + 1):
                    return
                for j in range(units):
                    if not low <= j < high:
                        for i in range(inputs + outputs):
                            weights[j, i] = room[step % 2, j, i]
        if last - first < parts and not _meet(marks, first, n_steps + 1):
            return
        _copy(weights[low:high, :inputs].T, U[:, low:high])
        _copy(velocities[low:high, :inputs].T, VU[:, low:high])
        _copy(weights[low:high, inputs:], A[low:high])
        _copy(velocities[low:high, inputs:], VA[low:high])
        if last - first < parts:
            _meet(marks, first, n_steps + 2)  # all is written

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
    K = k + U_star.shape[1]
    uu, ua, aa = np.zeros((k, k, d, d)), np.zeros((k, k, d, m)), np.zeros((k, k))
    for j in range(k):
        aa[j, j] = norm[j] * norm[j]
        if norm[j] > 0.0:  # the pair of a unit with itself: phi = 0
            for i in range(d):
                uu[j, j, i, i] += np.dot(A[j], A[j])
                for o in range(m):
                    ua[j, j, i, o] += D[i, o] + 2.0 * U[i, j] * A[j, o]
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
                    _copy(uu[j, l].T, uu[l, j])
            for a, b in ((j, l), (l, j)):  # what unit b adds to the blocks of unit a
                if a >= k or norm[a] == 0.0:
                    continue
                slope = norm[b] * (s * unit[a] + p * unit[b]) / math.pi  # twice (9)
                for i in range(d):
                    for o in range(m):
                        ua[a, a, i, o] += slope[i] * Q[b, o]  # (16)
                        if b < k:
                            ua[a, b, i, o] = slope[i] * A[a, o]
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
    _normalize(Z, Z.shape[1], 0, unit, np.empty(Z.T.shape), norm)
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
