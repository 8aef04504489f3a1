"""SkipLayer: a causal language model whose tokens may skip layers. Runs with torch and transformers alone."""
