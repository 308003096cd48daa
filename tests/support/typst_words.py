"""What a document of the report says, without a reader of PDF."""

import json

import typst

from harness.report.theme import font_folder


def words_of(source, selector):
    """All text of the elements that a selector finds, as one string."""
    found = typst.query(
        str(source), selector, root=str(source.parent), font_paths=[str(font_folder())], ignore_system_fonts=True
    )
    parts = []

    def collect(value):
        if isinstance(value, dict):
            if value.get("func") == "text":
                parts.append(str(value["text"]))
            elif value.get("func") == "space":
                parts.append(" ")
            for item in value.values():
                collect(item)
        elif isinstance(value, list):
            for item in value:
                collect(item)

    collect(json.loads(found))
    return "".join(parts)
