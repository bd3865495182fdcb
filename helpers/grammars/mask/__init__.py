"""Which tokens may come next: a grammar applied to the vocabulary of one model."""

from helpers.grammars.mask.matcher import Matcher
from helpers.grammars.mask.vocabulary import Vocabulary

__all__ = ["Matcher", "Vocabulary"]
