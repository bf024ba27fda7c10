"""The mathematics of PPO for language models: pure functions, tensors and plain numbers in, tensors out.

Equation numbers (1) to (9) are those of the article that ClearPPO implements; docs/math.md lists them all.

- Axes: B sequences, P prompt tokens, T response tokens, V vocabulary, H hidden. Column j of every [B, T] tensor speaks
  of the same response token j.
- `mask` is bool and True counts. Cells outside it are never read, whatever stands there (NaN and infinity included),
  and hold 0 in every result. A mask may have holes: the kept tokens of a row are its sequence.
- Half-precision inputs are widened: all is computed and returned in float32 at least; float64 stays float64.
- Inputs are never changed in place. Bad arguments raise ValueError.

Nothing here is re-exported: `from clearppo.core.losses import actor_loss` says where a formula stands.
"""
