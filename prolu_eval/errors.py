"""The errors that users see: one sentence each, which says what is wrong, why, and what to do.

A command prints the sentence and exits with :attr:`ProluEvalError.exit_code`. Any other exception
is a defect of prolu-eval.
"""

from pathlib import Path

from prolu_eval.plain_text import printable

DONE, CHECK_FAILED, WRONG_INPUT = 0, 1, 2


class ProluEvalError(Exception):
    """An error that the user can mend.

    ``subject`` is the file, option or name at fault, ``reason`` says what is wrong with it, and
    ``remedy`` what to do; all three are without a full stop.
    """

    exit_code = WRONG_INPUT

    def __init__(self, subject: str | Path, reason: str, remedy: str) -> None:
        self.subject, self.reason, self.remedy = str(subject), reason, remedy
        super().__init__(printable(" ".join(f"{subject}: {reason}; {remedy}.".split())))


class UsageError(ProluEvalError):
    """An option or argument that makes no sense."""


class ConfigError(ProluEvalError):
    """A sweep file or a run's config.json that cannot be read."""


class CheckpointError(ProluEvalError):
    """A checkpoint that is damaged, of an unknown format, or not of the format that it claims."""


class ModelError(ProluEvalError):
    """A language model that cannot be loaded, or does not have the requested hook point."""


class TokensError(ProluEvalError):
    """Text or token ids that cannot be read or do not suit the model."""


class EvaluationError(ProluEvalError):
    """A measurement that has no meaningful result, such as one over infinite activations."""


class MemoryShortageError(EvaluationError):
    """A measurement for which a device has too little memory, even in the smallest portions."""


class ResultsError(ProluEvalError):
    """Stored results that are missing, damaged, or cannot be compared."""


class BaselineError(ProluEvalError):
    """A baseline that is missing, damaged, edited by hand, or of a newer schema."""


class InstallationError(ProluEvalError):
    """A package that is not installed, or that is installed and cannot be imported."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or SIGTERM during work that keeps its progress.

    ``sentence`` says what is kept and how to continue, without the word interrupted and without a
    full stop.
    """

    def __init__(self, sentence: str) -> None:
        self.sentence = printable(sentence)
        super().__init__(self.sentence)
