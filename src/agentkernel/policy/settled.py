"""Whether a decision would stay the same if more were known."""

from __future__ import annotations

from agentkernel.model.isolation import BackendKind
from agentkernel.model.request import Grant
from agentkernel.policy.choose import ONLY_WHEN_ASKED
from agentkernel.policy.network import UNAVAILABLE
from agentkernel.policy.root import PICKED


def is_settled(grant: Grant) -> bool:
    """Whether no fingerprint of a backend that comes later in the choice could make the decision better.

    It could where the grant is by a level that is only used for want of another, gives less than the profile has, or takes an image because
    the host's own system could not be shown.
    """
    if grant.chosen is BackendKind.ASKED:
        return True
    lacks = any(notice.code in (UNAVAILABLE.code, PICKED) for notice in grant.notices)
    return grant.spec.level not in ONLY_WHEN_ASKED and not lacks
