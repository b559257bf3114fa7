"""What is refused before a job begins."""

import http.server
import threading

import pytest
from jobs import each, together

from jaxpref.training import distributed, maintenance, start
from jaxpref.training.arrival import Met
from jaxpref.training.job import Job

NAMES = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "MEGASCALE_NUM_SLICES")
SLURM = ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_JOB_NUM_NODES")
OWN = ("ONE_PROCESS", "EXPECTED_PROCESSES", "COORDINATOR", "DISTRIBUTED", "NUM_PROCESSES", "PROCESS_ID")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch):
    """No cluster is seen in the environment."""
    for name in (*NAMES, *SLURM, *(f"JAXPREF_{own}" for own in OWN)):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TPU_WORKER_HOSTNAMES", "a,b,c,d", "TPU_WORKER_HOSTNAMES names 4"),
        ("SLURM_NTASKS", "2", "SLURM_NTASKS=2"),
        ("SLURM_JOB_NUM_NODES", "16", "SLURM_JOB_NUM_NODES=16"),
    ],
)
def test_one_worker_of_many_is_refused(name, value, said, monkeypatch):
    distributed.initialize()  # alone
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=rf"one worker of several \({said}\).*tpu_scripts/run.sh"):
        distributed.initialize()
    distributed.initialize(one_of_many=True)
    monkeypatch.setenv("JAXPREF_ONE_PROCESS", "1")
    distributed.initialize()


@pytest.mark.parametrize("value", ["localhost", "1", "(2x)"])
def test_one_worker_alone_is_one(value, monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", value)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", value)
    distributed.initialize()


def test_the_number_of_processes_may_be_said_beforehand(monkeypatch):
    monkeypatch.setenv("JAXPREF_EXPECTED_PROCESSES", "4")
    with pytest.raises(ValueError, match="EXPECTED_PROCESSES=4, and the job has 1; set JAXPREF_DISTRIBUTED"):
        distributed.initialize()
    start.check_count(4)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"COORDINATOR": "h:1"}, "JAXPREF_NUM_PROCESSES is not; set all three"),
        ({"COORDINATOR": "h:1", "NUM_PROCESSES": "two"}, "JAXPREF_NUM_PROCESSES=two: expected a whole"),
        ({"COORDINATOR": "h:1", "NUM_PROCESSES": "2", "PROCESS_ID": "2"}, "process 2 of 2: .* from 0 to 1"),
        ({"COORDINATOR": "h", "NUM_PROCESSES": "2", "PROCESS_ID": "1"}, "address is host:port, got 'h'"),
        ({"DISTRIBUTED": "1"}, "jax finds no workers here"),
        ({"DISTRIBUTED": "1", "JOIN_TIMEOUT": "soon"}, "JOIN_TIMEOUT=soon: expected a whole number"),
    ],
)
def test_what_the_environment_says_is_checked(environment, said, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(f"JAXPREF_{name}", value)
    with pytest.raises(ValueError, match=said):
        distributed.initialize()


def _job(*facts: dict) -> Job:
    job = Job(0, len(facts))
    job._met = Met(None, [{"host": f"h{i}", **fact} for i, fact in enumerate(facts)], None)
    return job


def test_versions_that_differ_are_refused():
    versions = start.facts()["versions"]
    assert {"python", "jax", "jaxlib", "jaxpref"} <= versions.keys()
    same = {"versions": versions, "ahead": 0.0}
    start.check_facts(_job(same, same, same))
    other = {"versions": versions | {"jax": "0.1.2"}, "ahead": 0.0}
    with pytest.raises(ValueError, match=r"jax: 0.1.2 in process 0 \(h0\), and .* in process 1 .*setup.sh"):
        start.check_facts(_job(other, same, same))
    without = {"versions": {k: v for k, v in versions.items() if k != "flax"}, "ahead": 0.0}
    with pytest.raises(ValueError, match=r"flax: None in process 2 \(h2\)"):
        start.check_facts(_job(same, same, without))


def test_the_code_of_this_package_is_a_version(monkeypatch, tmp_path):
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "one.py").write_text("x = 1\n")
    monkeypatch.setattr(start.jaxpref, "__file__", str(tmp_path / "__init__.py"))
    before = start._code.__wrapped__()
    (tmp_path / "one.py").write_text("x = 2\n")
    assert start._code.__wrapped__() != before


def test_a_wrong_clock_is_said(capsys):
    def clocks(*ahead: float) -> str:
        start.check_facts(_job(*({"versions": {}, "ahead": x} for x in ahead)))
        return capsys.readouterr().out

    assert clocks(0.0, 50.0, -9.0) == ""
    assert "the clock of process 2 (h2) is 70 s behind the others'" in clocks(0.0, 1.0, -70.0)
    assert "the clock of process 0 (h0) is 4000 s behind the others'" in clocks(0.0, 4000.0, 4000.0)


def test_all_processes_are_to_do_the_same():
    with together(3) as (jobs, _):
        runs = [{"workdir": "gs://a/b", "stages.dpo.beta": beta} for beta in (0.1, 0.1, 0.2)]

        def check(of):
            return [str(e) for e in each(3, lambda i: start.check_same_run(jobs[i], lambda: of(i)))]

        assert check(lambda i: runs[0]) == ["None"] * 3
        said = "stages.dpo.beta: 0.2 in process 2 (host2), and 0.1 in process 0 (host0); start the same"
        assert all(said in text for text in check(lambda i: runs[i]))
        counts = [str(e) for e in each(3, lambda i: start.check_devices(jobs[i], 4 - (i == 1)))]
        assert all("devices of a process: 3 in process 1 (host1), and 4 in process 0" in x for x in counts)


@pytest.fixture
def server(monkeypatch):
    """A metadata server; what it answers, by name."""
    answers: dict[str, str] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/computeMetadata/v1/instance/")
            there = name in answers and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if there else 404)
            self.end_headers()
            self.wfile.write(answers.get(name, "").encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("localhost", 0), Handler) as serving:
        monkeypatch.setenv("GCE_METADATA_HOST", f"localhost:{serving.server_port}")
        monkeypatch.setattr(maintenance, "on_tpu_vm", lambda: True)
        monkeypatch.setattr(start, "on_tpu_vm", lambda: True)
        threading.Thread(target=serving.serve_forever, args=(0.01,), daemon=True).start()
        yield answers
        serving.shutdown()


def test_a_tpu_of_several_workers_is_known_by_its_metadata(server):
    start.check_alone()
    server["attributes/worker-network-endpoints"] = "a:1:10.0.0.1,b:2:10.0.0.2"
    with pytest.raises(ValueError, match=r"\(the TPU has 2\)"):
        start.check_alone()


@pytest.mark.parametrize(
    ("name", "value"),
    [("preempted", "TRUE"), ("maintenance-event", "TERMINATE_ON_HOST_MAINTENANCE")],
)
def test_a_notice_asks_for_an_end(name, value, server, monkeypatch):
    monkeypatch.setattr(maintenance, "_EVERY", 0.01)
    server |= {"preempted": "FALSE", "maintenance-event": "NONE"}
    asked, said = threading.Event(), []
    end = maintenance.watched(asked.set, said.append)
    assert not asked.wait(0.1)
    server[name] = value
    assert asked.wait(10)
    assert len(said) == 1
    end()
