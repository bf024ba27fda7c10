"""vLLM as a sampler: separate engines, or one beside each training process. Nothing here imports vLLM.

`inside/` is put on vLLM's own path and imports nothing of ClearPPO, so that vLLM may have an environment of its own.
"""
