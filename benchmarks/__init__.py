"""How fast is it, beside what others use? Off by default; each program runs its peers in the same run and prints ratios."""
