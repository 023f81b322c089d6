"""The examples of where it runs: valid by the word of the programs that read them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml

from dashboards.build import ALERTS, HERE, RECORDING
from observability.fleet.run_id import run_id_of
from support.monitoring import servers
from support.monitoring.tools import require
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = HERE.parent / "examples"
PROMETHEUS = EXAMPLES / "prometheus"
MANIFESTS = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))
DURATION = {
    "type": "string",
    # The larger unit first, each at most once.
    "pattern": "^(?=.)" + "".join(rf"(\d+{unit})?" for unit in ("y", *"wdhms", "ms")) + "$",
}
STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """The schema of an object with these keys and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


# What we use of the Prometheus operator's v1 API (its documentation, "API reference").
RULE = {
    "oneOf": [
        closed(["record", "expr"], record={"type": "string"}, expr={"type": "string"}),
        closed(
            ["alert", "expr"],
            alert={"type": "string"},
            expr={"type": "string"},
            labels=STRINGS,
            annotations=STRINGS,
            **{"for": DURATION},
        ),
    ]
}
GROUP = closed(
    ["name", "rules"],
    name={"type": "string"},
    rules={"type": "array", "items": RULE, "minItems": 1},
)
ENDPOINT = closed(
    ["port"],
    port={"type": "string"},
    path={"type": "string", "pattern": "^/"},
    interval=DURATION,
    filterRunning={"type": "boolean"},
    authorization=closed(
        ["credentials"],
        type={"const": "Bearer"},
        credentials=closed(["name", "key"], name={"type": "string"}, key={"type": "string"}),
    ),
    relabelings={
        "type": "array",
        "items": closed(
            ["targetLabel"],
            sourceLabels={"type": "array", "items": {"type": "string"}},
            targetLabel={"type": "string"},
        ),
    },
)
OPERATOR = {
    "PrometheusRule": closed(["groups"], groups={"type": "array", "items": GROUP}),
    "PodMonitor": closed(
        ["selector", "podMetricsEndpoints"],
        jobLabel={"type": "string"},
        selector=closed(["matchLabels"], matchLabels=STRINGS),
        podMetricsEndpoints={"type": "array", "items": ENDPOINT, "minItems": 1},
    ),
}

# What we use of JobSet's v1alpha2 and Kubeflow's v1 API (their documentation, "API reference").
# What is Kubernetes's own in them, a Job and a pod, is validated as such.
WORKLOADS = {
    "JobSet": closed(
        ["replicatedJobs"],
        network=closed([], enableDNSHostnames={"type": "boolean"}),
        failurePolicy=closed([], maxRestarts={"type": "integer", "minimum": 0}),
        replicatedJobs={
            "type": "array",
            "minItems": 1,
            "items": closed(
                ["name", "template"],
                name={"type": "string", "pattern": "^[a-z0-9-]+$"},
                replicas={"type": "integer", "minimum": 1},
                template={"type": "object"},
            ),
        },
    ),
    "PyTorchJob": closed(
        ["pytorchReplicaSpecs"],
        runPolicy=closed([], backoffLimit={"type": "integer"}),
        nprocPerNode={"type": "string"},
        elasticPolicy=closed(
            [],
            rdzvBackend={"enum": ["c10d", "etcd", "etcd-v2"]},
            minReplicas={"type": "integer", "minimum": 1},
            maxReplicas={"type": "integer", "minimum": 1},
            maxRestarts={"type": "integer", "minimum": 0},
        ),
        pytorchReplicaSpecs=closed(
            ["Worker"],
            Worker=closed(
                ["template"],
                replicas={"type": "integer", "minimum": 1},
                restartPolicy={"enum": ["Always", "OnFailure", "Never", "ExitCode"]},
                template={"type": "object"},
            ),
        ),
    ),
}
VERSIONS = {"JobSet": "jobset.x-k8s.io/v1alpha2", "PyTorchJob": "kubeflow.org/v1"}


