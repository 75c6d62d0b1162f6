"""Records of text for the arms of a study, which share what is made of them."""

from pathlib import Path
from typing import Any, final

from scalenet_cli.tasks.causal_lm.data.corpus import Corpus, open_corpus
from scalenet_cli.tasks.causal_lm.recipe import LanguageRecipe
from scalenet_cli.tasks.causal_lm.training_task import LanguageTask
from scalenet_cli.tasks.requests import DataRequest
from scalenet_cli.training.run_record import SplitRecord


@final
class StudyTexts:
    """How many sequences records are is known once they are tokens, which recipes decide."""

    new_head = False
    notes: tuple[str, ...] = ()

    def __init__(self, request: DataRequest) -> None:
        self._request = request
        self._corpora: dict[tuple[object, ...], Corpus] = {}

    def training_task(self, recipe: LanguageRecipe) -> LanguageTask:
        """See OpenedData."""
        return LanguageTask(recipe, self._corpus(recipe), place=self._request.data.data)

    def records(self, recipe: LanguageRecipe) -> tuple[SplitRecord, SplitRecord]:
        """See OpenedData."""
        corpus = self._corpus(recipe)
        train, val = (
            SplitRecord(num_samples=len(split), digest=split.digest)
            for split in (corpus.train, corpus.val)
        )
        return train, val

    def _corpus(self, recipe: LanguageRecipe) -> Corpus:
        # The entries of a recipe that open_corpus uses.
        key = (recipe.max_length, recipe.template, recipe.train_on_prompt, recipe.val_share)
        if key not in self._corpora:
            data, model = self._request.data, self._request.model
            config: Any = vars(model)["config"]
            words = (
                self._request.target.files_folder(weights=False)
                if data.tokenizer is None
                else Path(data.tokenizer)
            )
            self._corpora[key] = open_corpus(words, config, recipe, data)
        return self._corpora[key]
