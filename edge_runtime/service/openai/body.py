"""What every object of a request has in common: unknown fields are refused, and `null` counts as not given."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

Label = Any
"""A value of the caller's own: accepted, and it changes nothing."""
OnlyFalse = Annotated[bool, Meta(extra_json_schema={"enum": [False]})]
"""A switch that is always off here. Types cannot say so; call `refuse_true`."""


class FieldError(ValueError):
    """A field breaks a rule that its type cannot express. `__post_init__` raises it; the parser adds the object's path.

    Args:
        field: name of the field in its object.
        message: what is wrong with it.
        code: what a program may test for.
    """

    def __init__(self, field: str, message: str, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.field, self.message, self.code = field, message, code


class Body(Struct, forbid_unknown_fields=True):
    """An object of a request.

    Attributes have the types of the wire, and the OpenAPI document is made from them. An optional field is
    ``X | None = None``. A field of type None, of one single value or of equal bounds is known, but this server does not
    act on it: it is accepted where it changes nothing.
    """


def refuse_true(field: str, value: bool | None) -> None:
    """Check a field of type `OnlyFalse`.

    Raises:
        FieldError: it is true.
    """
    if value:
        raise FieldError(field, "is not supported; only false is accepted.", "unsupported_parameter")
