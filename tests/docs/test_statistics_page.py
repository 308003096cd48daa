"""What docs/statistics.md says of the committed runs is what they come to."""

import re

import numpy as np
from checkout import ROOT
from committed import REFERENCE

from harness.analysis.estimates import speedup, statistics
from harness.analysis.evidence import Evidence, against
from harness.analysis.load import load
from harness.analysis.ruling import tolerances

RUNS = ("cpu-2core", "cpu-2core-again", "cpu-2core-third")
TEXT = (ROOT / "docs" / "statistics.md").read_text().replace("\n  ", " ")


def log_speedups(name):
    """(label, length) → mean log speed-up of HyenaRec at constant tokens."""
    evidence = Evidence(against(load(REFERENCE / name)), tolerances([]))
    arms = {}
    for group in evidence.groups:
        if (group.sweep, group.phase) == ("constant-tokens", "step") and group.label != evidence.challenger:
            arms.setdefault(group.label, []).append(group)
    found = {}
    for label, groups in arms.items():
        means = statistics.related([speedup.process_log_ratios(group) for group in groups])
        found |= {(label, group.length): mean for group, mean in zip(groups, means, strict=True)}
    return found


def test_what_a_run_adds_to_the_spread_of_its_processes():
    runs = [log_speedups(name) for name in RUNS]
    places = [place for place in runs[0] if all(run[place].error is not None for run in runs)]
    between = np.var([[run[place].mean for place in places] for run in runs], axis=0, ddof=1).mean()
    within = np.mean([[run[place].error ** 2 for place in places] for run in runs])
    stated = re.search(
        r"over (\d+) pairs of model and length their speed-ups spread by ([\d.]+) %, where the processes within a run "
        r"would make it ([\d.]+) %, so that a run adds a standard deviation of ([\d.]+) %",
        TEXT,
    )
    assert stated is not None
    shares = [f"{100 * np.sqrt(value):.1f}" for value in (between, within, between - within)]
    assert list(stated.groups()) == [str(len(places)), *shares]
