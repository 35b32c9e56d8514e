"""Options of an algorithm in one flat list, whichever block of the configuration they stand in."""

from rxrl.algorithms import AlgorithmConfig, ExperimentalConfig


def nested(**options):
    """As the configuration takes them: experimental ones in their block."""
    experimental = {name: value for name, value in options.items() if name in ExperimentalConfig.model_fields}
    return {name: value for name, value in options.items() if name not in experimental} | {"experimental": experimental}


def configured(**options):
    """The configuration with these options, and exact gradients where nothing else is said."""
    return AlgorithmConfig(**nested(**{"gradient_growth": None, **options}))
