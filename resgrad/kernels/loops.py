"""Which training loop on samples fits a shape: the narrow or the wide one."""

import functools

from .narrow import narrow_loop, narrow_scratch
from .plain import RELU
from .policy import LONELY, NARROW, REGISTER
from .threads import parts_of
from .wide import wide_loop, wide_scratch


def sampled_loop(d, k, m, k_star=0, skip=0, slopes=RELU):
    """(loop, scratch, parts): the training loop on samples, compiled for one shape (narrow) or for all (wide).

    ``loop(thread, marks, scratch, rows, order, start, rng, teacher, w, v, rates, batch, n_steps, total)``
    makes ``n_steps`` of (6) in place and returns ``total`` plus the batch losses.  The batches are consecutive pieces
    of ``rows[order[start:]]``, the last one possibly short.  With ``k_star`` > 0 they are fresh N(0, I) samples from
    ``rng``, labeled by ``teacher`` = (U*, A*, D) of that width.  ``w`` is the vector of all weights (U, A, C), ``v``
    their velocities; C has ``skip`` rows, none where it is fixed.  ``rates`` = (lr of U, lr of A, lr of C, momentum).

    The call is number ``thread`` of the ``len(marks)`` threads that make these steps together (`threads.together`).
    ``scratch(batch, dtype)`` allocates the memory that they share, ``parts`` is the most threads that can take part.
    A narrow network with fresh samples is one part: most of the work is to draw the samples, from one stream.
    """
    if max(d, k) > NARROW:
        parts = parts_of(k) if k > REGISTER // 8 else 1  # a register cannot be shared out
        scratch = functools.partial(wide_scratch, parts, d, k, k_star, m, skip, slopes)
        return wide_loop(d, k, m, k_star, skip), scratch, parts
    parts = 1 if k_star or max(d, k) <= LONELY else 2
    scratch = functools.partial(narrow_scratch, parts, d, k, k_star, m, skip, slopes)
    return narrow_loop(d, k, m, k_star, skip, slopes), scratch, parts
