"""The expected loss, its gradient and its Hessian on a box of parameters, enclosed by Arb's balls (python-flint).

A ball is a midpoint and a radius.  An operation on balls returns a ball that contains every result, rounding included.
So the formulas (7)-(17) of `kernels`, evaluated with a ball for every parameter, enclose their values at all points of
that box.  With slopes p and n, Z = [U, U*], Q = [A; -A*], D = C - C*, o = p + n and M = o D + 2 p n Z Q,

    loss = sum_lm (q_l . q_m) [(p - n)^2 G(z_l, z_m) + p n z_l . z_m] + o sum_l q_l . D'z_l + |D|^2              (1)
    dloss/du_j = 2 (p - n)^2 sum_l (a_j . q_l) dG/du + M a_j,    dloss/da_j = 2 (p - n)^2 sum_l G q_l + M'u_j    (2)
    dloss/dC = 2 D + o Z Q                                                                                      (3)

and the Hessian follows.  G(u, v) = |u||v| K(c), with c the cosine, u^ and v^ unit vectors, has

    dG/du = |v| [(K - c K') u^ + K' v^]                                                                          (4)
    d2G/du dv = K' I + (K - c K') u^ v^' + K'' (v^ - c u^)(u^ - c v^)'                                           (5)
    d2G/du du = |v| / |u| [(K - c K') (I - u^ u^') + K'' (v^ - c u^)(v^ - c u^)'].                               (6)

Where two units can be parallel within the box, ReLU's K'' is not bounded, but (1 - c^2) K'' = s / 2 pi is, s the sine.
As v^ - c u^ is s times a unit vector, the entries of the last terms are then enclosed by (1 - c^2) K'' [-1, 1].

The coordinates x are theta without W2's unseen part: the units u_j, then the rows of A where they are trained (for
``sum`` a_j / d^(1/2), so that distances in x are those in theta), then C where it is trained.
"""

from dataclasses import dataclass

import numpy as np

try:
    import flint
    from flint import arb, arb_mat
except ImportError:
    flint = None

BITS = 106  # of the midpoints: twice those of theta, so that differences of nearly equal units keep 53 bits
LARGEST = 3000  # entries of x: with more, the balls of one Hessian need more than about 1 GB


class NotProved(Exception):
    """The reason why a proof fails."""


def require(arch, d, width):
    """Raise ImportError if python-flint is missing, ValueError if the networks have no enclosure."""
    if flint is None:
        raise ImportError('proofs need python-flint, which is missing: pip install "resgrad[proofs]"')
    if arch.bias:
        raise ValueError(f"{arch.name} has hidden biases, but proofs are for networks without them")
    n = width * (d + arch.outputs(d) * arch.trains_readout) + d * arch.outputs(d) * arch.trains_skip
    if n > LARGEST:
        raise ValueError(f"{arch.name} with d={d} and width {width} has {n:,} coordinates, but proofs take {LARGEST:,}")


def precision():
    """A context in which balls have `BITS`."""
    return flint.ctx.workprec(BITS)


