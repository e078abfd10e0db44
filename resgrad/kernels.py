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
from typing import NamedTuple

import llvmlite.binding
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

NARROW = 64  # widest network for which the loop with samples in the lanes is the faster one
EXACT_NARROW = 32  # likewise for the exact gradient
LONELY, EXACT_LONELY = 4, 8  # widest network whose step takes less time than telling another thread of it
PARTS = 2  # of each step, for two threads or one: the last bits depend on it, so it is no option
_FEATURES = llvmlite.binding.get_host_cpu_features()
REGISTER = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx") else 16  # bytes computed with at once
ROWS = 8 if REGISTER != 32 else 4  # of a tile of two columns, which the 32 or 16 registers can hold
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
def _prefetch(typing, array, i):
    """The cache line of the i-th number of a contiguous array is wanted soon."""

    def generate(context, builder, signature, arguments):
        number = ir.IntType(32)
        place = _place(context, builder, signature, arguments, ir.IntType(signature.args[0].dtype.bitwidth))
        place = builder.bitcast(place, ir.IntType(8).as_pointer())
        prefetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [place.type, *[number] * 3]), "llvm.prefetch.p0i8"
        )
        builder.call(prefetch, [place, number(0), number(2), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def _load_transposed(typing, rows, starts, i, count, array, r, step):
    """``rows[starts + i : starts + i + count]`` of as many samples as there are lanes into registers r, r + step ...

    A full register of each sample is read, and ``rows`` is contiguous and counted as if flat.
    """
    kind, lanes = _Lanes(array.dtype), REGISTER * 8 // array.dtype.bitwidth

    def generate(context, builder, signature, arguments):
        rows, starts, i, count, array, r, step = arguments
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
                builder.store(registers[n], builder.gep(array, [builder.add(r, builder.mul(step, index(n)))]))
        return context.get_dummy_value()

    return types.void(rows, starts, types.intp, types.intp, array, types.intp, types.intp), generate


def _spread(builder, number, vector):
    """``number`` in every lane."""
    index, blank = ir.IntType(32), ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(blank, number, index(0))
    return builder.shuffle_vector(first, blank, ir.Constant(ir.VectorType(index, vector.count), None))


def _reduced(builder, x):
    """The sum of the lanes."""
    kind = x.type
    name = f"llvm.vector.reduce.fadd.v{kind.count}{kind.element.intrinsic_name}"
    add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind.element, [kind.element, kind]), name)
    return builder.call(add, [ir.Constant(kind.element, -0.0), x], fastmath=("reassoc",))


@intrinsic
def _splat(typing, number):
    """``number`` in every lane."""

    def generate(context, builder, signature, arguments):
        return _spread(builder, arguments[0], context.get_value_type(signature.return_type))

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
    return x.scalar(x), lambda context, builder, signature, arguments: _reduced(builder, arguments[0])


def _fitting(count):
    """Rows of a tile, so that it takes few tiles of equal height, at most `ROWS`, to do ``count``."""
    return -(-count // -(-count // ROWS))


@intrinsic(prefer_literal=True)
def _height(typing, count):
    """`_fitting` of a constant, when compiling."""
    height = _fitting(count.literal_value)
    return types.intp(count), lambda context, builder, signature, arguments: context.get_constant(types.intp, height)


def _tiled(kind):
    """C[i, j] = sum_p A[i, p] B[p, j] for as many i as are `_fitting` into ``rows``, and for ``columns`` of j.

    ``tile(rows, columns, A, B, depth, C)``, the first two constants.  A, B and C are views: (array, first
    element, stride of the first index, stride of the second), of an array whose last axis is contiguous.
    [p, j] is a register of B, [i, j] one of C.  [i, p] is a number of A, which meets every lane ("set", or "add"
    to what is in C); or a register, too ("sum"): then lanes are summed up in the end, and C has numbers.
    """

    @intrinsic(prefer_literal=True)
    def tile(typing, rows, columns, A, B, depth, C):
        height, width = _fitting(rows.literal_value), columns.literal_value

        def generate(context, builder, signature, arguments):
            index, depth, views = context.get_value_type(types.intp), arguments[4], []
            for n in (2, 3, 5):
                array, *place = cgutils.unpack_tuple(builder, arguments[n])
                views.append((context.make_array(signature.args[n][0])(context, builder, array).data, *place))
            vector = context.get_value_type(_Lanes(A[0].dtype))
            align = A[0].dtype.bitwidth // 8
            name = f"llvm.fmuladd.v{vector.count}{vector.element.intrinsic_name}"
            fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)

            def place(view, n, m, register):
                data, start, *strides = view
                for stride, count in zip(strides, (n, m)):
                    start = builder.add(start, builder.mul(stride, count))
                pointer = builder.gep(data, [start])
                return builder.bitcast(pointer, vector.as_pointer()) if register else pointer

            tile = [[cgutils.alloca_once(builder, vector) for j in range(width)] for i in range(height)]
            for i in range(height):
                for j in range(width):
                    begin = ir.Constant(vector, None)
                    if kind == "add":
                        begin = builder.load(place(views[2], index(i), index(j), True), align=align)
                    builder.store(begin, tile[i][j])
            with cgutils.for_range(builder, depth, intp=index) as loop:
                right = [builder.load(place(views[1], loop.index, index(j), True), align=align) for j in range(width)]
                for i in range(height):
                    left = builder.load(place(views[0], index(i), loop.index, kind == "sum"), align=align)
                    if kind != "sum":
                        left = _spread(builder, left, vector)
                    for j in range(width):
                        builder.store(builder.call(fma, [left, right[j], builder.load(tile[i][j])]), tile[i][j])
            for i in range(height):
                for j in range(width):
                    result = builder.load(tile[i][j])
                    if kind == "sum":
                        result = _reduced(builder, result)
                    builder.store(result, place(views[2], index(i), index(j), kind != "sum"), align=align)
            return context.get_dummy_value()

        return types.void(rows, columns, A, B, types.intp, C), generate

    return tile


