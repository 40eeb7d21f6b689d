"""A bundle as a language model for the harness: computes log-likelihoods and generates text.

Three details matter. A text begins with one <bos>, also in the first of its rolling windows. The continuation
is encoded together with its context, because a token may span both; it consists of the tokens after as many
as the context has when encoded alone. Rows are padded on the right for scoring, and on the left for
generation.
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from modules.decoding import evaluating
from modules.generation import SamplingOptions, stream
from modules.heads import LMHead
from modules.transformer import Decoder
from pipeline.errors import BundleError, ConfigError
from pipeline.progress import Progress
from pipeline.runs.bundle import Bundle
from pipeline.tasks.base import forbidden_ids

#: The number of labelled tokens whose logits are in memory at once.
CHUNK_TOKENS = 2048

#: The number of tokens generated between two checks whether all rows have reached a stop sequence.
LOOK_EVERY = 8

#: Default number of tokens to generate, if the context allows it.
MOST_NEW = 256

#: The supported generation options of a task.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p")

Pair = tuple[list[int], list[int]]
Request = tuple[Any, list[int], list[int]]
T = TypeVar("T")


class BundleLM(TemplateLM):  # type: ignore[misc] # the harness has no types
    """The causal language model of a bundle.

    Args:
        bundle: a bundle with a Decoder and a language-model head, on the device to run on.
        batch_size: the number of rows per batch.
        seed: the seed for sampling.

    Raises:
        BundleError: the model is not a causal language model.
    """

    def __init__(self, bundle: Bundle, *, batch_size: int, seed: int = 0) -> None:
        super().__init__()
        model = bundle.model
        if not isinstance(model.backbone, Decoder) or not isinstance(model.head, LMHead):
            raise BundleError(
                f"{bundle.folder} contains {type(model.backbone).__name__} and {type(model.head).__name__}",
                "a causal language model: a Decoder with an LMHead",
                "run `make pretrain`, or name one of its bundles with BUNDLE=...",
            )
        self.bundle = bundle
        self.model = model
        self.backbone: Decoder = model.backbone
        self.head = model.head
        self.bundle_tokenizer = bundle.tokenizer
        self.batch_size = batch_size
        self.max_length = model.backbone.max_seq_len
        self._seed = seed
        self._device = model.backbone.embedding.weight.device

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return int(self.bundle_tokenizer.eos_id)

    @property
    def prefix_token_id(self) -> int:
        """The token that the first token of a text without context is predicted from."""
        tokenizer = self.bundle_tokenizer
        return int(tokenizer.bos_id if tokenizer.has("bos") else tokenizer.eos_id)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the ids of a text, with <bos> unless `add_special_tokens` is False."""
        ids: list[int] = self.bundle_tokenizer.encode(string).tolist()
        return ids if add_special_tokens is False else [*self.bundle_tokenizer.frame[0], *ids]

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Encode a context and its continuation, which gets at least one token."""
        left, right = super()._encode_pair(context, continuation)
        return (left, right) if right else (left[:-1], self.tok_encode(context + continuation)[-1:])

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether greedy decoding would produce it."""
        # The progress bar of the harness would only cover the encoding of texts.
        scores: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return scores

    def _loglikelihood_tokens(self, requests: Sequence[Request], **_options: Any) -> list[tuple[float, bool]]:
        """Return the log-likelihood of each continuation, and whether greedy decoding would produce it."""
        windows = [
            (owner, *pair)
            for owner, (_, context, continuation) in enumerate(requests)
            for pair in self._windows(context, continuation)
        ]
        windows.sort(key=lambda window: -len(window[1]) - len(window[2]))
        totals, greedy = [0.0] * len(requests), [True] * len(requests)
        with evaluating(self.model), torch.inference_mode(), _progress(len(windows)) as progress:
            for some in _groups(windows, self.batch_size):
                scores = self._scores([(context, continuation) for _, context, continuation in some])
                for (owner, _, _), (nats, is_likeliest) in zip(some, scores, strict=True):
                    totals[owner] += nats
                    greedy[owner] &= is_likeliest
                progress.advance(len(some))
        return list(zip(totals, greedy, strict=True))

    def _windows(self, context: list[int], continuation: list[int]) -> Iterator[Pair]:
        """Yield the pair itself, or windows of a continuation that exceeds the context length."""
        if len(continuation) <= self.max_length:
            yield context, continuation
            return
        for pair in get_rolling_token_windows(continuation, context[-1], self.max_length, context_len=1):
            yield make_disjoint_window(pair)

    def _scores(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """Score a batch; the beginning of a context that is too long is cut."""
        rows = [[*context, *continuation][-(self.max_length + 1) :] for context, continuation in pairs]
        sizes = [len(continuation) for _, continuation in pairs]
        ids = [torch.tensor(row[:-1], device=self._device) for row in rows]
        # Padding on the right needs no mask in a causal model.
        hidden = self.model.hidden({"input_ids": pad_sequence(ids, batch_first=True)})
        labelled = [
            states[len(row) - n : len(row)] for states, row, n in zip(hidden, ids, sizes, strict=True)
        ]
        ends = [token for row, n in zip(rows, sizes, strict=True) for token in row[len(row) - n :]]
        targets = torch.tensor(ends, device=self._device)
        nats, right = self._tokens(torch.cat(labelled), targets)
        return [
            (float(some.sum()), bool(each.all()))
            for some, each in zip(torch.split(nats, sizes), torch.split(right, sizes), strict=True)
        ]

    def _tokens(self, hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-likelihood (N,) of each target, and whether it is the most likely token (N,)."""
        parts = [
            (logits.log_softmax(-1).gather(1, some.unsqueeze(1)).squeeze(1), logits.argmax(-1) == some)
            for states, some in zip(
                torch.split(hidden, CHUNK_TOKENS), torch.split(targets, CHUNK_TOKENS), strict=True
            )
            for logits in [self.head(states).float()]
        ]
        nats, right = zip(*parts, strict=True)
        return torch.cat(nats).double(), torch.cat(right)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-likelihood of whole texts, in windows that score each token once."""
        texts = [self.tok_encode(request.args[0], add_special_tokens=False) for request in requests]
        requested = [(None, [self.prefix_token_id], ids) for ids in texts if ids]
        scores = iter(self._loglikelihood_tokens(requested))
        return [next(scores)[0] if ids else 0.0 for ids in texts]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Generate text after each context up to a stop sequence; the beginning of a long context is cut."""
        by_options: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            by_options.setdefault(repr(request.args[1]), []).append(number)
        generated: dict[int, str] = {}
        with _progress(len(requests)) as progress:
            for numbers in by_options.values():
                order = sorted(numbers, key=lambda i: -len(requests[i].args[0]))
                for some in _groups(order, self.batch_size):
                    texts = self._generate([requests[i].args[0] for i in some], requests[some[0]].args[1])
                    generated |= dict(zip(some, texts, strict=True))
                    progress.advance(len(some))
        return [generated[i] for i in range(len(requests))]

    def _generate(self, contexts: Sequence[str], options: dict[str, Any]) -> list[str]:
        own: dict[str, Any] = dict(normalize_gen_kwargs(options, min(MOST_NEW, self.max_length // 2)))
        stops, n_new = own.pop("until"), own.pop("max_gen_toks")
        room = self.max_length - n_new
        if room < 1:
            raise ConfigError(
                f"a task asks to generate {n_new} tokens",
                f"fewer than {self.max_length}, the context of the model",
                "set generation_kwargs.max_gen_toks in the task's yaml",
            )
        sampling = self._sampling(own, n_new)
        prompts = [self.tok_encode(context)[-room:] for context in contexts]
        tokenizer = self.bundle_tokenizer
        steps = stream(
            self.model,
            prompts,
            sampling,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            forbidden_ids=forbidden_ids(tokenizer),
        )
        new: list[list[int]] = [[] for _ in prompts]
        for number, step in enumerate(steps, 1):
            for ids, token in zip(new, step, strict=True):
                if token is not None:
                    ids.append(token)
            if number % LOOK_EVERY == 0 and all(
                len(ids) < number or any(stop in tokenizer.decode(ids) for stop in stops if stop)
                for ids in new
            ):
                break
        return [postprocess_generated_text(tokenizer.decode(ids), stops, None) for ids in new]

    def _sampling(self, options: dict[str, Any], n_new: int) -> SamplingOptions:
        is_sampled = options.pop("do_sample", False)
        if unknown := sorted(options.keys() - {*_SAMPLING}):
            raise ConfigError(
                f"a task asks to generate text with {unknown[0]}={options[unknown[0]]}",
                f"until, max_gen_toks, do_sample, {', '.join(_SAMPLING)}",
                "remove it from generation_kwargs in the task's yaml",
            )
        chosen = options if is_sampled else {"temperature": 0.0}
        return SamplingOptions(**chosen, max_new_tokens=n_new, seed=self._seed)


def _groups(some: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (some[first : first + size] for first in range(0, len(some), size))


def _progress(total: int) -> Progress:
    return Progress("evaluate-lm", total=total, unit="rows")
