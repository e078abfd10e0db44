"""Vector registers, tiles of matrix products, and memory that threads share, as LLVM instructions.  No mathematics.

Numba has no type for a vector register, so these intrinsics emit the LLVM instructions themselves.  A *register*
is `REGISTER` bytes of a contiguous array; the r-th one begins at byte r `REGISTER`.  Its numbers are its *lanes*.
"""

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, register_jitable, register_model

from .policy import REGISTER, ROWS


class _Lanes(types.Type):
    """The Numba type of a register."""

    def __init__(self, scalar):
        self.scalar = scalar
        super().__init__(name=f"Lanes({scalar})")


@register_model(_Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager, lanes):
        scalar = manager.lookup(lanes.scalar).get_value_type()
        super().__init__(manager, lanes, ir.VectorType(scalar, REGISTER * 8 // lanes.scalar.bitwidth))


# --------------------------------------------------------------------------- pieces of LLVM


def _place(context, builder, signature, arguments, kind):
    """Pointer to element number ``arguments[1]`` of the array ``arguments[0]``, seen as an array of ``kind``."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(builder.bitcast(array.data, kind.as_pointer()), [arguments[1]])


def _spread(builder, number, vector):
    """A register with ``number`` in every lane."""
    index, blank = ir.IntType(32), ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(blank, number, index(0))
    return builder.shuffle_vector(first, blank, ir.Constant(ir.VectorType(index, vector.count), None))


def _fused(builder, x, y, z):
    """x y + z, lane by lane."""
    kind = x.type
    name = f"llvm.fmuladd.v{kind.count}{kind.element.intrinsic_name}"
    fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(fma, [x, y, z])


def _reduced(builder, x):
    """The sum of the lanes."""
    kind = x.type
    name = f"llvm.vector.reduce.fadd.v{kind.count}{kind.element.intrinsic_name}"
    add = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind.element, [kind.element, kind]), name)
    return builder.call(add, [ir.Constant(kind.element, -0.0), x], fastmath=("reassoc",))


# --------------------------------------------------------------------------- registers


@intrinsic
def lane_count(typing, array):
    """How many numbers of ``array`` a register holds, a compile-time constant."""
    count = REGISTER * 8 // array.dtype.bitwidth
    return types.intp(array), lambda context, builder, signature, arguments: context.get_constant(types.intp, count)


@intrinsic
def load(typing, array, r):
    """The r-th register of a contiguous array."""
    kind = _Lanes(array.dtype)

    def generate(context, builder, signature, arguments):
        return builder.load(_place(context, builder, signature, arguments, context.get_value_type(kind)))

    return kind(array, types.intp), generate


@intrinsic
def store(typing, array, r, x):
    """Set the r-th register of a contiguous array."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], _place(context, builder, signature, arguments, arguments[2].type))
        return context.get_dummy_value()

    return types.void(array, types.intp, x), generate


@intrinsic
def splat(typing, number):
    """A register with ``number`` in every lane."""

    def generate(context, builder, signature, arguments):
        return _spread(builder, arguments[0], context.get_value_type(signature.return_type))

    return _Lanes(number)(number), generate


@intrinsic
def fma(typing, x, y, z):
    """x y + z, lane by lane."""
    return x(x, x, x), lambda context, builder, signature, arguments: _fused(builder, *arguments)


@intrinsic
def where_positive(typing, h, x):
    """x where h > 0, else 0, lane by lane."""

    def generate(context, builder, signature, arguments):
        zero = ir.Constant(arguments[0].type, None)
        return builder.select(builder.fcmp_ordered(">", arguments[0], zero), arguments[1], zero)

    return x(h, x), generate


@intrinsic
def lane_sum(typing, x):
    """The sum of the lanes."""
    return x.scalar(x), lambda context, builder, signature, arguments: _reduced(builder, arguments[0])


@intrinsic
def prefetch(typing, array, i):
    """Begin to fetch the cache line that holds the i-th number of a contiguous array."""

    def generate(context, builder, signature, arguments):
        number, byte = ir.IntType(32), ir.IntType(8).as_pointer()
        place = _place(context, builder, signature, arguments, ir.IntType(signature.args[0].dtype.bitwidth))
        kind = ir.FunctionType(ir.VoidType(), [byte, *[number] * 3])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [builder.bitcast(place, byte), number(0), number(2), number(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


@intrinsic
def load_lanes(typing, rows, starts, i, count, array, r, step):
    """``rows[starts + i : starts + i + count]``, one sample a lane, into registers r, r + step ... of ``array``.

    There are as many ``starts`` as lanes.  They index ``rows``, which is contiguous, as if it were flat.  A full
    register of each sample is read.
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
        for _ in range(lanes.bit_length() - 1):  # a perfect shuffle moves one bit of the lane's index to the register's
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


@register_jitable  # also called on NumPy arrays
def registers(count, rows, like):
    """Zeros (count, rows, lanes) of the dtype of ``like``: each [c, i] is one register, aligned to its size."""
    lanes = REGISTER // like.itemsize
    memory = np.zeros((count * rows + 1) * lanes, like.dtype)
    first = (-memory.ctypes.data // like.itemsize) % lanes
    return memory[first : first + count * rows * lanes].reshape((count, rows, lanes))


# --------------------------------------------------------------------------- tiles of products


def fitting(count):
    """Height of a tile, at most `ROWS`, such that the fewest tiles of equal height cover ``count`` rows."""
    return -(-count // -(-count // ROWS))


@intrinsic(prefer_literal=True)
def tile_height(typing, count):
    """`fitting` of a constant, at compile time."""
    height = fitting(count.literal_value)
    return types.intp(count), lambda context, builder, signature, arguments: context.get_constant(types.intp, height)


def _tiled(kind):
    """The intrinsic ``tile(rows, columns, A, B, depth, C)``: C[i, j] = sum_p A[i, p] B[p, j] for one tile.

    A tile has `fitting` (``rows``) rows i and ``columns`` columns j; both are constants, and the whole tile stays in
    registers while p runs up to ``depth``.  A, B and C are views of contiguous arrays: (array, first number, stride of
    the first index, stride of the second).

    ``kind`` "set" and "add": A[i, p] is a number, B[p, j] and C[i, j] are registers; "add" adds to what is in C.
    "sum": A[i, p] and B[p, j] are registers, and C[i, j] is a number, the sum over p and over the lanes.
    """

    @intrinsic(prefer_literal=True)
    def tile(typing, rows, columns, A, B, depth, C):
        height, width = fitting(rows.literal_value), columns.literal_value
        cells = [(i, j) for i in range(height) for j in range(width)]

        def generate(context, builder, signature, arguments):
            index, depth, views = context.get_value_type(types.intp), arguments[4], []
            for n in (2, 3, 5):
                array, *place = cgutils.unpack_tuple(builder, arguments[n])
                views.append((context.make_array(signature.args[n][0])(context, builder, array).data, *place))
            vector = context.get_value_type(_Lanes(A[0].dtype))
            align = A[0].dtype.bitwidth // 8

            def place(view, n, m, register):
                data, start, *strides = view
                for stride, count in zip(strides, (n, m)):
                    start = builder.add(start, builder.mul(stride, count))
                pointer = builder.gep(data, [start])
                return builder.bitcast(pointer, vector.as_pointer()) if register else pointer

            sums = {cell: cgutils.alloca_once(builder, vector) for cell in cells}  # LLVM keeps these in registers
            for i, j in cells:
                begin = ir.Constant(vector, None)
                if kind == "add":
                    begin = builder.load(place(views[2], index(i), index(j), True), align=align)
                builder.store(begin, sums[i, j])
            with cgutils.for_range(builder, depth, intp=index) as loop:
                right = [builder.load(place(views[1], loop.index, index(j), True), align=align) for j in range(width)]
                for i in range(height):
                    left = builder.load(place(views[0], index(i), loop.index, kind == "sum"), align=align)
                    if kind != "sum":
                        left = _spread(builder, left, vector)
                    for j in range(width):
                        builder.store(_fused(builder, left, right[j], builder.load(sums[i, j])), sums[i, j])
            for i, j in cells:
                result = builder.load(sums[i, j])
                if kind == "sum":
                    result = _reduced(builder, result)
                builder.store(result, place(views[2], index(i), index(j), kind != "sum"), align=align)
            return context.get_dummy_value()

        return types.void(rows, columns, A, B, types.intp, C), generate

    return tile


set_tile, add_tile, sum_tile = _tiled("set"), _tiled("add"), _tiled("sum")


# --------------------------------------------------------------------------- marks between threads


@intrinsic
def publish(typing, marks, i, turn):
    """marks[i] = turn, atomically: a thread that reads it with `published` also sees all that was written before."""

    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature, arguments, arguments[2].type)
        builder.store_atomic(arguments[2], place, "release", 8)
        return context.get_dummy_value()

    return types.void(marks, types.intp, types.int64), generate


@intrinsic
def published(typing, marks, i):
    """marks[i], read atomically: the latest that any thread has published."""

    def generate(context, builder, signature, arguments):
        place = _place(context, builder, signature, arguments, ir.IntType(64))
        return builder.load_atomic(place, "acquire", 8)

    return types.int64(marks, types.intp), generate
