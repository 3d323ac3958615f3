"""A count of steps that belong to no whole trajectory."""

from __future__ import annotations

import warnings

__all__ = ["DroppedSteps"]


class DroppedSteps:
    """Counter of dropped steps, which warns of the first ones with the reason.

    Examples:
        >>> from torchrl_recall.data.dropped_steps import DroppedSteps
        >>> dropped = DroppedSteps()
        >>> dropped.add(0, "nothing was cut")
        >>> dropped.count
        0
    """

    def __init__(self) -> None:
        self.count = 0
        self._warned = False

    def add(self, steps: int, reason: str) -> None:
        """Count steps, and warn once.

        Args:
            steps: number of dropped steps.
            reason: why they were dropped, as the end of a sentence.
        """
        self.count += steps
        if steps and not self._warned:
            self._warned = True
            warnings.warn(
                f"TopKTrajectories dropped {steps} steps: {reason}. Give steps in order of time, "
                "with ('collector', 'traj_ids') (track_traj_ids=True), step_count or is_init "
                "(torchrl's StepCounter or InitTracker), mark cuts as done (set_truncated=True), "
                "or call drop_unfinished() after a reset. num_dropped counts all such steps.",
                stacklevel=3,
            )
