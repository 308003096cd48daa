"""Ids of users and items as text: which are none, their order, and those that look alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

# What programs write where a value is missing. An id of that name cannot be told from it.
MISSING = frozenset({"", "nan", "NaN", "NAN", "null", "NULL", "None", "NA", "N/A", "<NA>", "\\N"})
_SHOWN = 3


def _words(text: str) -> list[str]:
    return text.split()


# Names of columns, without case and signs, the surest first.
USERS = _words(
    "user userid uid userids reviewerid visitorid customerid memberid accountid playerid steamid username customer "
    "visitor reviewer member session sessionid buyerid clientid client shopperid"
)
ITEMS = _words(
    "item itemid iid itemids parentasin asin movieid productid product isbn bookid videoid trackid songid artistid "
    "gameid appid articleid newsid businessid locationid poiid venueid sku movie book track song artist game "
    "productsku itemsku skuid productcode itemcode stockcode"
)
TIMES = _words(
    "timestamp unixreviewtime unixtimestamp unixtime timems timestampms time datetime eventtime eventtimestamp ts "
    "date createdat playedat reviewtime ratedat purchasedat orderedat boughtat soldat viewedat clickedat watchedat "
    "listenedat visitedat orderdate purchasedate invoicedate transactiondate eventdate orderdatetime"
)
RATINGS = _words("rating ratings score stars overall bookrating reviewrating")
OTHERS = [*RATINGS, *_words("label value event eventtype behavior")]
# Lists of items in one cell, as tables of whole histories name them.
LISTS = frozenset(f"{name}list" for name in ITEMS) | {"history", "sequence", "items", "itemseq", "itemidseq"}


def plain(name: str) -> str:
    """A column's name without case, signs and the type that RecBole writes behind it."""
    return "".join(character for character in name.split(":")[0].lower() if character.isalnum())


def order(token: str) -> tuple[int, int, str, str]:
    """Key that sorts whole numbers by their value and before all others, which go by their text."""
    if token.isascii() and token.isdigit():
        digits = token.lstrip("0")
        return 0, len(digits), digits, token
    return 1, 0, token, token


def look_alikes(what: str, tokens: Iterable[str]) -> list[str]:
    """Warnings for ids that are different text but look like one: an accent in two spellings, `1` and `1.0`.

    Args:
        what: `users` or `items`.
        tokens: All of them.
    """
    tokens = tokens if isinstance(tokens, dict | set) else set(tokens)
    hidden, floats = [], []
    seen: dict[str, str] = {}
    for token in tokens:
        if token.endswith(".0") and token[:-2] in tokens:
            floats.append(f"'{token[:-2]}' and '{token}'")
        if token.isascii():
            continue
        bare = "".join(c for c in unicodedata.normalize("NFC", token) if unicodedata.category(c) != "Cf")
        other = seen.setdefault(bare, token)
        if other != token or (bare != token and bare in tokens):
            like = bare if other == token else other
            hidden.append(f"{like!a} and {token!a}")
    warnings = []
    if hidden:
        warnings.append(
            f"{len(hidden)} {what} have ids that look like another's, which count as two: {_some(hidden)}; "
            "write them in one way (Unicode NFC, without invisible characters) if they are one"
        )
    if floats:
        warnings.append(
            f"{len(floats)} {what} have ids with and without '.0', which count as two: {_some(floats)}; "
            "write them in one way if they are one"
        )
    return warnings


def _some(words: list[str]) -> str:
    return "; ".join(words[:_SHOWN]) + (" …" if len(words) > _SHOWN else "")
