"""Processes of a job: they meet or say who is missing, tell one another things, and none outlives another."""

import socket
import threading
import time

import pytest
from jobs import each, free_port, together

from jaxpref.training import job as module
from jaxpref.training.agreement import Agreement
from jaxpref.training.arrival import meet
from jaxpref.training.job import MISSING, Job


def _meet(i: int, count: int, port: int, timeout: float = 1.0):
    return meet(f"localhost:{port}", count, i, {"host": f"h{i}"}, timeout=timeout, patience=60)


def _until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def test_all_that_have_come_say_who_is_missing():
    port, here = free_port(), (0, 1, 3)
    said = each(3, lambda i: _meet(here[i], 4, port))
    assert all("3 of 4 workers have arrived; missing: 2" in str(error) for error in said), said


def test_without_the_first_process_the_others_say_so():
    port = free_port()
    said = each(2, lambda i: _meet(i + 1, 3, port))
    for i, error in enumerate(said):
        assert f"process 0, which process {i + 1} of 3 looks for at localhost:{port}" in str(error)
        assert "has not arrived within 1 s" in str(error)


def test_one_that_has_left_before_all_had_come_is_missing():
    port = free_port()

    def act(i):
        return _meet(i, 3, port, timeout=2 if i == 0 else 0.8)

    first, second = each(2, act)
    assert "2 of 3 workers have arrived; missing: 2 (waited 1 s" in str(second)
    assert "2 of 3 workers have arrived; missing: 2; 1 of them have ended since (waited 2 s" in str(first)


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ((1, 3), "process 1 on h1 is one of 3, and process 0 one of 2"),
        ((5, 2), "process 5 on h5 is one of 2"),
    ],
)
def test_processes_agree_on_how_many_they_are(second, said):
    port = free_port()
    both = each(2, lambda i: _meet(*((0, 2) if i == 0 else second), port))
    assert all(said in str(error) for error in both), both


def test_two_may_not_be_the_same_process():
    port = free_port()
    said = [str(error) for error in each(3, lambda i: _meet((0, 1, 1)[i], 3, port))]
    assert all("two processes say that they are process 1, on h1 and on h1" in x for x in said), said


def test_a_stranger_at_the_door_changes_nothing():
    def act(i):
        if i < 2:
            return _meet(i, 2, port, timeout=20)
        for _ in range(100):  # until somebody listens
            try:
                with socket.create_connection(("localhost", port), timeout=1) as stranger:
                    return stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
            except OSError:
                time.sleep(0.01)

    port = free_port()
    results = each(3, act)
    assert [fact["host"] for fact in results[1].facts] == ["h0", "h1"]
    assert abs(results[1].facts[1]["ahead"]) < 5, "one clock"
    for met in results[:2]:
        met.line.send({"bye": True})
        met.line.close()


def test_a_port_in_use_is_said():
    said = r"cannot listen on port .* An earlier command may still be"
    with socket.create_server(("", 0)) as taken, pytest.raises(ValueError, match=said):
        _meet(0, 2, taken.getsockname()[1])


def test_what_is_gathered_comes_in_the_order_of_processes_each_time():
    with together(3) as (jobs, ends):
        assert each(3, lambda i: jobs[i].gather("x", i * i)) == [[0, 1, 4]] * 3
        assert each(3, lambda i: jobs[i].gather("x", [i])) == [[[0], [1], [2]]] * 3
        assert each(3, lambda i: jobs[i].of_first("y", lambda: "of the first")) == ["of the first"] * 3

        def fails():
            raise ValueError("it cannot be")

        assert [str(e) for e in each(3, lambda i: jobs[i].of_first("y", fails))] == ["it cannot be"] * 3
    assert ends == []


def test_a_process_alone_asks_nobody():
    job = Job()
    assert job.gather("x", 3) == [3]
    assert job.of_first("x", lambda: 5) == 5
    job.ended(2, "a mistake")
    job.leave(2)
    job.bye()


@pytest.mark.parametrize("victim", [0, 1])
def test_all_others_end_where_one_is_missing(victim, capfd):
    cleaned = []
    with together(3) as (jobs, ends):
        for job in jobs:
            job.at_end(lambda i=job.process: cleaned.append(i))
        if victim == 0:  # the relay dies with its process
            relay = jobs[0]._met.relay
            lines, relay._lines = relay._lines, {}
            for line in lines.values():
                line.socket.shutdown(socket.SHUT_RDWR)
                line.close()
        else:
            jobs[1]._met.line.socket.shutdown(socket.SHUT_RDWR)
        others = {0, 1, 2} - {victim}
        _until(lambda: {i for i, _ in ends} >= others)
    assert {end for end in ends if end[0] != victim} == {(i, MISSING) for i in others}
    assert set(cleaned) >= others
    said = capfd.readouterr().err
    assert f"process {victim} (host{victim}) of 3 is missing: its connection broke at" in said
    assert "goes on from the last checkpoint" in said


