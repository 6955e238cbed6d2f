"""Small random models of an encoder and a decoder, whose cross-attention looks from the one at the other."""

from __future__ import annotations

import transformers as hf

SEQ2SEQ = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4, "vocab_size": 60,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 32,
           "pad_token_id": 0, "decoder_start_token_id": 2, "eos_token_id": 2, "forced_eos_token_id": None}  # fmt: skip
T5 = {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 4,
      "decoder_start_token_id": 0}  # fmt: skip

CROSS = {
    "bart": lambda: hf.BartForConditionalGeneration(hf.BartConfig(**SEQ2SEQ)),
    "mbart": lambda: hf.MBartForConditionalGeneration(hf.MBartConfig(**SEQ2SEQ)),
    "marian": lambda: hf.MarianMTModel(hf.MarianConfig(**SEQ2SEQ)),
    "pegasus": lambda: hf.PegasusForConditionalGeneration(hf.PegasusConfig(**SEQ2SEQ)),
    "m2m100": lambda: hf.M2M100ForConditionalGeneration(hf.M2M100Config(**SEQ2SEQ)),
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
    "mt5": lambda: hf.MT5ForConditionalGeneration(hf.MT5Config(**T5)),
}