_set, _add_to, _sum_to = _tiled("set"), _tiled("add"), _tiled("sum")


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


@register_jitable  # also called on NumPy arrays
def _registers(count, rows, like):
    """Zeros (count, rows, lanes): a register each [c, i], in whole cache lines."""
    lanes = REGISTER // like.itemsize
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
    for b in range(g.shape[0]):
        for i in range(g.shape[1]):
            g[b, i] = g[b, i] if h[b, i] > zero else zero


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
        _keep_active(H, H)
        np.dot(H, A, R)  # (1)
        total += _residual(len(rows), R.reshape(-1), T.reshape(-1))
        np.dot(R, A.T, G)
        _keep_active(H, G)  # (3)
        dU += np.dot(X.T, G)  # (4)
        dA += np.dot(H.T, R)  # (2)
    return total


@_jit
def shuffle(order, last, numbers):
    """NumPy's shuffle of order[: last + 1], without its branches: a number too large swaps nothing.

    ``numbers`` are uniform on 0 ... 2^32 - 1, of which as many bits count as ``last`` has.  Returns the ``last`` to
    go on from with more of them; 0 is the end.
    """
    mask = 1
    while mask < last:
        mask = 2 * mask + 1
    for number in numbers:
        if last <= mask >> 1:
            mask >>= 1
        chosen = np.int64(number) & mask
        other = min(chosen, last)
        order[last], order[other] = order[other], order[last]
        last -= chosen <= last
    return last


@_inline
def _copy(source, target):
    """target[:] = source.  Numba's own takes seconds to compile, with what it would say of shapes that differ."""
    for i in range(source.shape[0]):
        for j in range(source.shape[1]):
            target[i, j] = source[i, j]


@_inline
def _products(p, q, s, count, W, X, out):
    """out = W'X for samples in the lanes.  W (p, q), X (count, s >= p, lanes), out (count, q, lanes)."""
    lanes, height = _lanes(X), _height(q)
    for c in range(0, count, 2):
        beside = lanes if c + 1 < count else 0  # an odd last register is met twice
        for row in range(0, q, height):
            j = min(row, q - height)  # and so may be rows
            weights, samples = (W, j, 1, q), (X, c * s * lanes, lanes, s * beside)
            _set(q, 2, weights, samples, p, (out, (c * q + j) * lanes, lanes, q * beside))


@_inline
def _sum_outer(p, q, s, t, count, X, Y, out):
    """out = X Y' summed over samples, likewise."""
    lanes, height = _lanes(X), _height(p)
    for row in range(0, p, height):
        i = min(row, p - height)
        for j in range(0, q, 2):
            beside = 1 if j + 1 < q else 0
            left, right = (X, i * lanes, lanes, s * lanes), (Y, j * lanes, t * lanes, beside * lanes)
            _sum_to(p, 2, left, right, count, (out, i * q + j, q, beside))


@_inline
def _update(start, stop, w, v, g, lr, momentum):
    """One step of (6), in place, for some entries of flat arrays."""
    for i in range(start, stop):
        v[i] = momentum * v[i] + g[i]
        w[i] -= lr * (g[i] + momentum * v[i])