def parts(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of Kubernetes itself that a job of another controller is made of."""
    spec = document["spec"]
    if document["kind"] == "JobSet":
        found = [each["template"] for each in spec["replicatedJobs"]]
        kind = {"apiVersion": "batch/v1", "kind": "Job"}
    else:
        found = [each["template"] for each in spec["pytorchReplicaSpecs"].values()]
        kind = {"apiVersion": "v1", "kind": "Pod"}
    return [kind | {"metadata": {"name": "part"}} | {"spec": each["spec"]} for each in found]


def definitions() -> Iterator[dict[str, Any]]:
    """The CustomResourceDefinitions that ``TIMERS_CRDS``, a directory, has; skips without it."""
    place = os.environ.get("TIMERS_CRDS")
    if not place:
        pytest.skip("the definitions of JobSet and the others are not here: TIMERS_CRDS=DIRECTORY")
    for path in sorted(Path(place).glob("*.yaml")):
        for document in yaml.load_all(path.read_text(), yaml.CSafeLoader):
            if document and document["kind"] == "CustomResourceDefinition":
                yield document["spec"]


def as_strict(schema: Any) -> Any:
    """The JSON schema that refuses what the API server would drop: what nobody has defined."""
    if isinstance(schema, list):
        return [as_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: as_strict(each) for key, each in schema.items()}
    if "properties" in schema:  # of which one may be called "type" or "properties" itself
        found["properties"] = {key: as_strict(each) for key, each in schema["properties"].items()}
    open_ended = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & set(schema)
    if schema.get("type") == "object" and not open_ended:
        found["additionalProperties"] = False
    return found


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def manifest(name: str) -> dict[str, Any]:
    (found,) = documents(EXAMPLES / "kubernetes" / name)
    return found


def complaints(document: dict[str, Any], path: Path) -> str:
    """What kubernetes-validate, against the newest API it knows, says against a document."""
    path.write_text(yaml.safe_dump(document))
    done = subprocess.run(
        [sys.executable, "-m", "kubernetes_validate", "--strict", path],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == ("passed for resource" in said), said
    return said if done.returncode else ""


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.name))
def test_a_manifest_is_valid(path: Path, tmp_path: Path) -> None:
    for document in documents(path):
        if document["apiVersion"] == "monitoring.coreos.com/v1":
            assert re.fullmatch(r"[a-z0-9.-]+", document["metadata"]["name"])
            jsonschema.validate(document["spec"], OPERATOR[document["kind"]])
        elif document["kind"] in WORKLOADS:
            assert document["apiVersion"] == VERSIONS[document["kind"]]
            jsonschema.validate(document["spec"], WORKLOADS[document["kind"]])
            for part in parts(document):
                assert complaints(part, tmp_path / path.name) == ""
        else:
            assert complaints(document, tmp_path / path.name) == ""


@pytest.mark.parametrize(
    "path",
    [path for path in MANIFESTS if "." in documents(path)[0]["apiVersion"].partition("/")[0]],
    ids=lambda path: str(path.name),
)
def test_a_manifest_is_valid_by_its_own_definition(path: Path) -> None:
    schemas = [
        version["schema"]["openAPIV3Schema"]
        for each in definitions()
        for version in each["versions"]
        for document in documents(path)
        if document["kind"] == each["names"]["kind"]
        and document["apiVersion"] == f"{each['group']}/{version['name']}"
    ]
    assert schemas, f"TIMERS_CRDS has no definition for {path.name}"
    for schema in schemas:  # of several releases, perhaps
        strict = as_strict(schema)
        strict["properties"]["metadata"] = {}  # the API server knows that itself
        validator = jsonschema.Draft202012Validator(strict)
        for document in documents(path):
            assert [error.message for error in validator.iter_errors(document)] == []
            wrong = document | {"spec": document["spec"] | {"unknown": 1}}
            assert not validator.is_valid(wrong)


def test_a_wrong_manifest_is_not_valid(tmp_path: Path) -> None:
    wrong = manifest("in-pod.yaml")
    wrong["spec"]["template"]["spec"]["containerz"] = []
    assert "containerz" in complaints(wrong, tmp_path / "wrong.yaml")
    wrong = manifest("podmonitor.yaml")
    wrong["spec"]["podMetricsEndpoints"][0]["intervall"] = "15s"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong["spec"], OPERATOR["PodMonitor"])
    wrong = manifest("jobset.yaml")
    wrong["spec"]["replicatedJobs"][0]["template"]["spec"]["paralelism"] = 2
    (part,) = parts(wrong)
    assert "paralelism" in complaints(part, tmp_path / "wrong.yaml")


def test_kubernetes_gets_the_very_rules() -> None:
    groups = manifest("prometheusrule.yaml")["spec"]["groups"]
    expected = [
        group
        for path in (RECORDING, ALERTS)
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    assert groups == expected


def test_kubectl_makes_a_config_map_of_the_very_dashboards(tmp_path: Path) -> None:
    done = subprocess.run(
        [require("kubectl", "kubernetes-client"), "kustomize", str(HERE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    (built,) = yaml.safe_load_all(done.stdout)
    assert complaints(built, tmp_path / "dashboards.yaml") == ""
    assert built["metadata"]["labels"] == {"grafana_dashboard": "1"}
    assert built["data"] == {path.name: path.read_text() for path in HERE.glob("*.json")}


def pod(name: str) -> dict[str, Any]:
    spec = manifest(name)["spec"]
    if "replicatedJobs" in spec:
        (job,) = spec["replicatedJobs"]
        spec = job["template"]["spec"]
    elif "pytorchReplicaSpecs" in spec:
        (spec,) = spec["pytorchReplicaSpecs"].values()
    template: dict[str, Any] = spec["template"]
    return template


@pytest.mark.parametrize("name", ["jobset.yaml", "pytorchjob.yaml"])
def test_a_job_of_many_hosts_has_the_name_that_its_controller_gave_it(name: str) -> None:
    (training,) = pod(name)["spec"]["containers"]
    command = training["command"]
    (variable,) = training["env"]
    label = variable["valueFrom"]["fieldRef"]["fieldPath"]
    assert label in (
        "metadata.labels['jobset.sigs.k8s.io/jobset-name']",
        "metadata.labels['training.kubeflow.org/job-name']",
    )
    given = f"$({variable['name']})"
    named = next(each for each in command if each.endswith(f"-id={given}"))
    # Of torchrun's option the watchdog takes it as of its own.
    words = [each.replace(given, "job-7") for each in command[command.index("--") + 1 :]]
    assert named.startswith("--run-id") or run_id_of({}, words) == "job-7"
    assert {each.partition("=")[0] for each in command[: command.index("--")] if "--" in each} <= (
        known_options("run")
    )


@pytest.mark.parametrize("name", ["in-pod.yaml", "sidecar.yaml", "jobset.yaml", "pytorchjob.yaml"])
def test_the_pod_monitor_finds_the_pods(name: str) -> None:
    monitor = manifest("podmonitor.yaml")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= pod(name)["metadata"]["labels"].items()
    spec = pod(name)["spec"]
    containers = [*spec.get("initContainers", ()), *spec["containers"]]
    ports = [port for each in containers for port in each.get("ports", ())]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert [port["name"] for port in ports] == [endpoint["port"]]
    secrets = {volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
    assert secrets == {endpoint["authorization"]["credentials"]["name"]}
    assert secrets == {manifest("token.yaml")["metadata"]["name"]}


def test_the_sidecar_sees_the_workers_and_may_read_them() -> None:
    spec = pod("sidecar.yaml")["spec"]
    (service,) = spec["initContainers"]
    (training,) = spec["containers"]
    assert spec["shareProcessNamespace"]
    assert service["restartPolicy"] == "Always"
    assert service["securityContext"]["capabilities"]["add"] == ["SYS_PTRACE"]
    assert "runAsUser" not in {**service["securityContext"], **training["securityContext"]}
    (variable,) = training["env"]
    assert f"--timer-file={variable['value']}" in service["args"]


def known_options(command: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "observability", command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(re.findall(r"--[a-z-]+|TIMERS_[A-Z_]+", done.stdout))


def test_the_command_knows_every_option_of_the_examples() -> None:
    (service,) = pod("sidecar.yaml")["spec"]["initContainers"]
    (training,) = pod("in-pod.yaml")["spec"]["containers"]
    unit = (EXAMPLES / "systemd" / "timers.service").read_text()
    command = training["command"]
    used = {
        "serve": [*service["args"], *re.findall(r"(?m)^Environment=(TIMERS_[A-Z_]+)=", unit)],
        "run": command[: command.index("--")],
    }
    for name, arguments in used.items():
        assert name in arguments or name == "serve"
        options = {each.partition("=")[0] for each in arguments if each[:1] in "-T"}
        assert len(options) > 1
        assert options <= known_options(name)


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    program = require("systemd-analyze", "systemd")
    text = (EXAMPLES / "systemd" / "timers.service").read_text()
    command = re.search(r"(?m)^ExecStart=(\S+)", text)
    assert command is not None
    # It asks for a program that exists; on this machine it is somewhere else.
    unit = tmp_path / "timers.service"
    unit.write_text(text.replace(command[1], sys.executable))
    done = subprocess.run(
        [program, "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    socket = shutil.copy(EXAMPLES / "systemd" / "timers.socket", tmp_path)
    done = subprocess.run(
        [program, "verify", "--man=no", socket], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(unit.read_text().replace("Restart=always", "Restart=sometimes"))
    done = subprocess.run(
        [program, "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert "sometimes" in done.stderr


def test_prometheus_and_alertmanager_accept_their_configurations() -> None:
    for program, package, arguments in (
        ("promtool", "prometheus", ["check", "config", PROMETHEUS / "prometheus.yml"]),
        ("amtool", "prometheus-alertmanager", ["check-config", PROMETHEUS / "alertmanager.yml"]),
    ):
        done = subprocess.run(
            [require(program, package), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def register(*arguments: str | Path) -> None:
    command = [sys.executable, str(PROMETHEUS / "register_run.py"), *map(str, arguments)]
    subprocess.run(command, check=True)


def test_a_run_comes_and_goes(tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS, tmp_path / "examples" / "prometheus")
    shutil.copytree(HERE, tmp_path / "dashboards", ignore=shutil.ignore_patterns("__pycache__"))
    config = tmp_path / "examples" / "prometheus" / "prometheus.yml"
    targets = config.parent / "targets"
    with servers.prometheus(config, tmp_path / "data") as prometheus:

        def hosts() -> set[str]:
            active = prometheus.api("targets")["activeTargets"]
            return {target["labels"]["instance"] for target in active}

        assert hosts() == set()
        register("add", targets, "llm-7", "gpu-1:9464", "gpu-2:9464")
        register("add", targets, "vision/3", "gpu-3:9464")
        everyone = {"gpu-1:9464", "gpu-2:9464", "gpu-3:9464"}
        eventually(lambda: hosts() == everyone, "all hosts discovered")
        register("remove", targets, "llm-7")
        eventually(lambda: hosts() == {"gpu-3:9464"}, "one run forgotten")
        register("remove", targets, "llm-7")  # the epilogue of every host may say so


def test_a_run_id_stays_in_its_directory(tmp_path: Path) -> None:
    inside = tmp_path / "targets"
    inside.mkdir()
    register("add", inside, "../../evil", "gpu-1:9464")
    (written,) = inside.iterdir()
    assert list(tmp_path.iterdir()) == [inside]
    assert json.loads(written.read_text()) == [{"targets": ["gpu-1:9464"], "labels": {}}]
