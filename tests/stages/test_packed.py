"""Texts packed into one row: none sees another, not by attention and not through memory, and a loss is that of the texts alone."""

import torch

from rxrl.data.batches import next_tokens, texts_apart
from rxrl.runs.processes import Share
from rxrl.stages.batches import RowDraws
from rxrl.stages.losses import decoder_loss, joint_loss, masked_counts
from rxrl.types import BOS, EOS, TokenBatch
from tests.training.toy import tiny_model

TEXTS = [[BOS, 8, 9, 10, EOS], [BOS, 11, 12, EOS], [BOS, 7, 9, 11, 13, 8, EOS]]
ROW = TokenBatch.pad([[token for text in TEXTS for token in text] + [BOS, 12], [9, 9, EOS, *TEXTS[0]]])


def model(reads=0.3):
    """A model whose reads of memory have weights of this size; at 0 they would hide what they let through."""
    found = tiny_model(double=True)
    generator = torch.Generator().manual_seed(0)
    for layer in found.decoder.layers:
        torch.nn.init.normal_(layer.memory_cross_attention.out_proj.weight, std=reads, generator=generator)
        torch.nn.init.zeros_(layer.memory_cross_attention.out_proj.bias)
    return found.eval()


def logits_of(network, batch, memory=None, reset=True):
    reads, positions = texts_apart(batch, reset)
    encoded = network.encode(batch.ids, reads)
    stm = encoded if memory is None else memory
    return encoded, network.decode(batch.ids, reads, stm, reads if memory is None else None, positions=positions)


@torch.no_grad()
def test_a_changed_token_changes_nothing_of_another_text():
    network = model()
    texts = (ROW.ids == BOS).cumsum(1)
    for memory in (None, network.init_memory(2, torch.Generator().manual_seed(1))):
        before = logits_of(network, ROW, memory)
        for row, column in ((0, 2), (0, 6), (0, 12), (0, 17), (1, 1), (1, 5)):
            ids = ROW.ids.clone()
            ids[row, column] = 7 if ids[row, column] != 7 else 8
            after = logits_of(network, TokenBatch(ids, ROW.mask), memory)
            changed = torch.zeros_like(ROW.mask)
            for one, two in zip(before, after, strict=True):
                changed |= (one != two).reshape(-1, *ROW.ids.shape, one.shape[-1]).any(-1).any(0)
            assert changed[row, column]
            assert not changed[(texts != texts[row, column]) & ROW.mask].any()
            assert not changed[1 - row][ROW.mask[1 - row]].any()


@torch.no_grad()
def test_packed_texts_have_the_logits_that_they_have_alone():
    network = model()
    encoded, logits = logits_of(network, ROW)
    start = 0
    for text in TEXTS:
        alone = TokenBatch.pad([text])
        expected = logits_of(network, alone)
        torch.testing.assert_close(encoded[:, :1, start : start + len(text)], expected[0])
        torch.testing.assert_close(logits[:1, start : start + len(text)], expected[1])
        start += len(text)
    # Without the reset, positions of the row reach the reads of memory.
    other = logits_of(network, ROW, reset=False)[1]
    torch.testing.assert_close(other[0, : len(TEXTS[0])], logits[0, : len(TEXTS[0])])
    assert not torch.allclose(other[0, 5:9], logits[0, 5:9])


def test_the_loss_of_packed_texts_and_its_gradients_are_those_of_the_texts():
    network = model(reads=0.0)
    losses, gradients = [], []
    for batch in (TokenBatch.pad([[token for text in TEXTS for token in text]]), TokenBatch.pad(TEXTS)):
        assert int(next_tokens(batch).sum()) == sum(len(text) - 1 for text in TEXTS)
        network.zero_grad()
        losses.append(decoder_loss(network, batch, torch.Generator().manual_seed(0), balance_weight=0.0).loss)
        losses[-1].backward()
        gradients.append([each.grad.clone() for each in network.parameters() if each.grad is not None])
    torch.testing.assert_close(*losses)
    assert len(gradients[0]) > 5
    for packed, alone in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, alone)


@torch.no_grad()
def test_joint_training_reads_the_encoded_text_and_no_other():
    network, options = model(), {"mask_share": 0.3, "noise": 0.0, "slot_dropout": 0.0}
    seen = []
    network.decoder.layers[0].memory_cross_attention.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[3]))
    joint_loss(network, ROW, torch.Generator().manual_seed(0), **options)
    texts = (ROW.ids == BOS).cumsum(1)
    same = (texts.unsqueeze(2) == texts.unsqueeze(1)) & ROW.mask.unsqueeze(1) & ROW.mask.unsqueeze(2)
    assert torch.equal(seen[0][:, 0], same)


def test_rows_of_one_text_are_what_they_were():
    batch = TokenBatch.pad([TEXTS[0], [9, 9, EOS]])
    reads, positions = texts_apart(batch)
    assert reads is batch.mask
    assert positions is None
    assert torch.equal(next_tokens(batch), batch.mask[:, 1:])
    counts = masked_counts(tiny_model(), batch, RowDraws.keyed(Share(0, 2, 2), 8, 0), 0.3)
    assert int(counts["ar"]) == 6