def sampled_loop(d, k, m, k_star=0):
    """(loop, room, parts): the fused training loop on samples, compiled for one shape (narrow) or for all (wide).

    ``loop(first, last, marks, room, rows, order, start, rng, teacher, U, A, VU, VA, rates, batch, n_steps,
    total)`` makes ``n_steps`` of (6) in place and returns ``total`` plus the batch losses.  Its batches are
    ``rows[order[start:]]`` in turn, the last one possibly short; or, where ``order`` is empty,
    fresh N(0, I) samples from ``rng``, labeled by ``teacher`` = (U*, A*, D).
    ``rates`` = (lr of U, lr of A, momentum).  It does the parts ``first`` to ``last`` of each step; where these
    are not all, another thread does the rest at the same time, meeting this one at ``marks`` (`threads.together`).
    ``room(batch, dtype)`` makes what it works with.  A teacher of width ``k_star`` is for fresh samples.  Narrow
    networks are then one part: most of the work is to draw the samples, from one stream.
    """
    if max(d, k) > NARROW:
        parts = PARTS if k > REGISTER // 8 else 1  # a register cannot be shared out
        return _wide_loop, functools.partial(_wide_room, parts, d, k, k_star, m), parts
    parts = 1 if k_star or max(d, k) <= LONELY else PARTS
    return _narrow_loop(d, k, m, k_star), functools.partial(_narrow_room, parts, d * k + k * m), parts


def _narrow_room(parts, size, batch, dtype):
    """Each part's gradient and loss, for even and odd steps: who is ahead overwrites nothing that is read."""
    return np.empty((2, parts, size + 1), dtype)


