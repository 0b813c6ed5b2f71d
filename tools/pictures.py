"""Take the README's pictures from the running demo: the claim page in Chromium, the terminal from its real output.

Run with the path of a Chromium: `python tools/pictures.py "$(sh tools/chromium.sh)"`.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
from playwright.sync_api import Page, sync_playwright
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

IMAGES: Final = Path(__file__).resolve().parent.parent / "docs" / "images"
API_PORT, STRIPE_PORT = 8000, 8001
BILLING: Final = f"http://127.0.0.1:{API_PORT}/billing"
FLAGS: Final = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    picture_of_the_terminal()
    with demo(), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=sys.argv[1], args=FLAGS)
        page = browser.new_page(viewport={"width": 720, "height": 560}, device_scale_factor=2)
        pictures_of_the_claim(page)
        browser.close()


def picture_of_the_terminal() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "farebox", "demo", "--smoke", "--folder", folder]
        done = subprocess.run(
            command,
            env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=True,
        )
    console = Console(record=True, width=104, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print("[bold green]$[/] make demo SMOKE=1")
    console.print(Text.from_ansi(done.stderr.rstrip("\n")))
    console.print(done.stdout.rstrip("\n"), highlight=True, soft_wrap=False)
    plain = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    (IMAGES / "terminal.svg").write_text(console.export_svg(title="farebox", code_format=plain, unique_id="farebox"))


def pictures_of_the_claim(page: Page) -> None:
    session = httpx.post(BILLING + "/checkout", json={"plan": "payg"}, trust_env=False).json()
    card = {"card_number": "4242424242424242", "exp": "12/40", "cvc": "123"}
    httpx.post(session["url"], data=card, trust_env=False)
    page.goto(f"{BILLING}/claim?session_id={session['id']}")
    page.get_by_role("button").click()
    page.screenshot(path=IMAGES / "claim.png")


@contextlib.contextmanager
def demo() -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        child = subprocess.Popen([sys.executable, "-m", "farebox", "demo", "--folder", folder])
        try:
            for _ in range(300):
                with contextlib.suppress(httpx.HTTPError):
                    httpx.get(BILLING + "/healthz", trust_env=False).raise_for_status()
                    break
                time.sleep(0.1)
            yield
        finally:
            child.send_signal(signal.SIGINT)
            child.wait(30)


main()
