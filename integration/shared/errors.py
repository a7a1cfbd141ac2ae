"""What a person did wrong, in one sentence: printed without a traceback, exit status 2."""


class UserError(Exception):
    """Bad input; the message says what was wrong and what to do."""


class TrainingFailure(Exception):
    """Training cannot go on; everything up to here is saved. Exit status 3."""
