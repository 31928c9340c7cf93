"""The metrics that are written, those on the page, and those that alerts and dashboard query are the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.fleet import figures_of
from sidespawn.cli import metrics

CHECKOUT = Path(__file__).parents[2]
PAGE = (CHECKOUT / "docs/metrics.md").read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
RULES = (CHECKOUT / "integrations/prometheus/sidespawn.rules.yml").read_text()
DASHBOARD = json.loads((CHECKOUT / "integrations/grafana/sidespawn.json").read_text())
FAMILIES = list(text_string_to_metric_families(metrics.exposition([figures_of("small", 3)])))
SAMPLES = {sample.name for family in FAMILIES for sample in family.samples}


def test_every_metric_is_described_with_its_type_and_labels() -> None:
    rows = re.findall(r"^\| (`sidespawn_[^|]+) \| (\w+) \| ([^|]*)\|", PAGE, re.MULTILINE)
    described = {
        name: (kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for names, kind, labels in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    written = {}
    for family in FAMILIES:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels}
        written[name] = (family.type, frozenset(labels - {"service"}))
    assert described == written


def test_alerts_and_dashboard_ask_for_metrics_that_there_are() -> None:
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    for text in (RULES, *queries):
        assert set(re.findall(r"\bsidespawn_\w+", text)) <= SAMPLES


def test_the_dashboards_panels_are_whole_and_do_not_overlap() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 10
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["title"]
        assert panel["targets"]
        assert {panel["datasource"]["uid"], *(each["datasource"]["uid"] for each in panel["targets"])} == {
            "${datasource}"
        }
    assert [each["name"] for each in DASHBOARD["templating"]["list"]] == ["datasource", "instance", "service"]
