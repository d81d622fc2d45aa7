"""What deploy/ and the pages show of the metrics: only what the exporter tells, by names and labels that it has."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest.mock import create_autospec

import yaml

from ursa_pipelines.orchestration.metrics.exporter import Exporter
from ursa_pipelines.orchestration.metrics.ledger import Durations, Totals
from ursa_pipelines.orchestration.metrics.readings import (
    DagsterReading,
    Readings,
    RecordingsReading,
    StoreReading,
)

ROOT = Path(__file__).parents[2]
BOARD = json.loads((ROOT / "deploy" / "grafana" / "ursa.json").read_text())
RULES = ROOT / "deploy" / "prometheus" / "ursa.rules.yml"
CONFIG = ROOT / "deploy" / "prometheus" / "prometheus.yml"
PAGE = (ROOT / "docs" / "operating.md").read_text()
BY_PROMETHEUS = {"instance"}


@cache
def told() -> dict[str, set[str]]:
    """The labels of every sample that there can be, by its name."""
    exporter = Exporter("p", create_autospec(Readings, instance=True))
    totals = Totals(Counter(created=1), 1, Counter(untold=1), {("ingest", "success"): Durations()})
    exporter.dagster.value = DagsterReading(totals, {"sensor": 1.0}, 1.0, {"lost": 0}, 1, 1)
    exporter.recordings.value = RecordingsReading({"failed": 1}, 0.0)
    exporter.store.value = StoreReading(0, 0)
    exporter.sources.value = {"nas": True}
    for part in exporter.parts:
        part.read_at = 1.0
    samples = [sample for family in exporter.collect() for sample in family.samples]
    return {
        one.name: {label for other in samples if other.name == one.name for label in other.labels} for one in samples
    }


def expressions() -> Iterator[tuple[str, str]]:
    """Where it stands, and the PromQL."""
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            yield f"panel {panel['title']!r}", target["expr"]
    for variable in BOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']!r}", variable["definition"]
    for rule in rules(RULES.read_text()):
        yield f"alert {rule['alert']!r}", rule["expr"]
    for block in PAGE.split("```yml\n")[1:]:
        if "alert:" in block:
            for rule in rules(block.partition("```")[0]):
                yield f"docs, alert {rule['alert']!r}", rule["expr"]


def rules(text: str) -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def test_every_expression_uses_only_what_the_exporter_tells():
    wrong = []
    for where, expression in expressions():
        used = re.findall(r"(ursa_[a-z_]+)(?:\{([^}]*)\})?", expression)
        assert used, where
        labels = set().union(*(told().get(name, set()) for name, _ in used)) | BY_PROMETHEUS
        grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", expression)
        unknown = [one.strip() for group in grouped for one in group.split(",") if one.strip() not in labels]
        for name, matchers in used:
            known = told().get(name, set()) | BY_PROMETHEUS
            unknown += [name] if name not in told() else []
            unknown += [one for one in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers) if one not in known]
        if unknown:
            wrong.append((where, unknown))

    assert wrong == []


def test_every_metric_is_told_of_in_the_page_and_shown():
    section = PAGE.partition("## Metrics\n")[2].partition("\n## ")[0]
    shown = " ".join(expression for _, expression in expressions())
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in told()}

    assert {name for name in families if not re.search(rf"`{name}[`{{]", section)} == set()
    assert {name for name in families if not re.search(rf"\b{name}(_bucket|_count|_sum)?\b", shown)} == set()
    assert {name for name in re.findall(r"^\| `(ursa_\w+)", section, re.MULTILINE) if name not in families} == set()


def test_the_dashboard_is_one_that_grafana_takes():
    identifiers = [panel["id"] for panel in BOARD["panels"]]
    places = {
        (x, y)
        for panel in BOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    }

    assert BOARD["schemaVersion"] >= 39
    assert "id" not in BOARD
    assert len(set(identifiers)) == len(identifiers)
    # No panel lies over another, and none is wider than the page.
    assert len(places) == sum(panel["gridPos"]["w"] * panel["gridPos"]["h"] for panel in BOARD["panels"])
    assert max(x for x, _ in places) < 24
    for panel in BOARD["panels"]:
        assert panel["type"] in {"stat", "timeseries"}
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for holder in (panel, *panel["targets"]):
            assert holder["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_alerts_say_what_to_do_and_the_configuration_of_the_page_is_the_shipped_one():
    for rule in rules(RULES.read_text()):
        assert {"severity"} == rule["labels"].keys()  # type: ignore[attr-defined]
        assert {"summary", "description"} == rule["annotations"].keys()  # type: ignore[attr-defined]
    (shown,) = (block for block in PAGE.split("```yml\n")[1:] if block.startswith("scrape_configs:"))
    shipped = yaml.safe_load(CONFIG.read_text())

    assert yaml.safe_load(shown.partition("```")[0])["scrape_configs"] == shipped["scrape_configs"]
    assert shipped["rule_files"] == [RULES.name]
