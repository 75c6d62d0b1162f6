"""Which steps of a run are special: a function of the recipe and of the number of batches."""

from dataclasses import dataclass
from typing import final

from scalenet_cli.plan.training import Recipe


@final
@dataclass(frozen=True)
class Schedule:
    """Which steps end an epoch, are logged, evaluated and saved."""

    recipe: Recipe
    steps_per_epoch: int

    @property
    def last_step(self) -> int:
        """Optimizer steps of the whole run."""
        return self.recipe.max_steps or self.recipe.epochs * self.steps_per_epoch

    def is_evaluated(self, step: int) -> bool:
        """Whether the model is evaluated after so many steps."""
        every = self.recipe.eval_steps or self.recipe.eval_epochs * self.steps_per_epoch
        return step == self.last_step or step % every == 0

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint is written between evaluations."""
        return bool(self.recipe.save_steps) and step % int(self.recipe.save_steps or 1) == 0

    def is_logged(self, step: int) -> bool:
        """Whether the step gets a line of metrics."""
        return step % self.recipe.log_steps == 0 or step == self.last_step
