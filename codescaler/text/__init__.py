"""Text to what a model reads, and a completion to a program: templates, tokenizers, extraction, shaped reward."""
