"""Errors that end a program with one sentence in place of a traceback."""


class UserError(Exception):
    """Wrong input; the message names the option, what was wrong and what to do. Exit status 2."""


class TrainingFailure(Exception):
    """Training cannot continue; what was saved before is whole. Exit status 3."""


class ProcessLost(TrainingFailure):
    """Another process of the run is gone, or does not answer; nothing is wrong with the training itself."""


class NotWritten(TrainingFailure):
    """A file or folder cannot be written, as on a full disk; the message names it, and where to go on."""
