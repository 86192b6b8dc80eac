"""What does a person have in a tenant's tables? The statements that export and erase it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tenantproxy.config.section import Section
from tenantproxy.config.values import Name, Seconds, Size, Text, told

__all__ = ["GdprPart", "GdprSettings"]


class GdprPart(Section):
    """One thing that tenants keep of a person. `by`: what `$1` is, as text: the e-mail address, with A-Z in lower case,
    or the user_id. `export` gives rows; `erase` deletes or changes them; either may be left out.
    """

    name: Annotated[Name, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    by: Literal["email", "user"] = "email"
    export: Text = ""
    erase: Text = ""


class GdprSettings(Section):
    """What `gdpr export` and `gdpr erase` run in each tenant's own session, in this order.

    `parallel`: tenants at once. `timeout`: seconds for one statement. `folder`: where exports go that programs ask for
    over the admin listener; it is made for this user alone.
    """

    folder: Text = ""
    person: tuple[GdprPart, ...] = ()
    parallel: Annotated[Size, Field(le=32)] = 4
    timeout: Seconds = 600.0

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [part.name for part in self.person]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise told(f"person has {twice[0]!r} twice", "give each part its own name")
        return self