@functools.cache
def _narrow_loop(d, k, m, k_star):
    """`sampled_loop` for one shape: the samples are shared out, and each thread keeps weights of its own."""
    fresh = k_star > 0

    @_sampled_jit
    def loop(first, last, marks, room, rows, order, start, rng, teacher, U, A, VU, VA, rates, batch, n_steps, total):
        parts, lanes, cut, end = room.shape[1], _lanes(U), d * k, d * k + k * m
        count, n = -(-batch // lanes), batch
        most = min(count, BLOCK // lanes)
        XT, R = _registers(most, d + m, U), _registers(most, m, U)
        H, G = _registers(most, k, U), _registers(most, k, U)
        linear = np.any(teacher[2])
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
                _load_transposed(flat, starts, i, size - i, XT, c * size + i, 1)
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


@register_jitable
def _stride(count):
    """Room for ``count`` numbers: whole tiles and registers, and an odd count of them, which spreads over the cache."""
    unit = max(ROWS, REGISTER // 4)
    return (-(-count // unit) | 1) * unit


class _Wide(NamedTuple):
    """What each part works with in `_wide_loop`: first the number of the part, then matrices of `_stride`.

    Those of weights are zero beyond what is used of them, and that adds nothing.
    """

    X: np.ndarray  # inputs, one sample a row
    T: np.ndarray  # labels
    F: np.ndarray  # what the part's units add to F
    F_next: np.ndarray  # likewise; they take turns, so that who is ahead overwrites nothing that is read
    R: np.ndarray
    H: np.ndarray
    G: np.ndarray
    units: np.ndarray
    v_units: np.ndarray
    d_units: np.ndarray
    readout: np.ndarray
    v_readout: np.ndarray
    d_readout: np.ndarray
    readout_T: np.ndarray


def _wide_room(parts, d, k, k_star, m, batch, dtype):
    """A `_Wide` of zeros; where a batch is one block, each tile of the gradient is used at once."""
    size, inputs, outputs, units = _stride(min(batch, BLOCK)), _stride(d), _stride(m), _stride(-(-k // parts))
    units = _stride(units + -(-k_star // parts)) if k_star else units
    like, tile = np.empty(0, dtype), (ROWS, 2 * REGISTER // np.dtype(dtype).itemsize)
    shapes = dict.fromkeys("HG", (size, units)) | {
        "X": (size, inputs), "T": (size, outputs), "F": (size, outputs), "F_next": (size, outputs),
        "R": (size, outputs),
        "units": (inputs, units), "v_units": (inputs, units), "d_units": (inputs, units) if batch > BLOCK else tile,
        "readout": (units, outputs), "v_readout": (units, outputs), "readout_T": (outputs, units),
        "d_readout": (units, outputs) if batch > BLOCK else tile,
    }  # fmt: skip
    lanes = REGISTER // like.itemsize
    return _Wide(**{
        name: _registers(parts * rows, columns // lanes, like).reshape((parts, rows, columns))
        for name, (rows, columns) in shapes.items()
    })  # fmt: skip


@_sampled_jit
def _times(X, W, Y, rows, depth, columns, data, wanted):
    """Y[:rows, :columns] = X[:, :depth] W, in whole tiles; meanwhile the ``wanted`` rows of ``data`` are fetched."""
    lanes, x, w, y = _lanes(X), X.shape[1], W.shape[1], Y.shape[1]
    tile, tiles = 0, -(-columns // (2 * lanes)) * -(-rows // ROWS)
    for j in range(0, columns, 2 * lanes):
        for i in range(0, rows, ROWS):
            for n in range(wanted.size * tile // tiles, wanted.size * (tile + 1) // tiles):
                for e in range(0, data.shape[1], lanes):
                    _prefetch(data, wanted[n] * data.shape[1] + e)
            tile += 1
            left, right, product = (X, i * x, x, 1), (W, j, w, lanes), (Y, i * y + j, y, lanes)
            if j + lanes < columns:
                _set(ROWS, 2, left, right, depth, product)
            else:
                _set(ROWS, 1, left, right, depth, product)


@_sampled_jit
def _descend(X, G, samples, rows, columns, whole, gradient, W, V, W_T, rates, last):
    """gradient[:rows, :columns] += X'G, in whole tiles; after the ``last`` samples the step (6) of W, and W_T = W'.

    A gradient that is not ``whole`` has room for one tile, used at once: ``samples`` are all there are.
    """
    lanes, x, w, size = _lanes(X), X.shape[1], W.shape[1], gradient.shape[1]
    minus_lr, momentum, starts = _splat(-rates[0]), _splat(rates[1]), np.empty(_lanes(X), np.int64)
    for j in range(0, columns, 2 * lanes):
        wide = j + lanes < columns
        for i in range(0, rows, ROWS):
            for n in range(i * w + j, (i + ROWS) * w + j, w):  # to be there after the tile
                for e in range(n, n + 2 * lanes, lanes):
                    _prefetch(W, e)
                    _prefetch(V, e)
            at = i * size + j if whole else 0
            left, right, product = (X, i, 1, x), (G, j, w, lanes), (gradient, at, size, lanes)
            if wide:
                _add_to(ROWS, 2, left, right, samples, product)
            else:
                _add_to(ROWS, 1, left, right, samples, product)
            if last:
                for r in range(ROWS):
                    for c in range(2 if wide else 1):
                        n, g = ((i + r) * w + j) // lanes + c, (at + r * size) // lanes + c
                        _update_lanes(n, g, W, V, gradient, minus_lr, momentum)
        if last and len(W_T):
            _transpose(W, rows, j, min(j + 2 * lanes, columns), W_T, starts)


@_inline
def _update_lanes(n, g, W, V, gradient, minus_lr, momentum):
    """The step (6) of the n-th register of W, whose gradient is the g-th; it is zero after."""
    slope = _load(gradient, g)
    v = _fma(momentum, _load(V, n), slope)
    _store(V, n, v)
    _store(W, n, _fma(minus_lr, _fma(momentum, v, slope), _load(W, n)))
    _store(gradient, g, _splat(gradient.dtype.type(0)))


@_inline
def _transpose(W, rows, first, last, W_T, starts):
    """W_T[first:last, :rows] = W[:rows, first:last]', in whole registers; ``starts`` is scratch."""
    lanes, w, w_t = _lanes(W), W.shape[1], W_T.shape[1]
    for j in range(first, last, lanes):
        for i in range(0, rows, lanes):
            for r in range(lanes):
                starts[r] = (i + r) * w
            _load_transposed(W, starts, j, lanes, W_T, (j * w_t + i) // lanes, w_t // lanes)


@_jit
def _enter(first, last, room, U, A, VU, VA, teacher, k_star):
    """What `_wide_loop` begins with; how many units each part has of its own, and how many with the teacher's.

    These stand behind the student's, with -A*: fresh samples need them, too.
    """
    k, m, parts = U.shape[1], A.shape[1], len(room.X)
    own, used, starts = np.zeros(parts, np.int64), np.zeros(parts, np.int64), np.empty(_lanes(U), np.int64)
    for p in range(first, last):
        low, high = k * p // parts, k * (p + 1) // parts
        for matrix in (
            room.units, room.v_units, room.d_units, room.readout, room.v_readout, room.d_readout, room.readout_T
        ):  # fmt: skip
            matrix[p] = 0  # a run that diverged may have left NaN beyond what is used, an interrupted one its gradient
        _copy(U[:, low:high], room.units[p])
        _copy(VU[:, low:high], room.v_units[p])
        _copy(A[low:high], room.readout[p])
        _copy(VA[low:high], room.v_readout[p])
        own[p] = used[p] = high - low
        if k_star:
            behind, low, high = _stride(-(-k // parts)), k_star * p // parts, k_star * (p + 1) // parts
            _copy(teacher[0][:, low:high], room.units[p, :, behind:])
            _copy(-teacher[1][low:high], room.readout[p, behind:])
            used[p] = behind + high - low
        _transpose(room.readout[p], own[p], 0, m, room.readout_T[p], starts)
    return own, used


@_jit
def _leave(first, last, room, U, A, VU, VA):
    """What `_wide_loop` ends with."""
    d, k, m, parts = U.shape[0], U.shape[1], A.shape[1], len(room.X)
    for p in range(first, last):
        low, high = k * p // parts, k * (p + 1) // parts
        _copy(room.units[p, :d, : high - low], U[:, low:high])
        _copy(room.v_units[p, :d, : high - low], VU[:, low:high])
        _copy(room.readout[p, : high - low, :m], A[low:high])
        _copy(room.v_readout[p, : high - low, :m], VA[low:high])


@_sampled_jit
def _wide_loop(first, last, marks, room, rows, order, start, rng, teacher, U, A, VU, VA, rates, batch, n_steps, total):
    """`sampled_loop` for every shape: the units are shared out, and only what they add to F is exchanged."""
    d, m, parts, lanes, fresh = U.shape[0], A.shape[1], len(room.X), _lanes(U), rows.size == 0
    X, T, R, H, G, turn, whole = room.X[first], room.T[first], room.R[first], room.H, room.G, 0, batch > BLOCK
    own, used = _enter(first, last, room, U, A, VU, VA, teacher, teacher[0].shape[1] if fresh else 0)
    for _ in range(n_steps):
        n = batch if fresh else min(batch, order.size - start)
        for begin in range(0, n, BLOCK):
            count, ends, at = min(BLOCK, n - begin), begin + BLOCK >= n, start + begin
            tall = -(-count // ROWS) * ROWS
            if fresh:
                _draw_rows(rng, X[:count, :d])
            else:
                _gather_rows(rows, order[at : at + count], d, X, T)
            soon = order[at + count : at + count + min(BLOCK, n - begin - count if not ends else batch)]
            X[count:tall] = 0
            T[count:tall] = 0
            shares = room.F if turn % 2 else room.F_next
            for p in range(first, last):
                _times(X, room.units[p], H[p], tall, d, used[p], rows, soon[: soon.size // 2])
                _keep_active_lanes(tall * H.shape[2] // lanes, H[p], H[p])
                _times(H[p], room.readout[p], shares[p], tall, used[p], m, rows, soon[:0])  # (1)
                if fresh and p == 0 and np.any(teacher[2]):
                    shares[p, :tall, :m] += np.dot(X[:tall, :d].copy(), teacher[2])
            turn += 1
            if last - first < parts and not _meet(marks, first, turn):
                return total
            _copy(shares[0], R)
            for part in range(1, parts):
                np.add(R, shares[part], R)
            total += _residual(n, R[:tall].reshape(-1), T[:tall].reshape(-1))
            for p in range(first, last):
                _times(R, room.readout_T[p], G[p], tall, m, own[p], rows, soon[soon.size // 2 :])
                _keep_active_lanes(tall * H.shape[2] // lanes, H[p], G[p])  # (3)
                _descend(
                    X,
                    G[p],
                    tall,
                    d,
                    own[p],
                    whole,
                    room.d_units[p],
                    room.units[p],
                    room.v_units[p],
                    room.readout_T[p, :0],
                    (rates[0], rates[2]),
                    ends,
                )  # (4)
                _descend(
                    H[p],
                    R,
                    tall,
                    own[p],
                    m,
                    whole,
                    room.d_readout[p],
                    room.readout[p],
                    room.v_readout[p],
                    room.readout_T[p],
                    (rates[1], rates[2]),
                    ends,
                )  # (2)
        start += n
    if last - first < parts and not _meet(marks, first, turn + 1):
        return total
    _leave(first, last, room, U, A, VU, VA)
    if last - first < parts:
        _meet(marks, first, turn + 2)  # all is written
    return total


@_inline
def _gather_rows(rows, picked, d, X, T):
    m = rows.shape[1] - d
    for b in range(picked.size):
        row = picked[b]
        for i in range(d):
            X[b, i] = rows[row, i]
        for o in range(m):
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
        if d == 1 and length > 0.0:  # to the last bit: (15) divides by the norm what it leaves of s
            rows[l, 0] = columns[0, l] = math.copysign(1.0, units[j, 0])


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
    if max(d, k) > EXACT_NARROW:
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
    if max(d, k) > EXACT_NARROW:
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
