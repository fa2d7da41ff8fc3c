"""What each part of training speed gives, one at a time, at musicgen-small's geometry with 8 layers.

    python -m bench.train_parts [--layers 8] [--rounds 3] [--clips 200] [--quick]

One process and one model: the step as it is, and the same step with one part put back to what the plain library
does, by turns on the same batches. Losses must agree.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bench._results import Row, parser, record, spread
from bench._turns import GEOMETRIES, clips, padding, small_model

BATCH = GEOMETRIES["small"]["batch"]
RANK = 16


def whole_logits(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy by way of all logits, as models of the library take it."""
    logits = torch.stack([hidden @ head.T for head in weight], dim=1)
    flat = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return flat.view_as(labels)


class Bench:
    """The model, its clips, and the step."""

    def __init__(self, layers: int, count: int) -> None:
        from tunesmith.families.musicgen._tiny import byte_tokenizer
        from tunesmith.families.musicgen.bundle import MusicgenBundle
        from tunesmith.methods import lora
        from tunesmith.types import Example

        model: Any = small_model(layers).requires_grad_(False)
        self.bundle = MusicgenBundle(
            model,
            byte_tokenizer(),
            lambda: None,  # type: ignore[arg-type, return-value]
            name="small",
            base_hash="",
            codec_hash="",
            text_hash="",
            licence="",
            max_s=30.0,
        )
        self.encoder: Any = model.text_encoder.eval()
        rows = clips("small", count, 2048, 32_128)
        self.lengths = [row["length"] for row in rows]
        states: dict[int, Tensor] = {}
        self.examples = []
        for number, row in enumerate(rows):
            ids = row["input_ids"]
            if id(ids) not in states:
                with torch.no_grad():
                    states[id(ids)] = self.encoder(input_ids=ids[None]).last_hidden_state[0]
            text = {"ids": ids, "states": states[id(ids)]}
            self.examples.append(Example(str(number), row["codes"], text))
        self.adapter = lora.attach(self.bundle, lora.Config(rank=RANK))
        self.names = self.adapter.parameters()
        self.bundle.module.train()

    def step(self, indices: tuple[int, ...]) -> float:
        """Forward and backward; the loss."""
        from tunesmith.objectives.mixture import total_loss
        from tunesmith.training.measure import forward

        for parameter in self.names.values():
            parameter.grad = None
        batch = self.bundle.collate([self.examples[index] for index in indices], indices)
        counts = {name: one.sum() for name, one in self.bundle.module.count(batch).items()}
        torch.manual_seed(0)
        loss = total_loss(
            forward(self.bundle, batch, torch.float32), counts, self.bundle.term_weights
        )
        loss.backward()
        return float(loss.detach())

    # --- one part put back each ---

    @contextmanager
    def peft_forward(self) -> Iterator[None]:
        from peft.tuners.lora.layer import Linear

        from tunesmith.methods._lora_linear import LoraLinear

        ours = LoraLinear.forward
        LoraLinear.forward = Linear.forward
        yield
        LoraLinear.forward = ours

    @contextmanager
    def logits(self) -> Iterator[None]:
        from tunesmith.families.musicgen import loss

        ours, loss.codebook_cross_entropy = loss.codebook_cross_entropy, whole_logits
        yield
        loss.codebook_cross_entropy = ours

    @contextmanager
    def live_text(self) -> Iterator[None]:
        module, ours = self.bundle.module, self.bundle.module.text_states

        def run(text: Any, **options: Any) -> Any:
            with torch.no_grad():
                self.encoder(input_ids=text["ids"], attention_mask=text["present"])
            return ours(text, **options)

        module.text_states = run  # type: ignore[method-assign]
        yield
        module.text_states = ours  # type: ignore[method-assign]


def turns(
    first: Callable[[tuple[int, ...]], float],
    second: Callable[[tuple[int, ...]], float],
    batches: list[tuple[int, ...]],
    rounds: int,
) -> list[float]:
    """Of each round, how often the second's time the first's is; by turns on the same batches."""
    ratios = []
    for number in range(rounds):
        took = [0.0, 0.0]
        for place, batch in enumerate(batches):
            losses = {}
            for who in (0, 1) if (number + place) % 2 else (1, 0):
                begin = time.perf_counter()
                losses[who] = (first, second)[who](batch)
                took[who] += time.perf_counter() - begin
            assert abs(losses[0] - losses[1]) < 1e-4, losses
        ratios.append(took[1] / took[0])
    return ratios


def optimizer_share(names: Any, rounds: int) -> list[float]:
    """Time of a fused AdamW step against one list by list, on parameters of these shapes."""
    made = []
    for options in ({"fused": True}, {"foreach": True}):
        some = [torch.nn.Parameter(one.detach().clone()) for one in names.values()]
        for one in some:
            one.grad = torch.randn_like(one)
        made.append(torch.optim.AdamW(some, lr=1e-4, **options))
        made[-1].step()
    ratios = []
    for _ in range(rounds):
        took = []
        for one in made:
            begin = time.perf_counter()
            for _ in range(20):
                one.step()
            took.append(time.perf_counter() - begin)
        ratios.append(took[1] / took[0])
    return ratios


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--layers", type=int, default=8)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--clips", type=int, default=200)
    args = options.parse_args()
    from tunesmith.training.sampler import Sampler

    layers, rounds = (1, 1) if args.quick else (args.layers, args.rounds)
    bench = Bench(layers, args.clips)
    lengths = bench.lengths
    like, chance = (Sampler(lengths, BATCH, 0, bucket).epoch(0) for bucket in (True, False))
    ranked = sorted(like, key=lambda batch: max(lengths[index] for index in batch))
    middle = [tuple(ranked[len(ranked) // 2])]
    batches = middle if args.quick else [tuple(ranked[len(ranked) * k // 8]) for k in (1, 4, 7)]
    bench.step(middle[0])
    rows = []
    for what, part in (
        ("adapters as one operation, against PEFT's forward", bench.peft_forward),
        ("cross-entropy that keeps no logits, against all logits", bench.logits),
        ("captions encoded once, against the text encoder in each step", bench.live_text),
    ):

        def back(batch: tuple[int, ...], part: Any = part) -> float:
            with part():
                return bench.step(batch)

        ratios = turns(bench.step, back, batches, rounds)
        rows.append(Row(what, "", spread(ratios, "x", digits=3)))
        print(f"{what}: {rows[-1].figure}", flush=True)
    padded = [padding(epoch, lengths) for epoch in (like, chance)]
    fewer = (1 - padded[0]) / (1 - padded[1])
    figure = (
        f"{fewer:.3f}x as many real positions in a batch ({100 * padded[0]:.0f} % padding against "
    )
    rows.append(
        Row(
            "batches of clips of like length, against random ones",
            "",
            f"{figure}{100 * padded[1]:.0f} %)",
        )
    )
    found = optimizer_share(bench.names, 3 * rounds)
    trained = sum(one.numel() for one in bench.names.values())
    figure = f"{statistics.median(found):.1f}x, of AdamW's step alone, on {trained:,} parameters"
    rows.append(Row("fused AdamW, against list by list", "", figure))
    if args.quick:
        print(*rows, sep="\n")
        return
    record(
        "train_parts",
        "What each part of training speed gives",
        rows,
        notes=f"LoRA r={RANK} on q, k, v, musicgen-small's layers ({layers} of 24), batch {BATCH}, clips of "
        f"10-30 s, float32; {rounds} rounds of {len(batches)} batches, turn about with one part put back; forward "
        f"and backward; {torch.get_num_threads()} threads.",
    )


if __name__ == "__main__":
    main()
