"""How is a section of the configuration read? Frozen, strict about its keys, and its secrets gathered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from tenantproxy.config.secret import Conflict, Secret

__all__ = ["SECRETS", "Section"]


SECRETS = ("password", "key", "token", "pepper")
"""Keys that may be given inline, as `X_file` or as `X_env`."""


class Section(BaseModel):
    """Frozen, and strict about its keys. Turns `X_file` and `X_env` into the Secret `X`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _gather_secrets(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise PydanticCustomError("wrong_kind", "must be {wanted}", {"wanted": "a table"})
        data = dict(data)
        for name in SECRETS:
            if name not in cls.model_fields:
                continue
            given = [key for key in (name, f"{name}_file", f"{name}_env") if data.get(key) not in (None, "")]
            if len(given) > 1:
                data[name] = Conflict(given)  # refused where it is validated, with what else is wrong in this section
                continue
            for key, make in ((f"{name}_file", Secret.file), (f"{name}_env", Secret.env)):
                if key in given and isinstance(data[key], str):
                    data[name] = make(str(data[key]))
        return data
