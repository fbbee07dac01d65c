"""Screenshots: the pictures in the documentation, taken of what this package makes, by Chromium.

python docs/screenshots.py
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent


def report(browser: str, picture: Path) -> None:
    """The report on the demo of images and on the speed of adaptation, as a browser shows it."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        tables = [str(DOCS / "results" / name) for name in ("demo.json", "split-mnist.json")]
        subprocess.run([sys.executable, "-m", "memreplay", "report", *tables, "--out", str(page)], check=True)
        size = ["--window-size=1100,1000", "--hide-scrollbars", "--force-device-scale-factor=1"]
        shot = [browser, "--headless", "--no-sandbox", *size, f"--screenshot={picture}", page.as_uri()]
        subprocess.run(shot, check=True, capture_output=True)


if __name__ == "__main__":
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        sys.exit("chromium was not found; it takes the pictures")
    report(found, Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS / "report.png")
