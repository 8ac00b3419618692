"""Settings of hypothesis for tests that compile what they draw."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

# A graph takes long to compile: a failing one is shown as it is drawn, not made smaller.
AS_DRAWN = settings(deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
