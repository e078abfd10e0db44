"""The work of a census: some of its runs, as a record that any worker can do.

Imports ``protocol``, ``basins`` and what these import.
"""

from dataclasses import dataclass

from .. import architectures, blas, draws, losses
from ..minima import basins
from . import protocol


@dataclass(frozen=True, eq=False)
class Task:
    """Some runs of a census: all that a worker, on whatever machine, needs to know."""

    config: object  # of `census`
    arch: architectures.Architecture
    teacher: architectures.Network | None  # None: drawn anew in each run
    numbers: tuple

    def loss(self, streams):
        """The expected loss of the run with these streams."""
        if self.teacher is not None:
            return losses.PopulationLoss(self.arch, self.teacher)
        kind, d, units = self.config.teacher, self.config.d, self.config.teacher_width
        theta_star = draws.draw(self.arch, kind, d, units, streams.teacher)
        return losses.PopulationLoss(self.arch, architectures.Network(self.arch, theta_star, d))

    def start(self, streams):
        """Where the student of the run with these streams starts."""
        return draws.draw(self.arch, self.config.init, self.config.d, self.config.width, streams.init)


@blas.one_thread(helped=False)
def work(task):
    """[(run, Basin)] of a task."""
    config, found = task.config, []
    for run in task.numbers:
        streams = draws.streams(config.seed, run)
        exact = task.loss(streams)
        loss = protocol.loss_of(config, task.arch, exact.teacher, streams.data)
        how = (config.steps, config.lr, config.momentum, config.batch_size, streams.batches)
        found.append((run, basins.descend(exact, loss, task.start(streams), *how)))
    return found
