"""Train the embedded language model and write its card: ``python -m prolu_eval.embedded.train``.

A byte-level BPE tokenizer and a small Llama are trained on the training files of the standard
library (:func:`prolu_eval.embedded.documents`). The model's cross-entropy is measured on the
held-out files, and compared with those of a unigram and an interpolated bigram model on the same
tokens.
"""

import argparse
import math
import platform
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from prolu_eval.embedded import MODEL_PATH, documents

BOUNDARY = "<|endoftext|>"
CARD = """\
---
license: mit
language: code
---
# The embedded language model of prolu-eval

A {layers}-layer Llama ({parameters:,} parameters, d_model {width}, {heads} heads, byte-level BPE
vocabulary of {vocabulary}, context {context}), trained from scratch by
`python -m prolu_eval.embedded.train` on the source files of Python {python}'s standard library,
split by file: {train_tokens:,} tokens for training (seen {epochs:.1f} times), {heldout_tokens:,}
held out.

It exists so that `prolu-eval demo` and the tests have a real language model without a network. It
predicts only Python source text well.

Next-token cross-entropy on the held-out files, in nats per token, over the same tokens, in rows of
{context} tokens:

| model | cross-entropy |
|---|---|
| unigram of the training tokens | {unigram:.3f} |
| bigram, interpolated with the unigram (with the best weight on held-out files) | {bigram:.3f} |
| **this model** | **{model:.3f}** |
"""


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with one special token, which marks document boundaries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[BOUNDARY],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOUNDARY, eos_token=BOUNDARY
    )


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> NDArray[np.int64]:
    """All documents as one stream of token ids; the boundary token begins each. [n_tokens]"""
    encoded = tokenizer.backend_tokenizer.encode_batch(texts)
    boundary = np.array([tokenizer.bos_token_id], dtype=np.int64)
    return np.concatenate(
        [part for e in encoded for part in (boundary, np.array(e.ids, dtype=np.int64))]
    )


def rows(stream: NDArray[np.int64], context: int) -> Tensor:
    """The stream cut into rows. [n_rows, context]"""
    return torch.from_numpy(stream[: len(stream) // context * context].reshape(-1, context))


def ngram_cross_entropy(train: Tensor, heldout: Tensor, vocabulary: int) -> tuple[float, float]:
    """Cross-entropy of next tokens under unigram and bigram models, in nats per token.

    Both are counted on ``train`` [n_rows, context]. The unigram model is smoothed by adding one to
    each token's count. The bigram model is interpolated with it, with the weight that is best on
    ``heldout``, which favours the bigram model.
    """
    unigram = torch.bincount(train.flatten(), minlength=vocabulary).double() + 1
    unigram /= unigram.sum()
    pairs = (train[:, :-1] * vocabulary + train[:, 1:]).flatten()
    counts = torch.bincount(pairs, minlength=vocabulary**2).double().view(vocabulary, vocabulary)
    conditional = counts / counts.sum(1, keepdim=True).clamp(min=1)
    previous, following = heldout[:, :-1].flatten(), heldout[:, 1:].flatten()
    single, double = unigram[following], conditional[previous, following]
    mixtures = [
        -(w * double + (1 - w) * single).log().mean().item() for w in torch.linspace(0, 0.99, 100)
    ]
    return mixtures[0], min(mixtures)


@torch.inference_mode()
def cross_entropy(model: LlamaForCausalLM, batch_rows: Tensor) -> float:
    """Mean next-token cross-entropy of the model over rows [n_rows, context], nats per token."""
    model.eval()
    total = sum(
        model(input_ids=b, labels=b).loss.item() * len(b) for b in torch.split(batch_rows, 32)
    )
    return float(total / len(batch_rows))


def fit(model: LlamaForCausalLM, train: Tensor, steps: int, batch: int, rate: float) -> None:
    """Train with AdamW, a linear warm-up and a cosine decay, on rows in shuffled epochs."""
    model.train()
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    warmup = max(1, steps // 50)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda s: min((s + 1) / warmup, 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * s / steps))),
    )
    order: list[Tensor] = []
    start = time.monotonic()
    for step in range(steps):
        if not order:
            order = [i for i in torch.split(torch.randperm(len(train)), batch) if len(i) == batch]
        rows_now = train[order.pop()]
        loss = model(input_ids=rows_now, labels=rows_now).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        if step % 50 == 0:
            print(
                f"step {step}/{steps} loss {loss.item():.3f} {time.monotonic() - start:.0f} s",
                flush=True,
            )


def main() -> None:
    """Parse the options, train, measure, and write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_PATH)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=16, help="rows per step")
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)

    train_texts, heldout_texts = list(documents("train")), list(documents("heldout"))
    tokenizer = train_tokenizer(train_texts, vocabulary=2048)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        rms_norm_eps=1e-5,
    )
    context = config.max_position_embeddings
    train = rows(token_stream(tokenizer, train_texts), context)
    heldout = rows(token_stream(tokenizer, heldout_texts), context)
    model = LlamaForCausalLM(config)
    fit(model, train, arguments.steps, arguments.batch, arguments.rate)

    unigram, bigram = ngram_cross_entropy(train, heldout, len(tokenizer))
    card = CARD.format(
        layers=config.num_hidden_layers,
        parameters=model.num_parameters(),
        width=config.hidden_size,
        heads=config.num_attention_heads,
        vocabulary=len(tokenizer),
        context=context,
        python=platform.python_version(),
        train_tokens=train.numel(),
        heldout_tokens=heldout.numel(),
        epochs=arguments.steps * arguments.batch / len(train),
        unigram=unigram,
        bigram=bigram,
        model=cross_entropy(model, heldout),
    )
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    (arguments.out / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
