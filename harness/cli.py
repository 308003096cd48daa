"""The command line. Thin: one subcommand per workflow rule, plus what people call themselves.

Exit codes: 64 wrong usage, 70 internal error, everywhere; `verify` 0 all supported, 1 any refuted,
2 any inconclusive or missing; `compare` 0 nothing changed beyond noise, 1 something did; `speed`,
`train` and `sweep` 1 when a cell ended without a result; `check` 1 when a finding failed;
`doctor` 1 when there is a problem.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib.util
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from harness import __version__
from harness.data.account import Options
from harness.errors import INTERNAL, NO_TORCH, USAGE, Parser, UserError, in_one_line, unknown
from harness.records import schema as records
from harness.records.outcome import outcome
from harness.run.process import die_with_parent, exit_code, interrupted_by, signal_name
from harness.study.check import load_study
from harness.study.find import default_study
from harness.study.manifest import FILE_NAME
from harness.study.schema import Study
from models.registry import RegistryError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    for place, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        if stream is None:
            # Closed by whoever started it, who asks for the exit code alone.
            setattr(sys, place, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # A verdict's mark, or a model's name, may be what a terminal of other letters cannot show.
            stream.reconfigure(errors="replace")
    try:
        _check_command(sys.argv[1:] if arguments is None else arguments)
        options = _parser().parse_args(arguments)
        code = int(options.run(options))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read, `head` for one, has what it wanted; at exit Python would flush once more and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (UserError, RegistryError) as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"error: {in_one_line(error)}; check the path, its rights and the free space", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt as stop:
        print("interrupted; finished records are kept", file=sys.stderr)
        return exit_code(stop)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            print(f"error: {NO_TORCH}", file=sys.stderr)
            return USAGE
        traceback.print_exc()
        print("error: this is a fault of the harness; the lines above say where", file=sys.stderr)
        return INTERNAL


# How `--help` groups the commands, and an example of each group.
_GROUPS = {
    "read records": ("verify report accuracy field compare analyse", "verify results/reference/cpu-2core"),
    "measure": ("init plan sweep cells bench speed train manifest", "plan quick"),
    "machine, data, models": ("doctor data models check completion", "doctor"),
}


def _check_command(arguments: Sequence[str]) -> None:
    """Raise the error for an unknown command before argparse does, with the nearest one."""
    names = [name for group, _ in _GROUPS.values() for name in group.split()]
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        raise unknown("command", arguments[0], names, "`python -m harness --help` says what each does.")


def _overview(texts: dict[str, str]) -> str:
    """All commands by group, for the end of `--help`."""
    width = max(map(len, texts))
    lines = []
    for heading, (names, example) in _GROUPS.items():
        lines += [f"{heading}, for example  python -m harness {example}"]
        lines += [f"  {name:<{width}}  {texts[name]}" for name in names.split()]
        lines.append("")
    return "\n".join([*lines, "python -m harness COMMAND -h says more; docs/commands.md says what to type for what."])


def _parser(prog: str = "python -m harness", *, list_commands: bool = False) -> argparse.ArgumentParser:
    """All commands; with `list_commands` argparse knows their texts too, which `--help` shows by group instead."""
    parser = Parser(
        prog=prog,
        description="Is a fast sequence model really faster, and at what cost?",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", help="one of those below")
    texts: dict[str, str] = {}

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        listed: dict[str, Any] = {"help": text} if list_commands else {}
        command = commands.add_parser(name, description=text, **listed)
        command.set_defaults(run=run)
        texts[name] = text
        return command

    data = add("data", _data, "find or fetch a data set, or read a file: what is in it, its statistics and split hash")
    data.add_argument("dataset", metavar="NAME_OR_FILE")
    data.add_argument("--study", help="study whose data sets and data folder count too")
    data.add_argument("--json", action="store_true")
    own = data.add_argument_group("of a file", "what a study would say of it; what is left out is found in the file")
    _add_file_options(own)
    own.add_argument("--validation", type=Path, metavar="FILE", help="of data that come split, whose train is the file")
    own.add_argument("--test", type=Path, metavar="FILE", help="the same; without --validation it is taken from train")

    for name, kind in (("speed", "speed"), ("train", "training")):
        command = add(name, _cell, f"run one {kind} cell of a study")
        command.set_defaults(kind=kind)
        command.add_argument("--study", default=None, help="name or path (default: after the machine)")
        command.add_argument("--cell", required=True, metavar="LABEL/COORDINATES-DIGEST", help="`cells` lists them")
        command.add_argument("--output", required=True, type=Path, metavar="RECORD")
        command.add_argument("--log", type=Path, help="keep all that the child prints")
        command.add_argument("--die-with-parent", type=int, metavar="PID", help="end when this parent process ends")

    command = add(
        "init", _init, "a new folder with a study of your own model, or of your own data, to edit and measure"
    )
    command.add_argument("folder", type=Path)
    command.add_argument("--data", type=Path, metavar="FILE", help="study shipped models on this file of interactions")
    _add_file_options(command.add_argument_group("of that file", "as `data` has them; what is left out is found in it"))

    command = add("cells", _cells, "list the cells of a study and which of them have a record")
    command.add_argument("study", nargs="?", metavar="STUDY", help="with --stale also a folder of records")
    command.add_argument("--results", type=Path, help="folder of records (default: results/<study>)")
    old = command.add_mutually_exclusive_group()
    old.add_argument("--stale", action="store_true", help="list the records made from other sources, remove none")
    old.add_argument("--remove-stale", action="store_true", help="remove these records, and nothing else")

    command = add("sweep", _sweep, "run all missing cells of a study without Snakemake, most informative first")
    command.add_argument("study", nargs="?")
    command.add_argument("--minutes", help="stop in time")
    command.add_argument(
        "--workers",
        choices=["fork", "fresh"],
        help="fork cells from a process that has imported torch, or start each by itself (default: fork if it works)",
    )
    command.add_argument(
        "--gpus", metavar="all|N,…", help="measure on these GPUs side by side, one cell at a time on each"
    )
    command.add_argument(
        "--cpu-sets",
        metavar="CORES",
        nargs="+",
        default=[],
        help="measure on these sets of cores side by side, such as  --cpu-sets 0-3 4-7 ; with --gpus one for each",
    )
    command.add_argument("--results", type=Path, help="folder of records (default: results/<study>)")
    command.add_argument("--data", type=Path, help="folder of real data (default: what HYENAREC_DATA names)")
    command.add_argument("--commit", help="commit of these files, where they are a copy without its git folder")
    part = command.add_mutually_exclusive_group()
    part.add_argument("--kind", choices=["speed", "training"], help="only these cells")
    part.add_argument(
        "--phases",
        metavar="NAME[=MINUTES],…",
        help="with --archive: in this order, of tests (those marked gpu), speed, training, bench (the operator)",
    )
    command.add_argument(
        "--archive",
        type=Path,
        metavar="FILE",
        help="keep all records in this .tar.gz, renewed once a minute, logs beside",
    )
    command.add_argument(
        "--resume", type=Path, metavar="ARCHIVE", help="first unpack the records of an earlier command's archive"
    )
    command.add_argument("--bench-elements", type=int, metavar="N", help="positions a batch of the phase bench")

    command = add(
        "manifest", _manifest, "write a study with its claims and cells as JSON, as it lies beside its records"
    )
    command.add_argument("study", nargs="?")
    command.add_argument("--output", required=True, type=Path)

    command = add("analyse", _analyse, "fits, comparisons and verdicts of a folder of records, as JSON")
    command.add_argument("folder", type=Path)
    command.add_argument("--output", required=True, type=Path)

    command = add("report", _report, "the PDF of a folder of records, or of an analysis file; never measures")
    command.add_argument("folder", type=Path, metavar="DIR_OR_ANALYSIS")
    command.add_argument("--output", type=Path, help="default: reports/<the folder's name>.pdf")
    command.add_argument("--figures", type=Path, help="also write the figures as SVG into this folder")

    command = add("verify", _verify, "the verdict table; exit 0 all supported, 1 any refuted, 2 otherwise")
    command.add_argument("folder", nargs="?", type=Path, help="default: results/cpu, or results/gpu with a GPU")
    form = command.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true")

    command = add("accuracy", _accuracy, "test NDCG@10 of every model in one or several folders of records")
    command.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    command.add_argument("--markdown", action="store_true")
    command.add_argument("--figure", type=Path, metavar="FILE", help="also draw it: .svg, .png or .pdf")

    command = add("field", _field, "claims of papers: as published, by their own tables, here, and what differs")
    command.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    command.add_argument("--markdown", action="store_true")

    command = add("compare", _compare, "two folders of records side by side; exit 1 if anything changed beyond noise")
    command.add_argument("first", type=Path, metavar="FOLDER")
    command.add_argument("second", type=Path, metavar="FOLDER")
    command.add_argument("--json", action="store_true")

    command = add("bench", _bench, "time the convolution operator: FFT, tree, dense and attention over lengths")
    command.add_argument("--quick", action="store_true", help="one kernel order, layout and pass: under a minute")
    command.add_argument("--elements", type=int, metavar="N", help="positions a batch (default: 65536)")
    command.add_argument("--threads", type=int, default=1, help="threads of the measuring processes (default: 1)")
    command.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="(default: cpu)")
    command.add_argument("--output", type=Path, metavar="FILE", help="also write the record there: samples only")
    command.add_argument("--json", action="store_true", help="print rows and slopes as JSON instead of the table")

    command = add("plan", _plan, "what a study would run, on what, for how long, and which claims it can rule on")
    command.add_argument("study", nargs="?")
    command.add_argument("--results", type=Path, help="folder of records (default: results/<study>)")
    command.add_argument(
        "--no-calibration", action="store_true", help="time nothing: only records of a like machine count"
    )
    command.add_argument("--json", action="store_true")

    command = add("doctor", _doctor, "what this machine has for measuring and lacks; exit 1 if there is a problem")
    command.add_argument("--no-noise", action="store_true", help="leave out the ten seconds of timing")
    command.add_argument("--json", action="store_true")

    command = add("models", _models, "what is registered")
    command.add_argument("--json", action="store_true")

    command = add("check", _check, "the conformance suite for one model")
    command.add_argument("model")

    command = add("completion", _completion, "a script that completes the command `harness` in your shell")
    command.add_argument("shell", choices=["bash", "zsh"], help='such as  eval "$(harness completion bash)"')
    parser.epilog = _overview(texts)
    return parser


# What a study may say of a file, and these commands take as options.
_OF_FILE = ("format", *Options.__struct_fields__)


def _add_file_options(group: argparse._ArgumentGroup) -> None:
    """What a study would say of a file."""
    group.add_argument("--format", help="such as table, pairs or sequences")
    for role in ("user", "item", "time"):
        group.add_argument(f"--{role}", metavar="COLUMN", type=_column, help=f"name or number of the {role}s' column")
    group.add_argument("--order", choices=["time", "lines"], help="of a user's events (default: time)")
    group.add_argument("--rating", metavar="COLUMN", type=_column, help="name or number of the ratings' column")
    group.add_argument("--least-rating", metavar="RATING", type=float, help="leave smaller ratings out (default: none)")
    group.add_argument("--ties", choices=["file", "hashed"], help="order of events of one time (default: file)")
    group.add_argument("--separator", metavar="CHARACTER")
    group.add_argument("--encoding", help="(default: utf-8)")


def _said_of_file(options: argparse.Namespace) -> dict[str, Any]:
    """Those of them that were given."""
    said = {name: getattr(options, name) for name in _OF_FILE}
    return {name: value for name, value in said.items() if value is not None}


@contextlib.contextmanager
def _options_in_words() -> Iterator[None]:
    """What is refused says what to write in a study; here the same is typed as options."""
    try:
        yield
    except UserError as error:
        typed = [_as_options(written) for written in re.findall(r"`([^`]*)`", str(error))]
        if not any(typed):
            raise
        raise UserError(f"{error}; here type  {'  or  '.join(filter(None, typed))}") from None


def _as_options(written: str) -> str:
    """`user: NAME, order: lines` as options; "" where it is something else."""
    try:
        found = yaml.safe_load(f"{{{written}}}")
    except yaml.YAMLError:
        return ""
    if not isinstance(found, dict) or not found or not all(name in _OF_FILE and value for name, value in found.items()):
        return ""
    return " ".join(f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in found.items())


def _study(name: str | None) -> Study:
    return load_study(name or default_study())


def _column(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def _data(options: argparse.Namespace) -> int:
    from harness.data.summary import as_json, as_text, figures, of_file

    study = load_study(options.study) if options.study else None
    sources = study.sources() if study else Study(name="none").sources()
    said = _said_of_file(options)
    held_out = {part: getattr(options, part) for part in ("validation", "test") if getattr(options, part)}
    if options.dataset in sources:
        if vain := [*said, *held_out]:
            raise UserError(f"'{options.dataset}' is a data set, so --{vain[0]} means nothing; it is for files")
        found = figures(options.dataset, sources[options.dataset], study.data_folder if study else None)
    elif Path(options.dataset).is_file():
        with _options_in_words():
            found = of_file(Path(options.dataset), said, held_out)
    elif {"/", "."} & set(options.dataset):
        raise UserError(f"there is no file {Path(options.dataset).resolve()}{_near_file(Path(options.dataset))}")
    else:
        raise unknown("data set", options.dataset, sources, "Or give the path of a file.")
    print(as_json(found) if options.json else as_text(found))
    return 0


def _near_file(path: Path) -> str:
    """The nearest name in its folder, as a question."""
    names = [entry.name for entry in path.parent.iterdir() if entry.is_file()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f". Did you mean '{path.parent / near[0]}'?" if near else "; correct the path"


def _cell(options: argparse.Namespace) -> int:
    from harness.records.spec import TrainingSpec
    from harness.run.supervisor import failed_before
    from harness.run.sweep import find, prepare_data, run
    from harness.study.cells import Cell

    _end_with(options.die_with_parent)
    study = _study(options.study)
    cell = find(study, options.kind, options.cell, typed=options.study or study.name)
    if isinstance(cell, Cell) and (before := failed_before(options.output)):
        print(f"error: {cell.key} failed in an earlier attempt, so not tried again: {before.detail}", file=sys.stderr)
        return 1
    if isinstance(cell, Cell) and isinstance(cell.spec, TrainingSpec):
        prepare_data(study, cell.spec.dataset)
    result = run(study, cell, options.output, log=options.log)
    print(f"{options.output}: {outcome(result)}")
    if result.status in records.FINAL:
        return 0
    print(f"error: {cell.key}: {result.status}: {result.detail}", file=sys.stderr)
    return 1


def _end_with(parent: int | None) -> None:
    if parent is not None:
        die_with_parent(parent)
    # A workflow engine ends its jobs with TERM: leave as from an exception, so that nothing stays behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def _init(options: argparse.Namespace) -> int:
    from harness.study.lay_out import lay_out

    said = _said_of_file(options)
    if options.data is None and said:
        raise UserError(f"--{next(iter(said)).replace('_', '-')} is of a file; add `--data FILE`, or leave it out")
    with _options_in_words():
        paths = lay_out(options.folder, options.data, said)
    for path in paths:
        print(path)
    study = shlex.quote(str(paths[0]))
    if options.data is None:
        print(f"next: cd {shlex.quote(str(options.folder))}, and type the commands of its README.md")
    elif Path("Snakefile").is_file():
        print(f"next: make report STUDY={study}  (or  snakemake reports/scaling.pdf --cores 2 --config study={study})")
    else:
        results = shlex.quote(str(Path("results") / options.folder.resolve().name))
        print(f"next: python -m harness sweep {study}, then  python -m harness report {results}")
    return 0


def _cells(options: argparse.Namespace) -> int:
    from harness.records.spec import SpeedSpec
    from harness.run.sweep import changed_data, tasks
    from harness.study.cells import Cell

    asks_stale = options.stale or options.remove_stale
    # Records of another machine or time have no study of their name here, and none is needed to list stale ones.
    if asks_stale and options.results is None and options.study and Path(options.study, FILE_NAME).is_file():
        return _stale(Path(options.study), remove=options.remove_stale)
    study = _study(options.study)
    folder = options.results or Path("results") / study.name
    if asks_stale:
        return _stale(folder, remove=options.remove_stale)
    changed, wanted = changed_data(study, folder), tasks(study)
    partners = {
        cell.key: cell.spec.partner.label
        for cell in wanted
        if isinstance(cell, Cell) and isinstance(cell.spec, SpeedSpec)
    }
    # A card with a challenger of its own asks for cells beside that one, whose names differ in their keys alone.
    several = len(set(partners.values())) > 1
    for cell in wanted:
        word = "changed" if cell.key in changed else "done   " if (folder / cell.path).is_file() else "missing"
        beside = f" against {partners[cell.key]}" if several and cell.key in partners else ""
        print(f"{word} {cell.kind:8} {cell.key}{beside}")
    _warn_of_data(changed, folder)
    return 0


def _warn_of_data(changed: dict[str, Path], folder: Path) -> None:
    for file in sorted(set(changed.values())):
        count = sum(other == file for other in changed.values())
        print(
            f"warning: {count} records in {folder} were measured on another content of {file.absolute()}; "
            "put that file back, or remove them to measure again",
            file=sys.stderr,
        )


def _stale(folder: Path, *, remove: bool) -> int:
    from harness.analysis.load import load
    from harness.analysis.stale import listing, remove_stale, stale, stale_operator, untold

    loaded = load(folder)
    names = remove_stale(folder) if remove else [*stale(loaded), *stale_operator(folder)]
    print(listing(folder, names, untold(loaded), removed=remove))
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from harness.run import session
    from harness.run.beside.places import places
    from harness.run.sweep import changed_data, sweep

    study = _study(options.study)
    folder = options.results or Path("results") / study.name
    minutes = None if options.minutes is None else session.read_minutes(options.minutes)
    phases = session.read_phases(options.phases or options.kind or "speed,training")
    chosen = places(study, options.gpus, options.cpu_sets)
    if options.archive is not None and chosen:
        raise UserError("--gpus and --cpu-sets are of a sweep without --archive; leave one of them out")
    if options.archive is None and (options.phases or options.bench_elements):
        raise UserError("--phases and --bench-elements need --archive FILE, in which the records are kept")
    session.name_sources(options.data, options.commit)
    if options.resume is not None:
        print(
            f"{session.resume(options.resume, folder, study.name)} files of {options.resume} unpacked into {folder}",
            flush=True,
        )
    _warn_of_data(changed_data(study, folder), folder)
    if options.archive is not None:
        _end_with(None)
        here = session.Session(
            study=study,
            typed=options.study or study.name,
            records=folder,
            archive=options.archive,
            minutes=minutes,
            workers=options.workers,
            bench_elements=options.bench_elements,
        )
        return 0 if here.run(phases) else 1
    interrupted_by(signal.SIGTERM, signal.SIGHUP)
    try:
        done = sweep(study, folder, minutes=minutes, kind=options.kind, workers=options.workers, places=chosen)
    except KeyboardInterrupt as stop:
        print(f"interrupted; finished records are kept in {folder}, the same command goes on", file=sys.stderr)
        return exit_code(stop)
    print(done.summary())
    for line in done.errors():
        print(f"error: {line}", file=sys.stderr)
    return 1 if done.failed else 0


def _manifest(options: argparse.Namespace) -> int:
    from harness.study.manifest import manifest

    records.write_atomic(options.output, records.encode(manifest(_study(options.study))))
    return 0


def _analyse(options: argparse.Namespace) -> int:
    from harness.analysis.analyse import write

    write(_fresh(options.folder), options.output)
    return 0


def _analysis(path: Path) -> Any:
    from harness.analysis.analyse import read

    if path.is_file():
        return read(path)
    if not path.is_dir():
        raise UserError(
            f"{path.absolute()} is neither a folder of records nor an analysis file; your own lie at results/STUDY, "
            "after `make report`, committed ones in results/reference"
        )
    return _fresh(path)


def _fresh(path: Path) -> Any:
    from harness.analysis.analyse import analyse

    analysis = analyse(path)
    _warn([*analysis.problems.refused, *analysis.problems.other_split], str(path))
    return analysis


def _warn(files: Sequence[Any], folder: str) -> None:
    for file in files:
        print(f"warning: {in_one_line(f'{folder}/{file.path}: {file.message}')}", file=sys.stderr)


def _report(options: argparse.Namespace) -> int:
    from harness.report import document
    from harness.report.page import build as page

    folder = options.folder.parent if options.folder.is_file() else options.folder
    # Not the workflow's own document: it would pass for the one of the study measured here.
    output = options.output or Path("reports") / f"{folder.resolve().name}.pdf"
    analysis = _analysis(options.folder)
    document.build(analysis, output, figures_folder=options.figures)
    page.build(analysis, output.with_suffix(".html"), records=folder)
    print(f"{output}\n{output.with_suffix('.html')}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from harness.report.verdict_table import threat_list, verdict_markdown, verdict_table
    from harness.report.verdicts_json import document

    analysis = _analysis(options.folder or Path("results") / default_study())
    if options.json:
        print(document(analysis))
    elif options.markdown:
        print(verdict_markdown(analysis))
    else:
        print(verdict_table(analysis))
        if threats := threat_list(analysis):
            print(threats)
    words = {claim.overall.verdict for claim in analysis.claims}
    return 1 if "refuted" in words else 2 if words & {"inconclusive", "missing"} else 0


def _accuracy(options: argparse.Namespace) -> int:
    from harness.report.accuracy_table import accuracy_figure, accuracy_markdown, accuracy_table

    if options.figure is not None and options.figure.suffix not in (".svg", ".png", ".pdf"):
        raise UserError(f"--figure {options.figure}: the name must end in .svg, .png or .pdf")
    found = [_analysis(folder) for folder in options.folders]
    if options.figure is not None:
        accuracy_figure(found, options.figure)
    print(accuracy_markdown(found) if options.markdown else accuracy_table(found), end="" if options.markdown else "\n")
    return 0


def _field(options: argparse.Namespace) -> int:
    from harness.report.field_table import field_markdown, field_table

    found = [_analysis(folder) for folder in options.folders]
    print(field_markdown(found) if options.markdown else field_table(found), end="" if options.markdown else "\n")
    return 0


def _compare(options: argparse.Namespace) -> int:
    from harness.analysis.compare import compare, document
    from harness.report.comparison_table import comparison_table

    found = compare(options.first, options.second)
    for own in (found.first, found.second):
        _warn(own.refused, own.name)
    print(document(found) if options.json else comparison_table(found))
    return 1 if found.changed else 0


def _bench(options: argparse.Namespace) -> int:
    from harness.analysis.estimates.operator import operator_bench
    from harness.report.operator_table import operator_table
    from harness.run.operator.bench import bench, settings

    record = bench(
        settings(quick=options.quick, elements=options.elements, threads=options.threads, device=options.device)
    )
    if options.output is not None:
        records.write(record, options.output)
    found = operator_bench(record)
    print(records.encode(found).decode() if options.json else operator_table(found), end="" if options.json else "\n")
    if record.status == "ok":
        return 0
    print(f"error: {record.status}: {record.detail}", file=sys.stderr)
    return 0 if record.status in records.FINAL else 1


def _plan(options: argparse.Namespace) -> int:
    from harness.plan.study_plan import plan, table

    study = _study(options.study)
    found = plan(study, options.results or Path("results") / study.name, calibrate=not options.no_calibration)
    typed = options.study or study.name
    print(records.encode(found).decode() if options.json else table(found, typed), end="" if options.json else "\n")
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from harness.plan import doctor

    found = []
    for finding in doctor.findings(0.0 if options.no_noise else doctor.NOISE_SECONDS):
        found.append(finding)
        if not options.json:
            print(doctor.line(finding), flush=True)
    print(records.encode(found).decode() if options.json else doctor.summary(found), end="" if options.json else "\n")
    return 1 if any(finding.state == "problem" for finding in found) else 0


def _models(options: argparse.Namespace) -> int:
    from harness.conformance.inventory import inventory, table

    unusable: list[str] = []
    rows = inventory(unusable)
    print(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode() if options.json else table(rows))
    for line in unusable:
        print(f"warning: {in_one_line(line)}", file=sys.stderr)
    return 0


def _completion(options: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(_parser("harness", list_commands=True), options.shell))
    return 0


def _check(options: argparse.Namespace) -> int:
    from harness.run.workers import command
    from models import registry

    if options.model not in registry.names():
        raise unknown("model", options.model, registry.names())
    if importlib.util.find_spec("torch") is None:
        raise UserError(NO_TORCH)
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        result = Path(folder) / "findings.json"
        # In a child: a model that ends its process would end these lines with it, and look as if it had passed.
        code = subprocess.run(command("harness.conformance.child", options.model, str(result)), check=False).returncode
        if not result.is_file():
            how = f"killed by {signal_name(-code)}" if code < 0 else f"exit status {code}"
            print(f"FAILED  {'stays':28} {options.model} ended the process of its checks before they were done ({how})")
            return 1
        findings = msgspec.json.decode(result.read_bytes())
    for finding in findings:
        print(f"{'passed' if finding['passed'] else 'FAILED'}  {finding['test']:28} {finding['detail']}")
    return 0 if all(finding["passed"] for finding in findings) else 1
