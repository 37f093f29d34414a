"""Wrong options in one sentence: tyro draws a box about them, which says more about Python than about the mistake."""

from __future__ import annotations

import re

_DRAWN = str.maketrans({**dict.fromkeys("│╭╮╰╯", " "), "─": "-"})  # where the terminal has such letters
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_RULE = re.compile(r"-{8,}")
_HELP = "run the command with --help to see what"


def mistake(box: str) -> str:
    """A sentence for what tyro wrote about options that it could not take."""
    rows = [row for row in _COLOURS.sub("", box).translate(_DRAWN).splitlines() if row.strip()][1:]  # behind the title
    parts: list[list[str]] = [[]]
    for row in rows:
        if _RULE.fullmatch(row.strip()):
            parts.append([])
        else:
            parts[-1].append(row)
    paragraph, *others = [part for part in parts if part] or [[]]
    after = [row.strip() for part in others for row in part]
    said = " ".join(" ".join(paragraph).split())
    if found := re.match(r"Error parsing (\S+?): .*?'([^']*)'\]?\.?(?: |$)", _without_types(said)):
        option, value = found.groups()
        about = next((row for row in after if row and not row.startswith(("-", "Argument"))), "")
        about = about.replace(". (default", " (default")
        return f"{option} cannot be {value!r}: {_lower(about) or f'{_HELP} it takes'}"
    if found := re.match(r"invalid choice '(.*?)' for argument '(.*?)'\. Expected one of \((.*?),?\)\.", said):
        return f"{found[2]} cannot be {found[1]!r}: give {found[3]}"
    if found := re.match(r"Missing value for argument '(.*?)'", said):
        return f"{found[1]} has no value: give one behind it"
    if found := re.match(r"Expected one of \{(.*)\}\.", said):
        return f"no command was given: there are {found[1]}"
    if found := re.match(r"Unrecognized(?: or misplaced)? options: (.*?)(?: Arguments are applied|$)", said):
        names = ", ".join(map(repr, re.split(r", | ", re.sub(r" \(applied to [^)]*\)", "", found[1]))))
        return f"nothing takes {names} here: {_HELP} there is"
    if found := re.match(r"Missing from (.*?):", said):
        # Names stand further out than what is said about them.
        outer = len(paragraph[0]) - len(paragraph[0].lstrip()) + 4
        names = ", ".join(row.strip().split(", ")[0] for row in paragraph[1:] if len(row) - len(row.lstrip()) == outer)
        return f"{found[1]} lacks {names}: run it with --help to see what it needs"
    return f"{_lower(said.rstrip('.'))}: {_HELP} it takes"


def _without_types(said: str) -> str:
    """Without the types that a value was tried as, which may have quotes of their own."""
    found = re.match(r"(Error parsing \S+): .*instantiated from \[('[^']*')", said)
    return f"{found[1]}: {found[2]}" if found else said


def _lower(said: str) -> str:
    return said[:1].lower() + said[1:]
