"""A causal language model of Hugging Face as a player: a tiny random one, with a tokenizer of its own."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

from rxrl.envs import TranscriptMemory
from rxrl.errors import CheckpointError, ConfigError, PolicyError
from rxrl.policies import Dialogue, HuggingFacePolicy
from rxrl.policies.huggingface import GumbelNoise
from tests.envs.worlds import CODEC
from tests.policies.test_text import THREE, make, played

TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKERS = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=MARKERS, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([turn.query for each in THREE for turn in each.interactions], trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", chat_template=TEMPLATE)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=0,
    )
    return transformers.LlamaForCausalLM(config)


def rngs(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


DIALOGUES = [Dialogue("What pet does Mia have?", (("Mia has a cat.", "I see."),)), Dialogue("Hello?"), Dialogue("Żółw 猫?")]


def test_it_continues_the_chat_template(model: Any, tokenizer: Any) -> None:
    policy = HuggingFacePolicy(model, tokenizer, CODEC, system="Be brief.", max_new_tokens=5)
    (answer,) = policy.answer(DIALOGUES[:1], None)
    chat = "<|system|>Be brief.<|end|><|user|>Mia has a cat.<|end|><|assistant|>I see.<|end|>"
    chat += "<|user|>What pet does Mia have?<|end|><|assistant|>"
    ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
    expected: list[int] = []
    with torch.no_grad():
        for _ in range(5):
            token = int(model(torch.tensor([ids + expected])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            expected.append(token)
    assert answer == tokenizer.decode(expected, skip_special_tokens=True).strip()


def test_variables_reach_the_chat_template(model: Any, tokenizer: Any) -> None:
    template, tokenizer = tokenizer.chat_template, copy.deepcopy(tokenizer)
    tokenizer.chat_template = template + "{% if not enable_thinking | default(true) %}No.{% endif %}"
    plain, without = (
        HuggingFacePolicy(model, tokenizer, CODEC, chat_template_kwargs=given)._prompt(DIALOGUES[1])
        for given in (None, {"enable_thinking": False})
    )
    assert tokenizer.decode(without) == f"{tokenizer.decode(plain)}No."
    with pytest.raises(ConfigError, match="cannot set 'add_generation_prompt'"):
        HuggingFacePolicy(model, tokenizer, CODEC, chat_template_kwargs={"add_generation_prompt": False})
    with pytest.raises(ConfigError, match="must be a mapping"):
        HuggingFacePolicy(model, tokenizer, CODEC, chat_template_kwargs="enable_thinking")  # type: ignore[arg-type]


@pytest.mark.parametrize("sampled", [False, True])
def test_the_batch_does_not_change_an_answer(model: Any, tokenizer: Any, sampled: bool) -> None:
    policy = HuggingFacePolicy(model, tokenizer, CODEC, max_new_tokens=6)
    together = policy.answer(DIALOGUES, rngs(1, 2, 3) if sampled else None)
    alone = [policy.answer([each], rngs(seed) if sampled else None)[0] for seed, each in enumerate(DIALOGUES, start=1)]
    assert together == alone


def test_samples_depend_on_their_generators_alone(model: Any, tokenizer: Any) -> None:
    policy = HuggingFacePolicy(model, tokenizer, CODEC, max_new_tokens=6)
    state = torch.get_rng_state()
    first, second, other = (policy.answer(DIALOGUES[:1], rngs(seed)) for seed in (1, 1, 2))
    assert first == second != other
    assert torch.equal(state, torch.get_rng_state())


def test_the_noise_samples_the_tempered_distribution() -> None:
    logits, temperature, draws = torch.tensor([0.0, 1.0, 2.0, -1.0]), 2.0, 20_000
    noise = GumbelNoise(rngs(*range(draws)), temperature)
    drawn = noise(torch.zeros(draws, 1, dtype=torch.int64), logits.expand(draws, 4)).argmax(-1)
    shares = torch.bincount(drawn, minlength=4) / draws
    torch.testing.assert_close(shares, (logits / temperature).softmax(-1), atol=0.015, rtol=0)


@pytest.mark.parametrize("sampled", [False, True])
def test_logits_that_are_not_finite_are_refused(model: Any, tokenizer: Any, sampled: bool) -> None:
    policy = HuggingFacePolicy(copy.deepcopy(model), tokenizer, CODEC, max_new_tokens=6)
    with torch.no_grad():
        next(policy.model.parameters())[7:] = float("nan")
    with pytest.raises(PolicyError, match="logits are not finite"):
        policy.answer(DIALOGUES, rngs(1, 2, 3) if sampled else None)


def test_it_plays_with_a_transcript(model: Any, tokenizer: Any) -> None:
    policy = HuggingFacePolicy(model, tokenizer, CODEC, max_new_tokens=4)
    infos = played(make(TranscriptMemory()), policy)
    assert len(infos) == 4
    assert all(0 <= reward <= 10 for info in infos for reward in info["rewards"])


def test_the_oldest_interactions_give_way_where_the_context_is_full(model: Any, tokenizer: Any) -> None:
    policy = HuggingFacePolicy(model, tokenizer, CODEC, max_new_tokens=4)
    long = Dialogue("Who?", tuple((f"Story {number}: " + "x y z " * 10, "Okay.") for number in range(20)))
    prompt = tokenizer.decode(policy._prompt(long))
    assert len(policy._prompt(long)) <= 252
    assert "Story 19" in prompt
    assert "Story 0:" not in prompt
    with pytest.raises(ConfigError, match="do not fit the model's 256 positions"):
        policy.answer([Dialogue("Why? " * 300)], None)


def test_it_is_loaded_from_a_folder(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = HuggingFacePolicy.load(tmp_path, CODEC, max_new_tokens=5)
    assert loaded.answer(DIALOGUES, None) == HuggingFacePolicy(model, tokenizer, CODEC, max_new_tokens=5).answer(DIALOGUES, None)
    with pytest.raises(CheckpointError, match="No causal language model can be loaded from"):
        HuggingFacePolicy.load(tmp_path / "nowhere", CODEC)


def test_wrong_settings_are_refused(model: Any, tokenizer: Any) -> None:
    plain = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ConfigError, match="no chat template"):
        HuggingFacePolicy(model, plain, CODEC)
    with pytest.raises(ConfigError, match="temperature must be a number above 0"):
        HuggingFacePolicy(model, tokenizer, CODEC, temperature=0.0)


def test_an_answer_ends_with_the_token_of_the_model_too(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, generate, outputs = HuggingFacePolicy(model, tokenizer, CODEC, max_new_tokens=12), model.generate, []
    monkeypatch.setattr(model, "generate", lambda **given: outputs.append(generate(**given)[0].tolist()) or torch.tensor(outputs[-1:]))
    policy.answer(DIALOGUES[1:2], None)
    end = outputs[0][-11]
    monkeypatch.setattr(model.generation_config, "eos_token_id", [0, end])
    policy.answer(DIALOGUES[1:2], None)
    assert outputs[1] == outputs[0][: outputs[0].index(end, len(outputs[0]) - 12) + 1]


def test_weights_that_are_cut_off_are_one_sentence(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    [weights] = tmp_path.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="No causal language model can be loaded"):
        HuggingFacePolicy.load(tmp_path, CODEC)


@pytest.mark.parametrize(
    "own",
    [{"num_beams": 3}, {"repetition_penalty": 9.0}, {"do_sample": True, "temperature": 5.0}, {"return_dict_in_generate": True}],
    ids=str,
)
def test_settings_that_a_model_comes_with_change_no_answer(model: Any, tokenizer: Any, own: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = HuggingFacePolicy(model, tokenizer, CODEC, max_new_tokens=8)
    plain = [policy.answer(DIALOGUES, each) for each in (None, rngs(1, 2, 3))]
    config = transformers.GenerationConfig(eos_token_id=0, **own)
    monkeypatch.setattr(model, "generation_config", config)
    assert [policy.answer(DIALOGUES, each) for each in (None, rngs(1, 2, 3))] == plain
    assert model.generation_config is config


def test_a_model_that_lacks_layers_is_not_filled_up(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    [weights] = tmp_path.glob("*.safetensors")
    kept = {name: value for name, value in load_file(weights).items() if "mlp" not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="which would be random"):
        HuggingFacePolicy.load(tmp_path, CODEC)


def test_a_template_that_refuses_is_one_sentence(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "{{ raise_exception('System role not supported') }}")
    with pytest.raises(ConfigError, match="System role not supported"):
        HuggingFacePolicy(model, tokenizer, CODEC, system="Be brief.").answer(DIALOGUES, None)
