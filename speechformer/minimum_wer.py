"""Minimum word error rate: learn from one's own mistakes what is wrong in words, not in tokens.

Prabhavalkar et al. 2018, "Minimum word error rate training for attention-based sequence-to-sequence models".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from speechformer.beam_search import decode
from speechformer.data import Batch
from speechformer.decoding import DecodingConfig, Hypothesis, lay_out
from speechformer.metrics import count_errors
from speechformer.model import SpeechTransformer
from speechformer.tokenizer import EOS, Tokenizer
from speechformer.torch_recogniser import TorchRecogniser

SEARCH = DecodingConfig(beam=4, n_best=4, ctc_weight=0.1)


def minimum_wer_loss(model: SpeechTransformer, batch: Batch, tokenizer: Tokenizer, n_utterances: int) -> Tensor:
    """Return how many words an utterance's best hypotheses are expected to get wrong, less their mean (equation 5).

    The hypotheses are what the model itself writes, each weighed by its share of the decoder's probability: the loss
    is below zero where the better ones are the more probable. So many utterances of the batch are searched, drawn anew
    each time by torch's own generator; those without words have no part in it.
    """
    spoken_A = batch.tokens_B.nonzero()[:, 0]
    chosen_A = spoken_A[torch.randperm(len(spoken_A))[:n_utterances].to(spoken_A.device)]
    if not len(chosen_A):
        return batch.features_BTC.new_zeros(())
    frames_A = batch.frames_B[chosen_A]
    features_ATC = batch.features_BTC[chosen_A, : int(frames_A.max())]
    found = _hypotheses(model, features_ATC, frames_A)
    texts = zip(batch.tokens_BL[chosen_A], batch.tokens_B[chosen_A].tolist(), strict=True)
    said = [tokenizer.decode(text_L[1 : n_tokens + 1].tolist()) for text_L, n_tokens in texts]
    wrong_AW = torch.full((len(found), SEARCH.n_best), torch.nan)
    for wrong_W, text, hypotheses in zip(wrong_AW, said, found, strict=True):
        for place, hypothesis in enumerate(hypotheses):
            wrong_W[place] = count_errors(text, tokenizer.decode(hypothesis.tokens)).word_errors
    return expected_errors(_log_probabilities(model, features_ATC, frames_A, found), wrong_AW.to(frames_A.device))


def expected_errors(log_probs_AW: Tensor, wrong_AW: Tensor) -> Tensor:
    """Return the mean over utterances of what W hypotheses are expected to get wrong, less their mean.

    A hypothesis whose errors are not a number is missing.
    """
    there_AW = ~wrong_AW.isnan()
    shares_AW = log_probs_AW.masked_fill(~there_AW, torch.finfo(log_probs_AW.dtype).min).softmax(1)
    more_AW = (wrong_AW - wrong_AW.nanmean(1, keepdim=True)).nan_to_num()
    return (shares_AW * more_AW).sum(1).mean()


def _hypotheses(model: SpeechTransformer, features_ATC: Tensor, frames_A: Tensor) -> list[list[Hypothesis]]:
    was_training = model.training
    recogniser = TorchRecogniser(model.eval())
    found = decode(recogniser, features_ATC.cpu().numpy(), frames_A.cpu().numpy(), SEARCH)
    model.train(was_training)
    return found


def _log_probabilities(
    model: SpeechTransformer, features_ATC: Tensor, frames_A: Tensor, found: Sequence[Sequence[Hypothesis]]
) -> Tensor:
    """Return how probable the decoder finds each hypothesis, `log_probs_AW`; what is missing counts as no words."""
    padded = ([one.tokens for one in row] + [()] * (SEARCH.n_best - len(row)) for row in found)
    texts = [text for row in padded for text in row]
    n_tokens_R = torch.tensor([len(text) for text in texts], device=frames_A.device)
    tokens_RL = torch.from_numpy(lay_out(texts)).to(frames_A.device)
    rows_R = torch.arange(len(found), device=frames_A.device).repeat_interleave(SEARCH.n_best)
    cache = model.start_decoding(*model.encode(features_ATC, frames_A)).select(rows_R)
    logits_RLV, _ = model.decode(tokens_RL, cache)
    next_RL = torch.cat((tokens_RL[:, 1:], torch.full_like(tokens_RL[:, :1], EOS)), 1)
    log_probs_RL = logits_RLV.float().log_softmax(-1).gather(-1, next_RL[..., None])[..., 0]
    within_RL = torch.arange(tokens_RL.shape[1], device=frames_A.device) <= n_tokens_R[:, None]
    return (log_probs_RL * within_RL).sum(1).view(len(found), SEARCH.n_best)
