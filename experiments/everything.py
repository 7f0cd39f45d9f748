"""All studies on one device, one after the other.

python -m experiments.everything                    # the CPU's, as they are committed
python -m experiments.everything --device cuda      # at full size, with NVML beside the allocator, into folders `cuda`
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
# First the studies with `--device`; the others run on the CPU only. TorchJD and the peers are rows with a reason where
# they are not installed: see peers/requirements-peers.txt.
ANY_DEVICE = ("limit", "tasks", "batch", "peers")
CPU_ONLY = ("two_task", "full_size", "loop", "overhead", "same_result", "exactness")
CUDA_ONLY = ("cuda",)  # meters and predictions, every edition on three networks


def commands(device: str) -> dict[str, list[str]]:
    """Return the command lines by study.

    Args:
        device: Type of the device, "cpu" or "cuda".
    """
    names = (*ANY_DEVICE, *CPU_ONLY) if device == "cpu" else (*CUDA_ONLY, *ANY_DEVICE)
    programs = {}
    for name in names:
        options = (
            [] if device == "cpu" or name in CUDA_ONLY else ["--device", device, "--folder", str(HERE / name / device)]
        )
        programs[name] = [sys.executable, "-m", f"experiments.{name}.run", *options]
    return programs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the studies; exit with 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", nargs="+", metavar="STUDY", help="some of them")
    asked = parser.parse_args(arguments)
    known = commands(asked.device)
    unknown = sorted(set(asked.only or []) - set(known))
    if unknown:
        parser.error(f"--only: expected some of {', '.join(known)}; found {', '.join(unknown)}")
    failed = []
    for name in asked.only or known:
        start = time.perf_counter()
        done = subprocess.run(known[name], check=False)
        status = "done" if done.returncode == 0 else f"failed with {done.returncode}"
        print(f"{name}: {status} after {time.perf_counter() - start:.0f} s", flush=True)
        failed += [name] if done.returncode else []
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
