"""What a project's file would loosen: what `trust` shows, and what is refused without it."""

from __future__ import annotations

from dataclasses import dataclass

from agentkernel.config.load import OriginKind, Settings, merge
from agentkernel.config.setting import Setting
from agentkernel.config.table import BY_KEY
from agentkernel.config.tighten import unset
from agentkernel.config.values import Merge


@dataclass(frozen=True, slots=True, kw_only=True)
class Loosening:
    """A value of the project's file that would loosen the policy, and what holds without it."""

    setting: Setting
    value: object
    without: object
    where: str


def loosenings(settings: Settings) -> tuple[Loosening, ...]:
    """What the project's file loosens, compared with the settings as they are without it."""
    others = tuple(layer for layer in settings.layers if layer.kind is not OriginKind.PROJECT)
    profile = merge(BY_KEY["security.profile"], others)[0]
    found = []
    for layer in settings.layers:
        for key, given in layer.values.items() if layer.kind is OriginKind.PROJECT else ():
            setting = BY_KEY[key]
            if setting.type.merge is Merge.REPLACE and settings.origin(key).kind is not OriginKind.PROJECT:
                continue  # the environment or a flag has the last word
            without = merge(setting, others)[0]
            without = unset(profile, key) if without is None else without
            if not setting.project.allows(given.value, without):
                found.append(Loosening(setting=setting, value=given.value, without=without, where=given.where))
    return tuple(found)
