"""Measuring crosscoders of two models, of which each has its own site replaced.

Codes are computed from both models' clean passes. Cross-entropies and KL divergences are means over
the two models. In each model its own site is replaced, and the other model is not affected.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from prolu_eval.evaluation.autoencoding import by_row
from prolu_eval.evaluation.batches import Batch
from prolu_eval.evaluation.cross_layer import CrossLayerEngine, of_layer
from prolu_eval.evaluation.engine import CLEAN_AND_ABLATED_COLUMNS
from prolu_eval.evaluation.losses import cross_entropies_and_kls, cross_entropy
from prolu_eval.evaluation.outputs import OfSeveralSites, Outputs
from prolu_eval.evaluation.sums import RowSums
from prolu_eval.lm import ModelPair, Pass


class PairEngine(CrossLayerEngine):
    """Measures crosscoders that read one site of each of two models, as :class:`CrossLayerEngine`.

    ``hook`` names the site of each model, one after the other: ``blocks.13,13.hook_resid_post``.
    """

    @property
    def reference_columns(self) -> tuple[str, ...]:
        own = (of_layer("ce_clean", i) for i in range(len(self.hooks)))
        return (*super().reference_columns, *own)

    @property
    def _pair(self) -> ModelPair:
        return cast(ModelPair, self.model)

    def _inputs(self, batch: Batch, passes: Sequence[Pass], read: Sequence[str]) -> list[Tensor]:
        return [batch.counted(clean.activation) for clean in passes]

    def _losses(
        self,
        sae: OfSeveralSites,
        read: Sequence[str],
        batch: Batch,
        passes: Sequence[Pass],
        answer: Outputs,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Cross-entropy and KL over both models, then of each. [M] each"""
        alone = []
        for i, (model, clean) in enumerate(zip(self._pair.models, passes, strict=True)):
            put = self._put(batch, i, clean, answer.sites[i])
            wanted = batch.next_of(clean.hidden)
            alone += cross_entropies_and_kls(
                model.logits, wanted, [put], batch.targets, model.vocab_size
            )
        first, second = alone
        yield (first[0] + second[0]) / 2, (first[1] + second[1]) / 2
        yield from alone

    def _put(self, batch: Batch, index: int, clean: Pass, values: Tensor) -> Tensor:
        """Hidden states of a model with its site replaced by values [N, d]. [M, d_model]"""
        replaced = batch.put(clean.activation, values)
        model, hook = self._pair.models[index], self.hooks[index]
        return batch.next_of(model.resume(batch.ids, hook, clean, replaced))

    def _add_losses(
        self, batch: Batch, passes: Sequence[Pass], centres: Sequence[Tensor], sums: RowSums
    ) -> None:
        both = []
        for i, (model, clean, centre) in enumerate(
            zip(self._pair.models, passes, centres, strict=True)
        ):
            constants = (torch.zeros_like(centre), centre)
            n = len(batch.position)
            hidden = [batch.next_of(clean.hidden)]
            hidden += [self._put(batch, i, clean, c.expand(n, -1)) for c in constants]
            losses = torch.stack(
                [cross_entropy(model.logits, h, batch.targets, model.vocab_size) for h in hidden]
            )
            sums.add((of_layer("ce_clean", i),), batch.first, by_row(losses[:1], batch.next_starts))
            both.append(losses)
        mean = by_row(torch.stack(both).mean(0), batch.next_starts)
        sums.add(CLEAN_AND_ABLATED_COLUMNS, batch.first, mean)
