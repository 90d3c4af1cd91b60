"""The Grafana dashboard and the alert rules, against what the agent really exposes.

Prometheus itself scrapes a made-up agent, loads the rules, and answers the dashboard's queries.
"""

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from deepfusion_edge.starter import shared
from tests.conftest import free_port
from tests.edge.health_parts import Made, judged, seeing_of, served, tell, tell_alert

DASHBOARD = json.loads(shared("grafana-dashboard.json"))
ALERTS = shared("prometheus-alerts.yml")
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
NAME = re.compile(r"\b(?:deepfusion|process)_\w+")
SCRAPE_S = 0.3


def busy():
    """An agent of which everything is known."""
    seeing = seeing_of(Made())
    tell(seeing, judged("accept"), judged("reject"), judged("unreadable"))
    tell_alert(seeing, "reject", "bridge")
    tell_alert(seeing, "unreadable", "no image", suppressed=41, since="2027-01-15T07:59:00.000Z")
    return seeing


def exposed(seeing):
    """Names of series, with the names of their labels."""
    families = text_string_to_metric_families(seeing.metrics().decode())
    found = {}
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def unknown(expression, known):
    """Names and labels in a query that no agent has."""
    wrong = {name for name in NAME.findall(expression) if name not in known}
    for name, selector in re.findall(r"\b(\w+)\{([^}]*)\}", expression):
        labels = set(re.findall(r"(\w+)\s*[=!]~?", selector)) - {"instance", "job"}
        wrong |= {f"{name}.{label}" for label in labels - known.get(name, set())}
    return wrong


@pytest.mark.parametrize(("title", "expression"), QUERIES)
def test_every_panel_asks_for_what_is_there(title, expression):
    assert NAME.search(expression), title
    assert unknown(expression, exposed(busy())) == set()


def test_every_alert_asks_for_what_is_there():
    assert unknown(ALERTS, exposed(busy())) == set()


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("rate(deepfusion_frame_total[5m])", "deepfusion_frame_total"),
        ('deepfusion_frames_total{state="accept"}', "deepfusion_frames_total.state"),
    ],
)
def test_an_unknown_name_is_seen(expression, wrong):
    assert unknown(expression, exposed(busy())) == {wrong}


def test_the_dashboard_is_sound():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    cells = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        taken = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not taken & cells, panel["title"]
        cells |= taken
        assert panel["datasource"]["uid"] == "${datasource}"
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS))) - {"__rate_interval"}
    assert used == variables


