"""The KubeRay manifests, rendered by kubectl and held against schemas that refuse what they do not know."""

import copy
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
from deploy_files import DEPLOY, autoscaler_flaws, cluster_spec, kustomized, one, pod_flaws, pod_templates
from strict_schema import object_errors

from flows.cli import app
from tasks.actor_plan import PoolOptions, plan_actors
from tasks.config import load_config

MANIFESTS = DEPLOY / "kubernetes"
OVERLAYS = ["base", "spot-gpu", "fault-tolerant", "job"]
CLOUDS = ["gke", "eks", "aks"]


@pytest.fixture(scope="module")
def rendered() -> dict[str, list[dict[str, Any]]]:
    return {overlay: kustomized(MANIFESTS / overlay) for overlay in OVERLAYS}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_obeys_its_schema_to_the_letter(rendered: dict[str, Any], overlay: str) -> None:
    assert [error for each in rendered[overlay] for error in object_errors(each)] == []
    assert {"RayJob" if overlay == "job" else "RayCluster"} == {
        each["kind"] for each in rendered[overlay] if each["apiVersion"] == "ray.io/v1"
    }


PLANTED: list[tuple[str, str, str, Any]] = [
    ("job", "RayJob", "spec.backofLimit", 3),
    ("job", "RayJob", "spec.submissionMode", 3),
    ("job", "RayJob", "metadata.label", {}),
    ("job", "RayJob", "spec.submitterPodTemplate.spec.containers.0.volumeMount", []),
    ("base", "RayCluster", "spec.enableInTreeAutoscalling", True),
    ("base", "RayCluster", "spec.authOptions.mode", "tokn"),
    ("base", "RayCluster", "spec.workerGroupSpecs.0.minReplica", 0),
    ("base", "RayCluster", "spec.workerGroupSpecs.0.template.spec.securityContex", {}),
    ("base", "RayCluster", "spec.workerGroupSpecs.0.template.spec.containers.0.resources.limit", {}),
    ("base", "RayCluster", "spec.headGroupSpec.template.spec.volumes.0.emptydir", {}),
    ("base", "RayCluster", "spec.workerGroupSpecs.0.replicas", "two"),
    ("base", "RayCluster", "spec.headGroupSpec.rayStartParams.num-cpus", 0),
    ("base", "Namespace", "metadata.labls", {}),
    ("base", "ServiceAccount", "automountServiceAccountTokn", False),
]


@pytest.mark.parametrize(("overlay", "kind", "path", "value"), PLANTED, ids=[plant[2] for plant in PLANTED])
def test_what_an_api_server_would_drop_in_silence_is_refused(
    rendered: dict[str, Any], overlay: str, kind: str, path: str, value: Any
) -> None:
    changed = copy.deepcopy(one(rendered[overlay], kind))
    *parents, last = path.split(".")
    place = changed
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    place[last] = value
    assert object_errors(changed) != []


