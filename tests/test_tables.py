"""What a notebook shows of a result: a table of its numbers, which no text can break."""

import html.parser
from dataclasses import replace

import numpy as np
import pytest

import resgrad as rg
from resgrad import tables
from resgrad.runs import tally

D = 4
IDENTITY = np.eye(D).ravel()
LOSS = rg.PopulationLoss("vanilla", rg.Network("vanilla", IDENTITY, D))
EVIL = "<b onclick='x'>&amp;\"</td>"


class Cells(html.parser.HTMLParser):
    """The texts of the cells, row by row, and the tags."""

    def __init__(self, shown):
        super().__init__()
        self.rows, self.tags, self.attributes, self.open = [], [], [], []
        self.feed(shown._repr_html_() if hasattr(shown, "_repr_html_") else shown)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.open.append(tag)
        self.attributes += attributes
        self.rows += [[]] * (tag == "tr")
        if tag in ("td", "th"):
            self.rows[-1] = [*self.rows[-1], ""]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] in (["td"], ["th"]):
            self.rows[-1][-1] += data

    @property
    def facts(self):
        return {row[0]: row[1] if len(row) == 2 else row[1:] for row in self.rows}


@pytest.fixture(scope="module")
def found():
    return rg.census("vanilla", d=8, runs=24, seed=1, quiet=True)  # some end in spurious minima


def all_of_them(found):
    theta = rg.draw("vanilla", "normal", D, rng=0)
    yield rg.train(LOSS, theta, rg.SGD(0.05), 20)
    yield rg.align("vanilla", theta, IDENTITY, D)
    yield rg.spectrum(LOSS, theta)
    yield found
    yield rg.Certificate(False, "", 0.0, (0.0, np.inf), (-np.inf, np.inf), "why not")


def test_every_result_is_a_table_without_colors_of_its_own(found):
    for shown in all_of_them(found):
        cells = Cells(shown)
        assert set(cells.tags) <= {"table", "caption", "tr", "th", "td"} and len(cells.rows) > 1
        assert not cells.attributes  # no colors, so that it suits every theme


def test_a_trajectory():
    observe = {"size": np.linalg.norm, EVIL: lambda theta: theta[:3], "there": lambda theta: True}
    run = rg.train(LOSS, rg.draw("vanilla", "normal", D, rng=0), rg.SGD(0.05), 12_345, observe=observe)
    cells = Cells(run)
    size = run.observed["size"]
    assert cells.facts["step"] == ["0", "12345"]
    assert cells.facts["loss"] == [f"{run.loss[0]:.4g}", f"{run.loss[-1]:.4g}"]
    assert cells.facts["size"] == [f"{size[0]:.4g}", f"{size[-1]:.4g}"]
    assert cells.facts[EVIL] == ["shape (3,)"] * 2 and cells.facts["there"] == ["True"] * 2
    assert f"<caption>{len(run.steps)} records; finished</caption>" in run._repr_html_()
    assert "time" in Cells(rg.gradient_flow(LOSS, IDENTITY, 0.5)).facts


def test_an_alignment_says_what_its_text_says():
    theta = rg.transform("resnet", rg.draw("resnet", "normal", D, rng=0), D, [1, 0, 2, 3], scales=[2, 1, 1, 0.5])
    found = rg.align("resnet", theta, rg.draw("resnet", "normal", D, rng=0), D)
    title, *lines = str(found).splitlines()
    facts = Cells(found).facts
    assert title in found._repr_html_() and facts["permutation"] == "1 0 2 3"
    assert [line.split() for line in lines] == [f"{name} {text}".split() for name, text in list(facts.items())[1:]]


def test_a_spectrum():
    loss = rg.PopulationLoss("resnet", rg.Network("resnet", rg.draw("resnet", "uniform", D, rng=0), D))
    found = rg.spectrum(loss, loss.teacher.theta)
    facts = Cells(found).facts
    assert [facts[name] for name in ("negative", "zero", "zero by symmetry")] == ["0", "4", "4"]
    assert facts["largest"] == f"{found.eigenvalues[-1]:.6g}" and facts["symmetry explains them"] == "yes"
    assert Cells(replace(found, explained=False)).facts["symmetry explains them"] == "no"


def test_a_certificate():
    proof = rg.Certificate(True, "strict minimum", 1.29e-9, (0.1, 0.2), (0.3, 0.4), "")
    facts = Cells(proof).facts
    assert (facts["proved"], facts["kind"], facts["radius"]) == ("yes", "strict minimum", "1.2e-9")  # rounded down
    assert (facts["loss"], facts["smallest eigenvalue"]) == ("[0.1, 0.2]", "[0.3, 0.4]")
    nothing = Cells(rg.Certificate(False, "", 0.0, (0.0, np.inf), (-np.inf, np.inf), EVIL)).facts
    assert nothing == {"Certificate": "", "proved": "no", "why not": EVIL}


def test_a_census(found):
    cells = Cells(found)
    for name, label in tally.OUTCOMES.items():
        share, low, high = (100 * part for part in found.share(name))
        assert cells.facts[label] == [str(found.counts[name]), f"{share:.1f} %", f"{low:.1f} – {high:.1f} %"]
    family = found.families[0]
    assert cells.rows[6] == ["0", str(family["count"]), f"{family['loss']:.10f}", f"{family['min_eigenvalue']:.6g}",
                             str(family["run"])]  # fmt: skip
    assert Cells(replace(found, config=replace(found.config, teacher=EVIL))).rows == cells.rows


def test_a_census_without_families_has_one_table_and_one_of_many_says_so(found):
    assert Cells(replace(found, families=[])).tags.count("table") == 1
    many = replace(found, families=[found.families[0] | {"proved": n == 3} for n in range(20)])
    cells = Cells(many)
    assert len(cells.rows) == 1 + 4 + 1 + tally.MOST
    assert "the 12 most frequent of 20 families" in many._repr_html_()
    assert [row[-1] for row in cells.rows[5:10]] == ["proof"] + 3 * ["not proved"] + ["proved"]


def test_every_cell_is_escaped():
    text = tables.table([(EVIL, "b"), ("c", EVIL)], EVIL)
    assert Cells(text).rows == [[EVIL, "b"], ["c", EVIL]] and Cells(text).tags.count("td") == 2
