"""Folders of models: read with distrust, written for transformers and vLLM."""
