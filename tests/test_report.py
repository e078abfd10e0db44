"""The page of a run: complete in itself, true to its files; and the command that makes the run again."""

import html.parser
import json
import re
import shlex

import numpy as np
import pytest

import resgrad as rg
from resgrad import experiment
from resgrad.minima import basins
from resgrad.runs import files, plots, report
from resgrad.runs.protocol import PRESETS, command_line, resolve

SMALL = ["--d", "3", "--width", "4", "--samples", "500", "--steps", "300", "--quiet", "--report"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    assert experiment.main(["--arch", "modresnet", *SMALL, "--out", str(out / "a b")]) == 0
    return out / "a b"


class Reader(html.parser.HTMLParser):
    """Balances tags and collects ids, links and words."""

    VOID = {"meta", "br", "hr", "img", "link"}

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.words = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.open += [tag] * (tag not in self.VOID)
        for name, value in attributes:
            self.ids += [value] * (name == "id")
            self.links += [value] * (name in ("src", "href", "xlink:href"))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open = self.open[: len(self.open) - (tag not in self.VOID)]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_and_needs_nothing_else(directory):
    text = (directory / "report.html").read_text()
    page = Reader(text)
    assert not page.open
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert "@import" not in text and "<script" not in text
    assert set(re.findall(r"url\(#(\w+)\)", text)) <= set(page.ids)
    assert text.count("<svg") == 3 and "prefers-color-scheme: dark" in text
    assert "#222222" not in text  # all ink follows the mode


def test_the_page_says_what_the_files_say(directory):
    words = " ".join(Reader((directory / "report.html").read_text()).words)
    summary = json.loads((directory / "run.json").read_text())
    for key, value in summary["config"].items():
        assert value is None or (key in words and str(value) in words)
    assert f"{summary['result']['population_loss_final']:.4g}" in words
    assert report.verdict(summary).split("\n")[0] in words
    assert command_line(resolve("modresnet", d=3, width=4, samples=500, steps=300)) in words
    assert "symmetry predicts 4 zero ones" in words


def test_a_run_that_diverged_has_a_page_without_a_spectrum(tmp_path):
    given = ["--arch", "li", *SMALL, "--lr", "1e9", "--out", str(tmp_path / "out")]
    assert experiment.main(given) == 3
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count("<svg") == 2 and "diverged" in text


@pytest.mark.parametrize("arch", ["resnet", "two-weight", "vanilla"])
def test_a_run_without_a_live_unit_has_a_page(arch, tmp_path):
    theta = np.zeros(rg.ARCHITECTURES[arch].size(3, 4))
    theta[:12] -= rg.ARCHITECTURES[arch].identity * np.eye(3, 4).ravel()
    files.write_archive(tmp_path / "dead.npz", "weights", {"theta": theta}, arch=arch, d=3)
    given = ["--arch", arch, *SMALL, "--init", str(tmp_path / "dead.npz"), "--out", str(tmp_path / "out")]
    assert experiment.main(given) == 0
    predicted = 8 if arch == "two-weight" else 0
    assert f"symmetry predicts {predicted} zero ones" in (tmp_path / "out" / "report.html").read_text()


def test_no_page_unless_asked(tmp_path):
    given = ["--arch", "li", "--d", "3", "--width", "4", "--steps", "9", "--samples", "9", "--quiet", "--no-plot"]
    assert experiment.main([*given, "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("preset, arch", [(name, arch) for name, archs in PRESETS.items() for arch in archs])
def test_the_command_makes_the_same_run(preset, arch):
    for given in ({}, {"d": 7, "lr": 0.25, "seed": 3}, {"teacher": "my net's.npz", "optimizer": "sgd"}):
        config = resolve(arch, preset, **given)
        _, _, module, *options = shlex.split(command_line(config))
        parsed = vars(experiment._parser().parse_args(options))
        fields = {key: parsed[key] for key in config.__dataclass_fields__ if parsed[key] is not None}
        assert module == "resgrad.experiment" and resolve(**fields) == config


@pytest.mark.parametrize(
    "result, words",
    [
        ({"population_loss_final": 1.0}, "1, not zero.\nIt is not certain where the run would end"),
        ({"population_loss_final": 1.0, "polished_verdict": "saddle", "polished_loss": 0.5, "polished_distance": 2.0},
         "not zero.\nThe run is next to a saddle, which is 2 away and has loss 0.5."),
        ({"population_loss_final": 1.0, "polished_verdict": "global minimum", "polished_loss": 0,
          "polished_distance": 2}, "The run is in the basin of a global minimum, which is 2 away and has loss 0."),
        ({"distance_final": 1e-7}, "the teacher itself, 1.0e-07 away."),
        ({"distance_final": 3.0}, "agree up to the scales of the units: modulo that they are 1e-09 apart."),
        ({"distance_final": 3.0, "units_permuted": 4, "units_reversed": 2},
         "up to the scales of the units, the order of the units (4 permuted), and the signs of the units (2 reversed)"),
        ({"distance_final": 3.0, "aligned_distance_final": 0.5}, "not yet converged"),
        ({"toward_from": 30, "inner_product_initial": -1.0}, "from step 30 on, and away from it before"),
        ({"toward_from": 0, "inner_product_initial": 1.0}, "toward the teacher from step 0 on."),
        ({"toward_from": None, "inner_product_initial": 1.0}, "away from the teacher at the end"),
    ],
)  # fmt: skip
def test_the_verdict_in_words(result, words):
    base = {"population_loss_initial": 5.0, "population_loss_final": 1e-20, "distance_initial": 3.0,
            "distance_final": 2.0, "aligned_distance_final": 1e-9, "units_permuted": 0}  # fmt: skip
    config = {"arch": "modresnet", "dtype": "float64"}
    assert words in report.verdict({"config": config, "result": base | result, "stop_reason": "finished"})


@pytest.mark.slow
def test_a_verdict_is_on_the_end_of_the_run_itself(tmp_path):
    """After 20,000 steps Newton's method goes to the teacher, 2 away; the run itself goes elsewhere."""
    short = experiment.run(resolve("vanilla", seed=18), tmp_path, plot=False, quiet=True)
    with np.load(tmp_path / "weights.npz") as weights:
        loss, theta = rg.PopulationLoss("vanilla", rg.Network("vanilla", weights["theta_star"], 10)), weights["theta"]
    assert rg.polish(loss, theta).verdict == "global minimum"
    long = experiment.run(resolve("vanilla", seed=18, steps=60_000), tmp_path, plot=False, quiet=True)
    assert "polished_verdict" not in short["result"] and "not certain where the run would end" in report.verdict(short)
    assert long["result"]["polished_verdict"] == "spurious minimum"
    assert long["result"]["polished_loss"] == pytest.approx(0.0089820925, abs=5e-11)
    assert long["result"]["polished_distance"] < 0.1


def test_summary_and_page_polish_once(tmp_path, monkeypatch):
    calls, destination = [], basins.destination
    monkeypatch.setattr(basins, "destination", lambda *given: calls.append(given) or destination(*given))
    config = resolve("vanilla", data="population", seed=4)
    result = experiment.run(config, tmp_path, plot=False, report=True, quiet=True)["result"]
    assert len(calls) == 1 and result["polished_verdict"] == "spurious minimum"
    assert "at the spurious minimum to which it leads" in (tmp_path / "report.html").read_text()


def test_too_many_parameters_for_a_hessian():
    theta = np.zeros(report.LARGEST + 1)
    assert report.destination(None, theta) is None


def test_a_run_that_overflows_has_a_picture():
    history = {"step": np.arange(3), "loss": np.array([1.0, -3e90, 7e303]), "distance": np.array([1.0, 2.0, 1e150])}
    assert plots.run_figure(history, rg.ARCHITECTURES["li"], 5).startswith(b"\x89PNG")
