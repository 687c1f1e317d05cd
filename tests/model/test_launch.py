"""The files of model/launch/: what checks them, and jobs that they really start."""

import contextlib
import copy
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.runs import ROOT

LAUNCH = ROOT / "model/launch"
# The page's line for a run under supervision.
(SUPERVISED,) = re.findall(
    "^    (until model/launch/local.sh .*)",
    (ROOT / "model" / "launch" / "README.md").read_text(),
    flags=re.MULTILINE,
)
KUBERNETES = "1.31"


def output(*command, **kwargs):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **kwargs)


def test_shellcheck_finds_nothing_in_the_scripts():
    shellcheck = os.path.join(os.path.dirname(sys.executable), "shellcheck")
    scripts = [ROOT / "run.sh", ROOT / ".ci/run", LAUNCH / "local.sh", LAUNCH / "slurm.sbatch"]
    done = output(shellcheck, *map(str, scripts))
    assert done.returncode == 0, done.stdout


# Kubernetes


@pytest.fixture(scope="module")
def manifests():
    return list(yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text()))


def invalid(manifest):
    try:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return error.message


def test_manifests_are_of_the_kubernetes_schema(manifests):
    assert [invalid(manifest) for manifest in manifests] == [None] * 4
    job = manifests[-1]
    wrong = copy.deepcopy(job)
    wrong["spec"]["template"]["spec"]["restartpolicy"] = "Never"
    assert "restartpolicy" in invalid(wrong)
    wrong = copy.deepcopy(job)
    wrong["spec"]["completions"] = "four"
    assert "four" in invalid(wrong)


