"""The proof that nothing is lost: what was published against what landed, was refused or waits."""
