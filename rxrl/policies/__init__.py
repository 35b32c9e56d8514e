"""What plays the environment besides the Reactive Transformer (`rxrl.models.ModelPolicy`): all behind `rxrl.types.Policy`."""

from rxrl.policies.endpoint import EndpointPolicy
from rxrl.policies.huggingface import HuggingFacePolicy
from rxrl.policies.scripted import Oracle, Parrot, Person
from rxrl.policies.text import Dialogue, TextPolicy

__all__ = [
    "Dialogue",
    "EndpointPolicy",
    "HuggingFacePolicy",
    "Oracle",
    "Parrot",
    "Person",
    "TextPolicy",
]
