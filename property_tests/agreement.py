"""What it is for the machine and the model to agree."""


class Disagreement(AssertionError):
    """The machine does something else than the model says."""


def agree(what: object, machine: object, expected: object) -> None:
    if machine != expected:
        raise Disagreement(f"{what}: {machine}, and should be {expected}")
