"""The mathematics, compiled: arrays in, arrays out; no validation, no files.

Where to find it.  Read `plain` first: it has every equation in a few lines of NumPy.  `narrow` and `wide` train on
samples, `population` on the exact gradient.  `hessian` is the exact Hessian, `digits` the loss to its last digits,
`pairs` has lengths and angles.  Below them `threads` lets several threads share a step, `lanes` operates on vector
registers, and `policy` says how all of it is compiled.

The forward and the backward pass stand in one form for all networks, the canonical network

    F(x) = A' s(U' x) + C' x           U (d, k),  A (k, m),  C (d, m),  m = 1 or d,          (1)

with s(z) = p z for z > 0 and n z for z <= 0; relu has the slopes (p, n) = (1, 0).  Hidden biases are one more row of U,
for an input that is always 1.

The four networks of the post are cases of it.  With e = F(x) - y, h = relu(z), 1[.] the 0/1
indicator (relu'(0) = 0) and 1 the vector of ones, the loss |e|^2 of one sample has

    li          z = (I + W1)' x     F = 1'h                 dW1 = 2 x (e 1 * 1[z > 0])'
    resnet      z = W1' x           F = W2'h + x            dW2 = 2 h e'
                                                            dW1 = 2 x ((W2 e) * 1[z > 0])'
    two-weight  z = (W1 + I)' x     F = 1'W2'h = (W2 1)'h   dW2 = 2 e h 1'
                                                            dW1 = 2 x (e W2 1 * 1[z > 0])'
    modresnet   z = (W1 + I)' x     F = W2'h + x            as resnet

which is (1) with U = W1 + I or W1;  A = 1, W2 1 or W2;  C = 0, 1 or I, and

    r = A'h + C'x - y,    dA = 2 h r',    g = (A r) * s'(z),    dU = 2 x g',    dC = 2 x r'  (2)-(4)
    dW1 = dU;    dW2 = dA (vector),  dA 1' (sum),  absent (fixed).                              (5)

theta -> (U, A, C) is linear, so SGD and Nesterov on theta *are* SGD and Nesterov on (U, A, C) with the
rate of A multiplied by 0 (fixed), 1 (vector) or d (sum: d columns of W2 share one gradient).  The
loops below run on (U, A, C) and never see theta.  One step, with v <- momentum v + g:

    theta <- theta - lr (g + momentum v).                                                       (6)

Population, for relu.  Student minus teacher is one more network (1), with units Z = [U, U*], read-out
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

Where u and v become parallel (s = 0), s m and s n stay bounded, and (7)-(17) have limits, which are used there.  At
u = 0 they have no limit: dG/du and d2G are set to 0, by the convention relu'(0) = 0.

Near a zero of the loss (8) is a difference of large numbers.  With relu(t) = (t + |t|) / 2 the
residual splits into an odd and an even part, which are orthogonal under a Gaussian:

    loss = |D + Z Q / 2|^2 + sum_lm (p_l . p_m) (s + psi |c|) / 2 pi,                           (18)

p_l = |z_l| q_l and psi = arcsin |c|.  The first term is a square.  The second one is summed in double-double
arithmetic (unevaluated hi + lo, about 32 digits) wherever plain summation would lose its digits to cancellation.

Other slopes and a trained C.  s(z) = n z + (p - n) relu(z), so E[s(u'x) s(v'x)] = (p - n)^2 G(u, v) + p n u'v and
E[s(u'x) x] = (p + n) u / 2: every sum over pairs of units in (8)-(17) is multiplied by (p - n)^2, D in (10), (11) and
(16) becomes M, and the new terms are

    M = (p + n) D + 2 p n Z Q,        dloss/dC = 2 D + (p + n) Z Q                              (19)
    d2loss/du_j du_l += 2 p n (a_j . a_l) I,    d2loss/du_j da_l += 2 p n u_l a_j',
    d2loss/da_j da_l += 2 p n (u_j . u_l) I,    d2loss/dC dC = 2 I,                             (20)
    d2loss/du_j dC: (p + n) a_j for equal components of u and C,  d2loss/da_j dC: (p + n) u_j for equal outputs.

In (18) the first term is |D + (p + n) Z Q / 2|^2, and the second one is multiplied by (p - n)^2.  A teacher with other
slopes is re-expressed in the student's (`losses`).
"""

from .digits import population_value, population_value_plain, two_sum
from .hessian import population_hessian
from .plain import forward, sampled_gradient
from .policy import PLAIN, quiet
from .threads import together

if PLAIN:
    from .plain import population_gradient, population_loop, sampled_loop

    population_value = quiet(population_value)
else:
    from .loops import sampled_loop
    from .population import population_gradient, population_loop
    from .steps import shuffle  # noqa: F401

__all__ = [
    "forward", "population_gradient", "population_hessian", "population_loop", "population_value",
    "population_value_plain", "sampled_gradient", "sampled_loop", "together", "two_sum",
]  # fmt: skip