def test_a_misspelt_key_of_a_network_policy_is_refused(rendered: dict[str, Any]) -> None:
    policy = next(each for each in rendered["base"] if each["metadata"]["name"] == "finf-ray")
    assert object_errors(policy) == []
    policy = copy.deepcopy(policy)
    policy["spec"]["ingress"][0]["form"] = policy["spec"]["ingress"][0].pop("from")
    assert object_errors(policy) != []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_let_in_by_the_restricted_profile(rendered: dict[str, Any], overlay: str) -> None:
    templates = pod_templates(rendered[overlay])
    assert len(templates) == (3 if overlay == "job" else 2)
    assert [flaw for template in templates.values() for flaw in pod_flaws(template)] == []
    assert autoscaler_flaws(cluster_spec(rendered[overlay])) == []
    assert (
        one(rendered[overlay], "Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.securityContext.runAsNonRoot", None),
        ("spec.hostNetwork", True),
        ("spec.volumes.0.hostPath", {"path": "/"}),
        ("spec.containers.0.securityContext.runAsUser", 0),
        ("spec.containers.0.securityContext.runAsNonRoot", False),
        ("spec.containers.0.securityContext.allowPrivilegeEscalation", None),
        ("spec.containers.0.securityContext.capabilities", {"add": ["SYS_PTRACE"]}),
        ("spec.containers.0.securityContext.seccompProfile", {"type": "Unconfined"}),
        ("spec.containers.0.securityContext.readOnlyRootFilesystem", False),
        ("spec.containers.0.resources.limits", {"cpu": "4"}),
        ("spec.containers.0.image", "registry.example/finf"),
        ("spec.containers.0.image", "registry.example/finf:latest"),
    ],
)
def test_a_pod_that_asks_for_more_would_be_seen(rendered: dict[str, Any], path: str, value: Any) -> None:
    changed = copy.deepcopy(pod_templates(rendered["base"])["gpu"])
    *parents, last = path.split(".")
    place: Any = changed
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    place[last] = value
    assert pod_flaws(changed) != []


@pytest.mark.parametrize("cloud", CLOUDS)
def test_each_cloud_puts_the_workers_and_only_them_on_its_spot_machines(tmp_path: Path, cloud: str) -> None:
    shutil.copytree(MANIFESTS, tmp_path / "kubernetes")
    chosen = tmp_path / "kubernetes" / "spot-gpu" / "kustomization.yaml"
    text = chosen.read_text()
    assert "path: gke.yaml" in text
    chosen.write_text(text.replace("path: gke.yaml", f"path: {cloud}.yaml"))
    objects = kustomized(chosen.parent)
    assert [error for each in objects for error in object_errors(each)] == []
    templates = pod_templates(objects)
    assert "spot" in str(templates["gpu"]["spec"]["nodeSelector"])
    tolerated = {each["key"] for each in templates["gpu"]["spec"]["tolerations"]}
    assert "nvidia.com/gpu" in tolerated
    assert len(tolerated) == 2
    assert not {"nodeSelector", "tolerations"} & templates["head"]["spec"].keys()


