"""The README's pictures: screenshots of the pages that two commands write.

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
SWEEP = ["-m", "+experiment=many_tasks", "train=false", "num_tasks=2,4,8,16,32", "compare.steps=3"]
SWEEP += ["edition=summed,per_task,split,cached", "hydra.sweep.dir=sweep"]


def take(page: Path, title: str, picture: Path) -> None:
    """A screenshot of the section with that title."""
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
    """Run both commands and take the pictures."""
    with tempfile.TemporaryDirectory() as folder:
        for arguments in (ONE_STEP, SWEEP):
            subprocess.run([sys.executable, "-m", "mtl_accum", *arguments], cwd=folder, check=True)
        take(Path(folder) / "run" / "report.html", "One step", HERE / "one_step.png")
        take(Path(folder) / "sweep" / "sweep.html", "Memory against num_tasks", HERE / "num_tasks.png")


if __name__ == "__main__":
    main()
