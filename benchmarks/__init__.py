"""How fast is it, beside what others use? Off by default; peers run in the same run, and ratios are what counts."""