def test_one_that_is_silent_is_missing(capfd):
    with together(3) as (jobs, ends):
        relay = jobs[0]._met.relay
        relay._heard[2] -= 61  # as if it had sent nothing for as long
        relay._look_for_the_silent(time.monotonic())
        _until(lambda: {(0, MISSING), (1, MISSING)} <= set(ends))
    assert "process 2 (host2) of 3 is missing: there is no sign of life since" in capfd.readouterr().err


def test_one_that_says_bye_is_not_missed():
    with together(2) as (jobs, ends):
        jobs[1].bye()
        jobs[1]._met.line.socket.shutdown(socket.SHUT_RDWR)
        _until(lambda: jobs[0]._met.relay.others() == 0)
        assert ends == []


def test_the_others_follow_one_that_has_ended_by_a_mistake(monkeypatch, capfd):
    monkeypatch.setattr(module, "_GRACE", 0.3)
    monkeypatch.setattr(module, "_LAST", 0.1)
    with together(2) as (jobs, ends):
        said = []

        def gathers():
            with pytest.raises(ValueError) as raised:
                jobs[0].gather("x", 0)
            said.append(str(raised.value))

        waiting = threading.Thread(target=gathers)
        waiting.start()
        jobs[1].send({"ended": 2, "why": "no such file"})
        waiting.join(10)
        assert said == ["process 1 (host1) has ended with status 2: no such file"]
        _until(lambda: ends == [(0, MISSING)])
    assert "process 1 (host1) has ended with status 2: no such file" in capfd.readouterr().err


def test_a_mistake_of_all_is_each_ones_own(monkeypatch):
    monkeypatch.setattr(module, "_GRACE", 5)

    def ends_by_mistake(job):
        job.ended(2, "the same mistake")
        job.leave(2)

    with together(2) as (jobs, ends):
        begun = time.monotonic()
        each(2, lambda i: ends_by_mistake(jobs[i]))
        assert time.monotonic() - begun < 4, "nobody waits for nobody"
        assert each(2, lambda i: jobs[i].gather("x", i)) == [[0, 1]] * 2, "and another command may follow"
    assert ends == []


class Bus:
    """Messages to all members in one order, when they are delivered."""

    def __init__(self, count: int) -> None:
        self.count, self.handlers, self.waiting = count, [{} for _ in range(count)], []

    def member(self, process: int):
        class Member:
            count = self.count

            def on(_, kind, handler):
                self.handlers[process][kind] = handler

            def send(_, message):
                self.waiting.append((process, dict(message)))

        return Member()

    def deliver(self) -> None:
        while self.waiting:
            sender, message = self.waiting.pop(0)
            for handlers in self.handlers:
                for kind in message.keys() & handlers.keys():
                    handlers[kind](sender, message)


def _agreements(unsaved: list[bool]) -> tuple[Bus, list[Agreement]]:
    bus = Bus(len(unsaved))
    return bus, [
        Agreement(bus.member(i), lambda saved=value: saved, lambda: None) for i, value in enumerate(unsaved)
    ]


def _stops(agreement: Agreement) -> int:
    """Calls until it says so."""
    return next(n for n in range(1, 20) if agreement.reached())


@pytest.mark.parametrize("unsaved", [[True, True, True], [False, True, False]])
def test_all_stop_at_the_same_call_after_the_last_that_was_made(unsaved):
    bus, three = _agreements(unsaved)
    made = (3, 5, 4)
    for agreement, count in zip(three, made, strict=True):
        assert not any(agreement.reached() for _ in range(count))
    three[2].ask(15)
    three[0].ask(2)  # another signal, a moment later
    bus.deliver()
    assert [count + _stops(agreement) for count, agreement in zip(made, three, strict=True)] == [6, 6, 6]
    assert {(a.asked, a.by, a.leaving) for a in three} == {(15, 2, False)}, "one signal for all"
    assert all(agreement.reached() for agreement in three)


def test_a_call_waits_until_all_have_said_where_they_are():
    bus, (first, second) = _agreements([True, True])
    assert not first.reached()
    first.ask(15)
    sender, message = bus.waiting.pop(0)
    bus.handlers[0]["stop"](sender, message)  # the second has not heard of it yet
    later = threading.Thread(target=first.reached, daemon=True)
    later.start()
    assert not any(second.reached() for _ in range(7))
    assert later.is_alive()
    bus.handlers[1]["stop"](sender, message)
    bus.deliver()
    later.join(10)
    assert _stops(first) == 6, "the eighth call: this and the one that waited are two of them"
    assert _stops(second) == 1


def test_with_nothing_to_save_anywhere_all_leave_where_they_are():
    bus, two = _agreements([False, False])
    assert not any(two[0].reached() for _ in range(9))
    two[1].ask(15)
    bus.deliver()
    assert all(agreement.leaving for agreement in two)