@dataclass(frozen=True, eq=False)
class Numbers:
    """A student and its teacher as exact numbers, the teacher's in the student's slopes and without dead units."""

    units: list  # (u_j, a_j) of the student, lists of numbers
    C: list  # rows
    units_star: list
    C_star: list
    root: object  # an entry of a is ``root`` times its coordinate in x; None where A is not trained
    trains_skip: bool
    coupling: tuple  # (p - n)^2, p + n and p n of (1)
    kernel: object  # see `relu`

    @classmethod
    def of(cls, loss, theta):
        """The numbers of a `PopulationLoss` or a `KernelLoss` at ``theta``."""
        student, teacher, d = loss.arch, loss.teacher, loss.d
        units, C = _network(student, theta, d)
        units_star, C_star = _network(teacher.arch, teacher.theta.astype(np.float64), d)
        (p, n), (p_star, n_star) = (tuple(map(arb, arch.slopes)) for arch in (student, teacher.arch))
        if student.slopes != teacher.arch.slopes:  # s* is (p* - n*) / (p - n) times s plus a linear function
            ratio = (p_star - n_star) / (p - n)
            for u, a in units_star:
                C_star = [[e + (n_star - n * ratio) * z * q for e, q in zip(row, a)] for row, z in zip(C_star, u)]
            units_star = [(u, [ratio * e for e in a]) for u, a in units_star]
        live = [unit for unit in units_star if not any(all(e == 0 for e in part) for part in unit)]
        root = {"fixed": None, "sum": arb(d).sqrt(), "vector": arb(1)}[student.readout]
        coupling, kernel = ((p - n) * (p - n), p + n, p * n), relu
        if dual := getattr(loss, "dual", None):
            coupling, kernel = (arb(1), arb(dual.slope), arb(0)), KERNELS[loss.kernel]
        return cls(units, C, live, C_star, root, student.trains_skip, coupling, kernel)

    k = property(lambda self: len(self.units))
    d, m = property(lambda self: len(self.C)), property(lambda self: len(self.C[0]))
    n = property(lambda self: self.start_C + self.d * self.m * self.trains_skip)
    start_C = property(lambda self: self.k * (self.d + self.m * bool(self.root)))  # where C begins in x

    def rows(self, j):
        """Where u_j and, if it is trained, a_j are in x."""
        d, m, first = self.d, self.m, self.k * self.d + j * self.m
        return [*range(j * d, (j + 1) * d), *(range(first, first + m) if self.root else ())]

    def tangents(self):
        """(u_j, -a_j) of each unit in the coordinates of `rows`: the direction in which it is rescaled."""
        return [[*u, *(-e / self.root for e in a)] for u, a in self.units] if self.root else []


def _network(arch, theta, d):
    """([(u_j, a_j)], C) at ``theta`` as lists of exact numbers."""
    W1, W2, C, _ = arch.unflatten(theta, d)
    U = [[arb(w) + arch.identity * (i == j) for i, w in enumerate(column)] for j, column in enumerate(W1.T.tolist())]
    rows = [[1.0]] * len(U) if arch.readout == "fixed" else W2.tolist()
    A = [[sum(map(arb, row))] if arch.readout == "sum" else [*map(arb, row)] for row in rows]
    C = arch.skip_map(d) if C is None else C
    return list(zip(U, A)), [[*map(arb, row)] for row in C.tolist()]


def relu(c, s, p):
    """K, K', K - c K', (1 - c^2) K'', and K'' or None where it is not bounded; c, s: cosine and sine, p = pi - phi."""
    over = 1 / (2 * arb.pi())
    return (s + p * c) * over, p * over, s * over, s * over, over / s if 4 * s.rad() < s else None


def even(c, s, p):
    """`relu` for abs(z) / 2: without relu's linear part."""
    K, slope, *rest = relu(c, s, p)
    return K - c / 4, slope - arb(1) / 4, *rest


def powers(two, four):
    """`relu` for K = two c^2 + four c^4."""

    def kernel(c, s, p):
        square = c * c
        second = 2 * two + 12 * four * square
        return (
            (two + four * square) * square, 2 * (two + 2 * four * square) * c, -(two + 3 * four * square) * square,
            s * s * second, second,
        )  # fmt: skip

    return kernel


def hermite24(c, s, p):
    """`relu` for its parts of degrees 2 and 4."""
    return powers(1 / (4 * arb.pi()), 1 / (48 * arb.pi()))(c, s, p)


KERNELS = {"relu": relu, "even": even, "hermite24": hermite24, "hermite2": powers(1, 0), "hermite4": powers(0, 1)}


