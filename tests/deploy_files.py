"""The files of deploy/ as data, and what would be wrong with them beyond their schemas."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
NOBODY = 10001  # uid and gid in the image
EXACT_TAG = re.compile(r":v?\d+(\.\d+)+[\w.-]*$|@sha256:[0-9a-f]{64}$")
SECRET_NAME = re.compile(r"SECRET|PASSWORD|TOKEN(?!_PATH)|ACCESS_KEY")


def tool(name: str) -> str:
    """A program that a Python package put beside the interpreter."""
    found = shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise RuntimeError(f"no `{name}`: install the test extra")
    return found


def kustomized(folder: Path) -> list[dict[str, Any]]:
    """The objects that `kubectl apply -k` would send."""
    done = subprocess.run([tool("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise ValueError(done.stderr)
    return list(yaml.safe_load_all(done.stdout))


def one(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def cluster_spec(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the RayCluster, or of the one that a RayJob brings along."""
    kinds = {each["kind"]: each for each in objects}
    spec: dict[str, Any] = (
        kinds["RayCluster"]["spec"] if "RayCluster" in kinds else kinds["RayJob"]["spec"]["rayClusterSpec"]
    )
    return spec


def pod_templates(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By name: the head's, each worker group's, the submitter's."""
    spec = cluster_spec(objects)
    found = {"head": spec["headGroupSpec"]["template"]}
    found |= {group["groupName"]: group["template"] for group in spec["workerGroupSpecs"]}
    for job in (each for each in objects if each["kind"] == "RayJob"):
        found["submitter"] = job["spec"]["submitterPodTemplate"]
    return found


def pod_flaws(template: dict[str, Any]) -> list[str]:
    """Where a pod asks for more than Kubernetes' "restricted" profile allows, or has no bounds."""
    pod = template["spec"]
    flaws = [] if pod.get("securityContext", {}).get("runAsNonRoot") is True else ["the pod may run as root"]
    flaws += [f"{key} is on" for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    flaws += [f"volume {each['name']} is of the host" for each in pod.get("volumes", []) if "hostPath" in each]
    for container in pod["containers"]:
        flaws += _context_flaws(container.get("securityContext", {}), needs_read_only_root=True)
        resources = container.get("resources", {})
        if resources.get("requests") != resources.get("limits") and container["name"] == "ray":
            flaws.append("a node of Ray is promised something else than it may use")
        flaws += [f"no limit of {what}" for what in ("cpu", "memory") if what not in resources.get("limits", {})]
        flaws += [] if EXACT_TAG.search(container["image"]) else [f"{container['image']}: no exact version"]
    return flaws


def autoscaler_flaws(spec: dict[str, Any]) -> list[str]:
    """The operator adds the autoscaler's container to the head; it must be let in too."""
    return _context_flaws(spec["autoscalerOptions"].get("securityContext", {}), needs_read_only_root=False)


def _context_flaws(context: dict[str, Any], needs_read_only_root: bool) -> list[str]:
    flaws = [] if context.get("runAsUser") == context.get("runAsGroup") == NOBODY else ["not the image's user"]
    flaws += [] if context.get("runAsNonRoot") is True else ["may run as root"]
    flaws += [] if context.get("allowPrivilegeEscalation") is False else ["may gain privileges"]
    flaws += [] if context.get("capabilities") == {"drop": ["ALL"]} else ["keeps capabilities"]
    flaws += [] if context.get("seccompProfile") == {"type": "RuntimeDefault"} else ["any system call"]
    if needs_read_only_root and context.get("readOnlyRootFilesystem") is not True:
        flaws.append("may write to its root")
    return flaws


def compose_flaws(compose: dict[str, Any]) -> list[str]:
    """What a compose file should not hold."""
    return [f"{name}: {flaw}" for name, service in compose["services"].items() for flaw in _service_flaws(service)]


def _service_flaws(service: dict[str, Any]) -> list[str]:
    flaws = [f"port {port} is open to the network" for port in service.get("ports", []) if not _is_loopback(port)]
    image = re.sub(r"\$\{\w+:-(.*)\}", r"\1", service["image"])
    flaws += [] if EXACT_TAG.search(image) else [f"{image}: no exact version"]
    flaws += [] if service.get("cap_drop") == ["ALL"] else ["keeps capabilities"]
    flaws += [] if "no-new-privileges:true" in service.get("security_opt", []) else ["may gain privileges"]
    flaws += [] if service.get("read_only") is True else ["may write to its root"]
    flaws += [] if "mem_limit" in service else ["has no limit of memory"]
    flaws += [] if _says_whether_it_is_alive(service) else ["nobody can tell whether it is alive"]
    flaws += ["is root"] if str(service.get("user", NOBODY)).split(":")[0] in ("0", "root") else []
    flaws += ["waits for a start, not for health"] if isinstance(service.get("depends_on"), list) else []
    for name, value in service.get("environment", {}).items():
        if SECRET_NAME.search(name) and not re.fullmatch(r"\$\{\w+:\?.+\}", str(value)):
            flaws.append(f"{name} stands in the file")
        plain = re.sub(r"\$\{[^}]*\}", "$", str(value))
        flaws += [f"{name} holds a password"] if re.search(r"://[^/@]*:[^$/@][^/@]*@", plain) else []
    return flaws


def _is_loopback(port: Any) -> bool:
    return isinstance(port, str) and port.startswith("127.0.0.1:")


def _says_whether_it_is_alive(service: dict[str, Any]) -> bool:
    is_one_off = service.get("restart") == "no"
    return is_one_off or "healthcheck" in service or "FINF_ALIVE_URLS" in service.get("environment", {})
