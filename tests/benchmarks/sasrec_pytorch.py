"""How fast is a training step beside the implementation most papers start from? Run by hand on a quiet machine:

    HYENAREC_DATA=... python -m harness.run.allocator python tests/benchmarks/sasrec_pytorch.py

The other side is written here after what is documented of SASRec.pytorch (github.com/pmixer/SASRec.pytorch):
every user left-padded to L, `nn.MultiheadAttention` with an explicit causal mask, two position-wise 1 × 1
convolutions, queries normalised alone, binary cross-entropy with one negative an event, Adam with betas 0.9
and 0.98, and a sampler in Python that draws users with replacement and negatives item by item. Ours is what a
training cell does: batches of like length, its loss and its optimiser. Both train on MovieLens-1M as the study
`movielens` reads it, D 50, batch 128, dropout 0.2; they run alternately, a few seconds each, and what is compared
are real events a second. Prints each pair and the geometric mean of the ratios.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.data import sources, splits
from harness.data.batches import TrainingSequences
from harness.data.catalogue import SOURCES
from harness.errors import Parser
from harness.measure.losses import Criterion
from harness.measure.training import loop
from harness.records.spec import LossSpec
from models import registry

WIDTH, LAYERS, BATCH, DROPOUT = 50, 2, 128, 0.2
Step = Callable[[], int]


class StandIn(nn.Module):
    """SASRec in the layout described above; `[B, L]` left-padded items to `[B, L, D]`."""

    def __init__(self, num_items: int, length: int) -> None:
        super().__init__()
        self.items = nn.Embedding(num_items + 1, WIDTH, padding_idx=0)
        self.positions = nn.Embedding(length + 1, WIDTH, padding_idx=0)
        self.dropout = nn.Dropout(DROPOUT)
        norms = [[nn.LayerNorm(WIDTH, eps=1e-8) for _ in range(LAYERS)] for _ in range(2)]
        self.attention_norms, self.forward_norms = map(nn.ModuleList, norms)
        self.attentions = nn.ModuleList(nn.MultiheadAttention(WIDTH, 1, DROPOUT) for _ in range(LAYERS))
        self.forwards = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(WIDTH, WIDTH, 1),
                nn.Dropout(DROPOUT),
                nn.ReLU(),
                nn.Conv1d(WIDTH, WIDTH, 1),
                nn.Dropout(DROPOUT),
            )
            for _ in range(LAYERS)
        )
        self.norm = nn.LayerNorm(WIDTH, eps=1e-8)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)

    def forward(self, items: Tensor) -> Tensor:
        """`[B, L]` to `[B, L, D]`."""
        length = items.shape[1]
        places = torch.arange(1, length + 1).expand_as(items) * (items != 0)
        x = self.dropout(self.items(items) * math.sqrt(WIDTH) + self.positions(places))
        later = ~torch.tril(torch.ones(length, length, dtype=torch.bool))
        for norm, attention, forward_norm, forward in zip(
            self.attention_norms, self.attentions, self.forward_norms, self.forwards, strict=True
        ):
            x = x.transpose(0, 1)
            queries = norm(x)
            mixed, _ = attention(queries, x, x, attn_mask=later)
            x = forward_norm((queries + mixed).transpose(0, 1))
            x = x + forward(x.transpose(1, 2)).transpose(1, 2)
        hidden: Tensor = self.norm(x)
        return hidden


def sampler(split: splits.Split, length: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Inputs, targets and negatives `[B, L]`, user by user and event by event."""
    stored, random = split.interactions, np.random.default_rng(0)
    histories = [
        stored.items[start:end].tolist() for start, end in zip(stored.offsets[:-1], split.training_ends, strict=True)
    ]
    users = [user for user, history in enumerate(histories) if len(history) > 1]
    while True:
        rows = []
        for _ in range(BATCH):
            history = histories[users[random.integers(len(users))]]
            row = np.zeros((3, length), dtype=np.int64)
            following, place, known = history[-1], length - 1, set(history)
            for item in reversed(history[:-1]):
                row[0, place], row[1, place] = item, following
                negative = int(random.integers(1, stored.num_items + 1))
                while negative in known:
                    negative = int(random.integers(1, stored.num_items + 1))
                row[2, place] = negative
                following, place = item, place - 1
                if place < 0:
                    break
            rows.append(row)
        yield tuple(np.stack(part) for part in zip(*rows, strict=True))  # type: ignore[misc]


