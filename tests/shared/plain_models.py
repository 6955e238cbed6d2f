"""Models whose attention is written by hand or by torch, as people write it, as data: name -> model and its inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS = 32, 4


class Blocks(nn.Module):
    """Embeddings, residual blocks around two attention modules, an output."""

    def __init__(self, *attention: nn.Module) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(99, WIDTH)
        self.attention = nn.ModuleList(attention)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in attention)
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embeddings(input_ids)
        for attention, norm in zip(self.attention, self.norms):
            x = x + self.attend(attention, norm(x))
        return self.output(x)

    def attend(self, attention: nn.Module, x: Tensor) -> Tensor:
        return attention(x)


class BatchFirst(Blocks):
    def attend(self, attention: nn.Module, x: Tensor) -> Tensor:
        return attention(x, x, x, need_weights=False)[0]


class TimeFirst(Blocks):
    def attend(self, attention: nn.Module, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        return attention(x, x, x, need_weights=True)[0].transpose(0, 1)


class Projections(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Query, key and value, (batch, token, head, dim)."""
        return self.qkv(x).unflatten(-1, (3, HEADS, -1)).unbind(2)


class Einsum(Projections):
    """From scratch, as in textbooks."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.heads(x)
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
        return self.out(torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), value).flatten(2))


class Ellipsis(Projections):
    """With einsums over an ellipsis, values first."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        weights = torch.softmax(torch.einsum("...qd,...kd->...qk", query, key) / query.shape[-1] ** 0.5, dim=-1)
        return self.out(torch.einsum("...kd,...qk->...qd", value, weights).transpose(1, 2).flatten(2))


class Folded(Projections):
    """Heads folded into the batch, baddbmm and bmm, dropout and a cast between softmax and product."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (one.transpose(1, 2).flatten(0, 1) for one in self.heads(x))
        bias = torch.zeros(len(query), x.shape[1], x.shape[1], dtype=x.dtype)
        weights = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=query.shape[-1] ** -0.5)
        weights = F.dropout(F.softmax(weights, dim=-1), 0.1, self.training).type_as(value)
        return self.out(torch.bmm(weights, value).unflatten(0, (-1, HEADS)).transpose(1, 2).flatten(2))


class Turned(Projections):
    """Values on the left: V^T P^T, by names of arguments."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        weights = (query @ key.transpose(2, 3) / query.shape[-1] ** 0.5).softmax(-1)
        context = torch.matmul(input=value.transpose(2, 3), other=weights.transpose(2, 3))  # (batch, head, dim, query)
        return self.out(context.permute(0, 3, 1, 2).flatten(2))


class HeadsLast(Projections):
    """Scores (batch, query, key, head), softmax over a permuted view, einsum back."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.heads(x)
        scores = torch.einsum("bqhd,bkhd->bqkh", query, key) / query.shape[-1] ** 0.5
        weights = scores.permute(0, 3, 1, 2).softmax(-1).permute(0, 2, 3, 1)
        return self.out(torch.einsum("bqkh,bkhd->bqhd", weights, value).flatten(2))


class Fused(Projections):
    """As in timm's vision transformers: one projection, SDPA."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class Grouped(Projections):
    """Causal, with one key and value for two heads."""

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (one.transpose(1, 2) for one in self.heads(x))
        context = F.scaled_dot_product_attention(query, key[:, :2], value[:, :2], is_causal=True, enable_gqa=True)
        return self.out(context.transpose(1, 2).flatten(2))


class InOneModule(nn.Module):
    """No module for a layer: both layers are written out in the model's forward."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings, self.output = nn.Embedding(99, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.qkv = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embeddings(input_ids)
        for qkv in self.qkv:
            query, key, value = qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            weights = nn.functional.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1)
            x = x + (weights @ value).transpose(1, 2).flatten(2)
        return self.output(x)


class VisionTransformer(nn.Module):
    """A vision transformer as timm writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.first = nn.Conv2d(3, WIDTH, 4, 4), nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.ModuleList(Fused() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.patches(pixel_values).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = x + block(self.norm(x))
        return self.norm(x)


class TorchEncoder(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.batch_first = batch_first
        self.embeddings = nn.Embedding(99, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 48, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embeddings(input_ids)
        padding = None if attention_mask is None else attention_mask == 0
        if self.batch_first:
            return self.encoder(x, src_key_padding_mask=padding)
        return self.encoder(x.transpose(0, 1), src_key_padding_mask=padding).transpose(0, 1)


class TorchTransformer(nn.Module):
    """Encoder and decoder: causal and cross-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(99, WIDTH)
        self.transformer = nn.Transformer(WIDTH, HEADS, 2, 2, 48, batch_first=True)

    def forward(self, input_ids: Tensor, decoder_input_ids: Tensor) -> Tensor:
        source, target = self.embeddings(input_ids), self.embeddings(decoder_input_ids)
        causal = self.transformer.generate_square_subsequent_mask(target.shape[1], dtype=target.dtype)
        return self.transformer(source, target, tgt_mask=causal, tgt_is_causal=True)


def _heads_by_torch(batch_first: bool) -> list[nn.Module]:
    return [nn.MultiheadAttention(WIDTH, HEADS, batch_first=batch_first) for _ in range(2)]


PLAIN: dict[str, Callable[[], nn.Module]] = {
    "torch.nn.MultiheadAttention, batch first": lambda: BatchFirst(*_heads_by_torch(True)),
    "torch.nn.MultiheadAttention, time first": lambda: TimeFirst(*_heads_by_torch(False)),
    "torch.nn.TransformerEncoder, batch first": lambda: TorchEncoder(True),
    "torch.nn.TransformerEncoder, time first": lambda: TorchEncoder(False),
    "torch.nn.Transformer": TorchTransformer,
    "own: einsum": lambda: Blocks(Einsum(), Einsum()),
    "own: einsum with an ellipsis": lambda: Blocks(Ellipsis(), Ellipsis()),
    "own: bmm, heads in the batch": lambda: Blocks(Folded(), Folded()),
    "own: values on the left": lambda: Blocks(Turned(), Turned()),
    "own: heads last": lambda: Blocks(HeadsLast(), HeadsLast()),
    "own: SDPA": lambda: Blocks(Fused(), Fused()),
    "own: SDPA, causal, grouped heads": lambda: Blocks(Grouped(), Grouped()),
    "own: all layers in one forward": InOneModule,
    "own: a vision transformer as timm's": VisionTransformer,
}


def plain_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return PLAIN[name]().eval()


def plain_inputs(name: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    if name.endswith("timm's"):
        return {"pixel_values": torch.randn(2, 3, 16, 16, generator=generator)}
    ids = torch.randint(5, 90, (2, 7), generator=generator)
    return {"input_ids": ids, "decoder_input_ids": ids[:, :5]} if name == "torch.nn.Transformer" else {"input_ids": ids}