def program(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this machine (Debian: apt-get install prometheus)")
    return found


def test_promtool_reads_the_metrics():
    done = subprocess.run(
        [program("promtool"), "check", "metrics"],
        input=busy().metrics(),
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")


def series(name, values, **labels):
    chosen = ",".join(f'{k}="{v}"' for k, v in {"instance": "d", **labels}.items())
    return f"      - series: '{name}{{{chosen}}}'\n        values: '{values}'"


FIRES = {
    "DeepfusionDown": [("up", "0x99", {"job": "deepfusion"})],
    "DeepfusionUnhealthy": [("deepfusion_up", "0x99", {})],
    "DeepfusionRestarts": [
        ("process_start_time_seconds", "0+1x99", {"job": "deepfusion"}),
    ],
    "DeepfusionSourceDown": [("deepfusion_source_up", "0x99", {"source": "cam"})],
    "DeepfusionNoFrames": [("deepfusion_last_frame_timestamp_seconds", "0x99", {"source": "cam"})],
    "DeepfusionManyNotAccepted": [
        ("deepfusion_frames_total", "0+10x99", {"source": "cam", "verdict": "accept"}),
        ("deepfusion_frames_total", "0+5x99", {"source": "cam", "verdict": "suspect"}),
    ],
    "DeepfusionDisagreementRises": [
        ("deepfusion_disagreement_nats_sum", "0+1x60 60+30x39", {"source": "cam"}),
        ("deepfusion_disagreement_nats_count", "0+60x99", {"source": "cam"}),
    ],
    "DeepfusionUnreadable": [
        ("deepfusion_frames_total", "0+1x99", {"source": "cam", "verdict": "unreadable"})
    ],
    "DeepfusionSlow": [
        ("deepfusion_latency_seconds_bucket", "0+0x99", {"stage": "total", "le": "1"}),
        ("deepfusion_latency_seconds_bucket", "0+60x99", {"stage": "total", "le": "5"}),
        ("deepfusion_latency_seconds_bucket", "0+60x99", {"stage": "total", "le": "+Inf"}),
    ],
    "DeepfusionThrottled": [("deepfusion_throttled", "1x99", {})],
    "DeepfusionHot": [
        ("deepfusion_temperature_celsius", "95x99", {"zone": "cpu"}),
        ("deepfusion_temperature_trip_celsius", "99x99", {"zone": "cpu"}),
    ],
    "DeepfusionMemory": [
        ("deepfusion_memory_available_bytes", "5x99", {}),
        ("deepfusion_memory_total_bytes", "100x99", {}),
    ],
    "DeepfusionBrokerAway": [("deepfusion_broker_connected", "0x99", {})],
    "DeepfusionOutboxOld": [("deepfusion_outbox_oldest_seconds", "4000x99", {})],
    "DeepfusionEventsLost": [
        ("deepfusion_outbox_dropped_total", "0+1x99", {}),
        ("deepfusion_outbox_expired_total", "0x99", {}),
    ],
    "DeepfusionBundlesDiffer": [
        ("deepfusion_bundle_info", "1x99", {"id": "pcb", "digest": "a"}),
        ("deepfusion_bundle_info", "1x99", {"id": "pcb", "digest": "b", "instance": "e"}),
    ],
}
CALM = [
    ("up", "1x99", {"job": "deepfusion"}),
    ("deepfusion_up", "1x99", {}),
    ("process_start_time_seconds", "5x99", {"job": "deepfusion"}),
    ("deepfusion_source_up", "1x99", {"source": "cam"}),
    ("deepfusion_last_frame_timestamp_seconds", "0+60x99", {"source": "cam"}),
    ("deepfusion_frames_total", "0+60x99", {"source": "cam", "verdict": "accept"}),
    ("deepfusion_frames_total", "0+0x99", {"source": "cam", "verdict": "unreadable"}),
    ("deepfusion_disagreement_nats_sum", "0+3x99", {"source": "cam"}),
    ("deepfusion_disagreement_nats_count", "0+60x99", {"source": "cam"}),
    ("deepfusion_latency_seconds_bucket", "0+60x99", {"stage": "total", "le": "0.1"}),
    ("deepfusion_latency_seconds_bucket", "0+60x99", {"stage": "total", "le": "+Inf"}),
    ("deepfusion_throttled", "0x99", {}),
    ("deepfusion_temperature_celsius", "60x99", {"zone": "cpu"}),
    ("deepfusion_temperature_trip_celsius", "99x99", {"zone": "cpu"}),
    ("deepfusion_memory_available_bytes", "50x99", {}),
    ("deepfusion_memory_total_bytes", "100x99", {}),
    ("deepfusion_broker_connected", "1x99", {}),
    ("deepfusion_outbox_oldest_seconds", "1x99", {}),
    ("deepfusion_outbox_dropped_total", "5x99", {}),
    ("deepfusion_outbox_expired_total", "0x99", {}),
    ("deepfusion_bundle_info", "1x99", {"id": "pcb", "digest": "a"}),
]


def test_each_alert_fires_when_it_should_and_none_on_a_calm_day(tmp_path):
    names = re.findall(r"- alert: (\w+)", ALERTS)
    assert sorted(names) == sorted(FIRES)
    (tmp_path / "rules.yml").write_text(ALERTS)
    groups = []
    for name in names:
        asked = f"count(ALERTS{{alertname='{name}',alertstate='firing'}})"
        groups.append((FIRES[name], asked, "      - value: 1\n        labels: '{}'"))
    groups.append((CALM, "count(ALERTS)", None))
    text = "rule_files: [rules.yml]\nevaluation_interval: 1m\ntests:\n"
    for given, asked, value in groups:
        lines = "\n".join(series(name, values, **labels) for name, values, labels in given)
        text += f"  - interval: 1m\n    input_series:\n{lines}\n    promql_expr_test:\n"
        text += f'    - expr: "{asked}"\n      eval_time: 98m\n'
        text += f"      exp_samples:\n{value}\n" if value else "      exp_samples: []\n"
    (tmp_path / "tests.yml").write_text(text)
    done = subprocess.run(
        [program("promtool"), "test", "rules", tmp_path / "tests.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    """A Prometheus that scrapes a busy agent: ``prometheus(path, **query)`` -> data."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    command = program("prometheus")
    seeing = busy()
    stop = threading.Event()

    def work():
        while not stop.wait(0.05):
            tell(seeing, judged("accept"), judged("suspect"))

    with served(seeing) as agent:
        (folder / "alerts.yml").write_text(ALERTS)
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 300ms, evaluation_interval: 300ms}\n"
            "rule_files: [alerts.yml]\n"
            "scrape_configs:\n"
            "  - job_name: deepfusion\n"
            f"    static_configs: [{{targets: ['127.0.0.1:{agent}']}}]\n"
        )
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    command,
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        worker = threading.Thread(target=work)
        worker.start()

        def ask(path, **query):
            url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]

        def scraped():
            try:
                found = ask("query", query="count_over_time(deepfusion_up[1m])")["result"]
            except OSError:
                return 0
            return int(found[0]["value"][1]) if found else 0

        try:
            deadline = time.monotonic() + 90
            while scraped() < 6:
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
            yield ask
        finally:
            stop.set()
            worker.join(20)
            process.terminate()
            process.wait(20)


def test_prometheus_scrapes_the_agent(prometheus):
    (target,) = prometheus("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")


def test_prometheus_loads_every_rule(prometheus):
    names = re.findall(r"- alert: (\w+)", ALERTS)
    deadline = time.monotonic() + 60
    while True:
        rules = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
        if all(rule["health"] == "ok" for rule in rules):
            break
        assert time.monotonic() < deadline, rules
        time.sleep(0.2)
    assert [rule["name"] for rule in rules] == names


@pytest.mark.parametrize(("title", "expression"), QUERIES)
def test_every_panel_shows_something(prometheus, title, expression):
    asked = expression.replace("$__rate_interval", "1m").replace("$instance", ".*")
    deadline = time.monotonic() + 30
    while not prometheus("query", query=asked)["result"]:
        assert time.monotonic() < deadline, title
        time.sleep(0.2)
