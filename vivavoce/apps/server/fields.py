"""What is wrong with a field that a client sent, in our words: REST and the live protocol say it alike."""

from __future__ import annotations

from pydantic import ValidationError

_KINDS = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "int_parsing_size": "a whole number of fewer digits", "float_type": "a number", "float_parsing": "a number",
    "bool_type": "true or false", "bool_parsing": "true or false", "dict_type": "an object of numbers", "string_type": "a text",
    "string_unicode": "a text in UTF-8", "bytes_type": "a file, or base64", "literal_error": "{expected}",
    "string_too_long": "a text of at most {max_length} letters", "greater_than_equal": "{ge} or more",
    "less_than_equal": "{le} or less", "multiple_of": "a multiple of {multiple_of}",
}
"""By pydantic's name of the mistake: what the field has to be."""


def complaint(error: ValidationError) -> str:
    """A clause about the first field that will not do, such as "the field 'size' has to be a whole number"."""
    first = error.errors(include_input=False, include_url=False)[0]
    kind, place = first["type"], [str(part)[:40] for part in first["loc"]]
    if not place:
        return "the name of a field is no text"
    # What follows the field's own name is a key of it, or else a type that pydantic tried.
    name = ".".join(place[:2]) if kind.startswith("float") else place[0]
    if kind == "extra_forbidden":
        return f"there is no field {name!r}"
    if kind == "missing":
        return f"the field {name!r} is missing"
    wanted = _KINDS.get(kind)
    return f"the field {name!r} " + ("will not do" if wanted is None else f"has to be {wanted.format(**first.get('ctx', {}))}")