def test_pods_find_their_scheduler_and_nobody_else_finds_them(manifests):
    service, policy, claim, job = manifests
    pod = job["spec"]["template"]
    labels = pod["metadata"]["labels"]
    for selector in (service["spec"]["selector"], policy["spec"]["podSelector"]["matchLabels"]):
        assert selector.items() <= labels.items()
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": {"matchLabels": labels}}]}]
    assert (
        pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        == (claim["metadata"]["name"])
    )
    roles = {}
    for container in pod["spec"]["containers"]:
        of_role = {entry["name"]: entry.get("value") for entry in container["env"]}
        roles[of_role.pop("DMLC_ROLE")] = of_role
    assert sorted(roles) == ["scheduler", "server", "worker"]
    first = roles["worker"]
    assert all(of_role == first for of_role in roles.values())
    pods = str(job["spec"]["completions"])
    assert first["DMLC_NUM_WORKER"] == first["DMLC_NUM_SERVER"] == pods
    assert job["spec"]["parallelism"] == int(pods)
    # The name that an indexed job's first pod has under the service.
    assert first["DMLC_PS_ROOT_URI"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert pod["spec"]["subdomain"] == service["metadata"]["name"]


# What each engine starts, and starts again


@pytest.fixture
def project(tmp_path):
    """A folder like the project's, whose Python prints the role and the arguments that it gets."""
    folder = tmp_path / "project"
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\necho "$DMLC_ROLE: $*"\nexit "${CODE-0}"\n')
    python.chmod(0o755)
    (folder / "model").mkdir()
    return folder


def with_bin(folder, **programs):
    """Environment with `programs` (name -> bash) first in the PATH."""
    place = folder / "bin"
    place.mkdir()
    for name, script in programs.items():
        (place / name).write_text(f"#!/bin/bash\n{script}\n")
        (place / name).chmod(0o755)
    return {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}


def test_pods_start_their_roles(manifests, project):
    containers = manifests[-1]["spec"]["template"]["spec"]["containers"]
    scripts = {container["command"][2] for container in containers}
    assert len(scripts) == 1
    script = scripts.pop().replace("/storage", str(project))

    def start(role="worker", index="1"):
        roles = {"DMLC_ROLE": role, "JOB_COMPLETION_INDEX": index}
        return output("bash", "-c", script, cwd=project, env={**os.environ, **roles}).stdout

    assert start().startswith("worker: -u train_xception.py --retrain auto --kv-store dist_sync")
    assert start("scheduler", "0").startswith("scheduler: ")
    assert start("scheduler", "1") == ""


def test_unit_is_one_that_systemd_knows(project):
    unit = (LAUNCH / "xception.service").read_text().replace("/opt/xception", str(project))
    (project / "xception.service").write_text(re.sub("^User=.*", "", unit, flags=re.MULTILINE))
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd here")
    done = output("systemd-analyze", "verify", str(project / "xception.service"))
    assert "xception.service" not in done.stderr, done.stderr


def test_slurm_job_starts_each_role_and_is_queued_again(project):
    # srun as it numbers its tasks: round the nodes, so that tasks 0, 2, 4 are on the first.
    srun = """
until [[ $1 = bash ]]; do [[ $1 = --ntasks=* ]] && tasks=${1#*=}; shift; done
for ((task = 0; task < tasks; task++)); do SLURM_PROCID=$task "$@" || code=$?; done
exit "${code-0}"
"""
    scontrol = 'echo "scontrol $*"'
    address = 'echo "1: eth0    inet 10.1.2.3/24 brd 10.1.2.255 scope global eth0"'
    environment = with_bin(project, srun=srun, scontrol=scontrol, ip=address)
    environment.update(SLURM_JOB_ID="77", SLURM_JOB_NUM_NODES="2")

    def start(code="0", restarts="0"):
        return output(
            "bash", str(LAUNCH / "slurm.sbatch"), cwd=project,
            env={**environment, "CODE": code, "SLURM_RESTART_COUNT": restarts},
        )  # fmt: skip

    done = start()
    roles = [line.split(":")[0] for line in done.stdout.splitlines()[:-1]]
    assert roles == ["scheduler", "server", "server", "worker", "worker"], done.stderr
    assert done.stdout.count(" --retrain auto ") == 5
    # A lost role; arguments that can't be used, or a job that was cancelled; once too often.
    for code, restarts, again in (("1", "9", True), ("137", "0", True), ("2", "0", False),
                                  ("143", "0", False), ("1", "10", False)):  # fmt: skip
        done = start(code, restarts)
        assert done.returncode == int(code), done.stderr
        assert ("scontrol requeue 77" in done.stdout) == again, (code, done.stdout)


# On this machine, for real


@contextlib.contextmanager
def started(given, folder, environment):
    """A process that has all that it starts in a session of its own, and prints to folder/out."""
    with open(folder / "out", "w") as out:
        job = subprocess.Popen(
            given, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield job
    finally:
        # Its roles too, had it not ended them.
        for pid in session(job.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        job.wait()


def session(leader):
    """Yield the processes of a session."""
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                yield pid


def test_local_job_ends_as_its_workers_do(records, tmp_path):
    given = [str(LAUNCH / "local.sh"), *records.thin, "--model-prefix", "x", "--log-file",
             "x.log"]  # fmt: skip
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    with started([*given, "--num-epochs", "50"], tmp_path, environment) as job:
        while "Batch [" not in (tmp_path / "out").read_text() and job.poll() is None:
            time.sleep(0.1)
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 128 + signal.SIGTERM, (tmp_path / "out").read_text()
    assert list(tmp_path.glob("x-00*.json"))
    done = output(*given, "--num-epochs", "1", "--batch-size", "0", cwd=tmp_path, env=environment)
    assert done.returncode == 2, done.stderr


def test_a_shell_restarts_a_job_until_it_is_done(records, tmp_path):
    """A worker is killed."""
    given = [*records.thin, "--model-prefix=x", "--log-file=x.log", "--num-epochs=3"]
    line = SUPERVISED.replace("model/launch/local.sh", f"{LAUNCH}/local.sh", 1)
    line = line.replace(
        "--gpus= --checkpoint-batches 500", f"{shlex.join(given)} --checkpoint-batches 1"
    )
    line = line.replace("sleep 10", "sleep 0")
    environment = {**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1",
                   "PS_HEARTBEAT_INTERVAL": "1", "PS_HEARTBEAT_TIMEOUT": "4"}  # fmt: skip
    with started(["bash", "-c", line], tmp_path, environment) as job:
        while not list(tmp_path.glob("x-00*.json")) and job.poll() is None:
            time.sleep(0.1)
        # Not one of the processes that local.sh itself starts for a moment.
        for pid in session(job.pid):
            with contextlib.suppress(OSError):
                if b"DMLC_ROLE=worker" in Path(f"/proc/{pid}/environ").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    break
        assert job.wait(240) == 0, (tmp_path / "out").read_text()
    log = (tmp_path / "x.log").read_text()
    assert log.count("resumes from x-") == 1 and log.count("trained: x-0003.params") == 1


@pytest.mark.parametrize("code", [0, 2, 143])
def test_a_shell_starts_no_job_again_that_has_ended(project, code):
    launch = project / "model/launch/local.sh"
    launch.parent.mkdir()
    launch.write_text(f"#!/bin/bash\necho started\nexit {code}\n")
    launch.chmod(0o755)
    assert output("bash", "-c", SUPERVISED, cwd=project).stdout == "started\n"
