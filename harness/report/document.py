"""The PDF: reports/scaling.typ with the sections, their figures and data, compiled in a folder of its own."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import typst
from matplotlib.ft2font import FT2Font

from harness.analysis.results import Analysis
from harness.errors import UserError
from harness.records.schema import encode, write_atomic
from harness.report.drawing import looks_of
from harness.report.section import figures, layout, sections, seen, words
from harness.report.theme import font_folder
from harness.study.find import resource

TEMPLATE = "scaling.typ"
LIBRARY = Path(__file__).with_name("lib.typ")
# Archival and accessible: fonts embedded, figures and formulas described, tables tagged.
STANDARDS: list[Any] = ["a-2a", "ua-1"]


def build(analysis: Analysis, output: Path, *, figures_folder: Path | None = None) -> None:
    """Write the report; identical analyses give identical bytes.

    Args:
        analysis: What the report says.
        output: The PDF, replaced in one step once it is complete.
        figures_folder: Also write the figures there, as SVG.

    Raises:
        UserError: The template is missing or does not compile without warnings.
    """
    with tempfile.TemporaryDirectory(prefix="report-") as name:
        folder = Path(name)
        source = assemble(analysis, folder)
        pdf = render(source)
        if figures_folder is not None:
            for path in sorted(folder.glob("*.svg")):
                write_atomic(figures_folder / path.name, path.read_bytes())
    write_atomic(output, pdf)


def assemble(analysis: Analysis, folder: Path) -> Path:
    """Write all that Typst reads into `folder`: analysis.json, report.json, the figures, and what is written here.

    A section `<name>` has `<name>.typ`, maybe `<name>-tables.typ`, and `<name>.json`; what they share lies in lib.typ.

    Returns:
        The template's copy, ready to be compiled.
    """
    template = resource(f"reports/{TEMPLATE}")
    analysis = msgspec.convert(_displayable(msgspec.to_builtins(analysis)), Analysis)
    drawn = [path.stem for path in figures(analysis, folder)]
    colours = {label: style.colour for label, style in looks_of(analysis).items()}
    (folder / "analysis.json").write_bytes(encode(analysis))
    report = {"figures": drawn, "colours": colours, "see": seen(analysis), **layout(analysis, set(drawn))}
    (folder / "report.json").write_bytes(encode(report))
    for name, section in sections().items():
        (folder / f"{name}.json").write_bytes(encode(section.data(analysis)))
        # Named like the section, which may be another name than the file's in a package.
        for path, suffix in zip(words(name), ("", "-tables"), strict=False):
            shutil.copyfile(path, folder / f"{name}{suffix}.typ")
    shutil.copyfile(LIBRARY, folder / LIBRARY.name)
    return Path(shutil.copyfile(template, folder / TEMPLATE))


def render(source: Path) -> bytes:
    """Compile an assembled folder to PDF, offline and with no fonts but matplotlib's and Typst's.

    Raises:
        UserError: Typst reports an error or a warning.
    """
    try:
        pdf, warnings = typst.compile_with_warnings(
            str(source),
            format="pdf",
            root=str(source.parent),
            font_paths=[str(font_folder())],
            ignore_system_fonts=True,
            timestamp=0,
            pdf_standards=STANDARDS,
        )
    except typst.TypstError as error:
        raise UserError(f"the report does not compile: {error.diagnostic}; correct that .typ file") from None
    if warnings:
        raise UserError(f"the report compiles with a warning: {warnings[0].diagnostic}; correct that .typ file")
    return bytes(pdf)


def _displayable(value: Any) -> Any:
    """The same JSON value with characters that no font here can show written by code point.

    Labels and error messages may hold anything; the archival standard refuses missing glyphs.
    """
    if isinstance(value, str):
        shown = _characters()
        return "".join(c if ord(c) in shown else " " if c in "\n\r\t" else f"\\u{ord(c):04x}" for c in value)
    if isinstance(value, dict):
        return {_displayable(key): _displayable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_displayable(item) for item in value]
    return value


@cache
def _characters() -> frozenset[int]:
    known = FT2Font(str(font_folder() / "DejaVuSans.ttf")).get_charmap()
    return frozenset(code for code in known if chr(code).isprintable())