class Box:
    """Student minus teacher; every trained parameter is a ball of this ``radius``."""

    def __init__(self, numbers, radius=0.0):
        self.numbers, move = numbers, arb(0, radius)
        self.bend, self.odd, self.even = numbers.coupling
        move_a, move_C = move * (numbers.root or 0), move * numbers.trains_skip
        self.Z = [[e + move for e in u] for u, _ in numbers.units] + [u for u, _ in numbers.units_star]
        self.A = [[e + move_a for e in a] for _, a in numbers.units]
        self.Q = self.A + [[-e for e in a] for _, a in numbers.units_star]
        D = [[e + move_C - f for e, f in zip(row, star)] for row, star in zip(numbers.C, numbers.C_star)]
        self.D, self.lengths = arb_mat(D), [size(z) for z in self.Z]
        for j, length in enumerate(self.lengths):
            if not length > 0:
                raise NotProved(f"unit {j} may vanish, where the loss has a kink")
        self.directions = [[e / length for e in z] for z, length in zip(self.Z, self.lengths)]
        self.pairs = {}
        for j in range(numbers.k):
            self.pairs[j, j] = arb(1), *numbers.kernel(arb(1), arb(0), arb.pi())
            for l in range(j + 1, len(self.Z)):
                self.pairs[j, l] = self.pairs[l, j] = self._pair(j, l)
        self.ZQ = arb_mat(self.Z).transpose() * arb_mat(self.Q)
        self.M = self.odd * self.D + 2 * self.even * self.ZQ

    def _pair(self, j, l):
        """c of two units and its `relu`, from |u^ - v^| = 2 sin(phi / 2) and |u^ + v^| = 2 cos(phi / 2)."""
        both = list(zip(self.directions[j], self.directions[l]))
        minus, plus = ([u + sign * v for u, v in both] for sign in (-1, 1))
        c, minus, plus = (square(plus) - square(minus)) / 4, size(minus), size(plus)
        return c, *self.numbers.kernel(c, minus * plus / 2, 2 * arb.atan2(plus, minus))

    def loss(self):
        """(1)."""
        total, W = arb(0), (arb_mat(self.Q) * arb_mat(self.Q).transpose()).tolist()
        for j, length in enumerate(self.lengths):
            total += W[j][j] * length * length * self.pairs[0, 0][1]
            for l in range(j):
                K = self.pairs[l, j][1] if l < self.numbers.k else self._pair(l, j)[1]
                total += 2 * W[j][l] * length * self.lengths[l] * K
        linear = zip(self.ZQ.entries(), self.D.entries())
        return self.bend * total + sum(self.even * z * z + self.odd * z * e + e * e for z, e in linear)

    def gradient(self):
        """(2) and (3), a list in the order of x."""
        p, twice, dU, dA, dC = self.numbers, 2 * self.bend, [], [], []
        A, Q = arb_mat(self.A), arb_mat(self.Q)
        W, MA, MU = (A * Q.transpose()).tolist(), (A * self.M.transpose()).tolist(), (arb_mat(self.Z) * self.M).tolist()
        for j in range(p.k):
            pulled = (arb_mat([W[j]]) * arb_mat(self._slopes(j))).entries()
            dU += [twice * e + f for e, f in zip(pulled, MA[j])]
            if p.root:
                pulled = (arb_mat([[self._G(j, l) for l in range(len(self.Z))]]) * Q).entries()
                dA += [p.root * (twice * e + f) for e, f in zip(pulled, MU[j])]
        if p.trains_skip:
            dC = [2 * e + self.odd * f for e, f in zip(self.D.entries(), self.ZQ.entries())]
        return dU + dA + dC

    def _G(self, j, l):
        return self.lengths[j] * self.lengths[l] * self.pairs[j, l][1]

    def _slopes(self, j):
        """dG/du_j for each z_l, a list of rows; (4)."""
        rows = []
        for l, (z, length) in enumerate(zip(self.Z, self.lengths)):
            _, _, slope, rest, *_ = self.pairs[j, l]
            rows.append([u * (length * rest) + e * slope for u, e in zip(self.directions[j], z)])
        return rows

    def hessian(self, sigma=0.0):
        """The upper half of the Hessian plus ``sigma`` times the projector on `Numbers.tangents`, as a list of rows."""
        p, zero = self.numbers, arb(0)
        full = [[zero] * p.n for _ in range(p.n)]
        W = (arb_mat(self.A) * arb_mat(self.Q).transpose()).tolist()
        for j in range(p.k):
            _put(full, j * p.d, j * p.d, self._own(j, W[j]))
            for l in range(j + 1, p.k):
                _put(full, j * p.d, l * p.d, self._across(j, l, W[j][l]))
            if p.root:
                self._readout(j, full)
            if p.trains_skip:
                self._skip(j, full)
        for i in range(p.start_C, p.n):
            full[i][i] = arb(2)
        for j, tangent in enumerate(p.tangents()):
            weight = sigma / square(tangent)
            for i, one in zip(p.rows(j), tangent):
                for e, other in zip(p.rows(j), tangent):
                    full[i][e] += weight * one * other
        return full

    def _own(self, j, w):
        """The block of u_j alone, w its row of A Q'; by (6), and 2 K(1) |a|^2 I from the pair of u_j with itself."""
        u, columns, weights, along, loose = self.directions[j], [], [], arb(0), arb(0)
        for l, v in enumerate(self.directions):
            if l == j:
                continue
            c, _, _, rest, turn, second = self.pairs[j, l]
            weight = 2 * self.bend * w[l] * self.lengths[l] / self.lengths[j]
            along += weight * rest
            if second is None:
                loose += abs(weight * turn)
            else:
                columns.append([e - c * f for e, f in zip(v, u)])
                weights.append(weight * second)
        columns, weights = [*columns, u], [*weights, -along]
        scaled = [[weight * e for e in column] for column, weight in zip(columns, weights)]
        along += 2 * w[j] * (self.bend * self.pairs[j, j][1] + self.even)
        return _block(columns, scaled, along, arb(0, 1) * loose)

    def _across(self, j, l, w):
        """The block of u_j and u_l, w = a_j . a_l; by (5)."""
        u, v, loose = self.directions[j], self.directions[l], arb(0)
        c, _, slope, rest, turn, second = self.pairs[j, l]
        weight = 2 * self.bend * w
        left, right = [[weight * rest * e for e in u]], [v]
        if second is None:
            loose = arb(0, 1) * weight * turn
        else:
            left.append([weight * second * (f - c * e) for e, f in zip(u, v)])
            right.append([e - c * f for e, f in zip(u, v)])
        return _block(left, right, weight * slope + 2 * w * self.even, loose)

    def _readout(self, j, full):
        """The blocks of u_j and all of A, and of a_j and those from a_j on."""
        p, slopes, start = self.numbers, self._slopes(j), self.numbers.k * self.numbers.d
        own = 2 * self.bend * (arb_mat(slopes).transpose() * arb_mat(self.Q)) + self.M
        for l in range(p.k):
            column = [[2 * (self.bend * e + self.even * f)] for e, f in zip(slopes[l], self.Z[l])]
            block = arb_mat(column) * arb_mat([self.A[j]])
            _put(full, j * p.d, start + l * p.m, (p.root * (block + own if l == j else block)).tolist())
        for l in range(j, p.k):
            dot = sum(e * f for e, f in zip(self.Z[j], self.Z[l]))
            entry = 2 * p.root * p.root * (self.bend * self._G(j, l) + self.even * dot)
            for o in range(p.m):
                full[start + j * p.m + o][start + l * p.m + o] = entry

    def _skip(self, j, full):
        """The blocks of u_j and C and of a_j and C."""
        p = self.numbers
        for i in range(p.d):
            for o in range(p.m):
                column = p.start_C + i * p.m + o
                full[j * p.d + i][column] = self.odd * self.A[j][o]
                if p.root:
                    full[p.k * p.d + j * p.m + o][column] = self.odd * p.root * self.Z[j][i]


def _block(left, right, diagonal, loose):
    """sum_i left_i right_i' plus ``diagonal`` I plus ``loose`` in every entry, a list of rows."""
    rows = (arb_mat(left).transpose() * arb_mat(right)).tolist()
    return [[e + loose + diagonal if i == o else e + loose for o, e in enumerate(row)] for i, row in enumerate(rows)]


def _put(full, i, e, block):
    for r, row in enumerate(block):
        full[i + r][e : e + len(row)] = row


def square(entries):
    """The sum of squares (``e ** 2`` is not defined for a ball that holds 0)."""
    return sum(e * e for e in entries)


def size(entries):
    """The root of the sum of squares; the sum is at least 0, even if its ball is not."""
    total = square(entries)
    return total.sqrt() if total > 0 else total.upper().sqrt() * arb(1, 1) / 2


def interval(ball):
    """Floats that enclose a ball."""
    if ball.is_zero():
        return 0.0, 0.0
    return float(np.nextafter(float(ball.lower()), -np.inf)), float(np.nextafter(float(ball.upper()), np.inf))