def stand_in(split: splits.Split, length: int) -> Step:
    """One step of the stand-in; gives the real events it trained on."""
    torch.manual_seed(0)
    model, batches = StandIn(split.interactions.num_items, length), sampler(split, length)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, betas=(0.9, 0.98))

    def step() -> int:
        items, positives, negatives = (torch.from_numpy(part) for part in next(batches))
        hidden = model(items)
        scores = [(hidden * model.items(part)).sum(-1) for part in (positives, negatives)]
        real = positives != 0
        loss = functional.binary_cross_entropy_with_logits(scores[0][real], torch.ones(int(real.sum())))
        loss = loss + functional.binary_cross_entropy_with_logits(scores[1][real], torch.zeros(int(real.sum())))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return int(real.sum())

    return step


def ours(split: splits.Split, length: int, name: str) -> Step:
    """One step as a training cell takes it."""
    torch.manual_seed(0)
    model_class = registry.load(name)
    config = model_class.CONFIG(  # type: ignore[union-attr]
        num_items=split.interactions.num_items, max_length=length, hidden_size=WIDTH, num_layers=LAYERS, dropout=DROPOUT
    )
    model = model_class(config)
    settings = loop.Settings(
        length=length, epochs=1, patience=1, evaluate_every=1, batch_size=BATCH, learning_rate=1e-3, seed=0,
        precision="float32", loss=LossSpec(name="bce", negatives=1), compile=False,
    )  # fmt: skip
    sequences = TrainingSequences(split, length, BATCH, 0)
    criterion = Criterion.of(settings.loss, model.objective().loss)
    optimiser = loop._optimiser(model, settings)
    train = loop._stepper(
        model, optimiser, criterion, torch.Generator().manual_seed(0), split.interactions.num_items, settings
    )

    def batches() -> Iterator[object]:
        epoch = 0
        while True:
            epoch += 1
            yield from sequences.epoch(epoch)

    coming = batches()
    model.train()

    def step() -> int:
        batch = next(coming)
        train(batch, settings.learning_rate)
        return batch.tokens

    return step


def events_a_second(step: Step, seconds: float) -> float:
    """Real events trained on in about that time."""
    events, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        events += step()
    return events / elapsed


def main() -> None:
    """Measure both sides alternately and print what came out."""
    parser = Parser(description=main.__doc__)
    parser.add_argument("--data", help="a folder of data files; default: HYENAREC_DATA")
    parser.add_argument("--lengths", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--models", nargs="+", default=["sasrec"])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each side of a pair (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    split = splits.leave_one_out(sources.prepare("ml-1m", SOURCES["ml-1m"], arguments.data).interactions)
    for length in arguments.lengths:
        theirs = stand_in(split, length)
        events_a_second(theirs, 1.0)
        for name in arguments.models:
            own = ours(split, length, name)
            events_a_second(own, 1.0)
            ratios = []
            for _ in range(arguments.pairs):
                one, other = (events_a_second(step, arguments.seconds) for step in (theirs, own))
                ratios.append(other / one)
                print(f"L {length}, {name}: {other:,.0f} events/s, the stand-in {one:,.0f}, ratio {ratios[-1]:.2f}")
            mean = math.exp(statistics.fmean(map(math.log, ratios)))
            print(f"L {length}, {name}: {mean:.2f} times as fast, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
