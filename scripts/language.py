"""What a model knows of language, beside n-grams: python scripts/language.py TRAIN_STORE HELD_OUT_STORE CHECKPOINT...

Prints a Markdown table of held-out texts: accuracy of masked tokens (of the encoder) and of the next token (of the decoder, with an empty
memory), and bits a byte, beside a unigram and a trigram of the training texts (interpolated Kneser-Ney, discount 0.75, on the same tokens).
Stores are those of `rxrl data tokenize`; a checkpoint has to have their tokenizer.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from rxrl.data.stores.texts import PackedTexts, TextStore
from rxrl.errors import ConfigError, RxrlError
from rxrl.factory import load_checkpoint
from rxrl.models import ReactiveTransformer
from rxrl.runs.processes import Share
from rxrl.stages.batches import RowDraws
from rxrl.stages.losses import decoder_loss, encoder_loss, predicted
from rxrl.types import BOS, EOS

DISCOUNT = 0.75
ROWS = 16


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train")
    parser.add_argument("held_out")
    parser.add_argument("checkpoints", nargs="*")
    options = parser.parse_args()
    train, held_out = TextStore(options.train), TextStore(options.held_out)
    # Before anything is counted: what is missing or does not fit costs nothing.
    models = {checkpoint: fitting(checkpoint, train, held_out) for checkpoint in options.checkpoints}
    size = held_out.packed(256, 0).bytes
    print(f"Held out: {held_out.manifest.items} texts, {held_out.manifest.tokens:,} tokens, {size:,} bytes.\n")
    print("| model | masked accuracy | next-token accuracy | bits a byte |\n|---|---|---|---|")
    grams = KneserNey(texts(train), train.manifest.vocab_size)
    for order, name in ((1, "unigram"), (3, "trigram")):
        right, nats, count = grams.score(texts(held_out), order)
        print(f"| {name} | | {right / count:.1%} | {nats / math.log(2) / size:.3f} |", flush=True)
    for checkpoint, model in models.items():
        model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        masked, following, nats = measured(model, held_out.packed(model.config.max_length, 0))
        print(f"| {checkpoint} | {masked:.1%} | {following:.1%} | {nats / math.log(2) / size:.3f} |", flush=True)


def fitting(checkpoint: str, *stores: TextStore) -> ReactiveTransformer:
    """The model of a checkpoint, which has to have the tokenizer of the stores."""
    model, tokenizer = load_checkpoint(checkpoint)
    for store in stores:
        if store.manifest.tokenizer != tokenizer.hash:
            raise ConfigError(f"{store.files.folder} was made with another tokenizer than that of {checkpoint}: tokenize it again.")
    return model


def texts(store: TextStore) -> Iterator[list[int]]:
    """Texts of a store, as they are trained on."""
    for begin, end in pairwise([0, *store.ends.tolist()]):
        yield [BOS, *store.ids[begin:end].tolist(), EOS]


@torch.no_grad()
def measured(model: ReactiveTransformer, rows: PackedTexts) -> tuple[float, float, float]:
    """Masked and next-token accuracy, and the nats of all tokens."""
    totals: dict[str, float] = defaultdict(float)
    for start in range(0, rows.blocks, ROWS):
        batch = rows.batch(start, min(ROWS, rows.blocks - start)).tokens.to(model.device)
        draws = RowDraws.keyed(Share(start, start + len(batch.ids), rows.blocks), batch.ids.shape[1], 0, "language")
        masked, count = encoder_loss(model, batch, draws).metrics, float(batch.mask.sum())
        totals["masked"] += count * float(masked["mlm_accuracy"])
        totals["tokens"] += count
        following, count = decoder_loss(model, batch, draws).metrics, float(predicted(model, batch).sum())
        totals["right"] += count * float(following["ar_accuracy"])
        totals["nats"] += count * float(following["ar_loss"])
        totals["predicted"] += count
    return totals["masked"] / totals["tokens"], totals["right"] / totals["predicted"], totals["nats"]


class KneserNey:
    """Interpolated Kneser-Ney n-grams up to three.

    Args:
        texts: To count.
        vocab_size: Tokens that there are.
    """

    def __init__(self, texts: Iterator[list[int]], vocab_size: int) -> None:
        self._unigrams = np.zeros(vocab_size)
        trigrams: dict[tuple[int, int], dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for ids in texts:
            for a, b, c in zip([BOS, *ids], ids, ids[1:], strict=False):
                trigrams[a, b][c] += 1
                self._unigrams[c] += 1
        self._trigrams = trigrams
        # Below the highest order, what counts is how many different tokens stand before.
        bigrams: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for (_, b), following in trigrams.items():
            for c in following:
                bigrams[b][c] += 1
        self._bigrams, continuation = bigrams, np.zeros(vocab_size)
        for following in bigrams.values():
            for c in following:
                continuation[c] += 1
        self._lowest = (continuation + 1e-3) / (continuation + 1e-3).sum()
        self._plain = (self._unigrams + 1e-3) / (self._unigrams + 1e-3).sum()

    def score(self, texts: Iterator[list[int]], order: int) -> tuple[int, float, int]:
        """Tokens guessed right, nats, and tokens."""
        right, nats, count = 0, 0.0, 0
        known: dict[tuple[int, int], np.ndarray] = {}
        for ids in texts:
            for a, b, c in zip([BOS, *ids], ids, ids[1:], strict=False):
                if order == 1:
                    shares = self._plain
                else:
                    if (a, b) not in known:
                        if len(known) > 20_000:
                            known.clear()
                        known[a, b] = self._shares(a, b)
                    shares = known[a, b]
                right += int(shares.argmax() == c)
                nats -= math.log(shares[c])
                count += 1
        return right, nats, count

    def _shares(self, a: int, b: int) -> np.ndarray:
        """Probabilities of what follows two tokens."""
        shares = self._lowest
        for counts in (self._bigrams.get(b), self._trigrams.get((a, b))):
            if counts:
                ids, found = np.fromiter(counts.keys(), int), np.fromiter(counts.values(), float)
                total = found.sum()
                shares = shares * (DISCOUNT * len(ids) / total)
                shares[ids] += np.maximum(found - DISCOUNT, 0) / total
        return shares


if __name__ == "__main__":
    try:
        main()
    except (RxrlError, OSError) as error:
        sys.exit(f"Error: {error}")
