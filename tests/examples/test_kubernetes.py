"""The manifests say what the server does: its options, its routes, its metric, and the time of its drain."""

from pathlib import Path

import yaml

from codescaler import cli
from codescaler.serve import server as timing
from codescaler.serve.guard import OPEN_PATHS
from codescaler.serve.metrics import Metrics
from codescaler.serve.models import ModelRegistry
from codescaler.serve.service import Service

PATH = Path(__file__).parents[2] / "examples/kubernetes/codescaler.yaml"
DOCUMENTS = {document["kind"]: document for document in yaml.safe_load_all(PATH.read_text())}


def pod():
    return DOCUMENTS["Deployment"]["spec"]["template"]


def container():
    (only,) = pod()["spec"]["containers"]
    return only


def test_the_command_is_one_that_the_command_line_takes():
    options = cli._make_parser().parse_args([*container()["command"][1:], *container()["args"]])
    assert options.port == container()["ports"][0]["containerPort"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
    assert options.api_key_file.parent == Path(mounts["keys"]) and options.models[0].startswith(mounts["models"])
    assert not options.no_auth


def test_probes_need_no_key():
    paths = {probe: container()[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")}
    assert paths == {"readinessProbe": "/health/ready", "livenessProbe": "/health/live"}
    assert {*paths.values(), container()["startupProbe"]["httpGet"]["path"]} <= OPEN_PATHS


def test_a_pod_has_time_to_answer_what_it_has_accepted():
    command = container()["lifecycle"]["preStop"]["exec"]["command"]
    needed = int(command[1]) + timing.DRAIN_S + timing.GRACE_S
    assert pod()["spec"]["terminationGracePeriodSeconds"] > needed


def test_the_autoscaler_reads_a_metric_that_is_there():
    (metric,) = DOCUMENTS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    metrics = Metrics()
    metrics.watch(Service(ModelRegistry([]), metrics))
    assert f"\n{metric['pods']['metric']['name']} 0.0\n" in metrics.format().decode()


def test_parts_name_each_other():
    labels = pod()["metadata"]["labels"]
    for kind in ("Service", "Deployment", "PodDisruptionBudget"):
        selector = DOCUMENTS[kind]["spec"]["selector"]
        assert selector.get("matchLabels", selector) == labels
    target = DOCUMENTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", DOCUMENTS["Deployment"]["metadata"]["name"])
