"""`create.sh` on the fake pod: what it asks for, what it asks the user, and requests of one name."""

import shutil

import pytest
from fake_pod import on_a_terminal, running

pytestmark = pytest.mark.skipif(
    shutil.which("bash") is None or shutil.which("setsid") is None, reason="needs bash and setsid (Linux)"
)


@pytest.fixture
def pod(tmp_path):
    with running(tmp_path) as pod:
        yield pod


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--accelerator", "v5litepod-16"], ["tpu-vm", "--version=v2-alpha-tpuv5-lite"]),
        (["--accelerator", "v5p-8", "--spot"], ["tpu-vm", "--version=v2-alpha-tpuv5", "--spot"]),
        (
            ["--accelerator", "v6e-16", "--queued", "--valid-until", "6h"],
            [
                "queued-resources",
                "--runtime-version=v2-alpha-tpuv6e",
                "--node-id=pod",
                "--valid-until-duration=6h",
            ],
        ),
        (["--accelerator", "v5p-8", "--runtime", "mine"], ["tpu-vm", "--version=mine"]),
        (["--accelerator", "v6e-8", "--reserved"], ["tpu-vm", "--reserved"]),
        (
            [
                *("--accelerator", "v6e-16", "--queued", "--network", "lab", "--subnetwork", "lab-east"),
                *("--service-account", "runner@p.iam.gserviceaccount.com", "--internal-ips"),
                *(
                    "--data-disk",
                    "projects/p/zones/z/disks/a",
                    "--data-disk",
                    "projects/p/zones/z/disks/b,read-only",
                ),
            ],
            [
                "--network=lab",
                "--subnetwork=lab-east",
                "--service-account=runner@p.iam.gserviceaccount.com",
                "--internal-ips",
                "--data-disk=source=projects/p/zones/z/disks/a,mode=read-write",
                "--data-disk=source=projects/p/zones/z/disks/b,mode=read-only",
            ],
        ),
    ],
)
def test_create(pod, words, expected):
    assert pod("create", *words).returncode == 0
    *asked, call = pod.calls
    assert [other[3:5] for other in asked] == [["queued-resources", "list"]] * ("--queued" in words)
    assert set(expected) | {f"--accelerator-type={words[1]}", "create", "pod"} <= set(call)
    assert ("--spot" in call) == ("--spot" in words)


@pytest.mark.parametrize(
    ("words", "capacity"), [([], "on demand"), (["--spot"], "spot"), (["--reserved"], "reserved")]
)
def test_create_says_what_will_be_billed_and_asks(pod, words, capacity):
    words = ["--accelerator", "v6e-16", *words]
    for answer in ("\n", "n\n", "\x04"):
        status, output = on_a_terminal(pod, "create", *words, answer=answer)
        assert (status, pod.calls) == (2, [])
        for part in ("v6e-16", "'pod' in us-east5-b of project some-project", capacity, "/tpu/pricing"):
            assert part in output
        assert "nothing was created" in output
    assert on_a_terminal(pod, "create", *words, answer="y\n")[0] == 0
    assert len(pod.calls) == 1


def test_create_does_not_ask_where_it_is_told_and_refuses_where_it_cannot(pod):
    words = ["--accelerator", "v6e-16"]
    refused = pod("create", *words, answer="y\n", YES=None)
    assert refused.returncode == 2
    assert "no terminal to ask on; -y or YES=1" in refused.stderr
    assert not pod.calls
    assert "no terminal" in pod("create", *words, answer="y\n", YES="no").stderr
    assert pod("create", *words, "-y", YES=None).returncode == 0
    assert pod("create", *words, YES="1").returncode == 0
    assert len(pod.calls) == 2


@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_a_request_that_has_ended_is_deleted_before_another_one_of_its_name(pod, state):
    (pod.root / "requests").write_text(f"pod-two\tACTIVE\npod\t{state}\n")
    done = pod("create", "--accelerator", "v6e-16", "--queued", "--spot")
    assert done.returncode == 0, done.stderr
    assert f"is {state}: deleting it" in done.stderr
    assert [call[4] for call in pod.calls] == ["list", "delete", "create"]
    assert pod.calls[1][5:7] == ["pod", "--force"]


@pytest.mark.parametrize(
    "state", ["ACTIVE", "WAITING_FOR_RESOURCES", "PROVISIONING", "SUSPENDING", "DELETING"]
)
def test_a_request_that_has_not_ended_is_left_alone(pod, state):
    (pod.root / "requests").write_text(f"pod\t{state}\n")
    done = pod("create", "--accelerator", "v6e-16", "--queued")
    assert done.returncode == 2
    assert f"there is a request 'pod' already, and it is {state}" in done.stderr
    assert [call[4] for call in pod.calls] == ["list"]


def test_requests_that_cannot_be_asked_for_stop_it(pod):
    (pod.root / "failures").write_text("1")
    done = pod("create", "--accelerator", "v6e-16", "--queued")
    assert done.returncode == 2
    assert "could not ask for the queued requests" in done.stderr
    assert [call[4] for call in pod.calls] == ["list"]
