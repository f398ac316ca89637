"""The metrics page: valid for Prometheus' own parsers, complete, documented, bounded; and the `/v1/stats` object."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest
from conftest import REPO
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from service_figures import INFO, service

from edge_runtime.service.ops.figures import Histogram, ServiceStats
from edge_runtime.service.ops.health import Heartbeat, Readiness
from edge_runtime.service.ops.metrics import Exposition, residents_by_group
from edge_runtime.service.ops.stats_report import make_stats_report, quantile

PROCESS = "process_"


def page(num_layers=24, accept=""):
    stats, readiness, _ = service(num_layers)
    body, content_type = Exposition(stats, readiness, INFO).render(accept)
    return body.decode(), content_type


def samples(text):
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found, sample_name, **labels):
    return found[(sample_name, frozenset({"model_name": INFO.model_name, **labels}.items()))]


def names(text):
    """Every name a query may use."""
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def test_prometheus_text_by_default_and_openmetrics_on_request():
    text, content_type = page()
    assert content_type.startswith("text/plain; version=")
    assert len(list(text_string_to_metric_families(text))) > 35
    text, content_type = page(accept="application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert len(list(parse_openmetrics(text))) > 35


def test_the_figures_arrive_unchanged():
    found = samples(page()[0])
    assert value(found, "hobbit_num_requests_running") == 2
    assert value(found, "hobbit_num_requests_waiting") == 5
    assert value(found, "hobbit_prompt_tokens_total") == 700
    assert value(found, "hobbit_request_success_total", finished_reason="stop") == 4
    assert value(found, "hobbit_request_success_total", finished_reason="length") == 0
    assert value(found, "hobbit_request_failure_total", reason="cancelled") == 1
    assert value(found, "hobbit_requests_rejected_total", reason="queue_full") == 2
    assert value(found, "hobbit_expert_cache_hits_total", precision="8") == 70
    assert value(found, "hobbit_expert_cache_hits_total", precision="4") == 7
    assert value(found, "hobbit_expert_cache_late_total", precision="8") == 2
    assert value(found, "hobbit_expert_cache_misses_total", precision="4") == 1
    assert value(found, "hobbit_expert_substitutions_total", **{"from": "8", "to": "4"}) == 2
    assert value(found, "hobbit_expert_substitutions_total", **{"from": "8", "to": "2"}) == 1
    assert value(found, "hobbit_expert_skips_total") == 2
    assert value(found, "hobbit_expert_route_changes_total") == 1
    assert value(found, "hobbit_expert_cache_truncations_total") == 5
    assert value(found, "hobbit_fallback_passes_total") == 4
    assert value(found, "hobbit_predicted_kld_nats_total") == 0.25
    assert value(found, "hobbit_expert_prefetch_total", result="wasted") == 1
    assert value(found, "hobbit_expert_stall_seconds_total") == 1.5
    assert value(found, "hobbit_expert_read_seconds_bucket", le="0.0001") == 1
    assert value(found, "hobbit_expert_read_seconds_bucket", le="1.0") == 3
    assert value(found, "hobbit_expert_read_seconds_bucket", le="+Inf") == 4
    assert value(found, "hobbit_expert_read_seconds_sum") == pytest.approx(2.00345)
    assert value(found, "hobbit_time_to_first_token_seconds_count") == 4
    assert value(found, "hobbit_kv_cache_usage_perc") == 0.25
    assert value(found, "hobbit_service_phase", phase="ready") == 1
    assert value(found, "hobbit_service_phase", phase="loading") == 0
    assert value(found, "hobbit_expert_cache_residents", layer_group="0-2", precision="8") == 9


def test_while_loading_the_page_is_valid_and_says_nothing_about_the_engine():
    stats, readiness = ServiceStats(), Readiness()
    found = samples(Exposition(stats, readiness, INFO).render()[0].decode())
    assert value(found, "hobbit_service_phase", phase="loading") == 1
    assert not any(name.startswith("hobbit_expert") for name, _ in found), "unknown is absent, never 0"


def test_names_follow_the_rules():
    families = [f for f in text_string_to_metric_families(page()[0]) if not f.name.startswith(PROCESS)]
    for family in families:
        assert family.name.startswith("hobbit_")
        assert family.documentation
        assert not re.search(r"_(ms|millis|kb|mb|percent)(_|$)", family.name)
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)


def test_cardinality_is_bounded_whatever_the_model():
    small, large = page(num_layers=8)[0], page(num_layers=96)[0]
    assert len(samples(large)) <= len(samples(small)) < 300
    assert len(residents_by_group({layer: {8: 1, 4: 1, 2: 1} for layer in range(200)})) == 8 * 3
    labels = {label for family in text_string_to_metric_families(large) for s in family.samples for label in s.labels}
    assert not labels & {"expert", "expert_idx", "layer", "layer_idx", "request_id"}


def test_promtool_accepts_the_page():
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=page()[0], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_name_is_documented_and_every_documented_name_exists():
    text = (REPO / "docs/metrics.md").read_text()
    documented = set(re.findall(r"^\| `(hobbit_[a-z0-9_]+)", text, re.MULTILINE))
    families = {f.name + ("_total" if f.type == "counter" else "") for f in text_string_to_metric_families(page()[0])}
    # in the text format an info metric is a gauge called ..._info
    assert documented == {name for name in families if not name.startswith(PROCESS)}


def test_the_dashboard_asks_only_for_what_exists():
    known = names(page()[0])
    boards = list((REPO / "deploy/grafana").glob("*.json"))
    assert boards
    for board in boards:
        data = json.loads(board.read_text())
        queries = [target["expr"] for panel in data["panels"] for target in panel.get("targets", [])]
        queries += [v["query"] for v in data["templating"]["list"] if v["type"] == "query"]
        assert len(queries) > 15
        for query in queries:
            asked = set(re.findall(r"\b((?:hobbit|process)_[a-z0-9_]+)", query))
            assert asked, query
            assert asked <= known, query
        assert len({panel["id"] for panel in data["panels"]}) == len(data["panels"])


def test_a_query_of_every_panel_is_valid_promql(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    data = json.loads((REPO / "deploy/grafana/hobbit.json").read_text())
    queries = [target["expr"] for panel in data["panels"] for target in panel.get("targets", [])]
    rules = [
        {"record": f"r:{i}", "expr": query.replace("$__rate_interval", "1m").replace("$model", "x")}
        for i, query in enumerate(queries)
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_snapshot_schema():
    stats, readiness, heartbeat = service()
    found = make_stats_report(stats, readiness, heartbeat, INFO)
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {
        "schema", "phase", "reason", "uptime_s", "heartbeat_age_s", "model", "policy", "requests", "tokens",
        "latency_s", "experts", "residency", "memory", "energy", "conditions",
    }  # fmt: skip
    assert found["requests"]["waiting"] == 5
    assert found["residency"][0] == {"layer": 0, "tiers": {"4": 1, "8": 3}}
    assert found["experts"]["lookups"] == 100
    assert found["latency_s"]["time_to_first_token"]["count"] == 4
    assert found["latency_s"]["e2e"] == {"count": 0, "mean": None, "p50": None, "p90": None, "p99": None}
    assert found["memory"]["budget_bytes"] == 8 << 20
    documented = (REPO / "docs/metrics.md").read_text()
    assert all(f"`{key}`" in documented for key in found)


def test_snapshot_while_loading_has_nulls_not_zeros():
    found = make_stats_report(ServiceStats(), Readiness(), Heartbeat(), INFO)
    assert found["phase"] == "loading"
    assert (found["experts"], found["residency"], found["policy"], found["energy"]) == (None, None, None, None)
    assert found["memory"]["cache_bytes"] is None
    assert found["memory"]["rss_bytes"] > 0


def test_quantile_interpolates_within_a_bucket():
    histogram = Histogram((1.0, 2.0, 4.0))
    assert quantile(histogram, 0.5) is None
    for seconds in (1.5, 1.5, 3.0, 3.0):
        histogram.observe(seconds)
    assert quantile(histogram, 0.5) == 2.0
    assert quantile(histogram, 0.75) == 3.0
    histogram.observe(100.0)
    assert quantile(histogram, 1.0) == 4.0


def test_power_and_temperature_of_what_answers():
    found = samples(page()[0])
    assert value(found, "hobbit_power_watts", rail="VDD_IN") == 5.917
    assert value(found, "hobbit_energy_joules_total", rail="VDD_IN") == 1234.5
    assert value(found, "hobbit_temperature_celsius", zone="cpu-thermal") == 51.5
    assert value(found, "hobbit_throttle_events_total", source="oc3") == 3
    assert "VDD_SOC" not in page()[0], "it never answered: no series, not 0"


def test_no_sensor_no_series():
    stats, readiness, heartbeat = service()
    stats.power, stats.conditions = None, None
    text = Exposition(stats, readiness, INFO).render()[0].decode()
    assert "watts" not in text
    assert "joules" not in text
    assert "celsius" not in text
    report = make_stats_report(stats, readiness, heartbeat, INFO)
    assert report["energy"] is None
    assert report["conditions"] is None


def test_power_in_the_stats_object():
    report = make_stats_report(*service(), INFO)
    assert report["energy"] == {
        "watts": 5.917, "joules": 1234.5, "idle_w": 3.5, "method": "INA3221 power monitors", "covers": "the module",
        "hz": 10.0,
        "rails": {"VDD_IN": {"watts": 5.917, "joules": 1234.5}, "VDD_SOC": {"watts": None, "joules": None}},
    }  # fmt: skip
    assert report["conditions"]["power_mode"] == {"number": 1, "name": "25W"}
    json.dumps(report)
