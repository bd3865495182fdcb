"""What a job needs before it can be decoded: its prompt as tokens, and its grammar's state."""

from __future__ import annotations

import operator
from contextlib import suppress

from helpers.engine.draft import Draft
from helpers.engine.sequence import Job, Sequence
from helpers.engine.speculation import Economy, Lookup, Speculation
from helpers.errors import ContextOverflowError, GrammarError
from helpers.grammars.mask import Matcher, Vocabulary
from helpers.native import Model


class Preparation:
    """Prepares jobs for one model; used by its scheduler's thread.

    Args:
        model: The loaded model.
        n_ctx: Tokens that a sequence may hold.
        draft: A draft model that guesses, or None.
        for_many: Prepare the vocabulary for grammars now: in a server, others would wait a quarter
            of a second for their next token when the first grammar comes.
    """

    def __init__(
        self, model: Model, n_ctx: int, draft: Draft | None = None, *, for_many: bool = False
    ) -> None:
        self._model = model
        self._n_ctx = n_ctx
        self._draft = draft
        self._vocabulary: Vocabulary | None = None
        if for_many:
            with suppress(GrammarError):  # told to whoever comes with a grammar
                self._vocabulary = Vocabulary(model, model.vocab)

    def tokens(self, job: Job) -> list[int]:
        """The prompt's tokens, made once per job.

        Raises:
            ContextOverflowError: They leave no room for an answer.
            ValueError: There is none, or one that the model does not know.
        """
        if job.tokens is None:
            prompt = job.request.prompt
            if isinstance(prompt, str):
                tokens = self._model.tokenize(prompt)
                if not tokens and self._model.bos >= 0:
                    tokens = [self._model.bos]
            else:
                tokens = [operator.index(token) for token in prompt]
                wrong = [t for t in tokens if not 0 <= t < self._model.n_vocab]
                if wrong:
                    raise ValueError(
                        f"Token {wrong[0]} is not in the vocabulary: "
                        f"0 to {self._model.n_vocab - 1}."
                    )
            if not tokens:
                raise ValueError("The prompt is empty, and this model has no token to begin with.")
            if len(tokens) >= self._n_ctx:
                raise ContextOverflowError(len(tokens), self._n_ctx)
            job.tokens = tokens
        return job.tokens

    def need(self, job: Job) -> int:
        """Tokens of context that a job can use up."""
        limit = job.request.max_tokens
        room = limit if limit is not None and limit > 0 else self._n_ctx
        return min(len(self.tokens(job)) + room, self._n_ctx)

    def sequence(self, job: Job, economy: Economy) -> Sequence:
        """The job's state at the beginning.

        Args:
            job: The job.
            economy: What guesses cost where it is decoded.

        Raises:
            GrammarError: The grammar cannot be used with this model's vocabulary.
            ValueError: A value does not fit the model.
        """
        tokens, speculation = self.tokens(job), None
        if self._model.options.speculate is not None and job.request.speculate:
            speculation = Speculation(self._draft or Lookup(self._model), economy, tokens)
        return Sequence(job, tokens, self._model, self._n_ctx, self._matcher(job), speculation)

    def _matcher(self, job: Job) -> Matcher | None:
        """State of the job's grammar; the vocabulary is prepared once, when first needed."""
        grammar = job.request.grammar
        if grammar is None:
            return None
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self._model, self._model.vocab)
        return grammar.matcher(self._vocabulary)

    def close(self) -> None:
        """Free the vocabulary, and the draft model."""
        if self._draft is not None:
            self._draft.close()
        if self._vocabulary is not None:
            self._vocabulary.close()
