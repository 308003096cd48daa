"""docs/gpu.md: `python -m harness sweep STUDY --archive FILE …` on a bare machine, after saying what it lacks."""

import importlib.util
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from harness.errors import USAGE, Parser

# Import name → what pip calls it; nothing else is imported by what runs here.
NEEDED = {name: name for name in ("torch", "numpy", "scipy", "msgspec", "filelock")} | {"yaml": "pyyaml"}
NEEDED_FOR = {"cuda": {"pynvml": "nvidia-ml-py"}, "tests": {"pytest": "pytest", "hypothesis": "hypothesis"}}


def main(arguments: list[str]) -> int:
    """Exit code of the sweep; 64 where something is missing."""
    parser = Parser(description=__doc__, epilog="What the options mean: `python -m harness sweep --help`.")
    parser.add_argument("phases", nargs="+", metavar="PHASE[=MINUTES]")
    passed = ("minutes", "results", "resume", "data", "commit", "workers", "bench-elements")
    defaults = {"study": "gpu-half-hour", "output": "gpu-out", "device": "cuda", "minutes": "9.5"}
    for name in dict.fromkeys((*defaults, *passed)):
        parser.add_argument(f"--{name}", default=defaults.get(name))
    given = vars(parser.parse_args(arguments))
    used = [given["device"], *(word.partition("=")[0] for word in given["phases"])]
    wanted = NEEDED | {module: package for key in used for module, package in NEEDED_FOR.get(key, {}).items()}
    if lacking := [package for module, package in wanted.items() if importlib.util.find_spec(module) is None]:
        words = f"lacks {', '.join(lacking)}; type  {sys.executable} -m pip install {' '.join(lacking)}"
    elif given["device"] == "cuda" and shutil.which("nvidia-smi") is None:
        words = "finds no NVIDIA driver (nvidia-smi); `--device cpu` rehearses with a study for it"
    else:
        from harness.cli import main as harness

        archive = Path(given["output"]) / f"{Path(given['study']).stem}.tar.gz"
        options = [f"--{name}={value}" for name in passed if (value := given[name.replace("-", "_")]) is not None]
        phases = ",".join(given["phases"])
        return harness(["sweep", given["study"], "--phases", phases, "--archive", str(archive), *options])
    print(f"error: {sys.executable} {words}", file=sys.stderr)
    return USAGE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
