"""Does another program compute what we do: the same prompt, the same greedy answer, the same probabilities?"""
