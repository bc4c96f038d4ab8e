"""Time waited for data, and progress where there is no screen."""

import threading
import time

from train import clock


class Step:
    """Stands for an array that is there after some seconds."""

    def __init__(self, seconds):
        self.ready = threading.Event()
        threading.Timer(seconds, self.ready.set).start()

    def block_until_ready(self):
        self.ready.wait()
        return self


def slow(seconds):
    while True:
        time.sleep(seconds)
        yield None


def test_what_a_batch_takes_beside_the_step_before_is_no_waiting():
    """Loader and step work side by side: of a batch of 0.9 s and a step of 0.4 s, 0.5 s is waiting; of one of 0.1 s, nothing."""
    for of_batch, waited in ((0.9, 0.5), (0.1, 0.0)):
        timed, batches = clock.Clock(), slow(of_batch)
        timed.next_of(batches)
        step = Step(0.4)
        timed.started(step)
        timed.next_of(batches)
        step.block_until_ready()
        timed.count(1.0)
        assert abs(timed.waited - waited) < 0.2, (of_batch, timed.waited)


def test_progress_in_a_file_is_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(clock, "SAY_EVERY", 0.0)
    progress = clock.Progress(10, 40)
    time.sleep(0.1)
    progress.at(11, 0.5)
    progress.at(12, 0.25)
    progress.close()
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("training: 11/40 [00:00<00:0")
    assert second.startswith("training: 12/40 [")
    assert second.endswith("loss=0.25]")
