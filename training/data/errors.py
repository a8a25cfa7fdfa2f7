"""The one error of the data layer. It knows neither files nor formats: the message does."""


class DataError(ValueError):
    """Data that cannot be used. The message names the file (and line), what is wrong and the remedy."""
