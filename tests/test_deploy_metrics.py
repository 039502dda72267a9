"""Prometheus, its alerts and the Grafana dashboard: expressions that parse, over metrics that exist."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import promql_parser
import pytest
import ray
import yaml
from deploy_files import DEPLOY

from tasks import run_metrics

# By the name that Ray exports: ray_ before it, and _total after a counter.
COUNTERS = {f"ray_finf_{name}_total" for name in run_metrics.COUNTERS}
GAUGES = {f"ray_finf_{name}" for name in run_metrics.GAUGES}
PROMETHEUS = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())
ALERTS = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana" / "finf.json").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())

TEXT = {"type": "string", "minLength": 1}
DURATION = {"type": "string", "pattern": r"^\d+[smh]$"}


def exactly(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object with these keys and no other."""
    properties = required | (optional or {})
    return {
        "type": "object",
        "properties": properties,
        "required": [*required],
        "additionalProperties": False,
    }


def many(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


RULE = exactly(
    {
        "alert": {"type": "string", "pattern": r"^[A-Z]\w+$"},
        "expr": TEXT,
        "labels": exactly({"severity": {"enum": ["warning", "critical"]}}),
        "annotations": exactly({"summary": TEXT, "what_to_do": TEXT}),
    },
    {"for": DURATION},
)
RULES = exactly({"groups": many(exactly({"name": TEXT, "rules": many(RULE)}))})
DNS = exactly({"names": many(TEXT), "type": {"const": "A"}, "port": {"type": "integer"}})
SCRAPE = exactly(
    {"job_name": TEXT},
    {
        "metrics_path": TEXT,
        "dns_sd_configs": many(DNS),
        "static_configs": many(exactly({"targets": many(TEXT)})),
    },
)
CONFIG = exactly(
    {
        "global": exactly({"scrape_interval": DURATION, "evaluation_interval": DURATION}),
        "rule_files": many(TEXT),
        "scrape_configs": many(SCRAPE),
    }
)


def metrics_of(expression: str) -> set[str]:
    """Names of all metrics in it. Raises ValueError where it is no PromQL."""
    found: set[str] = set()

    def visit(node: Any) -> bool:
        selector = getattr(node, "vector_selector", node)
        if isinstance(selector, promql_parser.VectorSelector):
            found.add(selector.name)
        return True

    promql_parser.walk(promql_parser.parse(expression), visit)
    return found


def alert_expressions() -> list[str]:
    return [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def panel_expressions() -> list[str]:
    return [target["expr"].replace("$run", "a|b") for panel in panels() for target in panel["targets"]]


def rays_own() -> str:
    """Where Ray says what a node exports; its names there lack the ray_."""
    return (Path(ray.__file__).parent / "dashboard" / "modules" / "reporter" / "reporter_agent.py").read_text()


def unknown(metrics: set[str]) -> set[str]:
    theirs = {name for name in metrics if f'"{name.removeprefix("ray_")}": Gauge(' in rays_own()}
    return metrics - COUNTERS - GAUGES - theirs - {"up"}


def test_every_expression_is_promql_over_metrics_that_exist() -> None:
    expressions = [*alert_expressions(), *panel_expressions()]
    assert len(expressions) >= 18
    used = {name for expression in expressions for name in metrics_of(expression)}
    assert unknown(used) == set()
    assert used >= COUNTERS | GAUGES
    assert unknown({"ray_finf_rows", "ray_node_gpu_utilization"}) == {"ray_finf_rows", "ray_node_gpu_utilization"}


@pytest.mark.parametrize("wrong", ["sum by (run (ray_finf_rows_total)", "rate(ray_finf_rows_total)", "a ==== b"])
def test_an_expression_that_is_no_promql_would_be_seen(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        metrics_of(wrong)


def test_metrics_of_an_expression_are_found_wherever_they_stand() -> None:
    assert metrics_of("sum(rate(a_total[5m])) / on (run) (max(b) - c offset 5m)") == {"a_total", "b", "c"}


def test_no_gauge_has_the_name_that_ray_gives_a_counter() -> None:
    """`finf_rows` is exported as `ray_finf_rows_total`; a gauge `finf_rows_total` would be the same name again."""
    assert not COUNTERS & GAUGES


def test_counters_are_read_as_rates_and_gauges_as_they_are() -> None:
    for expression in [*alert_expressions(), *panel_expressions()]:
        for gauge in GAUGES:
            assert not re.search(rf"(rate|increase)\({gauge}\b", expression)


@pytest.mark.parametrize(("found", "schema"), [(ALERTS, RULES), (PROMETHEUS, CONFIG)], ids=["alerts", "prometheus"])
def test_prometheus_is_told_nothing_that_it_would_refuse(found: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.validate(found, schema)
    for wrong in misspelt(found):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def misspelt(found: Any) -> list[Any]:
    """Copies with one key spelt wrong, for each key that is there."""
    wrong: list[Any] = []
    if isinstance(found, dict):
        wrong += [{**{k: v for k, v in found.items() if k != key}, f"{key}s_": found[key]} for key in found]
        wrong += [found | {key: inner} for key in found for inner in misspelt(found[key])]
    if isinstance(found, list):
        for index, each in enumerate(found):
            for inner in misspelt(each):
                changed = copy.copy(found)
                changed[index] = inner
                wrong.append(changed)
    return wrong


def test_prometheus_asks_every_node_of_the_compose_cluster_where_it_exports() -> None:
    (ray_job,) = (job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "ray")
    (asked,) = ray_job["dns_sd_configs"]
    nodes = {name for name, service in COMPOSE["services"].items() if "ray-token" in service.get("secrets", [])}
    assert set(asked["names"]) == nodes
    for name in nodes:
        command = COMPOSE["services"][name]["command"]
        by_script = COMPOSE["services"][name]["entrypoint"][0] == "on-ray-node.sh"
        assert by_script or f"--metrics-export-port={asked['port']}" in command
    assert f"RAY_METRICS_PORT:-{asked['port']}" in (DEPLOY / "on-ray-node.sh").read_text()
    prefect = COMPOSE["services"]["prefect"]["environment"]
    assert prefect["PREFECT_SERVER_METRICS_ENABLED"] == "true"
    (other,) = (job for job in PROMETHEUS["scrape_configs"] if job["job_name"] == "prefect")
    assert other["static_configs"] == [{"targets": [f"prefect:{prefect['PREFECT_SERVER_API_PORT']}"]}]
    assert [(DEPLOY / name).is_file() for name in PROMETHEUS["rule_files"]] == [True]


def test_the_dashboard_has_a_row_for_each_question_and_no_panel_on_another() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Progress", "Throughput", "Errors and retries", "GPU and memory", "Money"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_dashboard_names_no_data_source_and_only_variables_that_it_has() -> None:
    text = json.dumps(DASHBOARD)
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$\{?(\w+)", text)) - {"__all"} == variables
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}
