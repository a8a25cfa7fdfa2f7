"""The Helm chart, its rendering in k8s.yaml, and the manifests of KServe."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from service.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm/seqserve"
RENDERING = DEPLOY / "k8s.yaml"
END_S = 10  # to end the processes after the drain

needs_helm = pytest.mark.skipif(
    shutil.which("helm") is None, reason="helm is not installed; .ci/run installs it from a package of npm"
)
needs_validator = pytest.mark.skipif(
    shutil.which("kubernetes-validate") is None, reason="not installed: pip install kubernetes-validate"
)


def documents(text: str) -> Iterator[dict[str, Any]]:
    return (document for document in yaml.safe_load_all(text) if document)


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["helm", *words], capture_output=True, text=True, check=False)


def render(*settings: str) -> str:
    """Return what `helm template` prints for the chart with these values."""
    words = [word for setting in settings for word in ("--set", setting)]
    done = helm("template", "seqserve", str(CHART), "--namespace", "seqserve", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def pods() -> Iterator[dict[str, Any]]:
    """Yield each pod that the committed manifests describe."""
    for document in documents(RENDERING.read_text()):
        if document["kind"] == "Deployment":
            yield document["spec"]["template"]["spec"]
    runtime, service = documents((DEPLOY / "kserve/servingruntime.yaml").read_text())
    yield {**service["spec"]["predictor"], **runtime["spec"]}


@needs_helm
def test_the_chart_has_no_faults() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_helm
def test_k8s_yaml_is_the_rendering_of_the_chart() -> None:
    assert render("secret.name=seqserve") == RENDERING.read_text()


@needs_helm
@pytest.mark.parametrize(
    "setting", ["replicas=three", "replica=3", "settings.SEQSERVE_WORKERS=2", "image.digest=latest", "memory=1G"]
)
def test_the_chart_refuses_wrong_values(setting: str) -> None:
    assert helm("template", "seqserve", str(CHART), "--set", setting).returncode != 0


def test_the_default_values_fit_their_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema_rs.validate(schema, values)
    assert values.keys() == schema["properties"].keys() - {"global"}


@needs_helm
def test_every_option_of_the_chart_renders() -> None:
    options = ("autoscaling.kind=saturation", "grpc=true", "secret.name=keys", "secret.apiKeys=true", "cpuLimit=2")
    monitoring = ("monitoring.rules=true", "monitoring.serviceMonitor=true", "monitoring.authorizationKey=metrics")
    found = {document["kind"]: document for document in documents(render(*options, *monitoring))}
    assert found.keys() >= {"ScaledObject", "ServiceMonitor", "PrometheusRule", "NetworkPolicy", "PodDisruptionBudget"}
    rules = yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())
    assert found["PrometheusRule"]["spec"] == rules
    (trigger,) = found["ScaledObject"]["spec"]["triggers"]
    assert "seqserve_saturation_ratio" in trigger["metadata"]["query"]
    (container,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["cpu"] == "2"


@needs_helm
def test_an_upgrade_changes_no_field_that_kubernetes_fixes() -> None:
    """Other values may replace pods, and add or remove resources, but never a selector or an address."""
    options = (
        "workers=4",
        "memory=4Gi",
        "grpc=true",
        "autoscaling.kind=none",
        "secret.name=keys",
        "secret.apiKeys=true",
    )
    before, after = (
        {(each["kind"], each["metadata"]["name"]): each for each in documents(text)}
        for text in (render(), render(*options))
    )
    for kind, field in (("Deployment", "selector"), ("Service", "clusterIP")):
        fixed = [found[kind, "seqserve"]["spec"].get(field) for found in (before, after)]
        assert fixed[0] == fixed[1]
    assert before.keys() - after.keys() == {("Secret", "seqserve"), ("HorizontalPodAutoscaler", "seqserve")}
    assert after.keys() - before.keys() == {("Service", "seqserve-grpc")}
    templates = [found["Deployment", "seqserve"]["spec"]["template"] for found in (before, after)]
    assert templates[0] != templates[1]


@needs_helm
def test_a_state_key_is_made_if_no_secret_is_named() -> None:
    (secret,) = (document for document in documents(render()) if document["kind"] == "Secret")
    assert secret["metadata"]["name"] == "seqserve"
    assert secret["data"].keys() == {"state-key"}


@needs_validator
def test_the_manifests_fit_the_schemas_of_kubernetes(tmp_path: Path) -> None:
    paths = [RENDERING]
    if shutil.which("helm"):
        paths.append(tmp_path / "all.yaml")
        paths[-1].write_text(render("autoscaling.kind=none", "grpc=true", "cpuLimit=1"))
    done = subprocess.run(
        ["kubernetes-validate", "--strict", *map(str, paths)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("pod", list(pods()), ids=["chart", "kserve"])
def test_a_pod_has_time_to_drain_and_few_rights(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    environ = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    settings = Settings.read(environ)
    assert settings.lame_duck_s > 0
    assert pod["terminationGracePeriodSeconds"] >= settings.lame_duck_s + settings.drain_s + END_S
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
    readiness = container["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < settings.lame_duck_s
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert pod["automountServiceAccountToken"] is False
    # Variables of a Kubernetes Service called seqserve, such as SEQSERVE_PORT, would stop the start.
    assert pod["enableServiceLinks"] is False
    resources = container["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]
    assert int(resources["requests"]["cpu"]) == settings.workers
