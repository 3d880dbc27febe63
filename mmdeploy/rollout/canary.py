"""Tries a release on live traffic before it takes over: a share of a gateway's requests, or their shadows.

The gateway (`mmdeploy.gateway`) splits the requests and counts; here it is judged. The verdict is by whole intervals,
as that of the gates: what is asked of the candidate must hold at its worse end to pass, and be broken at its better end
to fail. Looks come at 100, 200, 400 … requests of the candidate, and each takes half of what chance of an error was
left, so that looking often does not make errors likely. What is still open at the end is inconclusive, and nothing is
promoted.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mmdeploy.core.errors import InconclusiveError, PromotionError, ServerError, UsageError

_FIRST_LOOK, _ERROR, _BLOCKS = 100, 0.05, 20


@dataclass(frozen=True)
class Limits:
    """What a candidate must keep.

    Attributes:
        max_failures: Share of requests that may fail more than with the live release.
        max_p95_ratio: 95th percentile of the latency over the live release's.
        min_agreement: Share of shadows whose answers agree with the live release's.
    """

    max_failures: float = 0.02
    max_p95_ratio: float = 1.5
    min_agreement: float = 0.9


@dataclass(frozen=True)
class Finding:
    """One thing that is asked of the candidate, with its interval.

    Attributes:
        what: In words.
        low: Lower end.
        high: Upper end.
        limit: What it is held against.
        at_least: Whether it must be at least the limit, and not at most.
    """

    what: str
    low: float
    high: float
    limit: float
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the whole interval keeps the limit."""
        return self.low >= self.limit if self.at_least else self.high <= self.limit

    @property
    def failed(self) -> bool:
        """Whether the whole interval breaks it."""
        return self.high < self.limit if self.at_least else self.low > self.limit

    def __str__(self) -> str:
        sign = ">=" if self.at_least else "<="
        return f"{self.what} {self.low:.3g} to {self.high:.3g} ({sign} {self.limit:g})"


def findings(state: dict[str, Any], limits: Limits, *, confidence: float) -> tuple[Finding, ...]:
    """Judge what a gateway has counted; nothing where it has counted too little to say anything.

    Args:
        state: As ``GET /rollout/MODEL`` gives it.
        limits: What the candidate must keep.
        confidence: Of each interval.
    """
    import numpy as np

    from mmdeploy.scoring.metrics import percentile_interval, proportion_interval

    live, new = state["arms"]["live"], state["arms"]["candidate"]
    if not live["requests"] or not new["requests"]:
        return ()
    found = []
    (low_live, high_live), (low_new, high_new) = (
        proportion_interval(arm["failed"], arm["requests"], confidence=confidence) for arm in (live, new)
    )
    share_live, share_new = live["failed"] / live["requests"], new["failed"] / new["requests"]
    # Newcombe's interval of a difference of proportions (Statistics in Medicine 17, 1998, method 10)
    apart = share_new - share_live
    low = apart - float(np.hypot(share_new - low_new, high_live - share_live))
    high = apart + float(np.hypot(high_new - share_new, share_live - low_live))
    found.append(Finding("failures more than live", low, high, limits.max_failures))
    if state["shadow"] and (pairs := state["compared"]["pairs"]):
        ends = proportion_interval(state["compared"]["agree"], pairs, confidence=confidence)
        found.append(Finding("answers that agree", *ends, limits.min_agreement, at_least=True))
    if min(len(live["latencies_ms"]), len(new["latencies_ms"])) >= 2 * _BLOCKS:
        ends_live, ends_new = (
            percentile_interval(_blocks(arm["latencies_ms"]), 95, confidence=confidence, seed=0) for arm in (live, new)
        )
        ratio = (ends_new[0] / ends_live[1], ends_new[1] / ends_live[0])
        found.append(Finding("p95 over live's", *ratio, limits.max_p95_ratio))
    return tuple(found)


def _blocks(latencies: list[float]) -> Any:
    """Return latencies as rounds that follow each other, for neighbours are alike."""
    import numpy as np

    size = len(latencies) // _BLOCKS
    return np.array(latencies[-size * _BLOCKS :]).reshape(_BLOCKS, size)


@dataclass
class Canary:
    """Tries a candidate through a gateway.

    Attributes:
        gateway: Its URL.
        key: Of its administrator.
        model: Name of the ensemble.
        share: Of the requests, or of their shadows.
        shadow: Whether the candidate's answers are only compared.
        seconds: How long to try at most.
        limits: What the candidate must keep.
        told: Hears of each look.
    """

    gateway: str
    key: str = field(repr=False)
    model: str
    share: float
    shadow: bool
    seconds: float
    limits: Limits
    told: Callable[[str], None]

    def __call__(self, candidate: str) -> None:
        """Do nothing where a model, which is loaded, holds as a candidate.

        Raises:
            PromotionError: If it does not.
            InconclusiveError: If that cannot be said yet.
            UsageError: If the gateway refuses the key, or does not know the model.
            ServerError: If the gateway does not answer.
        """
        self._ask("PUT", {"candidate": candidate, "share": self.share, "shadow": self.shadow})
        try:
            self._try()
        finally:
            with contextlib.suppress(UsageError, ServerError):  # a gateway that started again has forgotten it
                self._ask("DELETE")

    def _try(self) -> None:
        deadline, look, left, shown = time.monotonic() + self.seconds, _FIRST_LOOK, _ERROR, "nothing was counted"
        while time.monotonic() < deadline:
            time.sleep(0.5)
            state = self._ask("GET")
            asked = state["arms"]["candidate"]["requests"]
            if asked < look:
                shown = f"{asked} requests to the candidate, {look} are needed for the next look"
                continue
            left /= 2
            while look <= asked:
                look *= 2
            found = findings(state, self.limits, confidence=1 - left)
            shown = "; ".join(map(str, found))
            self.told(f"{asked} requests: {shown}")
            if broken := [one for one in found if one.failed]:
                raise PromotionError(
                    f"the candidate does not hold on live traffic; it was taken back: {'; '.join(map(str, broken))}"
                )
            wanted = 3 if self.shadow else 2
            if len(found) == wanted and all(one.passed for one in found):
                return
        raise InconclusiveError(
            f"{self.seconds:g} s of live traffic do not say whether the candidate holds; it was taken back: {shown}",
            hint="try longer (--canary-seconds), or a larger share",
        )

    def _ask(self, method: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        url = f"{self.gateway.rstrip('/')}/rollout/{urllib.parse.quote(self.model)}"
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            reason = error.read().decode(errors="replace")[:300]
            raise UsageError(f"{url}: the gateway refuses: {reason} (HTTP {error.code})") from error
        except (OSError, ValueError) as error:
            raise ServerError(f"{url}: the gateway does not answer ({error})") from error
        found: dict[str, Any] = json.loads(text) if text else {}
        return found