def test_workers_come_and_go_and_the_head_works_for_nobody(rendered: dict[str, Any]) -> None:
    spec = cluster_spec(rendered["spot-gpu"])
    assert spec["enableInTreeAutoscaling"] is True
    (workers,) = spec["workerGroupSpecs"]
    assert workers["minReplicas"] == 0 < workers["replicas"] <= workers["maxReplicas"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_what_the_planner_gives_an_actor_fits_into_a_worker(rendered: dict[str, Any]) -> None:
    (workers,) = cluster_spec(rendered["base"])["workerGroupSpecs"]
    has = workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    cpus, gpus, nodes = int(has["cpu"]), int(has["nvidia.com/gpu"]), workers["replicas"]
    assert workers["rayStartParams"]["num-gpus"] == has["nvidia.com/gpu"]
    grown = PoolOptions(ray_address="auto", num_actors=workers["maxReplicas"], num_gpus_per_actor=1)
    for options, num_actors in ((PoolOptions(ray_address="auto"), nodes * gpus), (grown, workers["maxReplicas"])):
        plan = plan_actors(options, nodes * cpus, nodes * gpus, cpus)
        assert plan.num_actors == num_actors
        assert plan.num_cpus * gpus <= cpus
        assert plan.num_gpus == 1
        assert plan.num_threads * gpus <= cpus


def test_state_of_the_head_lies_in_redis_only_where_that_was_asked_for(rendered: dict[str, Any]) -> None:
    options = cluster_spec(rendered["fault-tolerant"])["gcsFaultToleranceOptions"]
    assert "value" not in options["redisPassword"]
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "finf-redis"
    for overlay in ("base", "spot-gpu", "job"):
        assert "gcsFaultToleranceOptions" not in cluster_spec(rendered[overlay])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nodes_ask_for_a_token_and_strangers_do_not_reach_them(rendered: dict[str, Any], overlay: str) -> None:
    assert cluster_spec(rendered[overlay])["authOptions"] == {"mode": "token"}
    policies = {each["metadata"]["name"]: each["spec"] for each in rendered[overlay] if each["kind"] == "NetworkPolicy"}
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    ours = policies["finf-ray"]["podSelector"]["matchLabels"]
    for template in pod_templates(rendered[overlay]).values():
        assert ours.items() <= template["metadata"]["labels"].items()
    for rule in policies["finf-ray"]["ingress"]:
        assert all({"podSelector", "namespaceSelector"} & peer.keys() for peer in rule["from"])


def test_probes_ask_for_what_the_image_answers(rendered: dict[str, Any]) -> None:
    """Over HTTP and without a token: KubeRay's own probes by version run wget, which the image does not have."""
    paths = {("/api/gcs_healthz", 8265), ("/api/local_raylet_healthz", 52365)}
    templates = pod_templates(rendered["base"])
    for name in ("head", "gpu"):
        container = templates[name]["spec"]["containers"][0]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            assert (asked["path"], asked["port"]) in paths
            assert name == "head" or asked["port"] == 52365


# --- what a job does ---


def test_the_config_of_the_manifests_is_a_config() -> None:
    assert load_config(MANIFESTS / "base" / "finf.toml").kind == "scan"


def test_the_entrypoint_is_a_command_line_that_finf_has(rendered: dict[str, Any]) -> None:
    shell, option, script = shlex.split(one(rendered["job"], "RayJob")["spec"]["entrypoint"])
    assert (shell, option) == ("sh", "-c")
    words = shlex.split(script.split(";")[0])
    assert words[0] == "finf"
    command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    parsed = command.make_context(words[1], words[2:]).params
    assert parsed["ray_address"] == "auto"
    (workers,) = cluster_spec(rendered["job"])["workerGroupSpecs"]
    assert (parsed["actors"], parsed["gpus_per_actor"]) == (workers["maxReplicas"], 1)
    configs = [
        each for each in rendered["job"] if each["kind"] == "ConfigMap" and parsed["config"].name in each["data"]
    ]
    (mount,) = [
        mount
        for mount in pod_templates(rendered["job"])["head"]["spec"]["containers"][0]["volumeMounts"]
        if mount["mountPath"] == str(parsed["config"].parent)
    ]
    (volume,) = [
        volume
        for volume in pod_templates(rendered["job"])["head"]["spec"]["volumes"]
        if volume["name"] == mount["name"]
    ]
    assert [each["metadata"]["name"] for each in configs] == [volume["configMap"]["name"]]


@pytest.mark.parametrize(("code", "seen"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 0), (5, 0), (143, 143)])
def test_a_result_is_not_a_failure_that_the_operator_would_retry(
    rendered: dict[str, Any], tmp_path: Path, code: int, seen: int
) -> None:
    (tmp_path / "finf").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "finf").chmod(0o755)
    (tmp_path / "ray").write_text('#!/bin/bash\nexec sh -c "${*@Q}"\n')  # as `ray job submit` does: words quoted anew
    (tmp_path / "ray").chmod(0o755)
    entrypoint = one(rendered["job"], "RayJob")["spec"]["entrypoint"]
    environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    submitter = ["bash", "-ce", "--", f"if true ; then ray {entrypoint} ; fi"]  # as the operator writes it
    assert subprocess.run(submitter, env=environment, timeout=30).returncode == seen


def test_a_job_is_the_cluster_and_nothing_of_it_twice(rendered: dict[str, Any]) -> None:
    """The same nodes as the standing cluster on spot machines, and one image everywhere."""
    assert cluster_spec(rendered["job"]) == cluster_spec(rendered["spot-gpu"])
    images = {
        container["image"]
        for template in pod_templates(rendered["job"]).values()
        for container in template["spec"]["containers"]
    }
    assert len(images) == 1
