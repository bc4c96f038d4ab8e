"""Messages between processes, here between threads that stand for them."""

import contextlib
import itertools
import socket
import threading

import jax
import numpy as np
import pytest

from prism_jax.errors import LostError, RunError
from prism_jax.parallel import messages
from prism_jax.parallel.messages import GREETING, HEADER, Messages


@pytest.fixture
def opened():
    """Closes what is pushed on it."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def joined(opened):
    """Returns the messages of each of `count` processes."""

    def join(count: int) -> list[Messages]:
        connections: list[dict] = [{} for _ in range(count)]
        for one, other in itertools.combinations(range(count), 2):
            connections[one][other], connections[other][one] = map(opened.enter_context, socket.socketpair())
        return [Messages(process, its) for process, its in enumerate(connections)]

    return join


def gather(ends, processes, arrays) -> list[np.ndarray]:
    shape = jax.ShapeDtypeStruct(arrays[0].shape, arrays[0].dtype)
    taking_part = [(ends[process], array) for process, array in zip(processes, arrays, strict=True)]
    begun = [end.gather(processes, shape, lambda array=array: array) for end, array in taking_part]
    return [gathered.result(10) for gathered in begun]


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, bool, jax.numpy.bfloat16], ids=str)
def test_each_process_gets_the_arrays_of_all(dtype, joined):
    rng, ends = np.random.default_rng(0), joined(3)
    for processes in ((0, 1, 2), (1, 2), (0, 2)):  # those that hold the same examples
        arrays = [rng.normal(size=(2, 3)).astype(dtype) for _ in processes]
        for gathered in gather(ends, processes, arrays):
            np.testing.assert_array_equal(gathered, np.stack(arrays))


def test_arrays_that_no_socket_holds_are_sent_both_ways_at_once(joined):
    arrays = [np.full(1 << 23, value, np.float32) for value in range(2)]
    for gathered in gather(joined(2), (0, 1), arrays):
        np.testing.assert_array_equal(gathered[:, ::4096], np.stack(arrays)[:, ::4096])


def test_rows_leave_before_those_of_others_have_come(joined):
    first, second = joined(2)
    shape = jax.ShapeDtypeStruct((4,), np.float32)
    begun = [first.gather((0, 1), shape, lambda i=i: np.full(4, i, np.float32)) for i in range(3)]
    for i in range(3):
        assert HEADER.unpack(messages.receive(second.connections[0], HEADER.size)) == (i, 16)
        assert messages.receive(second.connections[0], 16) == np.full(4, i, np.float32).tobytes()
    assert not any(gathered.done() for gathered in begun)
    second.connections[0].close()
    with pytest.raises(LostError, match="no connection with process 1: it has closed the connection"):
        begun[0].result(10)


def test_processes_that_gather_different_arrays_are_told(joined):
    first, second = joined(2)
    begun = first.gather((0, 1), jax.ShapeDtypeStruct((4,), np.float32), lambda: np.zeros(4, np.float32))
    second.gather((0, 1), jax.ShapeDtypeStruct((2,), np.float32), lambda: np.zeros(2, np.float32))
    fault = "process 1 sent message 0 of 8 bytes, but message 0 of 16 is due; start the same command on all"
    with pytest.raises(RunError, match=fault):
        begun.result(10)


def test_a_stranger_gets_no_connection(monkeypatch, opened):
    monkeypatch.setattr(messages, "GREETING_SECONDS", 0.2)
    secret, accepted = bytes(range(32)), {}
    with socket.create_server(("127.0.0.1", 0)) as server:
        waiting = threading.Thread(target=lambda: accepted.update(messages.accept(server, secret, {1, 2})))
        waiting.start()
        greetings = (b"", b"GET / HTTP/1.1\r\n" * 3, GREETING.pack(bytes(32), 1), GREETING.pack(secret, 7))
        callers = []
        for greeting in (*greetings, GREETING.pack(secret, 2), GREETING.pack(secret, 1)):
            callers.append(opened.enter_context(socket.create_connection(server.getsockname())))
            callers[-1].sendall(greeting)
        waiting.join(10)
    for connection in accepted.values():
        opened.enter_context(connection)
    for process, caller in zip((2, 1), callers[-2:], strict=True):
        assert accepted[process].getpeername() == caller.getsockname()
    for caller in callers[:-2]:
        caller.settimeout(10)
        with pytest.raises(ConnectionError):
            messages.receive(caller, 1)


def test_processes_that_do_not_come_are_named(monkeypatch):
    monkeypatch.setattr(messages, "WAIT_SECONDS", 0.05)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(LostError, match="no connection with process 1, 3: timed out"),
    ):
        messages.accept(server, bytes(32), {3, 1})
