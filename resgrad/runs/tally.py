"""The configuration and the results of a census: counts, shares with their intervals, families of minima."""

import dataclasses

import numpy as np

from .. import tables

OUTCOMES = {
    "global": "global minimum", "spurious": "spurious minimum", "saddle": "saddle", "unconverged": "not converged",
}  # fmt: skip
FAILED = "failed"  # the outcome of a run that an error ended
COLUMNS = ("outcome", "loss", "grad_norm", "min_eigenvalue", "exponent", "steps", "theta")

# Safran & Shamir (2018): exact gradient descent; their step 0.1 is 0.05 here, where the loss has no 1/2.
SAFRAN_SHAMIR = {
    "arch": "vanilla", "teacher": "identity", "init": "normal", "data": "population", "optimizer": "sgd",
    "momentum": 0.0, "lr": 0.05,
}  # fmt: skip
PUBLISHED = {(8, 8): 0.126, (10, 10): 0.346, (12, 12): 0.585, (8, 9): 0.001}  # (k, width): spurious share
PUBLISHED_RUNS = 1000
MOST = 12  # families that are shown


def without_digest(name):
    """The name of a teacher or a covariance as it was given, without the digest of its content."""
    return name and (name.rpartition(", sha256 ")[0] or name)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a census.  `tasks.prepare` fills in what was left out."""

    arch: str
    d: int
    width: int
    teacher: str
    teacher_width: int
    init: str
    data: str
    optimizer: str
    lr: float | None  # None: from the largest curvature, in each run
    momentum: float
    batch_size: int | None  # None where the data have no batches; ``samples`` likewise
    samples: int | None
    steps: int
    runs: int
    seed: int
    loss: str = "relu"
    rows: str = "free"
    mu: float | None = None
    lam: float | None = None
    covariance: str | None = None
    noise: float = 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Census:
    """The result of a census; ``str()`` of it is the table that the command prints.

    Attributes
    ----------
    config : Config
    counts : dict
        "runs", and how many of them ended as "global", "spurious", "saddle", "unconverged"; and "failed".
    families : list of dict
        Spurious minima, the most frequent first: ``count``, ``loss``, ``min_eigenvalue`` of the Hessian,
        and ``run``, the first run that found it.  With ``certify`` also ``proved``: whether this run is next to exactly
        one critical point modulo the symmetries, a strict minimum of positive loss.  Then ``loss_interval`` and
        ``min_eigenvalue_interval`` contain its loss and the smallest eigenvalue that symmetry does not make 0.  Else
        they are None, and ``why`` is the reason.
    failures : dict
        {run: message} of the runs that an error ended.
    outcome, loss, grad_norm, min_eigenvalue, exponent, steps : ndarray, shape (runs,)
        See `basins.Basin`.  A finite ``exponent`` p means a degenerate minimum, where the loss falls like t^-p; it
        counts as "global" or "spurious" like any other.
    family : ndarray of int, shape (runs,)
        Index into ``families``; -1 where the run found no spurious minimum.
    theta : ndarray, shape (runs, n)
    """

    config: Config
    counts: dict[str, int]
    families: list[dict]
    failures: dict[int, str]
    family: np.ndarray
    outcome: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray
    min_eigenvalue: np.ndarray
    exponent: np.ndarray
    steps: np.ndarray
    theta: np.ndarray

    @classmethod
    def of(cls, config, found):
        """The tally of a list of `basins.Basin`, one per run, in the order of the runs."""
        from ..minima import basins

        columns = {name: np.array([getattr(basin, name) for basin in found]) for name in COLUMNS}
        counts = {"runs": len(found)} | {name: int((columns["outcome"] == name).sum()) for name in (*OUTCOMES, FAILED)}
        runs = np.flatnonzero(columns["outcome"] == "spurious")
        label = basins.group(np.array([found[run].invariants for run in runs]).reshape(-1, 4))
        family, families = np.full(len(found), -1), []
        for members in sorted((runs[label == n] for n in set(label.tolist())), key=lambda m: (-m.size, m[0])):
            family[members], run = len(families), int(members[0])
            numbers = {"loss": found[run].loss, "min_eigenvalue": found[run].min_eigenvalue}
            families.append({"count": members.size, **numbers, "run": run})
        failures = {run: basin.message for run, basin in enumerate(found) if basin.outcome == FAILED}
        return cls(config, counts, families, failures, family, **columns)

    @property
    def degenerate(self) -> int:
        """How many runs ended at a degenerate minimum."""
        return int(np.isfinite(self.exponent).sum())

    @property
    def labels(self) -> dict[str, str]:
        """{outcome: its name in tables}; "failed" is there only if a run failed."""
        return OUTCOMES | ({FAILED: "failed"} if self.failures else {})

    def share(self, outcome: str) -> tuple[float, float, float]:
        """(share, low, high) of an outcome: its share of the runs with the 95 % Wilson interval."""
        from scipy.stats import binomtest

        count, runs = self.counts[outcome], self.counts["runs"]
        low, high = binomtest(count, runs).proportion_ci(method="wilson")
        return count / runs, float(low), float(high)

    def published(self) -> tuple[float, float] | None:
        """(published share of spurious minima, z-score of the measured one), or None if none was published."""
        config = dataclasses.asdict(self.config)
        share = PUBLISHED.get((config["d"], config["width"]))
        if share is None or config != config | SAFRAN_SHAMIR | {"teacher_width": config["d"]}:
            return None
        runs, own = config["runs"], self.counts["spurious"]
        pooled = (own + share * PUBLISHED_RUNS) / (runs + PUBLISHED_RUNS)
        return share, (own / runs - share) / (pooled * (1 - pooled) * (1 / runs + 1 / PUBLISHED_RUNS)) ** 0.5

    @property
    def title(self) -> str:
        """The networks of the census, in words."""
        config = self.config
        student = f"{config.arch}, d = {config.d}, width {config.width}"
        return f"{student}; teacher: {config.teacher}, width {config.teacher_width}"

    def outcome_rows(self) -> list[tuple[str, ...]]:
        """The table of outcomes, its headings first."""
        rows = [("outcome", "runs", "share", "95 % interval")]
        for name, label in self.labels.items():
            share, low, high = (100 * p for p in self.share(name))
            rows.append((label, f"{self.counts[name]:,}", f"{share:.1f} %", f"{low:.1f} – {high:.1f} %"))
        return rows

    def family_rows(self) -> list[tuple[str, ...]]:
        """The table of the most frequent families, its headings first."""
        proved = {True: "proved", False: "not proved"}
        rows = [("family", "runs", "loss", "smallest eigenvalue", "first run")]
        rows[0] += ("proof",) * any("proved" in family for family in self.families)
        for n, family in enumerate(self.families[:MOST]):
            row = f"{n}", "{count:,}", "{loss:.10f}", "{min_eigenvalue:.6g}", "{run:,}"
            rows.append(tuple(cell.format(**family) for cell in row))
            rows[-1] += (proved[family["proved"]],) if "proved" in family else ()
        return rows

    def _repr_html_(self):
        more = f"the {MOST} most frequent of {len(self.families)} families" * (len(self.families) > MOST)
        families = tables.table(self.family_rows(), more) if self.families else ""
        return tables.table(self.outcome_rows(), self.title) + families

    def __str__(self) -> str:
        config = self.config
        lines = [self.title]
        if config.covariance is not None:
            lines.append(f"inputs with covariance {config.covariance}")
        (_, *head), *rows = self.outcome_rows()
        lines += ["", *("{:20}{:>7}{:>10}{:>18}".format(*row).replace("–", "-") for row in [("", *head), *rows])]
        if published := self.published():
            lines += ["", "spurious, as published by Safran & Shamir (2018): {:.1%}; z = {:+.2f}".format(*published)]
        powers = self.exponent[np.isfinite(self.exponent)]
        if powers.size:
            told = f"{powers.min():.2f}" + (f" to {powers.max():.2f}" if np.ptp(powers) > 0.005 else "")
            lines += ["", f"{powers.size:,} minima are degenerate: the loss falls like t^-p, p = {told}"]
        if self.families:
            rows = ("   ".join(["{:>6}{:>8}{:>17}{:>22}{:>12}".format(*row), *row[5:]]) for row in self.family_rows())
            lines += ["", *rows]
        return "\n".join(lines + [f"   and {len(self.families) - MOST} more"] * (len(self.families) > MOST))
