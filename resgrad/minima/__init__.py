"""Where training ends: symmetries and distances modulo them, critical points, convexity, basins.

Why a trained skip takes spurious minima away, as far as it is known.  Notation as in `kernels`; losses without the 1/2.

**Minimizing over C leaves the even part.**  By (18) and (19), with m = (p + n) Z Q / 2 and E the second term of (18),

    loss(U, A, C) = |C - C* + m(U, A)|^2 + E(U, A).                                                                (1)

relu(t) = t/2 + |t|/2, so E is the loss of the network with |t|/2 for relu and no skip (``even`` for ``vanilla-free``).
Let C(U, A) = C* - m(U, A), which makes the first term 0.

- A local minimum (U, A, C) of the loss has C = C(U, A), the only minimum of a strictly convex quadratic.  Near it
  E(U', A') = loss(U', A', C(U', A')) >= loss(U, A, C) = E(U, A).  So (U, A) is a local minimum of E.
- A local minimum (U, A) of E gives one of the loss: loss(U', A', C') >= E(U', A') >= E(U, A) = loss(U, A, C(U, A)).

*So the local minima of a loss with trained skip are exactly those of its even part, with the same values.*  No
derivative was used: this holds at kinks, where some u_j = 0, too.  Elsewhere (U, A, C) -> (U, A, C - C* + m) is a
smooth change of coordinates after which the loss is |.|^2 + E.  So critical points correspond, with the same numbers
of negative and of zero eigenvalues.  The Schur complement of d2loss/dC dC = 2 I is the Hessian of E, where C = C(U, A),
and for a fixed read-out everywhere.  A *fixed* C = C* leaves |m|^2 + E, whose two terms can balance at a positive loss.

With a fixed skip one unit may stand opposite to its teacher's: relu(-z) = relu(z) - z, and nothing makes up for -z.
So it is in all 7 spurious minima found by ``census("resnet", 10, teacher=...)`` in 3,000 runs.  In six of them, with
normal teachers (runs 85, 617, 661 and 814 of 1,000) and small ones (81 and 843), one unit is turned around (the cosine
to its teacher's is -0.93 to -0.99) and nine face their teacher's (0.89 and more); `certify` proves them strict.  In the
seventh, with uniform ones (704), two nearly parallel units are turned around, and eight face their teacher's.  With
one of these units reversed, or with a trained skip, descent goes on from each of the 7 to zero loss.

**Near the teacher the two do not differ.**  For U* = I, k = d >= 3, their Hessians map Y (d, k) to

    even      Y/2 + (Y' + tr(Y) I - 2 diag(Y)) / pi         vanilla      the same + Y 1 1' / 2                     (2)

and have the eigenvalues, with b = 1/2 + k/4 + k/2pi and c = (1 + (k-1)/pi)(k/2 + 1/pi) - (k-1)/4,

    even      1/2 - 1/pi (k-1)(k+2)/2 times,  1/2 + 1/pi k(k-1)/2 times,  1/2 + (k-1)/pi once
    vanilla   1/2 - 1/pi k(k-1)/2 times,      1/2 + 1/pi k(k-3)/2 times,  b +- (b^2 - c)^(1/2) once each,
              1/2 + k/4 +- (k^2/16 - (pi-1)/pi^2)^(1/2) k-1 times each.

The smallest one is the same.  (That of ``vanilla-free``, whose determinant is 2^k times that of ``even``, is smaller.)

**One-point convexity does not explain it.**  With C = C(U, A) the inner product <grad, theta - theta*> is that of
``even``, so delta of `one_point` has the same sign, and is smaller.  For U* = I, the smallest distance found by search
at which delta is 0:

    k = d            2       3       4       5       6       8      10     |U - I|
    even        0.8716  0.8693  0.8680  0.8671  0.8665  0.8656  0.8651     two units, turned and shortened
    vanilla     0.9985  0.9936  0.9897  0.9864  0.9835  0.9790  0.9644     two units, merging; at 10: all

and for random pairs (W*, W), `convexity_region` with 400 pairs (200 for d = 20), rng=0, any gamma, delta > 0 in

    d             2       5      10      20
    vanilla    98.5 %  99.3 %  99.8 %  99.5 %       median delta 0.53 to 0.59
    even       73.8 %  74.0 %  69.0 %  68.5 %       as for vanilla-free; median delta 0.04 to 0.08.

Without the odd part the gradient points away from the teacher *more* often.  The gain is far from the teacher.

**Dead units.**  Let both read-outs be fixed at 1, without skip, in any d; V(v) = sum_l q_l E[s(v'x) s(z_l'x)].  Where
the gradient vanishes in each u_j != 0, 0 = u_j . dloss/du_j = 2 V(u_j), so loss = sum_l q_l V(z_l) = -sum_i V(u*_i).
If it is positive, V(u*_i) < 0 for some i, and a unit at u_j = 0 can grow: t u*_i changes the loss by
2 t V(u*_i) + O(t^2).  *No spurious local minimum has a dead unit.*

**The plane.**  For d = 2 a unit of ``even`` is an atom of weight w = |u| on the circle of lines, angles modulo pi.  Let
K(t) = sin t + (pi/2 - t) cos t on [0, pi], of period pi, and nu = sum_j w_j delta(alpha_j) - sum_i w*_i delta(beta_i):

    2 pi loss = int int K(s - t) dnu(s) dnu(t),   V = K * nu,   V(alpha_j) = V'(alpha_j) = 0 at critical points.   (3)

K' = -(pi/2 - t) sin t and K'' = 2 sin t - K.  So V'' + V = h with h = 2 |sin| * nu, and h'' + h = 4 nu.  All Fourier
coefficients of K are positive: the loss is 0 only if nu = 0.

*Theorem 1.*  Let d = 2, the teacher's units lie on k* lines, the loss be positive, and its gradient vanish in all
units with u_j != 0, which lie on m >= 1 lines.  *Then m <= k*, between neighbors of these lines there is one of the
teacher's, V < 0 but for V(alpha_j) = 0, and V''(alpha_j) < 0.  If k > k*, no local minimum of* ``even`` *or*
``vanilla-free`` *is spurious.*

If f has period pi and W = f' sin(t - t0) - f cos(t - t0), W' = (f'' + f) sin(t - t0), and W / sin^2 = (f / sin)'.

(a) f'' + f changes sign at least as often, around the circle, as f.  Let f do so 2n times, once at t0.  In (t0, t0 +
pi) f/sin has 2n - 1 changes, so W has 2n - 2 at least; W = 0 at both ends, so W' has 2n - 1; around a circle they are
even.

(b) h changes sign at least 2m times.  Let t0 = alpha_1.  At all alpha_j, and at t0 + pi, V/sin and W are 0.  If V is
not 0 throughout an arc between neighbors, V/sin leaves 0 and comes back: W has both signs, and W', so h, the signs s,
-s, s in turn, s that of V.  These are two changes.  Another zero of V in the arc makes one more at least, and so does
an alpha_j with different s on its sides.

(c) V is not 0 throughout an arc.  Else let [a, b] be a longest row of arcs where it is not, with r of the alpha_j
within.  As in (b), h changes sign 2r + 2 times there, and it is 0 just outside.  As in (a), t0 outside, nu then
changes sign 2r + 4 times on [a, b].  But there nu > 0 on at most r + 2 lines, with a and b at the ends: 2r + 2 changes
at most.

(d) So h, and by (a) nu, changes sign 2m times or more; nu at most 2 min(m, k*) times.  Hence m <= k*, the lines
interlace, V has no other zero and one sign; and as sum_i w*_i V(beta_i) = -2 pi loss < 0, it is negative.  At alpha_j
nu has positive mass M, and V''' jumps up by 4M.  If V'' = 0 there, V < 0 on both sides needs V''' >= 0 before and <= 0
after.  So V'' < 0.

(e) With k > k* >= m a unit is dead, see above, or two share a line.  Turned by t/w_1 and -t/w_2 they change 2 pi loss
by (1/w_1 + 1/w_2) V''(alpha_j) t^2 + O(t^3) < 0.

``vanilla`` has no such theorem: with the teacher's units at 0, 130 and 260 degrees and k = 4 there is a strict local
minimum of loss 9.478e-4 (smallest eigenvalue 7.29e-3), where 7 of 12 normal starts end.

*Theorem 2.*  Let d = k = 2 and U* be orthogonal, up to a factor.  *Modulo symmetry, the critical points of* ``even``
*without dead units are the teacher; one with the teacher's lines turned by pi/4, of loss (pi^2 - 8) / (4 pi (pi + 2))
for U* = I; and two units on one line at a multiple of pi/4.  All but the teacher are saddles: no local minimum of*
``even`` *or* ``vanilla-free`` *is spurious.*

Let U* = I and f(t) = K(t) + K(pi/2 - t), of period pi/2.  F = -f' = (pi/2 - t) sin t - t cos t is positive and concave
in (0, pi/4), and negative in (pi/4, pi/2); f >= f(pi/4) = 2^(1/2) (1 + pi/4).

- Two lines, x = alpha_1 - alpha_2 in (0, pi/2], or exchange them.  V' = 0 is w_2 K'(x) = f'(alpha_1) and w_1 K'(x) =
  -f'(alpha_2).  For x = pi/2, f' = 0: angles 0 and pi/2, or pi/4 and 3pi/4.  There w = f(pi/4) / (1 + pi/2), and
  turning both units by t changes 2 pi loss by -4 w K''(pi/4) t^2 = -4 w (1 - pi/4) t^2 / 2^(1/2) to second order.
- For x < pi/2, K' < 0, so f'(alpha_1) < 0 < f'(alpha_2): up to quarter turns alpha_1 = a and alpha_2 = -c, with a and c
  in (0, pi/4).  The sum of both V = 0, (pi/2 + K(x)) (w_1 + w_2) = f(a) + f(c), times -K'(x) = (pi/2 - x) sin x, is

      (pi/2 + K(x)) (F(a) + F(c)) = -K'(x) (f(a) + f(c)).

  With t = x/2, sin t < cos t: F(a) + F(c) <= 2 F(t) < 2 (pi/2 - 2t) sin t = -K'(x) / cos t < -2^(1/2) K'(x), and
  K(x) < pi/2.  So the left side is below 4.45 times -K'(x), the right side above 5.04 times: no such point.
- One line: f' = 0 and w_1 + w_2 = 2f/pi, so V'' = -f - f'' = -2 (|sin| + |cos|) < 0: turn the units apart as in (e).

**With trained read-outs, spurious minima remain.**  The weight of a unit is a_j |u_j|
then, and two units on one line may have weights w_1 > 0 > w_2.  Turned apart by t in all, with their sum and center
held, they change 2 pi loss by w_1 w_2 V'' t^2 / (w_1 + w_2) to second order, which is positive where V'' < 0 < w_1 +
w_2: they hold each other (Fukumizu & Amari 2000).  For U* = I, a* = 1, d = k = 2 these are all (u_1, a_1), (u_2, a_2)
on the line of a u*_i with w_1 + w_2 = 1 + 2/pi, the best single unit, a strict minimum (f is largest, V'' = -2).  So
they are local minima of the even part of ``two-weight-free``, of loss (pi^2 - 4) / (4 pi^2).  Read-outs fixed at 1
exclude them.

**Where training ends in one, the signs are wrong.**  A read-out with one output gives each unit a sign.  Of 300 runs of
``two-weight-free`` with normal teachers and starts, d = k = 5, 13 end in spurious minima and 13 have not converged.
*In none of the spurious ones has the student as many positive units as its teacher*: in 5 it has one more, in 8 one
less (``python -m figures.free_skip``).  No unit is left for one of the teacher's, mostly a weak one.  Most are
strict, on k lines (run 27 of ``seed`` 0 can be certified).  In some, units of one sign share a line: a minimum for
fewer units, one of them split, and the loss is flat along the split (``tests/test_even_part.py``).  Without the trained
skip there are also spurious minima with the right signs.  Read-outs fixed at 1 have the right signs from the start:
there no run of ``figures.free_skip`` ends in one.  (Next to parallel units float64 cannot always tell: of 100 runs
with d = 2, k = 4, 3 stop at a loss below 1e-7 and are called spurious, 5 not converged.)  A vector a_j has no sign: it
can turn from a to -a without passing 0.  There are few spurious minima to take away, but where there are more units
than dimensions: for d = 5, k = 10 in 4 of 40 runs of ``resnet`` and 6 of 40 of ``modresnet``, with a trained skip in
none.  But the free network is slower, as its smallest eigenvalue is smaller: of 1,000 runs with d = k = 10, 197 of
``resnet-free`` and 42 of ``resnet`` take all 10,000 steps and then the flow.  It is not proved that right signs
suffice.

**Open.**  k = k* in the plane, for other teachers: in searches with k = 2, 3 and 4 every critical point of positive
loss, with lines at least 1e-3 apart, has a direction of negative curvature (``tests/test_even_part.py``).  d > 2,
where nothing orders the lines."""
