"""SFTTrainer of TRL for packed windows: logits only at labels, rows in order, dev loss per token."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from trl.trainer.sft_trainer import SFTTrainer

from usersim.errors import BackendError
from usersim.training.checkpoints import saving
from usersim.training.data import IGNORED, without_labels


class UserTrainer(SFTTrainer):
    """Trainer of a User LM."""

    stop_ids: tuple[int, ...] = ()
    emphasis: tuple[float, float] = (0.0, 0.0)
    """Emphasis at the first step and at the last, set by `train`; see `TrainConfig.emphasis`."""

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Computes the cross-entropy of the supervised tokens, divided by their number in the optimiser step.

        In training `emphasis` times `decision_loss` is added; a dev loss is without it.
        """
        labels = inputs.pop("labels")[0, 1:]
        positions = (labels != IGNORED).nonzero().squeeze(1)
        # TRL's fused head would score every position and compute two more metrics; only a tenth is supervised.
        outputs = model(**inputs, logits_to_keep=positions, use_cache=False)
        logits_SV, labels_S = outputs.logits[0].float(), labels[positions]
        total_S = logits_SV.logsumexp(-1)
        nll_S = total_S - logits_SV.gather(1, labels_S.unsqueeze(1)).squeeze(1)
        loss = nll_S.sum()
        if model.training and (emphasis := self.emphasis_now):
            first_S = torch.where(positions > 0, labels[positions - 1], IGNORED) == IGNORED
            stop_S = logits_SV[:, list(self.stop_ids)].logsumexp(-1) - total_S
            stops_S = torch.isin(labels_S, torch.tensor(self.stop_ids, device=labels_S.device))
            loss = loss + emphasis * decision_loss(nll_S, first_S, stop_S, stops_S)
        if num_items_in_batch is None:
            loss = loss / max(1, len(positions))
        else:
            # The count is over all processes, and DDP and FSDP take the mean of the gradients over them.
            loss = loss * self.accelerator.num_processes / num_items_in_batch
        return (loss, outputs) if return_outputs else loss

    @property
    def emphasis_now(self) -> float:
        first, last = self.emphasis
        return first + (last - first) * self.state.global_step / max(1, self.state.max_steps - 1)

    def _clip_grad_norm(self, model: Any) -> Any:
        """Clips gradients. Raises BackendError if they are not finite, before the optimiser corrupts the weights."""
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        whole = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if whole is not None and not math.isfinite(float(whole)):
            raise self._not_finite("the loss or its gradient")
        return norm

    def _not_finite(self, what: str) -> BackendError:
        saved = sorted(
            Path(str(self.args.output_dir)).glob("checkpoint-*"), key=lambda path: path.stat().st_mtime
        )
        advice = f"{saved[-1].name} is kept" if saved else "there is no checkpoint yet"
        return BackendError(f"{what} is not finite at step {self.state.global_step + 1}; lower lr ({advice})")

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(train_dataset or self.train_dataset)  # type: ignore[arg-type]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with saving(Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)  # type: ignore[no-untyped-call]

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = self.dev_loss()
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def dev_loss(self) -> dict[str, float]:
        """Returns the NLL per supervised token over all dev windows, in nats.

        A mean of batch means would overweight short windows.
        """
        model: Any = self.model
        model.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for inputs in self._share_of_dev():
            inputs = self._prepare_inputs(inputs)
            count = (inputs["labels"][0, 1:] != IGNORED).sum()
            with self.accelerator.autocast():
                sums += torch.stack([self.compute_loss(model, inputs) * count, count])
        total, tokens = self.accelerator.reduce(sums).tolist()
        if not math.isfinite(total):
            raise self._not_finite("the dev loss")
        return {"eval_loss": total / tokens, "eval_perplexity": math.exp(min(total / tokens, 50))}

    def _share_of_dev(self) -> Iterator[dict[str, Any]]:
        """Yields this process's dev windows; all processes run equally many forward passes, as sharded weights
        require."""
        rows: Any = self.eval_dataset
        rank, processes = self.args.process_index, self.args.world_size
        for start in range(0, len(rows), processes):
            mine = rows[start + rank] if start + rank < len(rows) else without_labels(rows[start])
            yield self.data_collator([mine])


def decision_loss(nll_S: Any, first_S: Any, stop_S: Any, stops_S: Any) -> Any:
    """Returns the loss of starting and stopping decisions, in nats, summed over positions.

    It is -log P of each turn's first token (`first_S`) plus -log P of stopping or continuing at every position.
    `stop_S` is log P(stop); `stops_S` marks the positions that end a turn or the conversation. Cross-entropy includes
    both already, among twenty times as many nats of content. Style and length show mainly in these decisions.
    """
    going_on_S = torch.log1p(-stop_S.exp().clamp(max=1 - 1e-6))
    return nll_S[first_S].sum() - torch.where(stops_S, stop_S, going_on_S).sum()
