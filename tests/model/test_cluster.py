"""A job of several workers on loopback: real schedulers, servers and workers, really killed."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import mxnet as mx
import numpy as np
import pytest

from model.checkpoint import Checkpoints, ndarray_file
from model.job import gathering
from model.network.params import numpy_params
from model.training.module import ResumableModule
from symbol_xception import get_xception_symbol
from tests.networks import THIN
from tests.runs import ROOT, command, refused, warm

_BEATS = {"PS_HEARTBEAT_INTERVAL": "1", "PS_HEARTBEAT_TIMEOUT": "4"}


def free_port():
    """Return a port that is free, and that ps-lite does not choose for a server or worker."""
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


class Job:
    """A started job. Each role has a folder and an output of its own: folder/worker-0/out. How
    ps-lite numbers the workers is not known beforehand."""

    def __init__(self, folder, workers, servers, commands, hosts=None):
        """commands : number of a worker -> its script and arguments. hosts : name of a role ->
        (what to begin its command with, its address)."""
        self.folder = folder
        hosts = hosts or (lambda name: ([], "127.0.0.1"))
        shared = {
            **os.environ,
            **_BEATS,
            "DMLC_NUM_WORKER": str(workers),
            "DMLC_NUM_SERVER": str(servers),
            "DMLC_PS_ROOT_URI": hosts("scheduler-0")[1],
            "DMLC_PS_ROOT_PORT": str(free_port()),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        counts = {"scheduler": 1, "server": servers, "worker": workers}
        self.processes = {}
        for role, count in counts.items():
            for number in range(count):
                name = f"{role}-{number}"
                (folder / name).mkdir(parents=True, exist_ok=True)
                before, address = hosts(name)
                given = commands(number if role == "worker" else 0)
                own = {**shared, "DMLC_ROLE": role, "DMLC_NODE_HOST": address}
                with open(folder / name / "out", "w") as out:
                    says = {"env": own, "stdout": out, "stderr": out}
                    if before:
                        given = [*before, sys.executable, "-u", *given]
                        process = subprocess.Popen(given, cwd=folder / name, **says)
                    else:
                        process = warm().start(given, folder / name, **says)
                self.processes[name] = process

    def output(self, name):
        """What a role has said: its log where it has one, for not all workers print theirs."""
        logs = sorted((self.folder / name).glob("x*.log"))
        return (logs[0] if logs else self.folder / name / "out").read_text()

    def outputs(self, role="worker"):
        return [self.output(name) for name in self.processes if name.startswith(role)]

    def await_line(self, text, role="worker", seconds=240):
        for _ in range(10 * seconds):
            if any(text in output for output in self.outputs(role)):
                return
            time.sleep(0.1)
        raise AssertionError(f"no {text!r} in {self.outputs(role)}")

    def send(self, number, role):
        for name, process in self.processes.items():
            if name.startswith(role):
                process.send_signal(number)

    def codes(self, seconds=240) -> dict:
        """Wait for all processes; return their exit codes by name."""
        until = time.time() + seconds
        try:
            return {
                name: process.wait(max(0.1, until - time.time()))
                for name, process in self.processes.items()
            }
        finally:
            for process in self.processes.values():
                process.kill()
                process.wait()

    def with_checkpoint(self):
        """The folders of workers that have written one."""
        return sorted(path.parent for path in self.folder.glob("worker-*/x-symbol.json"))


@pytest.fixture
def train(records, tmp_path):
    """Start a job that trains on the records."""

    def start(name, *more, workers=2, servers=1, of_worker=lambda number: [], hosts=None):
        given = [*records.thin, "--kv-store=dist_sync", "--model-prefix=x", "--log-file=x.log",
                 "--stall-timeout=200", *more]  # fmt: skip
        return Job(
            tmp_path / name,
            workers,
            servers,
            lambda number: command(*given, *of_worker(number))[2:],
            hosts,
        )

    return start


_UPDATES = """
from model.job.environment import role_of_this_process
from model.job.joining import join, serve
role = role_of_this_process("dist_sync")
if role != "worker":
    serve(role, "dist_sync", 60)
