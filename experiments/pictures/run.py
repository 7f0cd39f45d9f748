"""Picture of one step for the README: a screenshot of the report's page.

python -m experiments.pictures.run      # from the repository's root; needs chromium and chromedriver
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By

HERE = Path(__file__).parent
ONE_STEP = ["+experiment=two_task", "+edition@compare.editions.cached=cached", "hydra.run.dir=run"]


def take(page: Path, title: str, picture: Path) -> None:
    """Take a screenshot of the section with a title."""
    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", "window-size=1100,1400"):
        options.add_argument(f"--{argument}")
    options.binary_location = shutil.which("chromium") or ""
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(page.as_uri())
        browser.find_element(By.XPATH, f"//section[h2[text()='{title}']]").screenshot(str(picture))
    finally:
        browser.quit()


def main() -> None:
    """Run the command and take the picture."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "mtl_accum", *ONE_STEP], cwd=folder, check=True)
        take(Path(folder) / "run" / "report.html", "One step", HERE / "one_step.png")


if __name__ == "__main__":
    main()
