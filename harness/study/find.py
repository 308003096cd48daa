"""Where studies and other shipped files lie: the working directory, the checkout, or the wheel."""

from __future__ import annotations

from pathlib import Path

from harness.errors import UserError, unknown
from harness.records.environment import has_gpu


def resource(name: str) -> Path:
    """A file shipped with the project: of the working directory, the checkout, or the wheel.

    Args:
        name: Path such as `workflow/studies/cpu.yaml`.
    """
    for folder in _resource_folders():
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"no '{name}' in {Path.cwd()} or beside the installed package; reinstall the package")


def _resource_folders() -> tuple[Path, ...]:
    package = Path(__file__).resolve().parents[1]
    return Path.cwd(), package.parent, package / "_resources"


def named(folder: str, suffix: str = ".yaml") -> list[str]:
    """Files that can be named without a path.

    Args:
        folder: Such as `workflow/studies`.
        suffix: What their names end in.
    """
    return sorted({p.stem for place in _resource_folders() for p in (place / folder).glob(f"*{suffix}")})


def study_names() -> list[str]:
    """Studies that can be named without a path."""
    return named("workflow/studies")


def default_study() -> str:
    """The study that follows the machine: `gpu` with one, `cpu` without."""
    return "gpu" if has_gpu() else "cpu"


def find_study(name_or_path: str) -> Path:
    """The file of a study named by name or by path."""
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if not path.is_file():
            raise UserError(
                f"no study file '{name_or_path}'; name an existing YAML file or one of: {', '.join(study_names())}"
            )
        return path
    if name_or_path not in study_names():
        raise unknown("study", name_or_path, study_names(), "Or give the path of a YAML file.")
    return resource(f"workflow/studies/{name_or_path}.yaml")
