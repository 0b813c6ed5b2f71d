"""The demo, as the README has it typed: from nothing to a paid invoice and a key that no longer works."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.e2e.stack import HOST, free_port, until

FIGURES = {"calls": 25, "usage": 25, "reported": 25, "upcoming_total": 2500, "paid_total": 2500}


def demo(
    folder: Path, *more: str, port: int, sandbox_port: int, in_background: bool = False
) -> "subprocess.Popen[str]":
    """Start it; `in_background` as a shell starts a job with &, which ignores Ctrl-C until told otherwise."""
    ports = ["--port", str(port), "--sandbox-port", str(sandbox_port)]
    command = [sys.executable, "-m", "farebox", "demo", *ports, "--folder", str(folder), *more]
    ignoring = (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if in_background else None
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=ignoring)


def test_the_smoke_journey(tmp_path: Path) -> None:
    """Checkout to cancelled key over real HTTP: 25 calls are 25 units and 25.00 paid, then 402.

    Nothing is left running.
    """
    port, sandbox_port = free_port(), free_port()
    out, err = demo(tmp_path / "demo", "--smoke", port=port, sandbox_port=sandbox_port).communicate(timeout=110)
    figures = json.loads(out.splitlines()[-1])
    assert figures.pop("seconds") > 0
    assert figures == {**FIGURES, "after_cancel_status": 402}, err
    for number in (port, sandbox_port):
        with socket.socket() as probe:
            assert probe.connect_ex((HOST, number)) != 0


def test_the_demo_stays_open_until_it_is_stopped(tmp_path: Path) -> None:
    """It says what to open and paste; a second start in the same folder is refused in words; Ctrl-C ends all of it."""
    folder, port, sandbox_port = tmp_path / "demo", free_port(), free_port()
    running = demo(folder, port=port, sandbox_port=sandbox_port, in_background=True)
    try:
        until(lambda: httpx.get(f"http://{HOST}:{port}/billing/", trust_env=False).is_success, "the demo starts")
        second = demo(folder, port=free_port(), sandbox_port=free_port())
        said = second.communicate(timeout=60)[1]
        assert second.returncode == 1
        assert "already runs in" in said
        assert "Traceback" not in said
    finally:
        running.send_signal(signal.SIGINT)
        told = running.communicate(timeout=60)[1]
    assert running.returncode == 0
    assert f"http://{HOST}:{port}/billing/" in told
    assert f"http://{HOST}:{sandbox_port}/" in told
    assert "curl -H" in told
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{HOST}:{port}/health", trust_env=False)


@pytest.mark.parametrize("which", ["port", "sandbox_port"])
def test_a_busy_port_is_said(tmp_path: Path, which: str) -> None:
    """Something else on either port: which one it is and what to do, without a stack trace and without a start."""
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        busy = int(other.getsockname()[1])
        ports = {"port": free_port(), "sandbox_port": free_port(), which: busy}
        refused = demo(tmp_path / "demo", port=ports["port"], sandbox_port=ports["sandbox_port"])
        said = refused.communicate(timeout=60)[1]
    assert refused.returncode == 1
    assert f"Port {busy} is in use" in said
    assert "--sandbox-port" in said
    assert "Traceback" not in said


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """The demo names the folder it cannot write to and the option that chooses another."""
    (tmp_path / "file").write_text("not a folder")
    refused = demo(tmp_path / "file" / "demo", port=free_port(), sandbox_port=free_port())
    said = refused.communicate(timeout=60)[1]
    assert refused.returncode == 1
    assert "cannot write" in said
    assert "--folder" in said
    assert "Traceback" not in said
