"""Fields of a config.json that no family reads: without effect on the network, or refused."""

# Generation settings, which stock transformers reads from here where there is no generation_config.json.
GENERATION = frozenset((
    "assistant_confidence_threshold", "assistant_early_exit", "assistant_lookbehind", "bad_words_ids",
    "begin_suppress_tokens", "bos_token_id", "cache_implementation", "constraints", "decoder_start_token_id",
    "diversity_penalty", "do_sample", "dola_layers", "early_stopping", "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty", "eos_token_id", "epsilon_cutoff", "eta_cutoff",
    "exponential_decay_length_penalty", "force_words_ids", "forced_bos_token_id", "forced_eos_token_id",
    "guidance_scale", "length_penalty", "low_memory", "max_length", "max_matching_ngram_size",
    "max_new_tokens", "max_time", "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "num_beam_groups", "num_beams",
    "num_return_sequences", "output_scores", "pad_token_id", "penalty_alpha", "prefill_chunk_size",
    "prompt_lookup_num_tokens", "remove_invalid_values", "renormalize_logits", "repetition_penalty",
    "return_dict_in_generate", "sequence_bias", "stop_strings", "suppress_tokens", "target_lookbehind",
    "temperature", "token_healing", "top_h", "top_k", "top_p", "typical_p", "watermarking_config",
))  # fmt: skip

BOOKKEEPING = GENERATION | frozenset((
    "gradient_checkpointing", "is_llama_config", "transformers.js_config", "architectures", "model_type",
    "transformers_version", "newleaf", "dtype", "torch_dtype", "use_cache", "_name_or_path",
    "task_specific_params", "output_past", "return_dict", "output_hidden_states", "output_attentions",
    "id2label", "label2id", "num_labels", "_num_labels", "problem_type", "chunk_size_feed_forward",
    "is_encoder_decoder", "is_decoder", "summary_type", "summary_use_proj", "summary_activation",
    "summary_proj_to_labels", "summary_first_dropout", "n_special", "predict_special_tokens",
    "tokenizer_class", "classifier_dropout", "license",
))  # fmt: skip

# What stock transformers honours in every family: ignoring it would give another network, or other weights.
REFUSED = {
    "quantization_config": "weights that another program has packed; open the model as it was before",
    "per_layer_config": "layers that differ from one another",
    "transformers_weights": "weights in a file of another name; call it model.safetensors",
    "add_cross_attention": "attention to another network's output",
}
