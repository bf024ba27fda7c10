"""Section: the base of every group of options, which reads text as the option's type and explains what is wrong."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from clearppo.config.messages import explain
from clearppo.config.values import typed


class Section(BaseModel):
    """A group of options. Text is read as the option's type; a problem is a ConfigError in one sentence."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), arbitrary_types_allowed=True
    )

    @model_validator(mode="wrap")
    @classmethod
    def _in_words(cls, data: object, handler: Callable[[object], Any]) -> Any:
        if isinstance(data, Mapping):
            given = cast(Mapping[str, object], data)
            fields = cls.model_fields
            data = {name: typed(name, fields[name], v) if name in fields else v for name, v in given.items()}
        try:
            return handler(data)
        except ValidationError as error:
            raise explain(cls, data, error) from None