cluster = join("dist_sync", 60)
import mxnet as mx
import numpy as np
from tests.model.test_cluster import numbers, save_trained
for step in range(3):
    parts = [numbers(step, rank) for rank in range(cluster.workers)]
    # More than MXNet leaves on one server, and less.
    many, few = mx.nd.array(parts[cluster.rank]), mx.nd.array(parts[cluster.rank][:5])
    cluster.add_up({"many": [many], "few": [few]})
    in_order = sum(parts[1:], parts[0])
    assert np.array_equal(many.asnumpy(), in_order) and np.array_equal(few.asnumpy(), in_order[:5])
save_trained(cluster, [mx.cpu()], lambda images: images[cluster.rank :: cluster.workers])
cluster.close()
"""

_ON_DEVICES = """
import sys
import mxnet as mx
import numpy as np
from model.job.cluster import Cluster
from tests.model.test_cluster import save_trained
contexts = [mx.cpu(rank) for rank in range(int(sys.argv[1]))]
order = np.concatenate([np.arange(12)[rank :: len(contexts)] for rank in range(len(contexts))])
save_trained(Cluster("device"), contexts, lambda images: images[order])
"""


def numbers(step, rank):
    """What a worker adds to a sum."""
    return np.random.RandomState(10 * step + rank).randn(1_100_000).astype(np.float32)


def save_trained(cluster, contexts, part):
    """Write what there is of a network behind 4 updates by batches of which `part` gives the images
    of this process."""
    symbol = get_xception_symbol(num_classes=5, filter_list=THIN, dropout=0)
    rng = np.random.RandomState(0)
    images = rng.randint(0, 256, (12, 3, 48, 48)).astype(np.float32)
    labels = rng.randint(0, 5, 12).astype(np.float32)
    module = ResumableModule(symbol, contexts, cluster=cluster)
    shape = part(images).shape
    module.bind([("data", shape)], [("softmax_label", shape[:1])])
    mx.random.seed(0)
    module.init_params(mx.init.Xavier())
    module.init_optimizer(cluster.kvstore, "nag", {"learning_rate": 0.0002, "momentum": 0.9})
    for seed in range(4):
        batch = mx.io.DataBatch([mx.nd.array(part(images))], [mx.nd.array(part(labels))])
        batch.seed = seed
        module.forward_backward(batch)
        module.update()
    state = {**numpy_params(*module.get_params()), **module.training_state(at_epoch_end=False)}
    np.savez("state", **state)


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_are_one_with_as_many_devices(tmp_path, workers):
    """Parameters, momentum, and the moving statistics of each device, to the bit; and the sums of
    gradients are those of the workers in their order."""
    script = tmp_path / "updates.py"
    script.write_text(_UPDATES)
    job = Job(tmp_path, workers, 2, lambda number: [script])
    # A process of its own, with as many threads as theirs.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    given = [sys.executable, "-c", _ON_DEVICES, str(workers)]
    subprocess.run(given, cwd=tmp_path, env=environment, check=True, timeout=120)
    expected = np.load(tmp_path / "state.npz")
    assert set(job.codes().values()) == {0}, job.outputs("")
    for number in range(workers):
        state = np.load(tmp_path / f"worker-{number}" / "state.npz")
        assert set(state.files) == set(expected.files)
        for name in expected.files:
            assert np.array_equal(state[name], expected[name]), name
    statistic = "Exit_flow_b6_sepconv2_bn_moving_mean"
    assert np.abs(state[f"{statistic}@0"] - state[f"{statistic}@1"]).max() > 1e-3


def states_of(folder, epoch):
    generation = Checkpoints(folder / "x").load(Checkpoints(folder / "x").places()[-1])
    assert generation.place.epoch == epoch and not generation.place.batch
    return generation


def test_a_stopped_and_a_killed_job_go_on_exactly_from_one_disk(train):
    """Three workers, each with a disk of its own. All stop at the same batch, with one checkpoint,
    by a signal to one of them; after a restart all are killed in the middle of an epoch."""
    flags = ["--num-epochs=2", "--checkpoint-batches=1", "--frequent=1"]
    roles = {"workers": 3, "servers": 2}
    job = train("through", *flags, **roles)
    assert set(job.codes().values()) == {0}, job.outputs("")
    (through,) = job.with_checkpoint()
    named = {re.search(r"worker (\d) of 3, on (\S+);", text).groups() for text in job.outputs()}
    assert named == {(str(rank), socket.gethostname()) for rank in range(3)}
    validations = [re.findall(r"Validation-\S+", output) for output in job.outputs()]
    assert len(validations[0]) == 6 and validations == 3 * validations[:1]

    job = train("stopped", *flags, **roles)
    job.await_line("Epoch[0] Batch [0-1]")
    job.processes["worker-1"].terminate()
    codes = job.codes()
    assert {code for name, code in codes.items() if name.startswith("worker")} == {143}
    assert {code for name, code in codes.items() if not name.startswith("worker")} == {0}
    stops = [re.search(r"stopped by SIGTERM at (.*);", output)[1] for output in job.outputs()]
    assert len(set(stops)) == 1 and stops[0].startswith("epoch 0, batch")
    assert len(job.with_checkpoint()) == 1

    job = train("stopped", *flags, "--retrain", **roles)
    job.await_line("Epoch[1] Batch [0-1]")
    job.send(signal.SIGKILL, "")
    job.codes()
    assert len(job.with_checkpoint()) == 1

    job = train("stopped", *flags, "--retrain", **roles)
    assert set(job.codes().values()) == {0}, job.outputs("")
    (stopped,) = job.with_checkpoint()
    assert any("resumes from" in output for output in job.outputs())
    one, other = states_of(through, 2), states_of(stopped, 2)
    assert one.run["validation"] == other.run["validation"]
    for kind in ("params", "states"):
        arrays, others = getattr(one, kind), getattr(other, kind)
        assert arrays and set(arrays) == set(others)
        for name, array in arrays.items():
            assert np.array_equal(array, others[name]), name


def test_workers_whose_gradients_wait_stop_behind_their_update(train):
    """What waits in the other workers would not be in the checkpoint."""
    job = train("x", "--accumulate=4", "--ema=0.9", "--checkpoint-batches=1", "--frequent=1")
    job.await_line("Epoch[0] Batch [0-1]")
    job.processes["worker-1"].terminate()
    codes = job.codes()
    assert {code for name, code in codes.items() if name.startswith("worker")} == {143}
    (folder,) = job.with_checkpoint()
    (states,) = folder.glob("x-0*.states")
    place = states.stem.split("-", 1)[1]
    assert place in ("0000-000004", "0001") and "+" not in ndarray_file.parse(states.read_bytes())


def test_the_loss_of_any_role_ends_the_job(train):
    """Each role of a job is killed. The others end, say why, and leave a checkpoint that verifies,
    from which a job goes on."""
    # Of two workers, and of three, who wait for each other in another way.
    workers = {"worker-1": 3, "server-0": 3, "scheduler-0": 2}
    jobs = {
        role: train(role, "--checkpoint-batches=1", workers=count)
        for role, count in workers.items()
    }
    for role, job in jobs.items():
        job.await_line("Saved checkpoint")
        job.processes[role].kill()
    for role, job in jobs.items():
        codes = job.codes()
        assert codes.pop(role) == -signal.SIGKILL
        assert set(codes.values()) == {1}, (role, codes)
        if role != "scheduler-0":
            kind = role.split("-")[0]
            assert re.search(rf"error: lost {kind} \d: no heartbeat", job.output("scheduler-0"))
        for name in codes:
            if name != "scheduler-0":
                last = job.output(name).splitlines()[-1]
                assert "error: no heartbeat of the scheduler, 127.0.0.1:" in last
        (folder,) = job.with_checkpoint()
        generation, passed_over = Checkpoints(folder / "x").newest()
        # A process that ends in the middle of writing leaves a part of a newer one.
        assert generation and all("never finished" in error for error in passed_over)
    # Each of the jobs goes on; one may stand for them.
    job = train("scheduler-0", "--retrain", "--num-epochs=1")
    assert set(job.codes().values()) == {0}, job.outputs("")


def test_a_clock_that_is_set_loses_nobody(monkeypatch):
    """ps-lite counts by the wall clock: set to the next day, all have been silent for a day."""
    for name in ("DMLC_NUM_WORKER", "DMLC_NUM_SERVER", "DMLC_PS_ROOT_URI", "DMLC_PS_ROOT_PORT"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("PS_HEARTBEAT_TIMEOUT", "60")
    now, ahead, heard = 0.0, 1e9, 1e9
    clock = SimpleNamespace(monotonic=lambda: now, time=lambda: now + ahead)
    monkeypatch.setattr(gathering, "time", clock)
    lost = gathering._Lost(SimpleNamespace(handle=None), "server", SimpleNamespace(gathered=True))
    monkeypatch.setattr(lost, "_dead", lambda node, limit: heard + limit < clock.time())
    lines = []
    while now < 400:
        now += 0.5
        ahead += {101: 86_400, 202: -86_400}.get(now, 0)
        # Heard every 5 seconds, but for the last 100.
        if now % 5 == 0 and now <= 300:
            heard = clock.time()
        lines += [now] if lost() else []
    assert lines[0] == 360.5


@pytest.fixture
def machines():
    """Give each role a network namespace with an address of its own, all on one bridge. Return
    (hosts for a Job, a function that takes a role off the bridge)."""
    prefix, made = f"x{os.getpid()}-", []

    def ip(*words):
        return subprocess.run(["ip", *words], capture_output=True, text=True)

    def add(name):
        made.append(prefix + name)
        return ip("netns", "add", prefix + name)

    def hosts(name):
        if prefix + name not in made:
            number = len(made)
            add(name)
            link = f"to{number}"
            ip("-n", prefix + name, "link", "add", "eth0", "type", "veth", "peer", "name", link,
               "netns", prefix + "hub")  # fmt: skip
            ip("-n", prefix + "hub", "link", "set", link, "master", "br0", "up")
            ip("-n", prefix + name, "address", "add", f"10.77.0.{number}/24", "dev", "eth0")
            ip("-n", prefix + name, "link", "set", "eth0", "up")
            ip("-n", prefix + name, "link", "set", "lo", "up")
        number = made.index(prefix + name)
        return ["ip", "netns", "exec", prefix + name], f"10.77.0.{number}"

    def cut(name):
        ip("-n", prefix + "hub", "link", "set", f"to{made.index(prefix + name)}", "down")

    if shutil.which("ip") is None or add("hub").returncode:
        pytest.skip("needs ip, and the right to make network namespaces")
    try:
        if ip("-n", prefix + "hub", "link", "add", "br0", "type", "bridge").returncode:
            pytest.skip("this kernel has no bridges")
        ip("-n", prefix + "hub", "link", "set", "br0", "up")
        yield hosts, cut
    finally:
        for name in made:
            ip("netns", "del", name)


def test_a_cut_link_ends_the_job(train, machines):
    """Each role on a machine of its own, as it seems to them; the cable of one is pulled."""
    hosts, cut = machines
    job = train("cut", "--num-epochs=100", hosts=hosts)
    job.await_line("Saved checkpoint")
    cut("worker-1")
    assert set(job.codes().values()) == {1}, job.outputs("")
    assert re.search(r"error: lost worker \d: no heartbeat for 4 s", job.output("scheduler-0"))
    for name in ("worker-0", "worker-1", "server-0"):
        last = job.output(name).splitlines()[-1]
        assert "error: no heartbeat of the scheduler, 10.77.0.1:" in last
    assert len(job.with_checkpoint()) == 1


def test_what_workers_disagree_on_ends_all_of_them(train):
    job = train("seeds", of_worker=lambda number: [f"--seed={number}"])
    codes = job.codes()
    assert codes == {"scheduler-0": 0, "server-0": 0, "worker-0": 2, "worker-1": 2}
    for output in job.outputs():
        assert re.search(
            r"error: seed is [01] for worker 0, and [01] for worker 1: all workers need", output
        )


def test_what_one_worker_cannot_read_ends_all_of_them_with_a_checkpoint(train, records, tmp_path):
    """The last record is in one part alone: the worker with the other part hears of it."""
    broken = tmp_path / "broken"
    shutil.copytree(records.folder, broken)
    rec = broken / "train.rec"
    reader = mx.recordio.MXIndexedRecordIO(
        str(records.train.with_suffix(".idx")), str(records.train), "r"
    )
    writer = mx.recordio.MXIndexedRecordIO(str(rec.with_suffix(".idx")), str(rec), "w")
    for number in range(96):
        record = reader.read_idx(number)
        # Not one of those that are decoded before the training begins.
        writer.write_idx(number, record if number != 90 else record[:24] + b"no image")
    writer.close()
    job = train("unreadable", f"--data-train={rec}", "--num-epochs=2")
    codes = job.codes()
    assert codes == {"scheduler-0": 0, "server-0": 0, "worker-0": 1, "worker-1": 1}, job.outputs()
    lines = [output.splitlines()[-1] for output in job.outputs()]
    assert sum("error: worker " in line for line in lines) == 1
    assert all("record 90" in line for line in lines)


@pytest.mark.parametrize(
    ("flags", "workers"),
    [(("--gc-type=2bit", "--gc-threshold=0.05"), 3), (("--kv-store=dist_async",), 2)],
)
def test_compressed_and_asynchronous_jobs_train(train, flags, workers):
    job = train("x", *flags, "--num-epochs=3", "--lr=0.01", workers=workers)
    assert set(job.codes().values()) == {0}, job.outputs("")
    (folder,) = job.with_checkpoint()
    assert all("a resumed run" in output and "not exact" in output for output in job.outputs())
    figures = re.findall(r"Validation-cross-entropy=(\S+)", job.output(folder.name))
    assert len(figures) == 3 and len(set(figures)) == 3


_ATTACK = """
import os, pickle, sys
from model.job.environment import role_of_this_process
from model.job.joining import join, serve
role = role_of_this_process(sys.argv[1])
if role != "worker":
    serve(role, sys.argv[1], 60)
