"""The comparison of the machine with its model."""


class Disagreement(AssertionError):
    """The machine and the model differ."""


def agree(what: object, machine: object, expected: object) -> None:
    if machine != expected:
        raise Disagreement(f"{what}: {machine}, and should be {expected}")
