"""Kubernetes and KServe: valid without a cluster, and everything that names something names what is there."""

import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from prometheus_binaries import binary
from releases import release

from mmdeploy.cli.gateway import command as gateway_command
from mmdeploy.packaging.gateway import GATEWAY_IMAGE
from mmdeploy.packaging.kserve import kserve_files
from mmdeploy.packaging.kubernetes import IMAGE, QUEUE_METRIC, kubernetes_files
from mmdeploy.packaging.server_options import EXIT_TIMEOUT_S
from mmdeploy.packaging.settings import PackageSettings
from mmdeploy.packaging.sizing import Sizing
from mmdeploy.packaging.subject import read_subject

VERSIONS = ("1.30", "1.35", "1.37")


@pytest.fixture(scope="module", params=["onnxruntime", "tensorrt"])
def packaged(request, tmp_path_factory):
    return read_subject(release(tmp_path_factory.mktemp("built"), request.param))


@pytest.fixture(scope="module")
def files(packaged):
    return {
        name: yaml.safe_load(content)
        for name, content in kubernetes_files(packaged, PackageSettings(image="registry.example/towers:7")).items()
    }


@pytest.fixture(scope="module")
def base(files):
    return {one["kind"]: one for name, one in files.items() if name.startswith("base/")}


@pytest.fixture(scope="module")
def beside(packaged):
    """What a gateway adds: its objects and the kustomization, by name of file."""
    chosen = PackageSettings(image="registry.example/towers:7", gateway=True)
    found = {name: yaml.safe_load(content) for name, content in kubernetes_files(packaged, chosen).items()}
    return {name.removeprefix("base/"): one for name, one in found.items() if name.startswith("base/")}


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_and_has_no_field_that_is_unknown(base, version):
    kinds = set()
    for kind, one in base.items():
        if kind != "Kustomization":
            kubernetes_validate.validate(one, version, strict=True)
            kinds.add(kind)
    assert kinds == {
        "ServiceAccount", "Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy",
    }  # fmt: skip
    assert base["HorizontalPodAutoscaler"]["apiVersion"] == "autoscaling/v2"


