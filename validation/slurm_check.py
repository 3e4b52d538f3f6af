"""A sweep on a real Slurm cluster: the table of a local run, whatever is lost on the way.

Starts munged (if none runs), slurmctld and three slurmd on this machine, without systemd; needs to
be root, and Debian's slurm-wlm and munge. Skipped where that is not so. Needs NEARKV_BINARY.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NEARKV = os.environ["NEARKV_BINARY"]
SKIPPED = 77
NODES = 3
PROGRAMS = ("sbatch", "squeue", "scontrol", "slurmctld", "slurmd", "munged")
WITHOUT_CACHE = ("--cache", "")

POINT = {"extends": "nearkv:design_points/insti_dense_opt13b_a6000.json",
         "workload": {"prompt_tokens": 256, "output_tokens": 64}}
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
RequeueExit=75
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout=6
KillWait=5
JobRequeue=1
SchedulerParameters=batch_sched_delay=0,sched_interval=5,requeue_delay=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd_%n.log
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_skipped():
    missing = [name for name in PROGRAMS if not shutil.which(name, path=search_path())]
    if missing:
        return f"{', '.join(missing)} missing (Debian packages slurm-wlm and munge)"
    return "" if os.geteuid() == 0 else "only root can start Slurm's daemons"


def search_path():
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until(is_true, what, seconds=60.0):
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.1)


class Cluster:
    """Slurm on this machine; its nodes are processes."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "state").mkdir(parents=True)
        host = socket.gethostname()
        ports = free_ports(NODES + 1)
        nodes = "\n".join(
            f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[i]} CPUs=1"
            for i in range(1, NODES + 1))
        file = folder / "slurm.conf"
        file.write_text(CONFIGURATION.format(host=host, ports=ports, folder=folder, nodes=nodes),
                        encoding="utf-8")
        self.environment = {**os.environ, "SLURM_CONF": str(file), "PATH": search_path()}
        self.log = (folder / "daemons.log").open("w", encoding="utf-8")
        self.munged = None
        self.processes = {}

    def __enter__(self):
        if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode != 0:
            Path("/run/munge").mkdir(exist_ok=True)
            shutil.chown("/run/munge", "munge")
            self.munged = self.start("runuser", "-u", "munge", "--", "munged", "--foreground")
            wait_until(lambda: subprocess.run(["munge", "-n"], capture_output=True,
                                              check=False).returncode == 0, "munged answers")
        self.processes["slurmctld"] = self.start("slurmctld", "-D", "-c")
        for i in range(1, NODES + 1):
            self.start_node(f"n{i}")
        wait_until(lambda: self.states().count("idle") == NODES, "all nodes are idle")
        return self

    def __exit__(self, *_):
        self.call("scancel", "--user=root", check=False)
        for process in self.processes.values():
            self.kill_tree(process.pid)
            process.wait()
        self.kill_steps(lambda title: True)
        if self.munged:
            self.munged.terminate()
            self.munged.wait()
        self.log.close()

    def start(self, *command):
        return subprocess.Popen(command, env=self.environment, stdout=self.log, stderr=self.log,
                                start_new_session=True)

    def start_node(self, name):
        self.processes[name] = self.start("slurmd", "-D", "-N", name)

    def call(self, *command, check=True):
        return subprocess.run(command, env=self.environment, capture_output=True, text=True,
                              check=check).stdout

    def states(self):
        return self.call("sinfo", "--noheader", "--Node", "--format=%T", check=False).split()

    def owns(self, pid):
        """Whether a process belongs to this cluster; the machine may be part of another one."""
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return f"SLURM_CONF={self.environment['SLURM_CONF']}".encode() in environment.split(b"\0")

    def tasks_of_node(self, name):
        return self.call("squeue", "--noheader", f"--nodelist={name}", "--format=%A",
                         "--states=RUNNING").split()

    @staticmethod
    def children(pid):
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True,
                                text=True, check=False).stdout
        return [int(word) for word in listed.split()]

    def kill_tree(self, pid):
        for child in self.children(pid):
            self.kill_tree(child)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def kill_steps(self, is_meant):
        """The step daemons whose title ("slurmstepd: [12.batch]") is meant, and what they run."""
        for pid in self.call("pgrep", "slurmstepd", check=False).split():
            with contextlib.suppress(OSError):
                if self.owns(pid) and is_meant(
                        Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")):
                    self.kill_tree(int(pid))

    def lose_node(self, name):
        """As if its power went: the daemon, its step daemons, which are no children of it, and what
        they run."""
        tasks = self.tasks_of_node(name)
        node = self.processes.pop(name)
        self.kill_steps(lambda title: any(f"[{task}." in title for task in tasks))
        self.kill_tree(node.pid)
        node.wait()

    def run(self, *arguments, status=0, **changes):
        done = subprocess.run([NEARKV, *map(str, arguments)], capture_output=True, text=True,
                              check=False, env={**self.environment, **changes})
        assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        return done


def write_sweep(folder, name, point, channels, batches, **more):
    file = folder / f"{name}.json"
    file.write_text(json.dumps({
        "title": "a test", "point": point,
        "axes": [{"path": "/csd/0/flash/channels", "values": channels},
                 {"path": "/workload/batch", "range": {"from": 1, "to": batches, "step": 1}}],
        **more,
    }), encoding="utf-8")
    return file


def table(folder, name):
    return (folder / name / "points.csv").read_bytes()


def whole_table(cluster, folder, sweep):
    cluster.run("sweep", sweep, "--out", folder / "local", *WITHOUT_CACHE)
    return table(folder / "local", sweep.stem)


def check_wait(cluster, folder):
    """Submit, wait, merge: the table of a local run."""
    sweep = write_sweep(folder, "small", POINT, [4, 8], 80)
    whole = whole_table(cluster, folder, sweep)
    done = cluster.run("sweep", sweep, "--out", folder / "slurm", "--backend", "slurm", "--wait",
                       "--json", *WITHOUT_CACHE)
    assert json.loads(done.stdout)["ran"] == 160, done.stdout
    assert "160 points in 3 tasks: job" in done.stderr, done.stderr
    assert table(folder / "slurm", "small") == whole, "the table of the cluster differs"
    print("wait: as a local run")


def check_retry(cluster, folder):
    """Points that failed run again on request, though tasks have left their results."""
    slow = {"extends": POINT["extends"], "simulation": {"fidelity": "exact"}}
    sweep = write_sweep(folder, "slow", slow, [4], 50, most_seconds=0.1)
    command = ("sweep", sweep, "--out", folder / "slurm", "--backend", "slurm", "--wait", "--json",
               *WITHOUT_CACHE)
    for more, ran in ((), 50), (("--resume",), 0), (("--retry-failed",), 50):
        done = cluster.run(*command, *more, status=3)
        result = json.loads(done.stdout)
        assert result["ran"] == ran and result["statuses"] == {"stopped": 50}, result
    print("retry: as asked")


def check_lost_node(cluster, folder):
    """Submit, go away, lose a node, come back: the table of a local run."""
    sweep = write_sweep(folder, "lost", POINT, [4, 8, 16], 100)
    whole = whole_table(cluster, folder, sweep)
    out = ("--out", folder / "slurm")
    done = cluster.run("sweep", sweep, *out, "--backend", "slurm", *WITHOUT_CACHE)
    assert "300 points in 6 tasks: job" in done.stderr and "--status" in done.stderr, done.stderr
    wait_until(lambda: cluster.tasks_of_node("n2"), "a task runs on n2")
    time.sleep(0.5)
    cluster.lose_node("n2")
    status = json.loads(cluster.run("sweep", sweep, *out, "--status", "--json", *WITHOUT_CACHE,
                                    status=75).stdout)
    assert status["done"] < status["points"] == 300, status
    # On a busy machine none may run just now.
    assert "RUNNING" in status["tasks"] or "PENDING" in status["tasks"], status
    done = cluster.run("sweep", sweep, *out, "--backend", "slurm", "--resume", "--wait",
                       *WITHOUT_CACHE)
    assert "job" not in done.stderr, f"Slurm itself runs lost tasks again: {done.stderr}"
    assert table(folder / "slurm", "lost") == whole, "the table differs after the loss of a node"
    done = cluster.run("sweep", sweep, *out, "--status", *WITHOUT_CACHE)
    assert "300 of 300 points have a result: 300 ok" in done.stdout, done.stdout
    print("lost node: as a local run")


def task_processes(folder):
    listed = subprocess.run(["pgrep", "-f", f"nearkv sweep-task {folder}/"], capture_output=True,
                            text=True, check=False).stdout
    return [int(word) for word in listed.split()]


def task_logs(folder):
    return "".join(log.read_text(encoding="utf-8")
                   for log in (folder / "slurm/tasks/slurm/1").glob("task_*.log"))


def check_lost_tasks(cluster, folder):
    """A task that is asked to end goes on later; one that is cancelled is submitted again; the
    program that waits may be killed."""
    sweep = write_sweep(folder, "tasks", POINT, [4, 8, 16], 200)
    whole = whole_table(cluster, folder, sweep)
    out = ("--out", folder / "slurm")
    command = [NEARKV, "sweep", str(sweep), "--out", str(folder / "slurm"), "--backend", "slurm",
               "--wait", *WITHOUT_CACHE]
    waiting = subprocess.Popen([*command, "--chunk", "200"], env=cluster.environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: task_processes(folder), "a task runs")
    done = cluster.run("sweep", sweep, *out, "--backend", "slurm", "--resume", *WITHOUT_CACHE,
                       status=2)
    assert "another program writes there" in done.stderr, done.stderr
    done = cluster.run("sweep", sweep, *out, "--status", *WITHOUT_CACHE, status=75)
    assert "of 600 points have a result" in done.stdout, done.stdout
    assert f"another program writes there (process {waiting.pid})" in done.stdout, done.stdout
    waiting.kill()
    job = waiting.stderr.readline().rsplit(" ", 1)[-1].strip()
    waiting.wait()
    # One that still reads the sweep would end without a word, and not be started again.
    wait_until(lambda: task_logs(folder).count("points to run") >= NODES - 1, "tasks run points")
    tasks = task_processes(folder)
    assert tasks, "no task runs any more"
    for pid in tasks:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: "another attempt goes on" in task_logs(folder),
               "a task says that it ended early", 20)
    waiting = subprocess.Popen([*command, "--resume"], env=cluster.environment,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    time.sleep(1)
    cluster.call("scancel", f"{job}_2")
    _, said = waiting.communicate(timeout=600)
    assert waiting.returncode == 0, (waiting.returncode, said)
    # What is cancelled before it looks, as on a busy machine, is submitted without a word on why.
    lost = "points are without a result though their tasks ended"
    assert lost in said or "200 points in" in said, said
    assert table(folder / "slurm", "tasks") == whole, "the table differs after lost tasks"
    print("lost tasks: as a local run")


def check_hopeless_tasks(cluster, folder):
    """Tasks that cannot work end the waiting with what they said."""
    sweep = write_sweep(folder, "hopeless", POINT, [4], 60)
    program = folder / "bin/nearkv"
    program.parent.mkdir()
    shutil.copy2(NEARKV, program)
    command = [str(program), "sweep", str(sweep), "--out", str(folder / "slurm"), "--backend",
               "slurm", "--wait", *WITHOUT_CACHE]
    cluster.call("scontrol", "update", "PartitionName=all", "State=DOWN")
    waiting = subprocess.Popen(command, env=cluster.environment, text=True,
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    first = waiting.stderr.readline()
    assert "60 points in 1 tasks: job" in first, first
    program.unlink()
    program.write_bytes(Path(NEARKV).read_bytes() + b"another")
    program.chmod(0o755)
    cluster.call("scontrol", "update", "PartitionName=all", "State=UP")
    _, said = waiting.communicate(timeout=120)
    assert waiting.returncode == 75, (waiting.returncode, said)
    assert "60 points are without a result: their tasks ended again and again" in said, said
    assert "task_0.log: " in said and "another build of nearkv" in said, said
    print("hopeless tasks: reported")


def check_refusals(cluster, folder):
    sweep = write_sweep(folder, "refused", POINT, [4], 60)
    out = ("--out", folder / "slurm")
    done = cluster.run("sweep", sweep, *out, "--backend", "slurm", *WITHOUT_CACHE, status=2,
                       PATH="/nowhere")
    assert "sbatch is not on the path" in done.stderr, done.stderr
    assert not (folder / "slurm/refused").exists()
    done = cluster.run("sweep", sweep, *out, "--backend", "slurm", "--sbatch", "partition=nowhere",
                       *WITHOUT_CACHE, status=2)
    assert "sbatch refused the job: " in done.stderr and "partition" in done.stderr, done.stderr
    done = cluster.run("sweep", sweep, *out, "--backend", "slurm", "--resume", "--wait",
                       "--sbatch", "partition=all", "--sbatch", "comment=a b", *WITHOUT_CACHE)
    assert "60 ran" in done.stdout, done.stdout
    print("refusals: as expected")


def main():
    reason = why_skipped()
    if reason:
        print(f"skipped: {reason}")
        return SKIPPED
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Cluster(folder / "cluster") as cluster:
            check_wait(cluster, folder)
            check_retry(cluster, folder)
            check_lost_node(cluster, folder)
            check_lost_tasks(cluster, folder)
            check_hopeless_tasks(cluster, folder)
            check_refusals(cluster, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
