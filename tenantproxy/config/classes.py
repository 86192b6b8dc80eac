"""Can each class of the application's own that the configuration names be imported?"""

from __future__ import annotations

from tenantproxy.config.own import find_own, names_a_class
from tenantproxy.config.settings import Settings
from tenantproxy.config.sources import read_source
from tenantproxy.errors import ConfigurationError, Problem

__all__ = ["check_classes"]


def check_classes(settings: Settings) -> None:
    """Import each of them. Raises ConfigurationError for all that cannot be."""
    named = {}
    if names_a_class(settings.registry.source):
        named["registry.source"] = (settings.registry.source, "Registry")
    for number, source in enumerate(settings.resolve.agree):
        kind, text = read_source(source)
        if not kind:  # `claim:tenant` has the form of a class and is none
            named[f"resolve.agree.{number}"] = (text, "Resolver")
    problems: list[Problem] = []
    for key, (text, protocol) in named.items():
        try:
            find_own(text, key=key, protocol=protocol)
        except ConfigurationError as exc:
            problems += exc.problems
    if problems:
        raise ConfigurationError(problems)
