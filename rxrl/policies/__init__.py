"""Policies: everything that answers in an environment, the Reactive Transformer included."""

from rxrl.policies.endpoint import EndpointPolicy
from rxrl.policies.huggingface import HuggingFacePolicy
from rxrl.policies.reactive import ModelPolicy, StmBackend
from rxrl.policies.registry import POLICIES
from rxrl.policies.rereading import RereadingPolicy, rereads
from rxrl.policies.scripted import Oracle, Parrot, Person
from rxrl.policies.text import Dialogue, TextPolicy

__all__ = [
    "POLICIES",
    "Dialogue",
    "EndpointPolicy",
    "HuggingFacePolicy",
    "ModelPolicy",
    "Oracle",
    "Parrot",
    "Person",
    "RereadingPolicy",
    "StmBackend",
    "TextPolicy",
    "rereads",
]
