"""A watched process ends when its starter lets go of the pipe, and not before; what it starts has an empty stdin."""

import signal
import subprocess
import sys

WATCHING = """
import subprocess, sys, time
from winnow.pipeline.lifeline import end_self, end_with_starter
end_with_starter(end_self)
empty = subprocess.run(["cat"], check=True, capture_output=True).stdout == b""
print("up" if empty else "stdin is not empty", flush=True)
time.sleep(30)
"""


def test_a_process_ends_when_its_starter_lets_go() -> None:
    command = [sys.executable, "-c", WATCHING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watched:
        assert watched.stdin is not None
        assert watched.stdout is not None
        watched.stdin.write("whatever is written is no end\n")
        watched.stdin.flush()
        assert watched.stdout.readline() == "up\n"
        assert watched.poll() is None
        watched.stdin.close()
        assert watched.wait(10) == -signal.SIGTERM