def test_the_schemas_refuse_a_field_that_is_unknown(base):
    wrong = base["PodDisruptionBudget"] | {"spec": {"maxUnavailabel": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_kustomize_finds_every_file_that_is_named_and_no_other_lies_there(files):
    named = {f"base/{one}" for one in files["base/kustomization.yaml"]["resources"]}
    assert named | {"base/kustomization.yaml"} == {name for name in files if name.startswith("base/")}
    (overlay,) = {name.split("/")[1] for name in files if name.startswith("overlays/")}
    kustomization = files[f"overlays/{overlay}/kustomization.yaml"]
    assert kustomization["resources"] == ["../../base"]
    assert [f"overlays/{overlay}/{one['path']}" for one in kustomization["patches"]] == [
        f"overlays/{overlay}/deployment.yaml"
    ]


def test_the_patch_is_of_an_object_that_is_there_and_the_result_is_valid(files, base, packaged):
    (overlay,) = {name.split("/")[1] for name in files if name.startswith("overlays/")}
    assert overlay == ("gpu" if packaged.gpu else "cpu")
    patch = files[f"overlays/{overlay}/deployment.yaml"]
    deployment = base["Deployment"]
    assert all(patch[key] == deployment[key] for key in ("apiVersion", "kind"))
    assert patch["metadata"]["name"] == deployment["metadata"]["name"]
    more = patch["spec"]["template"]["spec"]
    assert not more.keys() & pod_of(base).keys()  # so that the strategic merge is their union
    template = deployment["spec"]["template"]
    merged = deployment | {"spec": deployment["spec"] | {"template": template | {"spec": template["spec"] | more}}}
    kubernetes_validate.validate(merged, VERSIONS[-1], strict=True)


def pod_of(base):
    return base["Deployment"]["spec"]["template"]["spec"]


def test_selectors_match_the_pods(base):
    labels = base["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    (spread,) = pod_of(base)["topologySpreadConstraints"]
    for selector in (
        base["Deployment"]["spec"]["selector"]["matchLabels"],
        base["Service"]["spec"]["selector"],
        base["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        base["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        spread["labelSelector"]["matchLabels"],
    ):
        assert selector and selector.items() <= labels
    # A selector cannot be changed once it is there, so nothing of a release is in it.
    assert "app.kubernetes.io/version" not in base["Deployment"]["spec"]["selector"]["matchLabels"]


def test_ports_names_and_volumes_lead_to_what_is_there(base):
    (container,) = pod_of(base)["containers"]
    ports = {one["name"] for one in container["ports"]}
    assert {one["targetPort"] for one in base["Service"]["spec"]["ports"]} == ports
    allowed = {one["port"] for rule in base["NetworkPolicy"]["spec"]["ingress"] for one in rule["ports"]}
    assert allowed == ports
    target = base["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", base["Deployment"]["metadata"]["name"])
    assert pod_of(base)["serviceAccountName"] == base["ServiceAccount"]["metadata"]["name"]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod_of(base)["volumes"]}
    assert container["image"] == IMAGE == base["Kustomization"]["images"][0]["name"]


def test_the_autoscaler_s_metric_is_the_one_that_the_adapter_makes(files, base, packaged):
    (metric,) = base["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (rule,) = files["prometheus-adapter.yaml"]["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"] == QUEUE_METRIC
    assert metric["pods"]["target"]["averageValue"] == "14500m"  # 2 · 6.25 ms, and 2 ms for a batch
    assert 'model=~"two_towers[.]encoder"' in rule["metricsQuery"]  # the ensemble's own queue is none of a step


def test_prometheus_understands_what_the_adapter_asks(files, tmp_path):
    (rule,) = files["prometheus-adapter.yaml"]["rules"]["custom"]
    query = rule["metricsQuery"].replace("<<.LabelMatchers>>", 'pod=~"a|b"').replace("<<.GroupBy>>", "pod")
    rules = {"groups": [{"name": "adapter", "rules": [{"record": "queue", "expr": query}]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    ended = subprocess.run(
        [binary("promtool"), "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_pods_have_no_more_rights_than_they_need(base):
    pod = pod_of(base)
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
    }
    assert base["NetworkPolicy"]["spec"]["egress"] == []
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()


def test_requests_are_answered_until_the_end(base):
    pod = pod_of(base)
    (container,) = pod["containers"]
    drain = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > drain + EXIT_TIMEOUT_S
    assert base["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert "replicas" not in base["Deployment"]["spec"]  # it is the autoscaler's


def test_ready_is_an_answer_and_alive_is_not_to_be_slow(base):
    (container,) = pod_of(base)["containers"]
    probes = {name: container[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert all(one["exec"]["command"][-1].endswith("probe.py") for one in (probes["startup"], probes["readiness"]))
    assert probes["liveness"]["exec"]["command"][-1] == "--alive"
    assert probes["liveness"]["failureThreshold"] > probes["readiness"]["failureThreshold"]


def test_a_gpu_is_asked_for_where_an_engine_needs_one(base, packaged):
    (container,) = pod_of(base)["containers"]
    asked = container["resources"]["limits"].get("nvidia.com/gpu")
    assert asked == ("1" if packaged.gpu else None) == container["resources"]["requests"].get("nvidia.com/gpu")
    assert container["resources"]["requests"]["memory"] == "512Mi"


def test_kserve_s_pod_is_valid_as_a_pod(packaged):
    (content,) = kserve_files(packaged, PackageSettings()).values()
    service = yaml.safe_load(content)
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    predictor = service["spec"]["predictor"]
    assert (predictor.pop("minReplicas"), predictor.pop("maxReplicas")) == (2, 10)
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": service["metadata"], "spec": predictor}
    kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)
    (container,) = predictor["containers"]
    assert container["name"] == "kserve-container" and len(container["ports"]) == 1


GATEWAY = ("deployment", "service", "poddisruptionbudget", "networkpolicy")


def test_a_gateway_s_objects_are_valid_and_kustomize_finds_them(beside, base):
    for name in (*(f"gateway-{one}.yaml" for one in GATEWAY), "service-pods.yaml"):
        for version in VERSIONS:
            kubernetes_validate.validate(beside[name], version, strict=True)
    kustomization = beside["kustomization.yaml"]
    assert {*kustomization["resources"], "kustomization.yaml"} == beside.keys()
    assert kustomization["images"][1] == {
        "name": GATEWAY_IMAGE, "newName": "registry.example/towers-gateway", "newTag": "7"
    }  # fmt: skip
    assert {name for name in beside if "gateway" in name} == {f"gateway-{one}.yaml" for one in GATEWAY}
    for one in base:  # and what was there without it is the same with it
        if one not in ("Kustomization", "Service"):
            assert beside[f"{one.lower()}.yaml"] == base[one]


def test_a_gateway_may_ask_triton_and_names_and_is_asked_where_it_listens(beside, base):
    deployment, service, budget, policy = (beside[f"gateway-{one}.yaml"] for one in GATEWAY)
    template = deployment["spec"]["template"]
    labels, (container,) = template["metadata"]["labels"], template["spec"]["containers"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
        budget["spec"]["selector"]["matchLabels"],
        policy["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector and selector.items() <= labels.items()
        assert not selector.items() <= base["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
    (client,) = base["NetworkPolicy"]["spec"]["ingress"][0]["from"]
    assert client["podSelector"]["matchLabels"].items() <= labels.items()
    to_triton, to_names = policy["spec"]["egress"]
    (target,) = to_triton["to"]
    triton = base["Deployment"]["spec"]["template"]
    assert target["podSelector"]["matchLabels"].items() <= triton["metadata"]["labels"].items()
    assert {one["port"] for one in to_triton["ports"]} == {"http", "grpc"}
    assert {one["port"] for one in to_names["ports"]} == {53}
    assert container["image"] == GATEWAY_IMAGE
    assert template["spec"]["serviceAccountName"] == base["ServiceAccount"]["metadata"]["name"]


def test_a_gateway_asks_every_pod_of_triton(beside, base):
    (container,) = beside["gateway-deployment.yaml"]["spec"]["template"]["spec"]["containers"]
    program, verb, *arguments = container["command"]
    parsed = gateway_command.make_context(verb, arguments).params
    assert program == "mmdeploy"
    pods = beside["service-pods.yaml"]
    assert parsed["url"] == f"http://{pods['metadata']['name']}:8000" and pods["spec"]["clusterIP"] == "None"
    assert pods["spec"]["selector"] == base["Service"]["spec"]["selector"]
    assert [one["containerPort"] for one in container["ports"]] == [parsed["port"]]


def test_a_plan_of_capacity_says_how_many_pods_and_how_many_cores(packaged):
    plan = Sizing(Path("plan.json"), "two_towers", 7, 4, packaged.instances, 500.0, 80.0)
    files = kubernetes_files(packaged, PackageSettings(min_replicas=7, max_replicas=14, sizing=plan))
    scaled = yaml.safe_load(files["base/horizontalpodautoscaler.yaml"])["spec"]
    assert (scaled["minReplicas"], scaled["maxReplicas"]) == (7, 14)
    pod = yaml.safe_load(files["base/deployment.yaml"])["spec"]["template"]
    assert pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "4"
    assert pod["metadata"]["annotations"]["mmdeploy/capacity"] == "7 pods for 500/s, p99 80 ms"