class Attack:
    def __reduce__(self):
        return os.mkdir, ("broken-into",)
join(sys.argv[1], 60)._kvstore._send_command_to_servers(0, pickle.dumps(Attack(), 0).decode())
os._exit(0)
"""


def test_a_server_runs_no_code_that_is_sent_to_it(tmp_path):
    """MXNet's own would, whatever the type of the kvstore."""
    script = tmp_path / "attack.py"
    script.write_text(_ATTACK)
    jobs = {
        kind: Job(tmp_path / kind, 1, 1, lambda number, kind=kind: [script, kind])
        for kind in ("dist_sync", "dist_async")
    }
    for job in jobs.values():
        job.codes()
    assert not list(tmp_path.rglob("broken-into"))
    refusal = "a server can't continue: UnpicklingError: it names posix.mkdir"
    assert refusal in jobs["dist_async"].output("server-0")


# Wrong environments

_GOOD = {
    "DMLC_ROLE": "worker",
    "DMLC_NUM_WORKER": "2",
    "DMLC_NUM_SERVER": "1",
    "DMLC_PS_ROOT_URI": "127.0.0.1",
    "DMLC_PS_ROOT_PORT": "9091",
}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"DMLC_ROLE": ""}, "DMLC_ROLE is not set: start the job with"),
        ({"DMLC_ROLE": "boss"}, "DMLC_ROLE=boss: must be one of scheduler, server, worker"),
        ({"DMLC_NUM_SERVER": ""}, "DMLC_NUM_SERVER is not set"),
        ({"DMLC_NUM_WORKER": "two"}, "DMLC_NUM_WORKER=two: must be a whole number"),
        ({"DMLC_INTERFACE": "eth77"}, "DMLC_INTERFACE=eth77: this machine has no such"),
        ({"DMLC_NODE_HOST": "192.0.2.1"}, "DMLC_NODE_HOST: can't listen at 192.0.2.1: "),
        ({"DMLC_PS_ROOT_URI": "no.invalid"}, "waited 2 s for an address of DMLC_PS_ROOT_URI=no."),
        ({"DMLC_ROLE": "scheduler", "DMLC_PS_ROOT_URI": "192.0.2.1"}, "listen at 192.0.2.1:9091"),
        ({}, "waited 2 s for 2 workers and 1 servers to connect to the scheduler, 127.0.0.1:9091"),
        ({"DMLC_ROLE": "server"}, "waited 2 s for 2 workers and 1 servers to connect"),
    ],
)  # fmt: skip
def test_a_wrong_environment_is_one_line(run, change, told):
    process = run("--kv-store=dist_sync", "--stall-timeout=2", **{**_GOOD, **change})
    assert process.returncode == (1 if "waited" in told else 2)
    assert told in process.stderr and process.stderr.count("\n") == 1


def test_a_port_in_use_is_one_line(run):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        process = run(
            "--kv-store=dist_sync",
            **{**_GOOD, "DMLC_ROLE": "scheduler", "DMLC_PS_ROOT_PORT": str(port)},
        )
    assert f"can't listen at 127.0.0.1:{port}: Address already in use" in refused(process)


def test_a_role_without_dist_is_one_line(run):
    process = run(**_GOOD)
    assert "DMLC_ROLE=worker, of a job of several workers" in refused(process)
