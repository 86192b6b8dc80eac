"""How fast is it, compared with what others use? Off by default; peers run alongside, and ratios are what counts."""
